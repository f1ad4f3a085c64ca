/* alloc_quick.h - the usual alloc and free, inline: of a slot that the calling
 * thread's cache remembers, backed whole, one CAS each and nothing else.
 *
 * Inline because a locked instruction waits for every store before it, and a
 * call saves registers.  false: nothing has happened, ask alloc.c, which knows
 * all the other cases. */
#ifndef HUB_ALLOC_QUICK_H
#define HUB_ALLOC_QUICK_H

#include "alloc_internal.h"

static inline void hub_slot_fill(const hub_pool_class *c, uint32_t k, uint32_t index, uint32_t gen,
                                 hub_slot *ret) {
    ret->data = c->data + (uint64_t)index * c->slot_stride;
    ret->capacity = c->slot_size;
    ret->ref = hub_ref_make(k, index);
    ret->gen = gen;
}

/* From the smallest class that fits. */
static inline bool hub_alloc_quick(hub_pool *pool, uint64_t size, hub_slot *ret) {
    if (size > pool->largest) return false;
    uint32_t k = 0;
    while (pool->classes[k].slot_size < size) k++;
    hub_pool_class *c = &pool->classes[k];
    hub_cache *cache = hub_cache_owned(c);
    if (cache == NULL || cache->count == 0 || c->whole_pages == 0) return false;
    uint32_t index = cache->items[cache->count - 1];
    hub_slot_shm *meta = &c->meta[index];
    uint64_t ctl = hub_load_relaxed_64(&meta->ctl);
    uint32_t gen = hub_ctl_gen(ctl) + 1;
    if ((uint32_t)ctl != (uint32_t)HUB_CTL_UNLINKED ||
        hub_load_relaxed_32(&meta->backed) < c->whole_pages ||
        !hub_cas_acq_rel_64(&meta->ctl, &ctl,
                            hub_ctl_make(gen, HUB_OWNED, pool->me) | HUB_CTL_UNLINKED))
        return false;
    cache->count--;
    /* Only the owner changes backed, but a trim may have owned it between the look and the CAS. */
    if (hub_load_relaxed_32(&meta->backed) < c->whole_pages) {
        (void)hub_pool_free(pool, hub_ref_make(k, index), gen);
        return false;
    }
    hub_slot_fill(c, k, index, gen, ret);
    return true;
}

/* Mine, on no stack, and there is room to remember it. */
static inline bool hub_free_quick(hub_pool *pool, uint32_t ref, uint32_t gen) {
    uint32_t k = hub_ref_class(ref), index = hub_ref_index(ref);
    hub_pool_class *c = &pool->classes[k]; /* one that there is not has no cache */
    hub_cache *cache = hub_cache_owned(c);
    if (cache == NULL || cache->count >= c->cache_capacity || index >= hub_in_service(c))
        return false;
    hub_slot_shm *meta = &c->meta[index];
    uint64_t mine = hub_ctl_make(gen, HUB_OWNED, pool->me) | HUB_CTL_UNLINKED;
    /* Nothing of it backed: there is nothing to keep warm. Stable, if the CAS says it is mine. */
    if (hub_load_relaxed_32(&meta->backed) == 0 ||
        !hub_cas_acq_rel_64(&meta->ctl, &mine, hub_ctl_make(gen, HUB_FREE, 0) | HUB_CTL_UNLINKED))
        return false;
    cache->items[cache->count++] = index;
    hub_pool_kick(pool);
    return true;
}

#endif
