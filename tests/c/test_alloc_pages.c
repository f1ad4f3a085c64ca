/* test_alloc_pages.c - what is reserved for a slot and what is given back: never less than was asked
 * for, never another's, and nothing is kept that nobody counts. */
#define _GNU_SOURCE
#include <stdlib.h>

#include "alloc_internal.h"
#include "arena.h"
#include "check.h"

#define SLOTS 8u

typedef struct world {
    arena a;
    hub_pool peer;
} world;

static void world_open(world *w, uint64_t size, uint32_t slots) {
    hub_config config = config_of_one(size, slots);
    arena_open(&w->a, &config);
    arena_pool(&w->a, &w->peer, 3);
}

static void world_close(world *w) {
    (void)hub_pool_reclaim(&w->a.host, 3);
    hub_pool_flush(&w->a.host);
    arena_check_all_free(&w->a);
    hub_pool_fini(&w->peer);
    arena_close(&w->a);
}

static hub_pool_class *class_of(world *w) { return &w->a.host.classes[0]; }

static void give(hub_pool *pool, const hub_slot *slot) {
    CHECK_OK(hub_pool_free(pool, slot->ref, slot->gen));
}

/* Small ones whole, large ones as far as asked; what is remembered is looked at again. */
static void as_much_as_asked(void) {
    static const struct { uint64_t size, first, second, backed; } cases[] = {
        {16 * KIB, 1, 1, 16 * KIB},         {64 * KIB, 1, 64 * KIB, 64 * KIB},
        {128 * KIB, 1, 128 * KIB, 128 * KIB}, {128 * KIB, 5000, 4000, 8 * KIB},
        {1 * MIB, 0, 0, 4 * KIB},           {1 * MIB, 4097, 1 * MIB, 1 * MIB}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w;
        hub_slot slot;
        world_open(&w, cases[i].size, 64); /* of 64, four are remembered */
        CHECK_OK(hub_pool_alloc(&w.peer, cases[i].first, &slot));
        give(&w.peer, &slot);
        CHECK_OK(hub_pool_alloc(&w.peer, cases[i].second, &slot));
        CHECK_EQ(hub_pool_backed(&w.peer, slot.ref), cases[i].backed);
        uint64_t use = hub_segment_usage(&w.a.segment);
        CHECK_OK(hub_pool_back(&w.peer, slot.ref, cases[i].second)); /* it has it */
        CHECK_EQ(hub_segment_usage(&w.a.segment), use);
        CHECK_EQ(hub_pool_backed(&w.peer, slot.ref), cases[i].backed);
        CHECK_OK(hub_pool_back(&w.peer, slot.ref, cases[i].size));
        CHECK_EQ(hub_pool_backed(&w.peer, slot.ref), cases[i].size);
        world_close(&w);
    }
}

/* The last one given back is the first one given out, also where only a part of it is backed. */
static void remembered_last_comes_first(void) {
    static const uint64_t sizes[] = {KIB, 16 * KIB, 128 * KIB};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        world w;
        hub_slot first, second, again;
        world_open(&w, sizes[i], 64);
        CHECK_OK(hub_pool_alloc(&w.peer, 1, &first));
        CHECK_OK(hub_pool_alloc(&w.peer, 1, &second));
        give(&w.peer, &second);
        give(&w.peer, &first);
        CHECK_OK(hub_pool_alloc(&w.peer, sizes[i], &again));
        CHECK_EQ(again.ref, first.ref);
        CHECK_EQ(again.gen, first.gen + 1);
        world_close(&w);
    }
}

static void in_vain_nothing_changes(void) {
    world w;
    hub_slot slots[SLOTS], more;
    world_open(&w, 16 * KIB, SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) CHECK_OK(hub_pool_alloc(&w.peer, 1, &slots[i]));
    uint64_t hot = hub_load_acquire_64(&class_of(&w)->shared->hot);
    uint64_t cold = hub_load_acquire_64(&class_of(&w)->shared->cold);
    CHECK_RC(hub_pool_alloc(&w.peer, 1, &more), HUB_EEXHAUSTED);
    CHECK_EQ(hub_load_acquire_64(&class_of(&w)->shared->hot), hot);
    CHECK_EQ(hub_load_acquire_64(&class_of(&w)->shared->cold), cold);
    world_close(&w);
}

