/* alloc.c - allocation and freeing; see alloc.h for the rules, alloc_cache.c for
 * what a thread remembers, alloc_memory.c for backing and trimming, alloc_scan.c
 * for whole-class walks. */
#include "alloc_quick.h"

#include <string.h>

#define BACKED_WHOLE (64u * 1024)
#define SLOTS_PER_LINE (HUB_CACHE_LINE / (uint32_t)sizeof(hub_slot_shm))

static void meta_geometry(hub_pool_class *c, const hub_class_geometry *g, unsigned char *base,
                          hub_class_shm *shared) {
    memset(c, 0, sizeof *c);
    c->slot_size = g->slot_size;
    c->slot_stride = g->slot_stride;
    c->data_offset = g->data_offset;
    c->max_slots = g->max_slots;
    c->sub_page = g->slot_size < HUB_PAGE;
    if (g->slot_size <= BACKED_WHOLE)
        c->whole_pages = (uint32_t)((g->slot_size + HUB_PAGE - 1) / HUB_PAGE);
    c->data = base + g->data_offset;
    c->meta = (hub_slot_shm *)(base + g->meta_offset);
    c->shared = shared;
    if (g->slot_size < HUB_CACHE_BYTES) {
        uint64_t fits = HUB_CACHE_BYTES / g->slot_size;
        uint64_t share = g->max_slots / 16; /* small hubs: leave the slots on the stacks */
        uint64_t most = fits < HUB_CACHE_SLOTS ? fits : HUB_CACHE_SLOTS;
        c->cache_capacity = (uint32_t)(share < most ? share : most);
    }
}

void hub_pool_init(hub_pool *pool, const hub_segment *segment, uint32_t me, hub_lane_shm *lane) {
    const hub_geometry *g = &segment->geometry;
    memset(pool, 0, sizeof *pool);
    pool->segment = segment;
    pool->signals = (hub_signals_shm *)(segment->base + g->signals_offset);
    pool->lane = lane;
    pool->me = me;
    pool->class_count = g->class_count;
    pool->max_bytes = g->max_bytes;
    hub_class_shm *shared = (hub_class_shm *)(segment->base + g->classes_offset);
    for (uint32_t i = 0; i < g->class_count; i++)
        meta_geometry(&pool->classes[i], &g->classes[i], segment->base, &shared[i]);
    uint64_t floor = hub_pool_floor(pool);
    pool->largest = g->classes[g->class_count - 1].slot_size;
    if (pool->largest + floor > pool->max_bytes)
        pool->largest = pool->max_bytes > floor ? pool->max_bytes - floor : 0;
}

void hub_link_fresh(hub_pool_class *c, uint32_t first, uint32_t count, uint32_t *ret_last) {
    uint32_t previous = HUB_INDEX_NONE;
    for (uint32_t lane = 0; lane < SLOTS_PER_LINE; lane++)
        for (uint32_t i = lane; i < count; i += SLOTS_PER_LINE) {
            if (previous != HUB_INDEX_NONE)
                hub_store_relaxed_32(&c->meta[previous].next, first + i);
            previous = first + i;
        }
    *ret_last = previous;
}

void hub_pool_format(hub_pool *pool) {
    for (uint32_t k = 0; k < pool->class_count; k++) {
        hub_pool_class *c = &pool->classes[k];
        uint32_t slots = pool->segment->geometry.classes[k].slots, last;
        for (uint32_t i = 0; i < slots; i++)
            hub_store_relaxed_64(&c->meta[i].ctl, hub_ctl_make(HUB_START_GEN, HUB_FREE, 0));
        hub_link_fresh(c, 0, slots, &last);
        if (slots > 0) hub_store_relaxed_32(&c->meta[last].next, HUB_INDEX_NONE);
        hub_store_relaxed_32(&c->shared->in_service, slots);
        hub_store_relaxed_64(&c->shared->hot, hub_head_make(HUB_START_TAG, HUB_INDEX_NONE));
        hub_store_relaxed_64(&c->shared->cold,
                             hub_head_make(HUB_START_TAG, slots > 0 ? 0 : HUB_INDEX_NONE));
    }
}

/* ---- stacks ------------------------------------------------------------------ */

