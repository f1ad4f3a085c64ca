/* alloc_cache.c - the slots that one thread remembers.
 *
 * A lane is used by the thread that owns it and by nobody else, so it needs no
 * lock and no atomic operation: alloc and free of a small slot then cost the two
 * CASes on ctl.  A thread owns the lane that its number picks if it came first;
 * the lane of a thread that has ended is taken over.  What a lane remembers
 * is FREE with L = 0, so a scan finds it whatever becomes of the lane. */
#include "alloc_internal.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define REFUSALS_PER_LOOK 256u

HUB_THREAD_LOCAL hub_thread *hub_thread_self;

static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;
static int thread_key_made;
/* Owners change under it, so that nobody looks at a thread that another has just let go. */
static pthread_mutex_t owners_lock = PTHREAD_MUTEX_INITIALIZER;

static void lock_owners(void) { (void)pthread_mutex_lock(&owners_lock); }
static void unlock_owners(void) { (void)pthread_mutex_unlock(&owners_lock); }

/* A forked child may open a hub of its own, and must not find the lock taken by a thread that it
 * does not have. When the library is loaded, so before a session installs its handlers: those are
 * then called first, and the locks are taken in the order in which they are taken everywhere. */
static __attribute__((constructor)) void install_fork_handlers(void) {
    (void)pthread_atfork(lock_owners, unlock_owners, unlock_owners);
}

static void thread_unref(hub_thread *thread) {
    if (hub_fetch_add_acq_rel_32(&thread->refs, UINT32_MAX) == 1) free(thread);
}

static void thread_end(void *argument) {
    hub_thread *thread = argument;
    hub_thread_self = NULL;
    /* Release: pairs with the acquire in hub_cache_claim; what we did in the lane is done. */
    hub_store_release_32(&thread->ended, 1);
    thread_unref(thread);
}

static void make_key(void) { thread_key_made = pthread_key_create(&thread_key, thread_end) == 0; }

static hub_thread *make_self(void) {
    static hub_a32 numbers;
    (void)pthread_once(&thread_once, make_key);
    hub_thread *thread = thread_key_made ? calloc(1, sizeof *thread) : NULL;
    if (thread == NULL) return NULL;
    hub_store_relaxed_32(&thread->refs, 1);
    thread->lane = hub_fetch_add_acq_rel_32(&numbers, 1) % HUB_CACHE_LANES;
    if (pthread_setspecific(thread_key, thread) != 0) {
        free(thread);
        return NULL;
    }
    hub_thread_self = thread;
    return thread;
}

/* The caller's lane is not the caller's: take it if it is nobody's or its thread has ended. */
hub_cache *hub_cache_claim(hub_pool_class *c) {
    hub_thread *self = hub_thread_self;
    if (self == NULL && (self = make_self()) == NULL) return NULL;
    hub_cache *cache = &c->caches[self->lane];
    if (hub_load_relaxed_64(&cache->owner) != 0 && self->refusals++ % REFUSALS_PER_LOOK != 0)
        return NULL;
    (void)pthread_mutex_lock(&owners_lock);
    hub_thread *before = (hub_thread *)(uintptr_t)hub_load_relaxed_64(&cache->owner);
    bool taken = before == NULL || hub_load_acquire_32(&before->ended);
    if (taken) {
        (void)hub_fetch_add_acq_rel_32(&self->refs, 1);
        hub_store_release_64(&cache->owner, (uint64_t)(uintptr_t)self);
        if (before != NULL) thread_unref(before);
    }
    (void)pthread_mutex_unlock(&owners_lock);
    return taken ? cache : NULL;
}

/* Link a run of remembered slots with one CAS on the head. */
static void link_remembered(hub_pool_class *c, const uint32_t *items, uint32_t count) {
    uint32_t first = HUB_INDEX_NONE, last = HUB_INDEX_NONE;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t index = items[i];
        if (!hub_win_link(c, index)) continue;
        if (hub_load_relaxed_32(&c->meta[index].backed) == 0) {
            hub_stack_push(c, &c->shared->cold, index, index);
            continue;
        }
        hub_store_relaxed_32(&c->meta[index].next, first);
        if (last == HUB_INDEX_NONE) last = index;
        first = index;
    }
    if (first != HUB_INDEX_NONE) hub_stack_push(c, &c->shared->hot, first, last);
}

/* The oldest half goes; the newest, still in this core's cache, stay. */
void hub_cache_spill(hub_pool_class *c, hub_cache *cache) {
    uint32_t count = cache->count > 1 ? cache->count / 2 : 1;
    link_remembered(c, cache->items, count);
    cache->count -= count;
    memmove(cache->items, cache->items + count, cache->count * sizeof *cache->items);
}

void hub_cache_flush(hub_pool_class *c, hub_cache *cache) {
    link_remembered(c, cache->items, cache->count);
    cache->count = 0;
}

void hub_cache_fini(hub_cache *cache) {
    hub_thread *owner = (hub_thread *)(uintptr_t)hub_load_acquire_64(&cache->owner);
    if (owner != NULL) thread_unref(owner);
    hub_store_relaxed_64(&cache->owner, 0);
}