/* Four slots share a page: what is free of it is not given back under the others. */
static void a_shared_page_is_never_trimmed(void) {
    world w;
    hub_slot slots[SLOTS];
    world_open(&w, KIB, SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) {
        CHECK_OK(hub_pool_alloc(&w.peer, KIB, &slots[i]));
        pattern_write(slots[i].data, KIB, i);
    }
    for (uint32_t i = 0; i < SLOTS; i += 2) give(&w.peer, &slots[i]);
    hub_pool_flush(&w.peer);
    CHECK_EQ(hub_pool_trim(&w.a.host, UINT64_MAX), 0);
    for (uint32_t i = 0; i < SLOTS; i++) {
        CHECK_EQ(hub_pool_backed(&w.a.host, slots[i].ref), KIB); /* also of the free ones */
        if (i % 2 != 0) pattern_check(slots[i].data, KIB, i);
    }
    world_close(&w);
}

/* It was popped by nobody and taken by a scan: on the stack, and somebody's. */
static void what_a_scan_took_is_not_trimmed(void) {
    world w;
    hub_slot slots[SLOTS];
    uint32_t gen;
    world_open(&w, 16 * KIB, SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) CHECK_OK(hub_pool_alloc(&w.peer, 1, &slots[i]));
    for (uint32_t i = 0; i < SLOTS; i++) give(&w.peer, &slots[i]);
    hub_pool_flush(&w.peer);
    uint32_t index = hub_ref_index(slots[3].ref);
    CHECK(hub_take_free(&w.peer, class_of(&w), index, &gen));
    pattern_write(slots[3].data, 16 * KIB, 3);
    CHECK_EQ(hub_pool_trim(&w.a.host, UINT64_MAX), (SLOTS - 1) * 16 * KIB);
    CHECK(hub_pool_is_mine(&w.peer, slots[3].ref, gen));
    CHECK_EQ(hub_pool_backed(&w.peer, slots[3].ref), 16 * KIB);
    pattern_check(slots[3].data, 16 * KIB, 3);
    world_close(&w);
}

/* Fewer are hot than there are: the last pop is the end, and what is cold already stays where it is. */
static void a_trim_ends_with_the_stack(void) {
    world w;
    hub_slot slots[3];
    world_open(&w, 16 * KIB, SLOTS);
    for (uint32_t i = 0; i < 3; i++) CHECK_OK(hub_pool_alloc(&w.peer, 1, &slots[i]));
    for (uint32_t i = 0; i < 3; i++) give(&w.peer, &slots[i]);
    hub_pool_flush(&w.peer);
    CHECK_EQ(hub_pool_trim(&w.a.host, UINT64_MAX), 3 * 16 * KIB);
    CHECK_EQ(arena_check_stacks(&w.a, 0), SLOTS);
    CHECK_EQ(hub_head_index(hub_load_acquire_64(&class_of(&w)->shared->hot)), HUB_INDEX_NONE);
    world_close(&w);
}

/* A scribbler has made the hot stack a circle. */
static void a_trim_comes_out_of_a_circle(void) {
    world w;
    hub_slot slots[SLOTS];
    world_open(&w, 16 * KIB, SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) CHECK_OK(hub_pool_alloc(&w.peer, 1, &slots[i]));
    for (uint32_t i = 0; i < SLOTS; i++) give(&w.peer, &slots[i]);
    hub_pool_flush(&w.peer);
    uint32_t top = hub_head_index(hub_load_acquire_64(&class_of(&w)->shared->hot));
    hub_store_relaxed_32(&class_of(&w)->meta[top].next, top);
    CHECK_GE(hub_pool_trim(&w.a.host, UINT64_MAX), (SLOTS - 1) * 16 * KIB);
    hub_pool_fini(&w.peer);
    arena_close(&w.a); /* a circle it stays until an allocator cuts it */
}

/* The dead one had reserved more than it had said: no page stays that nobody counts; and a lie about
 * `backed` costs no other slot its bytes. */
static void reclaim_leaves_what_is_counted(void) {
    for (unsigned lie = 0; lie < 3; lie++) {
        world w;
        hub_slot slot, other;
        world_open(&w, 256 * KIB, SLOTS);
        CHECK_OK(hub_pool_alloc(&w.a.host, 256 * KIB, &other));
        pattern_write(other.data, 256 * KIB, 7);
        CHECK_OK(hub_pool_alloc(&w.peer, 8 * KIB, &slot));
        uint64_t use = hub_segment_usage(&w.a.segment);
        hub_pool_class *c = class_of(&w);
        uint32_t index = hub_ref_index(slot.ref);
        CHECK_OK(hub_segment_back(&w.a.segment, c->data_offset + index * c->slot_stride,
                                  256 * KIB));
        CHECK_EQ(hub_segment_usage(&w.a.segment), use + 248 * KIB);
        if (lie == 1) hub_store_release_32(&c->meta[index].backed, 64); /* all of it */
        if (lie == 2) hub_store_release_32(&c->meta[index].backed, 0xFFFFFFFF);
        CHECK_EQ(hub_pool_reclaim(&w.a.host, 3), 1);
        CHECK_EQ(hub_segment_usage(&w.a.segment), lie == 0 ? use : use + 248 * KIB);
        pattern_check(other.data, 256 * KIB, 7);
        give(&w.a.host, &other);
        world_close(&w);
    }
}

