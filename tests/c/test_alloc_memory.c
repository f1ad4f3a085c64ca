/* test_alloc_memory.c - memory follows use: backing only what is asked for, growth, jumbo slots,
 * trimming, max_bytes, and deaths in the middle of backing and punching. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "check.h"

static uint64_t usage(arena *a) { return hub_segment_usage(&a->segment); }

static void only_the_prefix_is_backed(void) {
    hub_config config = config_of_the_table(false);
    arena a;
    hub_slot slot, again;
    arena_open(&a, &config);
    uint64_t before = usage(&a);
    CHECK_OK(hub_pool_alloc(&a.host, 4 * MIB + 1, &slot));
    CHECK_EQ(hub_ref_class(slot.ref), 4);
    CHECK_EQ(usage(&a) - before, 4 * MIB + HUB_PAGE);
    CHECK_EQ(hub_pool_backed(&a.host, slot.ref), 4 * MIB + HUB_PAGE);
    pattern_write(slot.data, 4 * MIB + 1, 1);
    /* More of it, when asked; what was written stays. */
    CHECK_OK(hub_pool_back(&a.host, slot.ref, 5 * MIB));
    CHECK_EQ(usage(&a) - before, 5 * MIB);
    pattern_check(slot.data, 4 * MIB + 1, 1);
    CHECK_OK(hub_pool_back(&a.host, slot.ref, 100)); /* never less */
    CHECK_EQ(hub_pool_backed(&a.host, slot.ref), 5 * MIB);
    CHECK_OK(hub_pool_back(&a.host, slot.ref, 16 * MIB));
    CHECK_EQ(usage(&a) - before, 16 * MIB);
    pattern_write(slot.data, 16 * MIB, 2);
    pattern_check(slot.data, 16 * MIB, 2);
    CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    CHECK_EQ(usage(&a) - before, 16 * MIB); /* kept for the next */
    CHECK_OK(hub_pool_alloc(&a.host, 16 * MIB, &again));
    CHECK_EQ(again.ref, slot.ref);
    CHECK_EQ(usage(&a) - before, 16 * MIB);
    CHECK_OK(hub_pool_free(&a.host, again.ref, again.gen));
    CHECK_EQ(hub_pool_trim(&a.host, UINT64_MAX), 16 * MIB);
    CHECK_EQ(usage(&a), before);
    arena_check_all_free(&a);
    arena_close(&a);
}

/* Sizes of nothing and one byte still have memory under them. */
static void empty_slots_can_be_written(void) {
    hub_config config = config_of_the_table(true);
    arena a;
    arena_open(&a, &config);
    for (uint32_t k = 0; k < config.class_count; k++) {
        hub_slot slot;
        uint64_t size = k == 0 ? 0 : config.classes[k - 1].slot_size + 1;
        CHECK_OK(hub_pool_alloc(&a.host, size, &slot));
        CHECK_EQ(hub_ref_class(slot.ref), k);
        CHECK_GE(hub_pool_backed(&a.host, slot.ref), 1);
        slot.data[0] = 1;
        CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
        (void)hub_pool_trim(&a.host, UINT64_MAX);
    }
    arena_close(&a);
}

static void classes_grow(void) {
    hub_config config = config_of_one(16 * KIB, 3);
    config.classes[0].max_slots = 1000;
    arena a;
    arena_open(&a, &config);
    hub_slot *held = calloc(1000, sizeof *held);
    CHECK(held != NULL);
    CHECK_EQ(hub_in_service(&a.host.classes[0]), 3);
    for (int round = 0; round < 2; round++) {
        CHECK_EQ(arena_take_all(&a.host, 16 * KIB, 0, held, 1000), 1000);
        CHECK_EQ(hub_in_service(&a.host.classes[0]), 1000);
        for (int i = 0; i < 1000; i++) CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
        arena_check_all_free(&a);
    }
    free(held);
    arena_close(&a);
}

