/* alloc_repair.c - putting the pool right again: see alloc_repair.h.
 *
 * Sound while others are at work, because nothing here does what an allocator
 * does not do: a slot changes hands by one CAS on ctl, is linked only by who
 * turned its L from 0 to 1, and `backed` is written by its owner alone.  So a
 * repair that was misled (by a word scribbled a moment ago) costs no more than
 * the scribble did: a stack may be a circle again, which pops cut.
 *
 * What that rule cannot do is find a home for a slot that is FREE with L = 1 and
 * on no stack: its peer may have died there, or be stopped just before its link,
 * and would link it a second time.  Looking does not tell them apart, so
 * hub_pool_relist demands what its caller has to prove: no other process has the
 * hub, and no other thread of this one is inside.  Then nobody stands between a
 * CAS and its link, and nobody can get there, since to get there one has to win
 * L or to pop.  Until then a scan finds such a slot; it is not lost. */
#include "alloc_repair.h"

#include <stdlib.h>

#include "alloc_internal.h"

bool hub_pool_plausible_in_service(uint32_t n, uint32_t slots, uint32_t max_slots) {
    return n == max_slots || (n >= slots && n < max_slots && (n - slots) % HUB_GROW_SLOTS == 0);
}

uint32_t hub_pool_most_pages(uint64_t slot_size) {
    return (uint32_t)((slot_size + HUB_PAGE - 1) / HUB_PAGE);
}

int hub_pool_mend_in_service(hub_pool *pool, uint32_t k, uint32_t used) {
    hub_pool_class *c = &pool->classes[k];
    const hub_class_geometry *g = &pool->segment->geometry.classes[k];
    uint32_t found = hub_load_acquire_32(&c->shared->in_service);
    /* Bookkeeping is written when slots come into service: what has any was in service, or is a lie
     * that would come into service with it. Either way it is judged like the others. */
    uint64_t least = g->slots;
    if (used > g->slots)
        least += (used - g->slots + HUB_GROW_SLOTS - 1) / HUB_GROW_SLOTS * HUB_GROW_SLOTS;
    uint32_t wanted = least < g->max_slots ? (uint32_t)least : g->max_slots;
    if (hub_pool_plausible_in_service(found, g->slots, g->max_slots) && found >= used)
        wanted = found;
    if (wanted > 0) {
        int rc = hub_segment_back(pool->segment, g->meta_offset,
                                  (uint64_t)wanted * sizeof(hub_slot_shm));
        if (rc == 0)
            rc = hub_segment_back(pool->segment, g->holders_offset,
                                  (uint64_t)wanted * sizeof(uint64_t));
        if (rc < 0) return rc;
    }
    /* Fails when somebody brought more into service meanwhile: that is as good. */
    (void)hub_cas_acq_rel_32(&c->shared->in_service, &found, wanted);
    return 0;
}

/* Mine, and what lies behind it is not to be believed: nothing of it is backed. A slot smaller than
 * a page shares its page, so there is nothing to punch; it is reserved again before its next use. */
static void give_all_back(hub_pool *pool, uint32_t ref, uint32_t gen) {
    hub_pool_class *c = &pool->classes[hub_ref_class(ref)];
    uint32_t index = hub_ref_index(ref);
    hub_store_release_32(&c->meta[index].backed, 0); /* before the pages go */
    if (!c->sub_page)
        (void)hub_segment_punch(pool->segment, c->data_offset + (uint64_t)index * c->slot_stride,
                                c->slot_size);
    (void)hub_pool_discard(pool, ref, gen, HUB_OWNED, pool->me);
}

bool hub_pool_seize(hub_pool *pool, uint32_t ref, uint64_t ctl) {
    hub_a64 *word = &pool->classes[hub_ref_class(ref)].meta[hub_ref_index(ref)].ctl;
    uint64_t before = ctl, mine;
    do { /* a popper may clear L meanwhile, and nothing else of it */
        if ((ctl | HUB_CTL_UNLINKED) != (before | HUB_CTL_UNLINKED)) return false;
        mine = hub_ctl_moved(ctl, HUB_OWNED, pool->me);
    } while (!hub_cas_acq_rel_64(word, &ctl, mine));
    give_all_back(pool, ref, hub_ctl_gen(mine));
    return true;
}