void hub_stack_push(hub_pool_class *c, hub_a64 *head, uint32_t first, uint32_t last) {
    uint64_t h = hub_load_relaxed_64(head); /* a guess; the CAS checks it */
    do {
        hub_store_relaxed_32(&c->meta[last].next, hub_head_index(h));
        /* Release: who pops `first` (acquire in hub_stack_pop) sees the links below it. Every
         * change of the head is a read-modify-write, so the release sequence is never cut. */
    } while (!hub_cas_acq_rel_64(head, &h, hub_head_make(hub_head_tag(h) + 1, first)));
}

/* The lines of a chain lie in the cache of the core that linked it, and each says only where the next
 * is: fetched one after the other they cost more than all the rest. But slots mostly come back as
 * they went, in runs turned round; so what was below whom is remembered, and the lines are asked for
 * together. A guess and no more: wrong, it costs a fetch. Relaxed: several threads may guess. */
static void fetch_run(hub_pool_class *c, uint32_t top, uint32_t most, uint32_t limit) {
    for (uint32_t i = 0; i < most && top < limit; i++) {
        hub_prefetch_for_write(&c->meta[top]);
        top = hub_load_relaxed_32(&c->below[top % HUB_BELOW]);
    }
}

static void remember_run(hub_pool_class *c, const uint32_t *run, uint32_t count) {
    for (uint32_t i = 1; i < count; i++)
        hub_store_relaxed_32(&c->below[run[i] % HUB_BELOW], run[i - 1]);
}

/* Take up to `most` from the top with one CAS. The tag goes up with every change, so an unchanged
 * head means that the links below it, read before the CAS, are unchanged too. */
uint32_t hub_stack_pop(hub_pool_class *c, hub_a64 *head, uint32_t most, uint32_t *ret) {
    uint32_t limit = hub_in_service(c), count, next;
    uint64_t h = hub_load_acquire_64(head);
    do {
        uint32_t top = hub_head_index(h);
        if (top >= limit) {
            /* Empty; or came into service after `limit` was read; or garbage: a scan decides. */
            limit = hub_in_service(c);
            if (top >= limit) return 0;
        }
        ret[0] = top;
        count = 1;
        fetch_run(c, top, most, limit); /* their ctl changes next */
        next = hub_load_relaxed_32(&c->meta[top].next);
        while (count < most && next < limit) {
            ret[count++] = next;
            next = hub_load_relaxed_32(&c->meta[next].next);
        }
        if (next > HUB_INDEX_NONE) next = HUB_INDEX_NONE; /* garbage: cut, the scan finds the rest */
    } while (!hub_cas_acq_rel_64(head, &h, hub_head_make(hub_head_tag(h) + 1, next)));
    remember_run(c, ret, count);
    return count;
}

hub_a64 *hub_stack_for(hub_pool_class *c, uint32_t index) {
    return hub_load_relaxed_32(&c->meta[index].backed) > 0 ? &c->shared->hot : &c->shared->cold;
}

/* ---- taking ------------------------------------------------------------------- */

/* A slot I have popped: mine, or (taken by a scan meanwhile) no longer on the stack. */
bool hub_claim_popped(hub_pool *pool, hub_pool_class *c, uint32_t index, uint32_t *ret_gen) {
    uint64_t ctl = hub_load_relaxed_64(&c->meta[index].ctl);
    while (hub_ctl_linked(ctl)) {
        if (hub_ctl_state(ctl) == HUB_FREE) {
            uint32_t gen = hub_ctl_gen(ctl) + 1;
            uint64_t mine = hub_ctl_make(gen, HUB_OWNED, pool->me) | HUB_CTL_UNLINKED;
            if (hub_cas_acq_rel_64(&c->meta[index].ctl, &ctl, mine)) {
                *ret_gen = gen;
                return true;
            }
        } else if (hub_cas_acq_rel_64(&c->meta[index].ctl, &ctl, ctl | HUB_CTL_UNLINKED)) {
            return false; /* its owner links it again when it is freed */
        }
    }
    return false; /* L = 0 on a stack: only a scribbler does that; let go of it */
}

/* A slot I have popped, for my cache: FREE and L = 0. */
static bool unlink_popped(hub_pool_class *c, uint32_t index) {
    uint64_t ctl = hub_load_relaxed_64(&c->meta[index].ctl);
    while (hub_ctl_linked(ctl))
        if (hub_cas_acq_rel_64(&c->meta[index].ctl, &ctl, ctl | HUB_CTL_UNLINKED))
            return hub_ctl_state(ctl) == HUB_FREE;
    return false;
}

