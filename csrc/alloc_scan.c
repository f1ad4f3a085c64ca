/* alloc_scan.c - walks over whole classes: the scan that makes "exhausted" true,
 * recovery of what a dead peer held, and counting. */
#include "alloc_internal.h"

#include <string.h>

/* Unconditional: this is what finds slots that are FREE and on no stack, because their peer died
 * between pop and claim, between free and link, or with a full cache. */
bool hub_pool_scan(hub_pool *pool, hub_pool_class *c, uint32_t *ret_index, uint32_t *ret_gen) {
    uint32_t limit = hub_in_service(c);
    for (uint32_t i = 0; i < limit; i++)
        if (hub_take_free(pool, c, i, ret_gen)) {
            *ret_index = i;
            return true;
        }
    return false;
}

bool hub_pool_scan_backed(hub_pool *pool, hub_pool_class *c, uint64_t size, uint32_t *ret_index,
                          uint32_t *ret_gen) {
    uint32_t limit = hub_in_service(c), pages = hub_pages_needed(c, size);
    for (uint32_t i = 0; i < limit; i++) {
        if (hub_load_relaxed_32(&c->meta[i].backed) < pages || !hub_take_free(pool, c, i, ret_gen))
            continue;
        *ret_index = i;
        if (hub_load_relaxed_32(&c->meta[i].backed) >= pages) return true;
        /* Trimmed before it was mine. */
        (void)hub_pool_discard(pool, hub_ref_make((uint32_t)(c - pool->classes), i), *ret_gen,
                               HUB_OWNED, pool->me);
    }
    return false;
}

static bool held_by(uint64_t ctl, uint32_t dead) {
    uint32_t state = hub_ctl_state(ctl), owner = hub_ctl_owner(ctl);
    if (state == HUB_OWNED) return owner == dead;
    return state == HUB_RING && (owner == hub_ring_up(dead) || owner == hub_ring_down(dead));
}

/* Nobody but us changes these (their owner is dead, its rings are closed and locked) except for L,
 * which a popper may clear at any time. Taking it first as OWNED(me) keeps the pages that are
 * punched here from a scan. */
static void take_back(hub_pool *pool, hub_pool_class *c, uint32_t index, uint64_t ctl,
                      uint32_t dead) {
    while (held_by(ctl, dead)) {
        if (!hub_cas_acq_rel_64(&c->meta[index].ctl, &ctl, hub_ctl_moved(ctl, HUB_OWNED, pool->me)))
            continue;
        uint64_t backed = (uint64_t)hub_load_relaxed_32(&c->meta[index].backed) * HUB_PAGE;
        /* It may have died between fallocate and backed: no page may stay that no one counts. */
        if (!c->sub_page && backed < c->slot_size)
            (void)hub_segment_punch(pool->segment,
                                    c->data_offset + (uint64_t)index * c->slot_stride + backed,
                                    c->slot_size - backed);
        (void)hub_pool_discard(pool, hub_ref_make((uint32_t)(c - pool->classes), index),
                               hub_ctl_gen(ctl), HUB_OWNED, pool->me);
        return;
    }
}

uint64_t hub_pool_reclaim(hub_pool *pool, uint32_t dead) {
    uint64_t count = 0;
    for (uint32_t k = 0; k < pool->class_count; k++) {
        hub_pool_class *c = &pool->classes[k];
        uint32_t limit = hub_in_service(c);
        for (uint32_t i = 0; i < limit; i++) {
            uint64_t ctl = hub_load_relaxed_64(&c->meta[i].ctl);
            if (!held_by(ctl, dead)) continue;
            take_back(pool, c, i, ctl, dead);
            count++;
        }
    }
    return count;
}

uint32_t hub_pool_owned(const hub_pool *pool, uint32_t owner, uint32_t most) {
    uint32_t count = 0;
    for (uint32_t k = 0; k < pool->class_count; k++) {
        const hub_pool_class *c = &pool->classes[k];
        uint32_t limit = hub_in_service(c);
        for (uint32_t i = 0; i < limit && count < most; i++) {
            uint64_t ctl = hub_load_acquire_64(&c->meta[i].ctl);
            count += hub_ctl_state(ctl) == HUB_OWNED && hub_ctl_owner(ctl) == owner;
        }
    }
    return count;
}

void hub_pool_count(const hub_geometry *g, const unsigned char *base, hub_stat *ret,
                    uint32_t owned_by[HUB_PEERS_MAX]) {
    const hub_class_shm *shared = (const hub_class_shm *)(base + g->classes_offset);
    const hub_peer_shm *peers = (const hub_peer_shm *)(base + g->peers_offset);
    ret->class_count = g->class_count;
    memset(owned_by, 0, HUB_PEERS_MAX * sizeof *owned_by);
    for (uint32_t k = 0; k < g->class_count; k++) {
        hub_class_stat *s = &ret->classes[k];
        const hub_slot_shm *meta = (const hub_slot_shm *)(base + g->classes[k].meta_offset);
        uint32_t limit = hub_load_acquire_32(&shared[k].in_service);
        if (limit > g->classes[k].max_slots) limit = g->classes[k].max_slots;
        memset(s, 0, sizeof *s);
        s->slot_size = g->classes[k].slot_size;
        s->slots = limit;
        s->max_slots = g->classes[k].max_slots;
        for (uint32_t i = 0; i < limit; i++) {
            uint64_t ctl = hub_load_relaxed_64(&meta[i].ctl);
            uint32_t owner = hub_ctl_owner(ctl);
            s->backed += hub_load_relaxed_32(&meta[i].backed) > 0;
            s->high_water += hub_ctl_gen(ctl) != HUB_START_GEN;
            switch (hub_ctl_state(ctl)) {
            case HUB_FREE: s->free++; break;
            case HUB_OWNED:
                s->owned++;
                if (owner < HUB_PEERS_MAX) owned_by[owner]++;
                break;
            case HUB_RING: s->in_ring++; break;
            default: s->shared++; break;
            }
        }
        for (uint32_t p = 0; p < g->max_peers; p++) {
            /* An id never given out has no memory behind its lane: looking would reserve it. */
            if (p > 0 && hub_load_relaxed_64(&peers[p].state) == 0) continue;
            const hub_lane_shm *lane =
                (const hub_lane_shm *)(base + (p == 0 ? g->host_lane_offset
                                                      : hub_block_offset(g, p)));
            s->exhausted += hub_load_relaxed_64(&lane->exhausted[k]);
        }
    }
}