/* Classes that start with nothing: their room is a hole until it is used. */
static void jumbo_slots(void) {
    hub_config config = config_of_the_table(true);
    arena a;
    hub_slot small, large;
    arena_open(&a, &config);
    uint64_t before = usage(&a);
    CHECK_OK(hub_pool_alloc(&a.host, 16 * MIB + 100, &small));
    CHECK_EQ(hub_ref_class(small.ref), 5);
    CHECK_LE(usage(&a) - before, 16 * MIB + 3 * HUB_PAGE);
    CHECK_OK(hub_pool_alloc(&a.host, 100 * MIB, &large));
    CHECK_EQ(hub_ref_class(large.ref), 6);
    pattern_write(large.data, 100 * MIB, 3);
    pattern_check(large.data, 100 * MIB, 3);
    CHECK_LE(usage(&a) - before, 116 * MIB + 8 * HUB_PAGE);
    CHECK_OK(hub_pool_free(&a.host, small.ref, small.gen));
    CHECK_OK(hub_pool_free(&a.host, large.ref, large.gen));
    CHECK_EQ(hub_pool_trim(&a.host, UINT64_MAX), 116 * MIB + HUB_PAGE);
    CHECK_LE(usage(&a) - before, 8 * HUB_PAGE); /* the bookkeeping of the new slots */
    arena_check_all_free(&a);
    arena_close(&a);
}

/* Trim finds what lies on stacks, in anybody's cache and on no list; it leaves what is in use. */
static void trim_finds_all_that_is_free(void) {
    hub_config config = config_of_the_table(false);
    arena a;
    hub_pool peer;
    hub_slot kept[5], slot;
    arena_open(&a, &config);
    arena_pool(&a, &peer, 1);
    uint64_t before = usage(&a);
    for (uint32_t k = 1; k < 5; k++) {
        CHECK_OK(hub_pool_alloc(&a.host, config.classes[k].slot_size, &kept[k]));
        pattern_write(kept[k].data, config.classes[k].slot_size, k);
        CHECK_OK(hub_pool_alloc(&peer, config.classes[k].slot_size, &slot));
        CHECK_OK(hub_pool_free(&peer, slot.ref, slot.gen)); /* small ones: into its cache */
    }
    CHECK_EQ(usage(&a) - before, 2 * (16 * KIB + 256 * KIB + 4 * MIB + 16 * MIB));
    CHECK_EQ(hub_pool_trim(&a.host, 1), 16 * MIB); /* no more than is asked for */
    CHECK_EQ(hub_pool_trim(&a.host, UINT64_MAX), 4 * MIB + 256 * KIB + 16 * KIB);
    CHECK_EQ(hub_pool_trim(&a.host, UINT64_MAX), 0);
    for (uint32_t k = 1; k < 5; k++) {
        pattern_check(kept[k].data, config.classes[k].slot_size, k);
        CHECK_OK(hub_pool_alloc(&peer, config.classes[k].slot_size, &slot)); /* backed anew */
        pattern_write(slot.data, config.classes[k].slot_size, 9);
        CHECK_OK(hub_pool_free(&peer, slot.ref, slot.gen));
        CHECK_OK(hub_pool_free(&a.host, kept[k].ref, kept[k].gen));
    }
    (void)hub_pool_trim(&a.host, UINT64_MAX);
    CHECK_EQ(usage(&a), before);
    arena_check_all_free(&a);
    hub_pool_fini(&peer);
    arena_close(&a);
}

/* ---- the cap --------------------------------------------------------------------------------- */

static void more_than_the_cap_can_hold(void) {
    hub_config config = config_of_the_table(true);
    config.max_bytes = 8 * MIB;
    arena a;
    hub_slot slot;
    arena_open(&a, &config);
    CHECK_RC(hub_pool_alloc(&a.host, 8 * MIB, &slot),
             HUB_ETOOLARGE); /* never, however long one waits */
    CHECK_RC(hub_pool_alloc(&a.host, 100 * MIB, &slot), HUB_ETOOLARGE);
    CHECK_OK(hub_pool_alloc(&a.host, 7 * MIB, &slot));
    CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    arena_close(&a);
}

