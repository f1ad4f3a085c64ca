/* fsck_slots.c - the slots of a class and its two stacks.
 *
 * ctl is the truth about a slot, so it is judged by itself: is it a state that an
 * honest process can write, for an owner that there is?  Stacks are hints, so of
 * a stack is judged only what would mislead those who pop.  A stack can be
 * judged while others work: an unchanged head means that the links below it,
 * read meanwhile, were the stack's.  What changes too fast is left unjudged. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "alloc_repair.h"
#include "fsck.h"

#define USED_AT_ONCE 256u /* slots read at a time: a page */
#define LOOKS 16 /* for a moment in which both heads stay as they are */

typedef struct class_copy {
    uint32_t k, limit;
    hub_class_shm shared;
    hub_slot_shm *meta;
    unsigned char *seen; /* bit 0: on the hot stack, bit 1: on the cold one */
    bool still;          /* the links belong to the heads */
    bool broken[2];
} class_copy;

static const hub_class_geometry *geometry_of(const hub_fsck_run *run, uint32_t k) {
    return &run->geometry->classes[k];
}

static int read_shared(hub_fsck_run *run, uint32_t k, hub_class_shm *ret) {
    return run->source.read(&run->source,
                            run->geometry->classes_offset + k * sizeof(hub_class_shm), ret,
                            sizeof *ret);
}

static int read_slot(hub_fsck_run *run, uint32_t k, uint32_t index, hub_slot_shm *ret) {
    return run->source.read(&run->source,
                            geometry_of(run, k)->meta_offset + (uint64_t)index * sizeof *ret, ret,
                            sizeof *ret);
}

static bool heads_equal(const hub_class_shm *a, const hub_class_shm *b) {
    return a->hot.value == b->hot.value && a->cold.value == b->cold.value &&
           a->in_service.value == b->in_service.value;
}

/* Read the class until its heads are the same before and after. */
static int read_class(hub_fsck_run *run, class_copy *c) {
    const hub_class_geometry *g = geometry_of(run, c->k);
    int rc = read_shared(run, c->k, &c->shared);
    for (int look = 0; rc == 0 && look < LOOKS && !c->still; look++) {
        hub_class_shm after;
        c->limit = c->shared.in_service.value < g->max_slots ? c->shared.in_service.value
                                                             : g->max_slots;
        rc = run->source.read(&run->source, g->meta_offset, c->meta,
                              (size_t)c->limit * sizeof *c->meta);
        if (rc == 0) rc = read_shared(run, c->k, &after);
        if (rc == 0) {
            c->still = heads_equal(&c->shared, &after);
            if (!c->still && look + 1 < LOOKS) c->shared = after;
        }
    }
    return rc;
}

/* Up to the last slot that has any bookkeeping; from `first` on. */
static int read_used(hub_fsck_run *run, uint32_t k, uint32_t first, uint32_t *ret) {
    const hub_class_geometry *g = geometry_of(run, k);
    hub_slot_shm part[USED_AT_ONCE];
    *ret = 0;
    for (uint32_t i = first; i < g->max_slots; i += USED_AT_ONCE) {
        uint32_t count = g->max_slots - i < USED_AT_ONCE ? g->max_slots - i : USED_AT_ONCE;
        int rc = run->source.read(&run->source, g->meta_offset + (uint64_t)i * sizeof *part, part,
                                  count * sizeof *part);
        if (rc < 0) return rc;
        for (uint32_t n = 0; n < count; n++)
            if (part[n].ctl.value != 0 || part[n].next.value != 0 || part[n].backed.value != 0)
                *ret = i + n + 1;
    }
    return 0;
}

static int check_in_service(hub_fsck_run *run, uint32_t k) {
    hub_class_shm shared, after;
    const hub_class_geometry *g = geometry_of(run, k);
    uint32_t used = 0;
    int rc = read_shared(run, k, &shared);
    uint32_t n = shared.in_service.value;
    if (rc == 0) rc = read_used(run, k, n < g->slots ? n : g->slots, &used);
    if (rc == 0) rc = read_shared(run, k, &after);
    if (rc < 0) return rc;
    /* Grown meanwhile: then what was seen beyond is no lie. */
    bool beyond = used > n && after.in_service.value == n;
    bool sound = hub_pool_plausible_in_service(n, g->slots, g->max_slots) && !beyond;
    bool mended = false;
    /* Even where it is plausible what it promises is reserved, before anything is touched there. */
    if (run->mending) mended = hub_pool_mend_in_service(run->pool, k, used) == 0;
    if (!sound)
        hub_fsck_say(run, HUB_FSCK_IN_SERVICE, (int32_t)k, -1, -1, mended,
                     "%u slots in service of a class that has %u to %u, %u with bookkeeping", n,
                     g->slots, g->max_slots, used);
    return 0;
}