/* Room is found in what is free and backed when none can be reserved; what is not backed far enough
 * goes back. */
static void a_scan_for_backed_ones(void) {
    world w;
    hub_slot slots[SLOTS];
    uint32_t index, gen;
    world_open(&w, 256 * KIB, SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++)
        CHECK_OK(hub_pool_alloc(&w.peer, i == 5 ? 256 * KIB : 4 * KIB, &slots[i]));
    hub_pool_class *c = class_of(&w);
    CHECK(!hub_pool_scan_backed(&w.a.host, c, 4 * KIB, &index, &gen)); /* nothing is free */
    for (uint32_t i = 0; i < SLOTS; i++) give(&w.peer, &slots[i]);
    CHECK(hub_pool_scan_backed(&w.a.host, c, 200 * KIB, &index, &gen));
    CHECK_EQ(index, hub_ref_index(slots[5].ref));
    CHECK_EQ(hub_pool_owned(&w.a.host, 0, 99), 1);
    CHECK(!hub_pool_scan_backed(&w.a.host, c, 200 * KIB, &index, &gen));
    CHECK_EQ(hub_pool_owned(&w.a.host, 0, 99), 1);
    CHECK_OK(hub_pool_free(&w.a.host, slots[5].ref, gen));
    world_close(&w);
}

/* A slot below a page, free and backed, that another thread remembers: at the cap nothing else can be
 * had, and no trim makes room. */
static void at_the_cap_the_remembered_are_found(void) {
    arena a;
    hub_pool peer;
    hub_slot *slots = calloc(8192, sizeof *slots), last;
    uint32_t count = 0;
    hub_config config = config_of_one(KIB, 8192);
    config.max_bytes = 2 * MIB;
    CHECK(slots != NULL);
    arena_open(&a, &config);
    arena_pool(&a, &peer, 3);
    while (hub_pool_alloc(&peer, KIB, &slots[count]) == 0) count++;
    CHECK_REL(count, <, 4096);
    CHECK_GE(count, 100);
    give(&peer, &slots[0]); /* its thread remembers it */
    CHECK_OK(hub_pool_alloc(&a.host, KIB, &last));
    CHECK_EQ(last.ref, slots[0].ref);
    CHECK_RC(hub_pool_alloc(&a.host, KIB, &last), HUB_EEXHAUSTED);
    free(slots);
    hub_pool_fini(&peer);
    arena_close(&a);
}

/* Counting stops where it is told to, and an owner that there is not is nobody's. */
static void counted_within_bounds(void) {
    world w;
    hub_slot slots[3];
    static hub_stat stat;
    uint32_t owned[HUB_PEERS_MAX + 8];
    world_open(&w, KIB, SLOTS);
    for (unsigned i = 0; i < 3; i++) CHECK_OK(hub_pool_alloc(&w.peer, 1, &slots[i]));
    for (uint32_t most = 0; most < 5; most++)
        CHECK_EQ(hub_pool_owned(&w.a.host, 3, most), most < 3 ? most : 3);
    hub_a64 *ctl = &class_of(&w)->meta[hub_ref_index(slots[0].ref)].ctl;
    uint64_t before = hub_load_relaxed_64(ctl);
    hub_store_relaxed_64(ctl, hub_ctl_moved(before, HUB_OWNED, HUB_PEERS_MAX + 3));
    for (unsigned i = 0; i < HUB_PEERS_MAX + 8; i++) owned[i] = 77;
    hub_pool_count(&w.a.segment.geometry, w.a.segment.base, &stat, owned);
    CHECK_EQ(owned[3], 2);
    CHECK_EQ(stat.classes[0].owned, 3);
    for (unsigned i = HUB_PEERS_MAX; i < HUB_PEERS_MAX + 8; i++) CHECK_EQ(owned[i], 77);
    hub_store_relaxed_64(ctl, before);
    world_close(&w);
}

int main(void) {
    test_begin(60);
    RUN(as_much_as_asked);
    RUN(remembered_last_comes_first);
    RUN(in_vain_nothing_changes);
    RUN(a_shared_page_is_never_trimmed);
    RUN(what_a_scan_took_is_not_trimmed);
    RUN(a_trim_ends_with_the_stack);
    RUN(a_trim_comes_out_of_a_circle);
    RUN(reclaim_leaves_what_is_counted);
    RUN(a_scan_for_backed_ones);
    RUN(at_the_cap_the_remembered_are_found);
    RUN(counted_within_bounds);
    return test_end();
}