static void the_cap_holds_and_moves_memory(void) {
    hub_config config = config_of_the_table(true);
    config.max_bytes = 40 * MIB;
    arena a;
    hub_slot held[64], slot;
    uint32_t count = 0;
    int rc;
    arena_open(&a, &config);
    while ((rc = hub_pool_alloc(&a.host, 4 * MIB, &held[count])) == 0) {
        memset(held[count].data, 0x11, 4 * MIB);
        count++;
        CHECK_LE(usage(&a), config.max_bytes);
    }
    CHECK_RC(rc, HUB_EEXHAUSTED);
    CHECK_EQ(count, 9);
    CHECK_RC(hub_pool_alloc(&a.host, 16 * MIB, &slot), HUB_EEXHAUSTED);
    CHECK_RC(hub_pool_back(&a.host, held[0].ref, 4 * MIB), 0);
    /* Freed slots of one class pay for a slot of another: trimmed by the allocator itself. */
    for (uint32_t i = 0; i < 4; i++) CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
    CHECK_OK(hub_pool_alloc(&a.host, 16 * MIB, &slot));
    CHECK_LE(usage(&a), config.max_bytes);
    CHECK_RC(hub_pool_alloc(&a.host, 4 * MIB, &held[0]), HUB_EEXHAUSTED);
    CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    CHECK_OK(hub_pool_alloc(&a.host, 4 * MIB, &held[0]));
    for (uint32_t i = 4; i < count; i++) CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
    CHECK_OK(hub_pool_free(&a.host, held[0].ref, held[0].gen));
    arena_check_all_free(&a);
    arena_close(&a);
}

/* At the cap, slots smaller than a page cannot be trimmed: one that is free and backed must be
 * found wherever it is (in another's cache, or left by a dead peer), though cold ones lie on the
 * stack. */
static void at_the_cap_a_backed_slot_is_found(void) {
    hub_config config = config_of_one(1024, 4096);
    config.max_bytes = MIB;
    arena a;
    hub_pool peer;
    hub_slot *held = calloc(4096, sizeof *held), slot;
    uint32_t count = 0;
    CHECK(held != NULL);
    arena_open(&a, &config);
    arena_pool(&a, &peer, 1);
    while (hub_pool_alloc(&peer, 1024, &held[count]) == 0) count++;
    CHECK_REL(count, <, 1024);
    CHECK_RC(hub_pool_alloc(&a.host, 1024, &slot), HUB_EEXHAUSTED);
    for (int round = 0; round < 3; round++) {
        CHECK_OK(hub_pool_free(&peer, held[count - 1].ref, held[count - 1].gen));
        CHECK_OK(hub_pool_alloc(&a.host, 1024, &slot));
        CHECK_RC(hub_pool_alloc(&peer, 1024, &held[count - 1]), HUB_EEXHAUSTED);
        CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
        CHECK_OK(hub_pool_alloc(&peer, 1024, &held[count - 1]));
    }
    for (uint32_t i = 0; i < count; i++) CHECK_OK(hub_pool_free(&peer, held[i].ref, held[i].gen));
    CHECK_EQ(arena_take_all(&a.host, 1024, 0, held, 4096), count);
    for (uint32_t i = 0; i < count; i++) CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
    arena_check_all_free(&a);
    free(held);
    hub_pool_fini(&peer);
    arena_close(&a);
}

/* ---- deaths in the middle -------------------------------------------------------------------- */

/* Killed after fallocate, before `backed` was set: pages that nobody counts go with its slots. */
static void killed_while_backing(void) {
    hub_config config = config_of_the_table(false);
    arena a;
    hub_pool dead;
    hub_slot slot;
    arena_open(&a, &config);
    arena_pool(&a, &dead, 7);
    uint64_t before = usage(&a);
    CHECK_OK(hub_pool_alloc(&dead, 5 * MIB, &slot));
    hub_pool_class *c = &dead.classes[4];
    CHECK_OK(hub_segment_back(&a.segment, (uint64_t)(slot.data - a.segment.base), 9 * MIB));
    CHECK_EQ(usage(&a) - before, 9 * MIB);
    CHECK_EQ(hub_load_relaxed_32(&c->meta[hub_ref_index(slot.ref)].backed), 5 * MIB / HUB_PAGE);
    CHECK_EQ(hub_pool_reclaim(&a.host, 7), 1);
    CHECK_EQ(usage(&a) - before, 5 * MIB);
    CHECK_EQ(hub_pool_trim(&a.host, UINT64_MAX), 5 * MIB);
    CHECK_EQ(usage(&a), before);
    arena_check_all_free(&a);
    hub_pool_fini(&dead);
    arena_close(&a);
}