/* ---- one slot ---------------------------------------------------------------------------- */

/* The id whose life decides about it; HUB_PEERS_MAX: nobody's, whoever lives, and claims nothing. */
static uint32_t id_behind(const hub_fsck_run *run, uint64_t ctl) {
    uint32_t owner = hub_ctl_owner(ctl);
    uint32_t id = hub_ctl_state(ctl) == HUB_OWNED ? owner : owner / 2;
    if (hub_ctl_state(ctl) == HUB_RING && id == 0) return HUB_PEERS_MAX; /* the host has no ring */
    return id < run->geometry->max_peers ? id : HUB_PEERS_MAX;
}

/* 0, or what is wrong with it. */
static uint32_t judge(const hub_fsck_run *run, uint64_t ctl) {
    if ((ctl & 0xFF000000u) != 0) return HUB_FSCK_STATE; /* spare */
    uint32_t state = hub_ctl_state(ctl), id;
    switch (state) {
    case HUB_FREE: return hub_ctl_owner(ctl) == 0 ? 0 : HUB_FSCK_STATE;
    case HUB_OWNED:
        id = id_behind(run, ctl);
        if (run->claims[id] == HUB_CLAIM_ANY) return 0;
        return id == 0 ? HUB_FSCK_STRAY : HUB_FSCK_OWNER;
    case HUB_RING:
        id = id_behind(run, ctl);
        if (run->claims[id] == HUB_CLAIM_NOTHING) return HUB_FSCK_OWNER;
        /* Nothing can come from one that has not attached. */
        return run->claims[id] == HUB_CLAIM_MAIL && hub_ctl_owner(ctl) == hub_ring_up(id)
                   ? HUB_FSCK_OWNER
                   : 0;
    default: return HUB_FSCK_STATE; /* SHARED among them: reserved, nobody shares yet */
    }
}

/* Seen once. Its owner may have come or gone between the peer table and here; a generation that is
 * the same again says that it was his all the time. */
static int confirm(hub_fsck_run *run, uint32_t k, uint32_t index, uint64_t ctl, uint32_t *kind) {
    hub_slot_shm again;
    uint32_t state = hub_ctl_state(ctl);
    int rc = 0;
    if (!run->source.moving) return 0;
    if (state == HUB_OWNED || state == HUB_RING)
        rc = hub_fsck_look_at_claim(run, id_behind(run, ctl));
    if (rc == 0) rc = read_slot(run, k, index, &again);
    if (rc < 0) return rc;
    if ((again.ctl.value | HUB_CTL_UNLINKED) != (ctl | HUB_CTL_UNLINKED))
        *kind = 0;
    else
        *kind = judge(run, ctl);
    return 0;
}

static int check_ctl(hub_fsck_run *run, uint32_t k, uint32_t i, uint64_t ctl) {
    uint32_t kind = judge(run, ctl);
    if (kind == 0) return 0;
    int rc = confirm(run, k, i, ctl, &kind);
    if (rc < 0 || kind == 0) return rc;
    bool mended = run->mending && hub_pool_seize(run->pool, hub_ref_make(k, i), ctl);
    static const char *const states[] = {"free", "owned", "in a ring", "shared"};
    uint32_t state = hub_ctl_state(ctl), id = id_behind(run, ctl);
    hub_fsck_say(run, kind, (int32_t)k, (int32_t)i,
                 state != HUB_FREE && id < HUB_PEERS_MAX ? (int32_t)id : -1, mended,
                 "ctl: state %u (%s), owner %u, generation %u%s%s", state,
                 state < 4 ? states[state] : "there is none", hub_ctl_owner(ctl), hub_ctl_gen(ctl),
                 hub_ctl_linked(ctl) ? ", linked" : "",
                 (ctl & 0xFF000000u) != 0 ? ", spare bits set" : "");
    return 0;
}

static bool is_hosts(uint64_t ctl) { return hub_ctl_moved(ctl, HUB_OWNED, 0) == ctl; }

/* Only the owner changes it, so only of one's own slot, or of a free one, it can be mended. */
static int check_backed(hub_fsck_run *run, uint32_t k, uint32_t i, const hub_slot_shm *slot) {
    uint32_t most = hub_pool_most_pages(geometry_of(run, k)->slot_size);
    uint32_t backed = slot->backed.value, ref = hub_ref_make(k, i);
    hub_slot_shm again;
    if (backed <= most) return 0;
    int rc = read_slot(run, k, i, &again); /* its ctl may have been mended just now */
    if (rc < 0 || again.backed.value != backed) return rc;
    uint64_t ctl = again.ctl.value;
    bool mended = false;
    if (run->mending && hub_ctl_state(ctl) == HUB_FREE)
        mended = hub_pool_freshen(run->pool, ref);
    else if (run->mending && is_hosts(ctl))
        mended = hub_pool_mend_backed(run->pool, ref, backed);
    hub_fsck_say(run, HUB_FSCK_BACKED, (int32_t)k, (int32_t)i, -1, mended,
                 "backed: %u pages of a slot of %u", backed, most);
    return 0;
}

