/* alloc_internal.h - shared by the files of the allocator, by nobody else. */
#ifndef HUB_ALLOC_INTERNAL_H
#define HUB_ALLOC_INTERNAL_H

#include "alloc.h"

/* Small slots are backed whole; of large ones only the prefix that is asked for. */
static inline uint32_t hub_pages_needed(const hub_pool_class *c, uint64_t size) {
    if (c->whole_pages != 0) return c->whole_pages;
    return size == 0 ? 1 : (uint32_t)((size + HUB_PAGE - 1) / HUB_PAGE);
}

/* Chain slots that have just come into service, `first` on top; neighbours in a cache line apart, so
 * that two processes working on slots handed out one after the other do not share lines. */
void hub_link_fresh(hub_pool_class *c, uint32_t first, uint32_t count, uint32_t *ret_last);
static inline uint32_t hub_in_service(const hub_pool_class *c) {
    /* Acquire: pairs with the CAS in grow; the bookkeeping below it is backed. Clamped, because
     * a peer can write anything there. */
    uint32_t n = hub_load_acquire_32(&c->shared->in_service);
    return n < c->max_slots ? n : c->max_slots;
}

void hub_stack_push(hub_pool_class *c, hub_a64 *head, uint32_t first, uint32_t last);
uint32_t hub_stack_pop(hub_pool_class *c, hub_a64 *head, uint32_t most, uint32_t *ret);
hub_a64 *hub_stack_for(hub_pool_class *c, uint32_t index);
/* Any FREE slot becomes mine, L kept. */
bool hub_take_free(hub_pool *pool, hub_pool_class *c, uint32_t index, uint32_t *ret_gen);

/* A slot popped from a stack: mine, unless it was taken by a scan meanwhile. */
bool hub_claim_popped(hub_pool *pool, hub_pool_class *c, uint32_t index, uint32_t *ret_gen);
/* Back an owned slot; on failure it is free again. */
int hub_pool_back_or_release(hub_pool *pool, uint32_t ref, uint64_t size);

/* FREE, L = 0 -> FREE, L = 1: the right to link it. Fails when a scan took it. */
bool hub_win_link(hub_pool_class *c, uint32_t index);

/* ---- the caller's cache lane (alloc_cache.c) ---- */

/* One a thread; counted by the thread and by each lane it owns. */
typedef struct hub_thread {
    hub_a32 refs;
    hub_a32 ended;
    uint32_t lane;
    uint32_t refusals; /* times it met another's lane: now and then it looks whether that has ended */
} hub_thread;

#ifdef __GLIBC__ /* an access is one load, in a library too */
#define HUB_THREAD_LOCAL _Thread_local __attribute__((tls_model("initial-exec")))
#else
#define HUB_THREAD_LOCAL _Thread_local
#endif
extern HUB_THREAD_LOCAL hub_thread *hub_thread_self;

hub_cache *hub_cache_claim(hub_pool_class *c);

/* The lane, if it is the calling thread's already. */
static inline hub_cache *hub_cache_owned(hub_pool_class *c) {
    hub_thread *self = hub_thread_self;
    if (c->cache_capacity == 0 || self == NULL) return NULL;
    hub_cache *cache = &c->caches[self->lane];
    /* Relaxed: only this thread makes itself the owner. */
    return hub_load_relaxed_64(&cache->owner) == (uint64_t)(uintptr_t)self ? cache : NULL;
}

/* NULL: this class is not cached, or the lane belongs to another thread. */
static inline hub_cache *hub_cache_mine(hub_pool_class *c) {
    hub_cache *cache = hub_cache_owned(c);
    return cache != NULL || c->cache_capacity == 0 ? cache : hub_cache_claim(c);
}

/* Remember a slot that is FREE, L = 0. */
void hub_cache_spill(hub_pool_class *c, hub_cache *cache);
static inline void hub_cache_put(hub_pool_class *c, hub_cache *cache, uint32_t index) {
    if (cache->count == c->cache_capacity) hub_cache_spill(c, cache);
    cache->items[cache->count++] = index;
}
void hub_cache_flush(hub_pool_class *c, hub_cache *cache);
void hub_cache_fini(hub_cache *cache);

#define HUB_GROW_SLOTS 256u /* at a time */
/* Bring more slots into service; false when the class is as large as it gets. */
bool hub_pool_grow(hub_pool *pool, hub_pool_class *c);
bool hub_pool_scan(hub_pool *pool, hub_pool_class *c, uint32_t *ret_index, uint32_t *ret_gen);
/* The same for slots only that are backed far enough for `size`. */
bool hub_pool_scan_backed(hub_pool *pool, hub_pool_class *c, uint64_t size, uint32_t *ret_index,
                          uint32_t *ret_gen);
/* Memory the hub takes when all slots are given back: about the metadata. */
uint64_t hub_pool_floor(const hub_pool *pool);

#endif