/* FREE, L = 0 -> FREE, L = 1: the right to link it. Fails when a scan took it. */
bool hub_win_link(hub_pool_class *c, uint32_t index) {
    uint64_t ctl = hub_load_relaxed_64(&c->meta[index].ctl);
    while (hub_ctl_state(ctl) == HUB_FREE && !hub_ctl_linked(ctl))
        if (hub_cas_acq_rel_64(&c->meta[index].ctl, &ctl, ctl & ~HUB_CTL_UNLINKED)) return true;
    return false;
}

bool hub_take_free(hub_pool *pool, hub_pool_class *c, uint32_t index, uint32_t *ret_gen) {
    uint64_t ctl = hub_load_relaxed_64(&c->meta[index].ctl);
    while (hub_ctl_state(ctl) == HUB_FREE) {
        uint32_t gen = hub_ctl_gen(ctl) + 1;
        uint64_t mine = hub_ctl_make(gen, HUB_OWNED, pool->me) | (ctl & HUB_CTL_UNLINKED);
        /* Acquire, in acq_rel: pairs with the freeing CAS; the last owner's writes are over. */
        if (hub_cas_acq_rel_64(&c->meta[index].ctl, &ctl, mine)) {
            *ret_gen = gen;
            return true;
        }
    }
    return false;
}

/* ---- from the cache ------------------------------------------------------------- */

static inline bool take_remembered(hub_pool *pool, hub_pool_class *c, hub_cache *cache,
                            uint32_t *ret_index, uint32_t *ret_gen) {
    while (cache->count > 0) {
        uint32_t index = cache->items[--cache->count];
        uint64_t ctl = hub_load_relaxed_64(&c->meta[index].ctl);
        if ((uint32_t)ctl != (uint32_t)HUB_CTL_UNLINKED) continue; /* not FREE, L = 0: forget it */
        uint32_t gen = hub_ctl_gen(ctl) + 1;
        uint64_t mine = hub_ctl_make(gen, HUB_OWNED, pool->me) | HUB_CTL_UNLINKED;
        if (hub_cas_acq_rel_64(&c->meta[index].ctl, &ctl, mine)) {
            *ret_index = index;
            *ret_gen = gen;
            return true;
        }
    }
    return false;
}

void hub_pool_flush(hub_pool *pool) {
    for (uint32_t k = 0; k < pool->class_count; k++) {
        hub_cache *cache = hub_cache_mine(&pool->classes[k]);
        if (cache != NULL) hub_cache_flush(&pool->classes[k], cache);
    }
}

void hub_pool_fini(hub_pool *pool) {
    for (uint32_t k = 0; k < pool->class_count; k++)
        for (uint32_t lane = 0; lane < HUB_CACHE_LANES; lane++)
            hub_cache_fini(&pool->classes[k].caches[lane]);
}

/* More pops in vain than there are slots: a scribbler has made the stack a circle. What was on it is
 * FREE and linked, so the scan finds it. */
static bool cut(hub_a64 *head) {
    uint64_t h = 0; /* wrong, most likely: the CAS brings what is there */
    while (!hub_cas_acq_rel_64(head, &h, hub_head_make(hub_head_tag(h) + 1, HUB_INDEX_NONE)))
        ;
    return false;
}

/* Pop several, keep one, remember the rest: two sides that share a stack then meet on its head
 * once in many slots instead of at each. */
static bool pop_hot(hub_pool *pool, hub_pool_class *c, hub_cache *cache, uint32_t *ret_index,
                    uint32_t *ret_gen) {
    uint32_t popped[HUB_CACHE_SLOTS];
    uint32_t most = cache == NULL ? 1 : c->cache_capacity / 2 + 1;
    for (uint32_t left = hub_in_service(c);; left--) {
        uint32_t count = hub_stack_pop(c, &c->shared->hot, most, popped), kept = count;
        if (count == 0) return false;
        if (left == 0) return cut(&c->shared->hot);
        for (uint32_t i = 0; i < count && kept == count; i++)
            if (hub_claim_popped(pool, c, popped[i], ret_gen)) kept = i;
        for (uint32_t i = count; i-- > kept + 1;)
            if (unlink_popped(c, popped[i])) hub_cache_put(c, cache, popped[i]);
        if (kept < count) {
            *ret_index = popped[kept];
            return true;
        }
    }
}

