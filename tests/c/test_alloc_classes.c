/* test_alloc_classes.c - every class gives exactly its slots, whole, aligned, last in first out;
 * sizes go to the smallest class that fits, spill upwards, and end with the right outcome. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "check.h"

/* Take all of it, write all of it, see that nothing overlaps, give all back, twice. */
static void class_alone(uint64_t slot_size, uint32_t slots) {
    hub_config config = config_of_one(slot_size, slots);
    arena a;
    arena_open(&a, &config);
    hub_slot *held = calloc(slots, sizeof *held);
    CHECK(held != NULL);
    for (int round = 0; round < 2; round++) {
        CHECK_EQ(arena_take_all(&a.host, slot_size, 0, held, slots), slots);
        CHECK_EQ(arena_count(&a, 0).owned, slots);
        CHECK_EQ(arena_count(&a, 0).free, 0);
        CHECK_EQ(arena_count(&a, 0).backed, slots);
        CHECK_EQ(arena_count(&a, 0).exhausted, (uint64_t)round + 1);
        for (uint32_t i = 0; i < slots; i++) {
            CHECK_EQ(held[i].capacity, slot_size);
            uint64_t offset = (uint64_t)(held[i].data - a.segment.base);
            CHECK_EQ(offset % (slot_size >= HUB_PAGE ? HUB_PAGE : HUB_CACHE_LINE), 0);
            CHECK_GE(offset, a.segment.geometry.data_offset);
            CHECK_LE(offset + slot_size, a.segment.geometry.total_size);
            pattern_write(held[i].data, slot_size, held[i].ref);
        }
        for (uint32_t i = 0; i < slots; i++) pattern_check(held[i].data, slot_size, held[i].ref);
        for (uint32_t i = 0; i < slots; i++)
            CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
        arena_check_all_free(&a);
    }
    free(held);
    arena_close(&a);
}

static void every_class_of_the_table(void) {
    hub_config config = config_of_the_table(false);
    for (uint32_t k = 0; k < config.class_count; k++)
        class_alone(config.classes[k].slot_size, config.classes[k].slots);
    class_alone(64, 1000);
    class_alone(4096, 1);
}

/* All classes together are emptied by small requests, from the smallest up; then exhausted. */
static void spill_into_larger(void) {
    hub_config config = config_of_the_table(false);
    arena a;
    uint32_t total = 0, last = 0;
    arena_open(&a, &config);
    for (uint32_t k = 0; k < config.class_count; k++) total += config.classes[k].slots;
    hub_slot *held = calloc(total, sizeof *held);
    CHECK(held != NULL);
    for (uint32_t i = 0; i < total; i++) {
        CHECK_OK(hub_pool_alloc(&a.host, 100, &held[i]));
        CHECK_GE(hub_ref_class(held[i].ref), last);
        last = hub_ref_class(held[i].ref);
    }
    CHECK_EQ(last, config.class_count - 1);
    hub_slot none;
    memset(&none, 0xAB, sizeof none);
    CHECK_RC(hub_pool_alloc(&a.host, 100, &none), HUB_EEXHAUSTED);
    CHECK_RC(hub_pool_alloc(&a.host, 0, &none), HUB_EEXHAUSTED);
    CHECK_RC(hub_pool_alloc(&a.host, 16 * MIB, &none), HUB_EEXHAUSTED);
    CHECK_EQ(none.gen, 0xABABABAB); /* untouched */
    /* One of a middle class comes back: it serves what fits, and nothing larger. */
    uint32_t middle = config.classes[0].slots + 3;
    CHECK_EQ(hub_ref_class(held[middle].ref), 1);
    CHECK_OK(hub_pool_free(&a.host, held[middle].ref, held[middle].gen));
    CHECK_RC(hub_pool_alloc(&a.host, 16 * KIB + 1, &none), HUB_EEXHAUSTED);
    CHECK_OK(hub_pool_alloc(&a.host, 7, &held[middle]));
    CHECK_EQ(hub_ref_class(held[middle].ref), 1);
    for (uint32_t i = total; i-- > 0;) CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
    arena_check_all_free(&a);
    free(held);
    arena_close(&a);
}

static void sizes_find_their_class(void) {
    hub_config config = config_of_the_table(false);
    arena a;
    arena_open(&a, &config);
    for (uint32_t k = 0; k < config.class_count; k++) {
        uint64_t size = config.classes[k].slot_size;
        uint64_t below = k == 0 ? 0 : config.classes[k - 1].slot_size + 1;
        uint64_t sizes[] = {below, below + 1, size - 1, size};
        for (unsigned i = 0; i < 4; i++) {
            hub_slot slot;
            CHECK_OK(hub_pool_alloc(&a.host, sizes[i], &slot));
            CHECK_EQ(hub_ref_class(slot.ref), k);
            CHECK_GE(hub_pool_backed(&a.host, slot.ref), sizes[i]);
            CHECK_EQ(hub_pool_slot_size(&a.host, slot.ref), size);
            CHECK(hub_pool_data(&a.host, slot.ref) == slot.data);
            CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
        }
    }
    hub_slot slot;
    CHECK_RC(hub_pool_alloc(&a.host, 16 * MIB + 1, &slot), HUB_ETOOLARGE);
    CHECK_RC(hub_pool_alloc(&a.host, UINT64_MAX, &slot), HUB_ETOOLARGE);
    arena_check_all_free(&a);
    arena_close(&a);
}

