/* alloc_memory.c - what a slot costs: reserving its pages before use, giving
 * them back, and bringing more slots into service.
 *
 * How much memory the hub takes is asked of the kernel, on these slow paths
 * only: there is no counter that a crash could leave wrong.
 *
 *   back:  fallocate, then backed = pages      (killed between: pages too many,
 *   punch: backed = 0, then punch               never a promise too many) */
#define _GNU_SOURCE
#include "alloc_internal.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#define BACK_ATTEMPTS 8
#define POPULATE_MIN (64u * 1024)

uint64_t hub_pool_floor(const hub_pool *pool) {
    const hub_geometry *g = &pool->segment->geometry;
    uint64_t bytes = g->blocks_offset;
    for (uint32_t k = 0; k < pool->class_count; k++)
        bytes += (uint64_t)g->classes[k].slots * (sizeof(hub_slot_shm) + sizeof(uint64_t));
    return bytes;
}

bool hub_pool_grow(hub_pool *pool, hub_pool_class *c) {
    uint32_t first = hub_in_service(c);
    if (first >= c->max_slots) return false;
    uint32_t count = c->max_slots - first < HUB_GROW_SLOTS ? c->max_slots - first : HUB_GROW_SLOTS;
    const hub_class_geometry *g = &pool->segment->geometry.classes[c - pool->classes];
    if (hub_segment_back(pool->segment,
                         g->meta_offset + (uint64_t)first * sizeof(hub_slot_shm),
                         (uint64_t)count * sizeof(hub_slot_shm)) < 0 ||
        hub_segment_back(pool->segment, g->holders_offset + (uint64_t)first * sizeof(uint64_t),
                         (uint64_t)count * sizeof(uint64_t)) < 0)
        return false;
    /* From here on a scan can find them: zero is FREE and linked, and whoever wins this CAS has the
     * right, and nobody else, to link them. Killed before that: a scan finds them. */
    uint32_t expected = first;
    if (!hub_cas_acq_rel_32(&c->shared->in_service, &expected, first + count)) return true;
    uint32_t last;
    hub_link_fresh(c, first, count, &last);
    hub_stack_push(c, &c->shared->cold, first, last);
    return true;
}

/* Random, so that two that overshot the cap together do not do so again. */
static void back_off(const hub_pool *pool, int attempt) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    uint32_t mixed = ((uint32_t)now.tv_nsec ^ (pool->me * 2654435761u)) * 2246822519u;
    struct timespec pause = {0, (long)(mixed % (20000u << attempt))};
    int saved = errno;
    (void)nanosleep(&pause, NULL);
    errno = saved;
}

/* Reserve [backed, pages) of an owned slot, respecting max_bytes. */
static int reserve(hub_pool *pool, hub_pool_class *c, uint32_t index, uint32_t backed,
                   uint32_t pages, bool *ret_undone) {
    hub_slot_shm *meta = &c->meta[index];
    uint64_t have = (uint64_t)backed * HUB_PAGE;
    uint64_t length = (uint64_t)pages * HUB_PAGE - have;
    uint64_t offset = c->data_offset + (uint64_t)index * c->slot_stride + have;
    if (c->sub_page) length = c->slot_size;
    bool trimmed = false;
    for (int attempt = 0; attempt < BACK_ATTEMPTS; attempt++) {
        uint64_t use = hub_segment_usage(pool->segment);
        if (use + length > pool->max_bytes) {
            (void)hub_pool_trim(pool, use + length - pool->max_bytes);
            if (hub_segment_usage(pool->segment) + length > pool->max_bytes) return HUB_EEXHAUSTED;
        }
        int rc = hub_segment_back(pool->segment, offset, length);
        if (rc == HUB_ENOSPC && !trimmed) {
            trimmed = true;
            if (hub_pool_trim(pool, length) > 0) continue;
        }
        if (rc < 0) {
            if (!c->sub_page) (void)hub_segment_punch(pool->segment, offset, length);
            return rc;
        }
        if (hub_segment_usage(pool->segment) <= pool->max_bytes) {
            if (length >= POPULATE_MIN) hub_segment_populate(pool->segment, offset, length);
            hub_store_release_32(&meta->backed, pages); /* after the pages are there */
            return 0;
        }
        if (!c->sub_page) (void)hub_segment_punch(pool->segment, offset, length);
        *ret_undone = true;
        back_off(pool, attempt);
    }
    return HUB_EEXHAUSTED;
}