bool hub_pool_freshen(hub_pool *pool, uint32_t ref) {
    uint32_t gen;
    if (!hub_take_free(pool, &pool->classes[hub_ref_class(ref)], hub_ref_index(ref), &gen))
        return false;
    give_all_back(pool, ref, gen);
    return true;
}

bool hub_pool_mend_backed(hub_pool *pool, uint32_t ref, uint32_t backed) {
    hub_pool_class *c = &pool->classes[hub_ref_class(ref)];
    uint64_t at = c->data_offset + (uint64_t)hub_ref_index(ref) * c->slot_stride;
    if (hub_segment_back(pool->segment, at, c->slot_size) < 0) return false;
    return hub_cas_acq_rel_32(&c->meta[hub_ref_index(ref)].backed, &backed,
                              hub_pool_most_pages(c->slot_size));
}

uint32_t hub_pool_link_remembered(hub_pool *pool, uint32_t k) {
    hub_pool_class *c = &pool->classes[k];
    uint32_t limit = hub_in_service(c), count = 0;
    /* Whoever remembers it finds that it is not FREE with L = 0 any more, and forgets it. */
    for (uint32_t i = limit; i-- > 0;)
        if (hub_win_link(c, i)) {
            hub_stack_push(c, hub_stack_for(c, i), i, i);
            count++;
        }
    return count;
}

/* Take everything off: the index that was on top. */
static uint32_t detach(hub_a64 *head) {
    uint64_t h = 0; /* wrong, most likely: the CAS brings what is there */
    while (!hub_cas_acq_rel_64(head, &h, hub_head_make(hub_head_tag(h) + 1, HUB_INDEX_NONE)))
        ;
    return hub_head_index(h);
}

void hub_pool_restack(hub_pool *pool, uint32_t k, bool hot) {
    hub_pool_class *c = &pool->classes[k];
    uint32_t limit = hub_in_service(c);
    uint32_t index = detach(hot ? &c->shared->hot : &c->shared->cold);
    /* As if each were popped: L goes to 0, so that it may be linked again, by us if it is free. A
     * circle is gone round until the bound. The links are followed here for the last time. */
    for (uint32_t n = 0; n < limit && index < limit; n++) {
        uint32_t next = hub_load_relaxed_32(&c->meta[index].next);
        uint64_t ctl = hub_load_relaxed_64(&c->meta[index].ctl);
        while (!hub_cas_acq_rel_64(&c->meta[index].ctl, &ctl, ctl | HUB_CTL_UNLINKED))
            ;
        index = next;
    }
}

void hub_pool_relist(hub_pool *pool, uint32_t k) {
    hub_pool_class *c = &pool->classes[k];
    uint32_t limit = hub_in_service(c);
    uint32_t first[2] = {HUB_INDEX_NONE, HUB_INDEX_NONE}, last[2] = {0, 0};
    (void)detach(&c->shared->hot);
    (void)detach(&c->shared->cold);
    for (uint32_t i = limit; i-- > 0;) {
        uint64_t ctl = hub_load_relaxed_64(&c->meta[i].ctl), wanted;
        bool is_free;
        do {
            is_free = hub_ctl_state(ctl) == HUB_FREE;
            wanted = is_free ? ctl & ~HUB_CTL_UNLINKED : ctl | HUB_CTL_UNLINKED;
        } while (!hub_cas_acq_rel_64(&c->meta[i].ctl, &ctl, wanted));
        if (!is_free) continue; /* whoever frees it links it */
        uint32_t cold = hub_load_relaxed_32(&c->meta[i].backed) == 0;
        hub_store_relaxed_32(&c->meta[i].next, first[cold]);
        if (first[cold] == HUB_INDEX_NONE) last[cold] = i;
        first[cold] = i;
    }
    if (first[0] != HUB_INDEX_NONE) hub_stack_push(c, &c->shared->hot, first[0], last[0]);
    if (first[1] != HUB_INDEX_NONE) hub_stack_push(c, &c->shared->cold, first[1], last[1]);
}