/* The slot freed last is the one that is still in the core's cache: it comes first. */
static void last_in_first_out(void) {
    hub_config config = config_of_the_table(false);
    arena a;
    arena_open(&a, &config);
    for (uint32_t k = 0; k < config.class_count; k++) {
        hub_slot s[3], again;
        for (int i = 0; i < 3; i++)
            CHECK_OK(hub_pool_alloc(&a.host, config.classes[k].slot_size, &s[i]));
        for (int i = 0; i < 3; i++) CHECK_OK(hub_pool_free(&a.host, s[i].ref, s[i].gen));
        for (int i = 3; i-- > 0;) {
            CHECK_OK(hub_pool_alloc(&a.host, config.classes[k].slot_size, &again));
            CHECK_EQ(again.ref, s[i].ref);
            CHECK_EQ(again.gen, s[i].gen + 1);
            s[i] = again;
        }
        for (int i = 0; i < 3; i++) CHECK_OK(hub_pool_free(&a.host, s[i].ref, s[i].gen));
    }
    arena_close(&a);
}

/* ---- references that are not (any more) one's own -------------------------------------------- */

static void refuse_ref(hub_pool *pool, uint32_t ref, uint32_t gen) {
    CHECK_RC(hub_pool_free(pool, ref, gen), HUB_ESTALE);
    CHECK_RC(hub_pool_discard(pool, ref, gen, HUB_OWNED, pool->me), HUB_ESTALE);
    CHECK_RC(hub_pool_move(pool, ref, gen, HUB_OWNED, pool->me, HUB_RING, 3), HUB_ESTALE);
}

static void stale_and_forged_references(void) {
    hub_config config = config_of_the_table(true);
    arena a;
    hub_pool peer;
    hub_slot slot, next;
    arena_open(&a, &config);
    arena_pool(&a, &peer, 5);
    CHECK_OK(hub_pool_alloc(&a.host, 1000, &slot));
    refuse_ref(&peer, slot.ref, slot.gen); /* another's */
    refuse_ref(&a.host, slot.ref, slot.gen + 1);
    refuse_ref(&a.host, slot.ref, slot.gen - 1);
    refuse_ref(&a.host, slot.ref + 1, slot.gen);
    CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    refuse_ref(&a.host, slot.ref, slot.gen); /* twice */
    CHECK_OK(hub_pool_alloc(&a.host, 1000, &next));
    CHECK_EQ(next.ref, slot.ref);
    refuse_ref(&a.host, slot.ref, slot.gen); /* the next life of the slot */
    /* Classes and indices that are none, or not yet. */
    CHECK(!hub_pool_valid(&a.host, HUB_REF_NONE));
    for (uint32_t k = 0; k < 8; k++) {
        uint32_t limit = hub_in_service(&a.host.classes[k]);
        if (limit > 0) CHECK(hub_pool_valid(&a.host, hub_ref_make(k, limit - 1)));
        uint32_t bad[] = {limit, limit + 1, HUB_INDEX_NONE, 0x1FFFFFFF};
        for (unsigned i = 0; i < 4; i++) {
            CHECK(!hub_pool_valid(&a.host, hub_ref_make(k, bad[i])));
            refuse_ref(&a.host, hub_ref_make(k, bad[i]), slot.gen);
        }
    }
    test_random r = {5};
    for (int i = 0; i < 100000; i++) {
        uint32_t ref = (uint32_t)random_next(&r), gen = (uint32_t)random_next(&r);
        if (ref == next.ref && gen == next.gen) continue;
        refuse_ref(&a.host, ref, gen);
    }
    CHECK_OK(hub_pool_free(&a.host, next.ref, next.gen));
    arena_check_all_free(&a);
    hub_pool_fini(&peer);
    arena_close(&a);
}

