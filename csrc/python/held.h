/* held.h - how much a transport's receiver holds: the slots of frames that were
 * delivered and are not given back yet.
 *
 * Belongs to a transport and to its frames, whoever lives longest.  Who holds more
 * than its share is told so at the next frame (Frame.crowded) and copies it: a
 * receiver that keeps everything must not starve the sender that it waits for. */
#ifndef HUB_PYTHON_HELD_H
#define HUB_PYTHON_HELD_H

#include "state.h"

struct bnd_held {
    _Atomic long refs;
    _Atomic uint64_t bytes;
    _Atomic uint64_t limit;                  /* bytes */
    _Atomic uint32_t count[HUB_CLASSES_MAX]; /* slots of each class */
    uint32_t most[HUB_CLASSES_MAX];          /* half of what there can ever be */
};

static inline bnd_held *bnd_held_new(const hub_session *session)
{
    bnd_held *held = PyMem_RawCalloc(1, sizeof *held);
    if (held == NULL)
        return NULL;
    hub_config config;
    hub_session_config(session, &config);
    held->refs = 1;
    held->limit = UINT64_MAX;
    for (uint32_t i = 0; i < config.class_count; i++)
        held->most[i] = config.classes[i].max_slots / 2;
    return held;
}

static inline void bnd_held_unref(bnd_held *held)
{
    if (held != NULL && --held->refs == 0)
        PyMem_RawFree(held);
}

/* A slot was received. Is it beyond the share? */
static inline bool bnd_held_add(bnd_held *held, const hub_slot *slot)
{
    uint32_t class = slot->ref >> HUB_REF_INDEX_BITS;
    held->refs++;
    uint64_t bytes = held->bytes += slot->capacity;
    uint32_t count = ++held->count[class];
    return bytes > held->limit || count > held->most[class];
}

static inline void bnd_held_remove(bnd_held *held, const hub_slot *slot)
{
    held->bytes -= slot->capacity;
    held->count[slot->ref >> HUB_REF_INDEX_BITS]--;
    bnd_held_unref(held);
}

#endif