/* ---- a stack ------------------------------------------------------------------------------- */

static void break_at(hub_fsck_run *run, class_copy *c, bool cold, uint32_t kind, uint32_t at,
                     const char *before, uint32_t number, const char *after) {
    c->broken[cold] = true;
    hub_fsck_say(run, kind, (int32_t)c->k, at == HUB_INDEX_NONE ? -1 : (int32_t)at, -1,
                 run->mending, "%s stack: %s %u%s", cold ? "cold" : "hot", before, number, after);
}

static void walk(hub_fsck_run *run, class_copy *c, bool cold) {
    unsigned char mine = cold ? 2 : 1;
    uint32_t before = HUB_INDEX_NONE;
    uint32_t index = hub_head_index(cold ? c->shared.cold.value : c->shared.hot.value);
    /* Ends by itself: each step marks a slot that was not marked. */
    while (index != HUB_INDEX_NONE) {
        if (index >= c->limit) {
            break_at(run, c, cold, HUB_FSCK_OUT_OF_RANGE, before,
                     before == HUB_INDEX_NONE ? "its head is slot" : "next is slot", index, "");
            return;
        }
        if (c->seen[index] & mine) {
            break_at(run, c, cold, HUB_FSCK_CIRCLE, before, "next is slot", index, ", met before");
            return;
        }
        if (c->seen[index] != 0) {
            /* Both are taken apart: what comes from here on belongs to either. */
            c->broken[!cold] = true;
            break_at(run, c, cold, HUB_FSCK_TWICE, index, "slot", index, " is on the hot one, too");
        }
        if (!hub_ctl_linked(c->meta[index].ctl.value))
            break_at(run, c, cold, HUB_FSCK_NOT_LINKED, index, "slot", index,
                     " says that it is on none");
        c->seen[index] |= mine;
        run->totals->misplaced += (c->meta[index].backed.value == 0) != cold;
        before = index;
        index = c->meta[index].next.value;
    }
}

/* ---- a class -------------------------------------------------------------------------------- */

static void count(hub_fsck_run *run, const class_copy *c) {
    hub_fsck_totals *totals = run->totals;
    totals->slots += c->limit;
    totals->unjudged += c->still ? 0 : 2;
    for (uint32_t i = 0; i < c->limit; i++) {
        uint64_t ctl = c->meta[i].ctl.value;
        run->hosts += is_hosts(ctl);
        if (hub_ctl_state(ctl) != HUB_FREE) continue;
        if (!hub_ctl_linked(ctl))
            totals->remembered++;
        else if (c->still && c->seen[i] == 0)
            totals->off_list++;
    }
}

/* Before slots are freed, which pushes them. */
static void take_off(hub_fsck_run *run, const class_copy *c) {
    if (!run->mending) return;
    if (c->broken[0]) hub_pool_restack(run->pool, c->k, true);
    if (c->broken[1]) hub_pool_restack(run->pool, c->k, false);
}

/* Nothing can be seen of a `backed` that promises too much, or too little: so no free slot's is
 * believed. Then the stacks. */
static void put_back(hub_fsck_run *run, const class_copy *c) {
    if (!run->mending) return;
    for (uint32_t i = 0; i < c->limit; i++)
        (void)hub_pool_freshen(run->pool, hub_ref_make(c->k, i));
    if (run->exclusive)
        hub_pool_relist(run->pool, c->k);
    else
        (void)hub_pool_link_remembered(run->pool, c->k);
}

static int check_class(hub_fsck_run *run, class_copy *c) {
    int rc = read_class(run, c);
    if (rc < 0) return rc;
    if (c->still) {
        walk(run, c, false);
        walk(run, c, true);
    }
    count(run, c);
    take_off(run, c);
    for (uint32_t i = 0; rc == 0 && i < c->limit; i++) {
        rc = check_ctl(run, c->k, i, c->meta[i].ctl.value);
        if (rc == 0) rc = check_backed(run, c->k, i, &c->meta[i]);
    }
    put_back(run, c);
    return rc;
}

int hub_fsck_class(hub_fsck_run *run, uint32_t k) {
    class_copy c;
    memset(&c, 0, sizeof c);
    c.k = k;
    int rc = check_in_service(run, k);
    if (rc < 0) return rc;
    c.meta = calloc(geometry_of(run, k)->max_slots, sizeof *c.meta);
    c.seen = calloc(geometry_of(run, k)->max_slots, 1);
    rc = c.meta == NULL || c.seen == NULL ? -ENOMEM : check_class(run, &c);
    free(c.meta);
    free(c.seen);
    return rc;
}