static bool pop_cold(hub_pool *pool, hub_pool_class *c, uint32_t *ret_index, uint32_t *ret_gen) {
    uint32_t left = hub_in_service(c);
    while (hub_stack_pop(c, &c->shared->cold, 1, ret_index) > 0) {
        if (hub_claim_popped(pool, c, *ret_index, ret_gen)) return true;
        if (left-- == 0) return cut(&c->shared->cold);
    }
    return false;
}

/* ---- alloc ----------------------------------------------------------------------- */

static bool take_any(hub_pool *pool, hub_pool_class *c, uint32_t *ret_index, uint32_t *ret_gen) {
    hub_cache *cache = hub_cache_mine(c);
    if (cache != NULL && take_remembered(pool, c, cache, ret_index, ret_gen)) return true;
    if (pop_hot(pool, c, cache, ret_index, ret_gen)) return true;
    /* Bounded: a liar may say again and again that there is room to grow. */
    for (uint32_t n = 0; n <= c->max_slots / HUB_GROW_SLOTS + 1; n++) {
        if (pop_cold(pool, c, ret_index, ret_gen)) return true;
        if (!hub_pool_grow(pool, c)) break;
    }
    return hub_pool_scan(pool, c, ret_index, ret_gen);
}

static int alloc_in(hub_pool *pool, uint32_t k, uint64_t size, hub_slot *ret) {
    hub_pool_class *c = &pool->classes[k];
    uint32_t index, gen;
    if (!take_any(pool, c, &index, &gen)) {
        (void)hub_fetch_add_acq_rel_64(&pool->lane->exhausted[k], 1);
        return HUB_EEXHAUSTED;
    }
    if (hub_load_relaxed_32(&c->meta[index].backed) < hub_pages_needed(c, size)) {
        int rc = hub_pool_back_or_release(pool, hub_ref_make(k, index), size);
        /* No memory for a cold one; but one that is free and backed may lie in another's cache, or
         * be left by the dead: of slots that cannot be trimmed only this look finds it. */
        if (rc < 0 && !hub_pool_scan_backed(pool, c, size, &index, &gen)) return rc;
    }
    hub_slot_fill(c, k, index, gen, ret);
    return 0;
}

/* From the smallest class that fits up. */
static __attribute__((noinline)) int alloc_from(hub_pool *pool, uint32_t k, uint64_t size,
                                                hub_slot *ret) {
    int worst = HUB_EEXHAUSTED;
    for (; k < pool->class_count; k++) {
        int rc = alloc_in(pool, k, size, ret);
        if (rc == 0) return 0;
        if (rc != HUB_EEXHAUSTED) worst = rc;
    }
    return worst;
}

int hub_pool_alloc(hub_pool *pool, uint64_t size, hub_slot *ret) {
    if (hub_alloc_quick(pool, size, ret)) return 0;
    if (size > pool->largest) return HUB_ETOOLARGE;
    uint32_t k = 0;
    while (pool->classes[k].slot_size < size) k++;
    return alloc_from(pool, k, size, ret);
}

/* ---- free ------------------------------------------------------------------------- */

/* From (state, owner) to FREE by the rules, onto the stacks. The CAS goes first, with the usual ctl
 * as its guess: looking before would fetch a line twice that another core has. */
static int release(hub_pool_class *c, uint32_t index, uint32_t gen, uint32_t state,
                   uint32_t owner) {
    uint64_t ctl = hub_ctl_make(gen, state, owner) | HUB_CTL_UNLINKED;
    /* Release, in acq_rel: our reads and writes of the payload are over before the next owner's
     * claim (acquire). */
    while (!hub_cas_acq_rel_64(&c->meta[index].ctl, &ctl, hub_ctl_make(gen, HUB_FREE, 0)))
        if (hub_ctl_gen(ctl) != gen || hub_ctl_state(ctl) != state || hub_ctl_owner(ctl) != owner)
            return HUB_ESTALE;
    /* A linked slot is on a stack already. */
    if (!hub_ctl_linked(ctl)) hub_stack_push(c, hub_stack_for(c, index), index, index);
    return 0;
}

/* Freed to the cache, but nothing of it is backed: there is nothing to keep warm. */
static __attribute__((noinline)) void link_cold(hub_pool_class *c, uint32_t index) {
    if (hub_win_link(c, index)) hub_stack_push(c, &c->shared->cold, index, index);
}