/* Killed in trim: `backed` is 0 and the pages are still there, or gone. */
static void killed_while_trimming(void) {
    hub_config config = config_of_the_table(false);
    for (int punched = 0; punched < 2; punched++) {
        arena a;
        hub_pool dead;
        hub_slot slot;
        arena_open(&a, &config);
        arena_pool(&a, &dead, 7);
        uint64_t before = usage(&a);
        CHECK_OK(hub_pool_alloc(&dead, 4 * MIB, &slot));
        CHECK_EQ(hub_ref_class(slot.ref), 3);
        hub_store_release_32(&dead.classes[3].meta[hub_ref_index(slot.ref)].backed, 0);
        uint64_t offset = (uint64_t)(slot.data - a.segment.base);
        if (punched) CHECK_OK(hub_segment_punch(&a.segment, offset, 4 * MIB));
        CHECK_EQ(hub_pool_reclaim(&a.host, 7), 1);
        CHECK_EQ(usage(&a), before);
        /* It came back to the cold stack and can be had again. */
        hub_slot held[8];
        CHECK_EQ(arena_take_all(&a.host, 4 * MIB, 3, held, 8), 8);
        for (int i = 0; i < 8; i++) {
            memset(held[i].data, 1, 4 * MIB);
            CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
        }
        arena_check_all_free(&a);
        hub_pool_fini(&dead);
        arena_close(&a);
    }
}

/* A hot slot that is found unbacked (a trim came between) counts as cold. */
static void hot_but_not_backed(void) {
    hub_config config = config_of_one(1 * MIB, 4);
    arena a;
    hub_slot slot;
    arena_open(&a, &config);
    CHECK_OK(hub_pool_alloc(&a.host, 1 * MIB, &slot));
    CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    hub_store_relaxed_32(&a.host.classes[0].meta[hub_ref_index(slot.ref)].backed, 0);
    CHECK_OK(hub_segment_punch(&a.segment, (uint64_t)(slot.data - a.segment.base), 1 * MIB));
    CHECK_OK(hub_pool_alloc(&a.host, 1 * MIB, &slot));
    CHECK_EQ(hub_pool_backed(&a.host, slot.ref), 1 * MIB);
    memset(slot.data, 1, 1 * MIB);
    CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    arena_close(&a);
}

/* A liar has linked a slot that it holds to itself, on top: whoever trims comes to an end. */
static void a_stack_without_end(void) {
    hub_config config = config_of_one(8192, 8);
    arena a;
    hub_pool liar;
    hub_slot held, other;
    arena_open(&a, &config);
    arena_pool(&a, &liar, 1);
    CHECK_OK(hub_pool_alloc(&liar, 8192, &other));
    CHECK_OK(hub_pool_alloc(&liar, 8192, &held));
    CHECK_OK(hub_pool_free(&liar, other.ref, other.gen));
    hub_pool_class *c = &a.host.classes[0];
    uint32_t index = hub_ref_index(held.ref);
    uint64_t head = hub_load_relaxed_64(&c->shared->hot);
    hub_store_relaxed_32(&c->meta[index].next, index);
    hub_store_release_64(&c->shared->hot, hub_head_make(hub_head_tag(head) + 1, index));
    CHECK_EQ(hub_pool_trim(&a.host, UINT64_MAX), 8192); /* the other, found by the scan */
    hub_pool_fini(&liar);
    arena_close(&a);
}

int main(void) {
    test_begin(120);
    RUN(only_the_prefix_is_backed);
    RUN(empty_slots_can_be_written);
    RUN(classes_grow);
    RUN(jumbo_slots);
    RUN(trim_finds_all_that_is_free);
    RUN(more_than_the_cap_can_hold);
    RUN(the_cap_holds_and_moves_memory);
    RUN(killed_while_backing);
    RUN(killed_while_trimming);
    RUN(hot_but_not_backed);
    RUN(at_the_cap_a_backed_slot_is_found);
    RUN(a_stack_without_end);
    return test_end();
}