/* On failure the slot goes back: where it was put is decided by what of it is backed. */
static void give_back(hub_pool_class *c, uint32_t index) {
    uint64_t ctl = 0; /* FREE, which it is not: the CAS brings what is there */
    bool linked;
    do {
        linked = hub_ctl_linked(ctl);
    } while (!hub_cas_acq_rel_64(&c->meta[index].ctl, &ctl,
                                 hub_ctl_make(hub_ctl_gen(ctl), HUB_FREE, 0)));
    if (!linked) hub_stack_push(c, hub_stack_for(c, index), index, index);
}

static int back_owned(hub_pool *pool, uint32_t ref, uint64_t size, bool *ret_undone) {
    hub_pool_class *c = &pool->classes[hub_ref_class(ref)];
    uint32_t index = hub_ref_index(ref), pages = hub_pages_needed(c, size);
    uint32_t backed = hub_load_relaxed_32(&c->meta[index].backed); /* once: it may be lied about */
    if (backed >= pages) return 0;
    return reserve(pool, c, index, backed, pages, ret_undone);
}

int hub_pool_back_or_release(hub_pool *pool, uint32_t ref, uint64_t size) {
    bool undone = false;
    int rc = back_owned(pool, ref, size, &undone);
    if (rc < 0) {
        give_back(&pool->classes[hub_ref_class(ref)], hub_ref_index(ref));
        /* Only when room had been found and was undone: else two waiters at the cap would wake
         * each other for ever. */
        if (undone) hub_pool_kick(pool);
    }
    return rc;
}

int hub_pool_back(hub_pool *pool, uint32_t ref, uint64_t size) {
    bool undone = false;
    int rc = back_owned(pool, ref, size, &undone);
    if (rc < 0 && undone) hub_pool_kick(pool);
    return rc;
}

/* Punch one slot that is mine and free it: bytes given back. */
static uint64_t punch_mine(hub_pool *pool, hub_pool_class *c, uint32_t index) {
    uint64_t bytes = hub_pool_backed(pool, hub_ref_make((uint32_t)(c - pool->classes), index));
    hub_store_release_32(&c->meta[index].backed, 0); /* before the pages go */
    (void)hub_segment_punch(pool->segment,
                            c->data_offset + (uint64_t)index * c->slot_stride, c->slot_size);
    give_back(c, index);
    return bytes;
}

uint64_t hub_pool_trim(hub_pool *pool, uint64_t enough) {
    uint64_t given = 0;
    for (uint32_t k = pool->class_count; k-- > 0 && given < enough;) {
        hub_pool_class *c = &pool->classes[k];
        if (c->sub_page) continue;
        uint32_t index, gen, limit = hub_in_service(c);
        /* Popped ones leave the hot stack for the cold one; bounded, others push meanwhile. */
        for (uint32_t n = 0; n < limit && given < enough; n++) {
            if (hub_stack_pop(c, &c->shared->hot, 1, &index) == 0) break;
            if (hub_claim_popped(pool, c, index, &gen)) given += punch_mine(pool, c, index);
        }
        /* What lies in caches, or was left by the dead. */
        for (uint32_t i = 0; i < limit && given < enough; i++)
            if (hub_load_relaxed_32(&c->meta[i].backed) > 0 && hub_take_free(pool, c, i, &gen))
                given += punch_mine(pool, c, i);
    }
    if (given > 0) hub_pool_kick(pool);
    return given;
}