static __attribute__((noinline)) int free_to_stack(hub_pool *pool, uint32_t ref, uint32_t gen) {
    int rc = release(&pool->classes[hub_ref_class(ref)], hub_ref_index(ref), gen, HUB_OWNED, pool->me);
    if (rc == 0) hub_pool_kick(pool);
    return rc;
}

int hub_pool_free(hub_pool *pool, uint32_t ref, uint32_t gen) {
    if (hub_free_quick(pool, ref, gen)) return 0;
    if (!hub_pool_valid(pool, ref)) return HUB_ESTALE;
    hub_pool_class *c = &pool->classes[hub_ref_class(ref)];
    uint32_t index = hub_ref_index(ref);
    hub_cache *cache = hub_cache_mine(c);
    uint64_t mine = hub_ctl_make(gen, HUB_OWNED, pool->me) | HUB_CTL_UNLINKED;
    uint64_t freed = hub_ctl_make(gen, HUB_FREE, 0) | HUB_CTL_UNLINKED;
    if (cache == NULL || !hub_cas_acq_rel_64(&c->meta[index].ctl, &mine, freed))
        return free_to_stack(pool, ref, gen);
    if (hub_load_relaxed_32(&c->meta[index].backed) > 0)
        hub_cache_put(c, cache, index);
    else
        link_cold(c, index);
    hub_pool_kick(pool);
    return 0;
}

int hub_pool_discard(hub_pool *pool, uint32_t ref, uint32_t gen, uint32_t state, uint32_t owner) {
    if (!hub_pool_valid(pool, ref)) return HUB_ESTALE;
    int rc = release(&pool->classes[hub_ref_class(ref)], hub_ref_index(ref), gen, state, owner);
    if (rc == 0) hub_pool_kick(pool);
    return rc;
}

int hub_pool_move(hub_pool *pool, uint32_t ref, uint32_t gen, uint32_t from_state,
                  uint32_t from_owner, uint32_t to_state, uint32_t to_owner) {
    if (!hub_pool_valid(pool, ref)) return HUB_ESTALE;
    hub_a64 *word = &pool->classes[hub_ref_class(ref)].meta[hub_ref_index(ref)].ctl;
    /* The usual ctl as a guess; again when only L is, or has become, another. */
    uint64_t ctl = hub_ctl_make(gen, from_state, from_owner) | HUB_CTL_UNLINKED;
    while (!hub_cas_acq_rel_64(word, &ctl, hub_ctl_moved(ctl, to_state, to_owner)))
        if (hub_ctl_gen(ctl) != gen || hub_ctl_state(ctl) != from_state ||
            hub_ctl_owner(ctl) != from_owner)
            return HUB_ESTALE;
    return 0;
}

/* ---- looking ----------------------------------------------------------------------- */

bool hub_pool_valid(const hub_pool *pool, uint32_t ref) {
    uint32_t k = hub_ref_class(ref);
    return k < pool->class_count && hub_ref_index(ref) < hub_in_service(&pool->classes[k]);
}

bool hub_pool_is_mine(const hub_pool *pool, uint32_t ref, uint32_t gen) {
    if (!hub_pool_valid(pool, ref)) return false;
    const hub_pool_class *c = &pool->classes[hub_ref_class(ref)];
    uint64_t ctl = hub_load_relaxed_64(&c->meta[hub_ref_index(ref)].ctl); /* ours: no other moves it */
    return (ctl | HUB_CTL_UNLINKED) ==
           (hub_ctl_make(gen, HUB_OWNED, pool->me) | HUB_CTL_UNLINKED);
}

unsigned char *hub_pool_data(const hub_pool *pool, uint32_t ref) {
    const hub_pool_class *c = &pool->classes[hub_ref_class(ref)];
    return c->data + (uint64_t)hub_ref_index(ref) * c->slot_stride;
}

uint64_t hub_pool_slot_size(const hub_pool *pool, uint32_t ref) {
    return pool->classes[hub_ref_class(ref)].slot_size;
}

uint64_t hub_pool_backed(const hub_pool *pool, uint32_t ref) {
    const hub_pool_class *c = &pool->classes[hub_ref_class(ref)];
    uint64_t pages = hub_load_relaxed_32(&c->meta[hub_ref_index(ref)].backed);
    return pages * HUB_PAGE < c->slot_size ? pages * HUB_PAGE : c->slot_size;
}
