/* oracle.c - see oracle.h. */
#include "oracle.h"

#include <string.h>

#include "alloc_internal.h"
#include "check.h"

#define SLOTS_MOST 256u /* of a class, in the hubs looked at here */

static void check_stack(const hub_pool_class *c, uint32_t k, const hub_a64 *head, const char *name,
                        unsigned char *seen) {
    uint32_t limit = hub_in_service(c);
    uint32_t index = hub_head_index(hub_load_acquire_64(head));
    while (index != HUB_INDEX_NONE) {
        if (index >= limit) FAIL("class %u: %u is on the %s stack (of %u)", k, index, name, limit);
        if (seen[index]) FAIL("class %u: slot %u is on the stacks twice", k, index);
        seen[index] = 1;
        if (!hub_ctl_linked(hub_load_relaxed_64(&c->meta[index].ctl)))
            FAIL("class %u: slot %u is on the %s stack and says that it is not", k, index, name);
        index = hub_load_relaxed_32(&c->meta[index].next);
    }
}

static void say(void *context, const hub_fsck_finding *finding) {
    (void)context;
    test_say("fsck: %s, class %d, slot %d, peer %d: %s", hub_fsck_name(finding->kind),
             finding->class_index, finding->index, finding->peer_id, finding->found);
}

static void check_with_fsck(hub_session *host) {
    hub_fsck_totals totals;
    CHECK_OK(hub_host_fsck(host, 0, 0, say, NULL, &totals));
    CHECK_EQ(totals.findings, 0);
}

void oracle_all_free(hub_session *host) {
    for (uint32_t k = 0; k < host->pool.class_count; k++) {
        const hub_pool_class *c = &host->pool.classes[k];
        unsigned char seen[SLOTS_MOST] = {0};
        uint32_t limit = hub_in_service(c);
        CHECK_LE(limit, SLOTS_MOST);
        for (uint32_t i = 0; i < limit; i++) {
            uint64_t ctl = hub_load_acquire_64(&c->meta[i].ctl);
            if (hub_ctl_state(ctl) != HUB_FREE || hub_ctl_owner(ctl) != 0)
                FAIL("class %u: slot %u is lost: state %u, owner %u, generation %u", k, i,
                     hub_ctl_state(ctl), hub_ctl_owner(ctl), hub_ctl_gen(ctl));
        }
        check_stack(c, k, &c->shared->hot, "hot", seen);
        check_stack(c, k, &c->shared->cold, "cold", seen);
    }
    const hub_signals_shm *signals = hub_session_signals(host);
    uint64_t living = 1;
    for (uint32_t id = 1; id < host->segment.geometry.max_peers; id++)
        if (hub_state_of(hub_load_acquire_64(&hub_session_peer(host, id)->state)) != HUB_PEER_FREE)
            living |= 1ULL << id;
    CHECK_EQ(hub_load_relaxed_64(&signals->pool_waiters) & ~living, 0);
    CHECK_EQ(hub_load_relaxed_64(&signals->ready) & ~living, 0);
    for (uint32_t id = 0; id < HUB_PEERS_MAX; id++)
        if (!(living >> id & 1)) CHECK_EQ(hub_load_relaxed_8(&signals->spinning[id]), 0);
    check_with_fsck(host); /* its own judgement, by other code */
}

static uint64_t word_of(uint32_t ref, uint64_t at) { return ((uint64_t)ref << 32) ^ at ^ 0x5A; }

/* The first word of each page, and the last of all. */
static uint64_t next_word(const hub_slot *slot, uint64_t at) {
    if (at + HUB_PAGE < slot->capacity) return at + HUB_PAGE;
    return at < slot->capacity - 8 ? slot->capacity - 8 : slot->capacity;
}

static void write_words(const hub_slot *slot) {
    for (uint64_t at = 0; at < slot->capacity; at = next_word(slot, at)) {
        uint64_t word = word_of(slot->ref, at);
        memcpy(slot->data + at, &word, 8);
    }
}

static void check_words(const hub_slot *slot) {
    for (uint64_t at = 0; at < slot->capacity; at = next_word(slot, at)) {
        uint64_t word;
        memcpy(&word, slot->data + at, 8);
        if (word != word_of(slot->ref, at)) FAIL("slot %#x is not its owner's alone", slot->ref);
    }
}

void oracle_refill(hub_session *host) {
    static hub_slot all[HUB_CLASSES_MAX * SLOTS_MOST]; /* one thread looks */
    uint32_t count = 0, wanted[HUB_CLASSES_MAX], most = 0;
    for (uint32_t k = 0; k < host->pool.class_count; k++)
        most += wanted[k] = host->pool.classes[k].max_slots;
    for (;; count++) {
        /* As much as will be in any: the largest first, so that each slot is backed whole. */
        int rc = HUB_EEXHAUSTED;
        for (uint32_t k = host->pool.class_count; k-- > 0 && rc == HUB_EEXHAUSTED;)
            rc = hub_pool_alloc(&host->pool, host->pool.classes[k].slot_size, &all[count]);
        if (rc == HUB_EEXHAUSTED) break;
        CHECK_OK(rc);
        if (count >= most) FAIL("more slots than there are were given out");
        uint32_t k = hub_ref_class(all[count].ref);
        if (wanted[k]-- == 0) FAIL("class %u gave more slots than it has", k);
        write_words(&all[count]);
    }
    for (uint32_t k = 0; k < host->pool.class_count; k++)
        if (wanted[k] > 0) FAIL("class %u: %u slots are not to be had any more", k, wanted[k]);
    for (uint32_t i = 0; i < count; i++) check_words(&all[i]);
    while (count-- > 0) CHECK_OK(hub_pool_free(&host->pool, all[count].ref, all[count].gen));
    hub_pool_flush(&host->pool);
}

unsigned oracle_relink(hub_session *host) {
    unsigned count = 0;
    for (uint32_t k = 0; k < host->pool.class_count; k++) {
        hub_pool_class *c = &host->pool.classes[k];
        unsigned char seen[SLOTS_MOST] = {0};
        check_stack(c, k, &c->shared->hot, "hot", seen);
        check_stack(c, k, &c->shared->cold, "cold", seen);
        for (uint32_t i = 0; i < hub_in_service(c); i++) {
            if (seen[i]) continue;
            (void)hub_win_link(c, i); /* or linked already, but on no stack: nobody is at work */
            hub_stack_push(c, hub_stack_for(c, i), i, i);
            count++;
        }
    }
    return count;
}

unsigned oracle(hub_session *host, bool relink) {
    oracle_all_free(host);
    unsigned count = relink ? oracle_relink(host) : 0;
    oracle_refill(host);
    oracle_all_free(host);
    return count;
}

void oracle_orphan_all(hub_session *host) {
    for (uint32_t k = 0; k < host->pool.class_count; k++) {
        hub_pool_class *c = &host->pool.classes[k];
        uint32_t popped;
        while (hub_stack_pop(c, &c->shared->hot, 1, &popped) > 0) continue;
        while (hub_stack_pop(c, &c->shared->cold, 1, &popped) > 0) continue;
    }
}