/* A bad number of slots in service, written by a scribbler, is clamped. */
static void scribbled_counts(void) {
    hub_config config = config_of_one(4096, 16);
    arena a;
    hub_slot held[16];
    arena_open(&a, &config);
    hub_store_relaxed_32(&a.host.classes[0].shared->in_service, UINT32_MAX);
    CHECK(!hub_pool_valid(&a.host, hub_ref_make(0, 16)));
    CHECK_EQ(arena_take_all(&a.host, 4096, 0, held, 16), 16);
    CHECK_EQ(arena_count(&a, 0).slots, 16);
    for (int i = 0; i < 16; i++) CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
    /* Heads and links that lead nowhere, or in a circle: bounded, and the scan finds the rest. */
    test_random r = {17};
    for (int round = 0; round < 2000; round++) {
        hub_pool_class *c = &a.host.classes[0];
        hub_store_relaxed_64(&c->shared->hot, random_next(&r));
        hub_store_relaxed_64(&c->shared->cold, random_next(&r));
        for (int i = 0; i < 16; i++)
            hub_store_relaxed_32(&c->meta[i].next, random_below(&r, 2)
                                                       ? (uint32_t)random_next(&r)
                                                       : (uint32_t)random_below(&r, 20));
        CHECK_EQ(arena_take_all(&a.host, 4096, 0, held, 16), 16);
        (void)hub_pool_trim(&a.host, UINT64_MAX);
        for (int i = 0; i < 16; i++) CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
    }
    arena_close(&a);
}

/* Moves: only from what is there, generation and L kept. */
static void moves(void) {
    hub_config config = config_of_one(4096, 4);
    arena a;
    hub_pool peer;
    hub_slot slot;
    arena_open(&a, &config);
    arena_pool(&a, &peer, 2);
    CHECK_OK(hub_pool_alloc(&a.host, 10, &slot));
    CHECK_OK(hub_pool_move(&a.host, slot.ref, slot.gen, HUB_OWNED, 0, HUB_RING, hub_ring_down(2)));
    CHECK_EQ(arena_count(&a, 0).in_ring, 1);
    CHECK_RC(hub_pool_free(&a.host, slot.ref, slot.gen), HUB_ESTALE);
    CHECK_RC(hub_pool_move(&peer, slot.ref, slot.gen, HUB_RING, hub_ring_up(2), HUB_OWNED, 2),
             HUB_ESTALE);
    CHECK_OK(hub_pool_move(&peer, slot.ref, slot.gen, HUB_RING, hub_ring_down(2), HUB_OWNED, 2));
    CHECK_EQ(hub_pool_owned(&a.host, 2, UINT32_MAX), 1);
    CHECK_EQ(hub_pool_owned(&a.host, 0, UINT32_MAX), 0);
    CHECK_RC(hub_pool_free(&a.host, slot.ref, slot.gen), HUB_ESTALE);
    CHECK_OK(hub_pool_move(&peer, slot.ref, slot.gen, HUB_OWNED, 2, HUB_RING, hub_ring_up(2)));
    CHECK_OK(hub_pool_discard(&a.host, slot.ref, slot.gen, HUB_RING, hub_ring_up(2)));
    CHECK_RC(hub_pool_discard(&a.host, slot.ref, slot.gen, HUB_RING, hub_ring_up(2)), HUB_ESTALE);
    arena_check_all_free(&a);
    hub_pool_fini(&peer);
    arena_close(&a);
}

typedef struct kicks {
    unsigned count;
    uint64_t waiters;
} kicks;
static void kick(void *context, uint64_t waiters) {
    kicks *k = context;
    k->count++;
    k->waiters = waiters;
}

/* Whoever frees, in whatever way, looks for waiters; nobody else does. */
static void every_free_looks_for_waiters(void) {
    hub_config config = config_of_the_table(false);
    arena a;
    kicks seen = {0, 0};
    hub_slot slot;
    arena_open(&a, &config);
    a.host.kick = kick;
    a.host.kick_context = &seen;
    for (uint32_t k = 0; k < 5; k++) {
        CHECK_OK(hub_pool_alloc(&a.host, config.classes[k].slot_size, &slot));
        CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    }
    CHECK_EQ(seen.count, 0);
    (void)hub_fetch_or_acq_rel_64(&a.host.signals->pool_waiters, 1ULL << 9);
    for (uint32_t k = 0; k < 5; k++) {
        CHECK_OK(hub_pool_alloc(&a.host, config.classes[k].slot_size, &slot));
        CHECK_EQ(seen.count, 2 * k);
        CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
        CHECK_EQ(seen.count, 2 * k + 1);
        CHECK_EQ(seen.waiters, 1ULL << 9);
        CHECK_OK(hub_pool_alloc(&a.host, config.classes[k].slot_size, &slot));
        CHECK_OK(hub_pool_discard(&a.host, slot.ref, slot.gen, HUB_OWNED, 0));
        CHECK_EQ(seen.count, 2 * k + 2);
    }
    CHECK_REL(hub_pool_trim(&a.host, UINT64_MAX), >, 0);
    CHECK_EQ(seen.count, 11);
    CHECK_RC(hub_pool_free(&a.host, slot.ref, slot.gen), HUB_ESTALE);
    CHECK_EQ(seen.count, 11);
    arena_close(&a);
}

int main(void) {
    test_begin(120);
    RUN(every_class_of_the_table);
    RUN(spill_into_larger);
    RUN(sizes_find_their_class);
    RUN(last_in_first_out);
    RUN(stale_and_forged_references);
    RUN(scribbled_counts);
    RUN(moves);
    RUN(every_free_looks_for_waiters);
    return test_end();
}
