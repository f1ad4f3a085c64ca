/* test_alloc_linked.c - the L rule and the scan: a peer killed between any two steps of alloc and
 * free loses no slot, and none is ever linked twice.  The half operations are done by hand with the
 * allocator's own steps, on a pool that then "dies". */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "check.h"

#define SLOTS 64u /* a cache of 4: slots are remembered, batches popped */
#define SIZE 4096u

typedef struct table {
    arena a;
    hub_pool dead, live;
    hub_slot held[SLOTS];
} table;

static hub_pool_class *class_of(hub_pool *pool) { return &pool->classes[0]; }

/* All slots used once, so that they are backed and lie on the hot stack. */
static void table_open(table *t) {
    hub_config config = config_of_one(SIZE, SLOTS);
    arena_open(&t->a, &config);
    arena_pool(&t->a, &t->dead, 3);
    arena_pool(&t->a, &t->live, 4);
    CHECK_EQ(arena_take_all(&t->live, SIZE, 0, t->held, SLOTS), SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++)
        CHECK_OK(hub_pool_free(&t->live, t->held[i].ref, t->held[i].gen));
    hub_pool_flush(&t->live);
    CHECK_EQ(arena_check_stacks(&t->a, 0), SLOTS);
}

/* `dead` is dead: reclaimed; then the others get every slot, each once, again and again. */
static void table_close(table *t) {
    (void)hub_pool_reclaim(&t->a.host, 3);
    for (int round = 0; round < 3; round++) {
        CHECK_EQ(arena_take_all(&t->live, SIZE, 0, t->held, SLOTS), SLOTS);
        CHECK_EQ(arena_count(&t->a, 0).owned, SLOTS);
        (void)arena_check_stacks(&t->a, 0);
        for (uint32_t i = 0; i < SLOTS; i++)
            CHECK_OK(hub_pool_free(&t->live, t->held[i].ref, t->held[i].gen));
        arena_check_all_free(&t->a);
    }
    hub_pool_fini(&t->dead);
    hub_pool_fini(&t->live);
    arena_close(&t->a);
}

static uint64_t ctl_of(table *t, uint32_t index) {
    return hub_load_relaxed_64(&class_of(&t->a.host)->meta[index].ctl);
}

static uint32_t pop(table *t) {
    uint32_t index = 0;
    CHECK_EQ(hub_stack_pop(class_of(&t->dead), &class_of(&t->dead)->shared->hot, 1, &index), 1);
    return index;
}

static void killed_between_pop_and_claim(void) {
    table t;
    table_open(&t);
    for (int i = 0; i < 10; i++) (void)pop(&t);
    CHECK_EQ(arena_check_stacks(&t.a, 0), SLOTS - 10);
    CHECK_EQ(arena_count(&t.a, 0).free, SLOTS);
    table_close(&t);
}

static void killed_after_claim(void) {
    table t;
    uint32_t gen;
    table_open(&t);
    for (int i = 0; i < 10; i++)
        CHECK(hub_claim_popped(&t.dead, class_of(&t.dead), pop(&t), &gen));
    CHECK_EQ(hub_pool_owned(&t.a.host, 3, UINT32_MAX), 10);
    CHECK_EQ(hub_pool_reclaim(&t.a.host, 3), 10);
    arena_check_all_free(&t.a);
    CHECK_EQ(arena_check_stacks(&t.a, 0), SLOTS);
    table_close(&t);
}

/* free: CAS to FREE with L = 1, and never linked. */
static void killed_between_free_and_link(void) {
    table t;
    table_open(&t);
    for (int i = 0; i < 10; i++) {
        hub_slot slot;
        CHECK_OK(hub_pool_alloc(&t.dead, SIZE, &slot));
        hub_a64 *word = &class_of(&t.dead)->meta[hub_ref_index(slot.ref)].ctl;
        uint64_t ctl = hub_load_relaxed_64(word);
        CHECK(!hub_ctl_linked(ctl));
        CHECK(hub_cas_acq_rel_64(word, &ctl, hub_ctl_make(slot.gen, HUB_FREE, 0)));
    }
    CHECK_REL(arena_check_stacks(&t.a, 0), <, SLOTS);
    table_close(&t);
}

/* A batch was popped, a part unlinked for the cache, when the end came. */
static void killed_in_a_batch(void) {
    table t;
    uint32_t popped[8];
    table_open(&t);
    hub_pool_class *c = class_of(&t.dead);
    uint64_t tag = hub_head_tag(hub_load_relaxed_64(&c->shared->hot));
    CHECK_EQ(hub_stack_pop(c, &c->shared->hot, 8, popped), 8);
    CHECK_EQ(hub_head_tag(hub_load_relaxed_64(&c->shared->hot)),
             hub_head_tag(hub_head_make(tag + 1, 0))); /* one change for the whole batch */
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < i; j++) CHECK(popped[i] != popped[j]);
    for (int i = 0; i < 3; i++) {
        uint64_t ctl = ctl_of(&t, popped[i]);
        CHECK(hub_cas_acq_rel_64(&c->meta[popped[i]].ctl, &ctl, ctl | HUB_CTL_UNLINKED));
    }
    CHECK_EQ(arena_check_stacks(&t.a, 0), SLOTS - 8);
    table_close(&t);
}

/* FREE, L = 0, in a cache whose owner is no more. */
static void killed_with_a_full_cache(void) {
    table t;
    hub_slot slots[4];
    table_open(&t);
    CHECK_EQ(class_of(&t.dead)->cache_capacity, 4);
    for (int i = 0; i < 4; i++) CHECK_OK(hub_pool_alloc(&t.dead, SIZE, &slots[i]));
    for (int i = 0; i < 4; i++) CHECK_OK(hub_pool_free(&t.dead, slots[i].ref, slots[i].gen));
    uint32_t on_stacks = arena_check_stacks(&t.a, 0);
    CHECK_REL(on_stacks, <, SLOTS);
    CHECK_EQ(hub_pool_reclaim(&t.a.host, 3), 0); /* it owns nothing */
    CHECK_EQ(arena_count(&t.a, 0).free, SLOTS);
    table_close(&t);
}

/* The chain of a full cache is pushed with one change of the head, and killed before the push it
 * is still found. */
static void chains(void) {
    table t;
    hub_slot slots[5];
    table_open(&t);
    hub_pool_class *c = class_of(&t.dead);
    for (int i = 0; i < 5; i++) CHECK_OK(hub_pool_alloc(&t.dead, SIZE, &slots[i]));
    hub_pool_flush(&t.dead);
    uint32_t before = arena_check_stacks(&t.a, 0);
    uint64_t tag = hub_head_tag(hub_load_relaxed_64(&c->shared->hot));
    for (int i = 0; i < 4; i++) CHECK_OK(hub_pool_free(&t.dead, slots[i].ref, slots[i].gen));
    CHECK_EQ(hub_head_tag(hub_load_relaxed_64(&c->shared->hot)), tag);
    CHECK_OK(hub_pool_free(&t.dead, slots[4].ref, slots[4].gen));
    CHECK_EQ(hub_head_tag(hub_load_relaxed_64(&c->shared->hot)),
             hub_head_tag(hub_head_make(tag + 1, 0)));
    CHECK_EQ(arena_check_stacks(&t.a, 0), before + 2);
    /* The oldest go, the newest stay: they are the next to be had. */
    hub_slot next;
    CHECK_OK(hub_pool_alloc(&t.dead, SIZE, &next));
    CHECK_EQ(next.ref, slots[4].ref);
    CHECK_OK(hub_pool_free(&t.dead, next.ref, next.gen));
    /* Won, chained, not pushed. */
    for (int i = 3; i < 5; i++) CHECK(hub_win_link(c, hub_ref_index(slots[i].ref)));
    CHECK(!hub_win_link(c, hub_ref_index(slots[4].ref))); /* nobody wins twice */
    hub_store_relaxed_32(&c->meta[hub_ref_index(slots[4].ref)].next, hub_ref_index(slots[3].ref));
    table_close(&t);
}

/* A slot that is on the stack is taken by a scan; its owner frees it while it is still there, after
 * it was popped, and in between. Only L says whether it has to be linked again. */
static void taken_by_a_scan_while_linked(void) {
    for (int order = 0; order < 3; order++) {
        table t;
        uint32_t gen, index;
        table_open(&t);
        hub_pool_class *c = class_of(&t.live);
        uint32_t top = hub_head_index(hub_load_relaxed_64(&c->shared->hot));
        CHECK(hub_take_free(&t.live, c, top, &gen));
        CHECK(hub_ctl_linked(ctl_of(&t, top)));
        if (order == 0) {
            CHECK_OK(hub_pool_free(&t.live, hub_ref_make(0, top), gen));
            CHECK_EQ(arena_check_stacks(&t.a, 0), SLOTS); /* once, not twice */
        } else if (order == 1) {
            /* A popper meets it: it is nobody's to claim, and no longer on a stack. */
            index = pop(&t);
            CHECK_EQ(index, top);
            uint32_t other;
            CHECK(!hub_claim_popped(&t.dead, c, index, &other));
            CHECK(!hub_ctl_linked(ctl_of(&t, top)));
            CHECK_EQ(hub_ctl_owner(ctl_of(&t, top)), 4);
            CHECK_OK(hub_pool_discard(&t.live, hub_ref_make(0, top), gen, HUB_OWNED, 4));
            CHECK_EQ(arena_check_stacks(&t.a, 0), SLOTS);
        } else {
            /* Popped, freed by its owner, then the popper is killed: L = 1 on no stack. */
            CHECK_EQ(pop(&t), top);
            CHECK_OK(hub_pool_free(&t.live, hub_ref_make(0, top), gen));
            CHECK(hub_ctl_linked(ctl_of(&t, top)));
            CHECK_EQ(arena_check_stacks(&t.a, 0), SLOTS - 1);
        }
        table_close(&t);
    }
}

/* The popper clears L of a slot in a ring or handed on, too; whoever frees it links it. */
static void popped_while_in_a_ring(void) {
    table t;
    uint32_t gen, other;
    table_open(&t);
    hub_pool_class *c = class_of(&t.live);
    uint32_t top = hub_head_index(hub_load_relaxed_64(&c->shared->hot));
    uint32_t ref = hub_ref_make(0, top);
    CHECK(hub_take_free(&t.live, c, top, &gen));
    CHECK_OK(hub_pool_move(&t.live, ref, gen, HUB_OWNED, 4, HUB_RING, hub_ring_up(4)));
    CHECK(hub_ctl_linked(ctl_of(&t, top))); /* moves keep L */
    CHECK_EQ(pop(&t), top);
    CHECK(!hub_claim_popped(&t.dead, c, top, &other));
    CHECK(!hub_ctl_linked(ctl_of(&t, top)));
    CHECK_EQ(hub_ctl_state(ctl_of(&t, top)), HUB_RING);
    CHECK_OK(hub_pool_move(&t.live, ref, gen, HUB_RING, hub_ring_up(4), HUB_OWNED, 0));
    CHECK_OK(hub_pool_discard(&t.a.host, ref, gen, HUB_OWNED, 0));
    CHECK_EQ(arena_check_stacks(&t.a, 0), SLOTS);
    table_close(&t);
}

/* What a cache remembers is taken by another's scan: the memory of it is forgotten, not believed.
 */
static void remembered_but_taken(void) {
    table t;
    hub_slot slots[4], all[SLOTS], one;
    table_open(&t);
    for (int i = 0; i < 4; i++) CHECK_OK(hub_pool_alloc(&t.dead, SIZE, &slots[i]));
    for (int i = 0; i < 4; i++) CHECK_OK(hub_pool_free(&t.dead, slots[i].ref, slots[i].gen));
    CHECK_EQ(arena_take_all(&t.live, SIZE, 0, all, SLOTS), SLOTS); /* those as well */
    CHECK_RC(hub_pool_alloc(&t.dead, SIZE, &one), HUB_EEXHAUSTED);
    hub_pool_flush(&t.dead); /* links none of them */
    CHECK_EQ(arena_check_stacks(&t.a, 0), 0);
    for (uint32_t i = 0; i < SLOTS; i++) CHECK_OK(hub_pool_free(&t.live, all[i].ref, all[i].gen));
    /* Remembered in two caches at once: both look, one has it. */
    CHECK_OK(hub_pool_alloc(&t.dead, SIZE, &slots[0]));
    CHECK_OK(hub_pool_free(&t.dead, slots[0].ref, slots[0].gen));
    hub_cache *cache = hub_cache_mine(class_of(&t.live));
    CHECK(cache != NULL);
    hub_cache_put(class_of(&t.live), cache, hub_ref_index(slots[0].ref));
    CHECK_OK(hub_pool_alloc(&t.dead, SIZE, &slots[0]));
    CHECK_OK(hub_pool_alloc(&t.live, SIZE, &slots[1]));
    CHECK(slots[0].ref != slots[1].ref);
    CHECK_OK(hub_pool_free(&t.live, slots[1].ref, slots[1].gen));
    table_close(&t);
}

/* Slots in the dead one's rings come back, those in the rings of others do not. */
static void reclaim_takes_rings_of_the_dead(void) {
    table t;
    hub_slot s[4];
    table_open(&t);
    for (int i = 0; i < 3; i++) CHECK_OK(hub_pool_alloc(&t.dead, SIZE, &s[i]));
    CHECK_OK(hub_pool_alloc(&t.live, SIZE, &s[3]));
    CHECK_OK(hub_pool_move(&t.dead, s[0].ref, s[0].gen, HUB_OWNED, 3, HUB_RING, hub_ring_up(3)));
    CHECK_OK(hub_pool_move(&t.dead, s[1].ref, s[1].gen, HUB_OWNED, 3, HUB_RING, hub_ring_down(3)));
    CHECK_OK(hub_pool_move(&t.live, s[3].ref, s[3].gen, HUB_OWNED, 4, HUB_RING, hub_ring_up(4)));
    CHECK_EQ(hub_pool_reclaim(&t.a.host, 3), 3);
    CHECK_EQ(arena_count(&t.a, 0).in_ring, 1);
    CHECK_EQ(arena_count(&t.a, 0).free, SLOTS - 1);
    CHECK_OK(hub_pool_move(&t.live, s[3].ref, s[3].gen, HUB_RING, hub_ring_up(4), HUB_OWNED, 4));
    CHECK_OK(hub_pool_free(&t.live, s[3].ref, s[3].gen));
    table_close(&t);
}

/* ---- growth: killed before the slots are announced, and before they are linked --------------- */

static void killed_while_growing(void) {
    hub_config config = config_of_one(SIZE, 8);
    config.classes[0].max_slots = 40;
    for (int announced = 0; announced < 2; announced++) {
        arena a;
        hub_slot held[40];
        arena_open(&a, &config);
        hub_pool_class *c = class_of(&a.host);
        const hub_class_geometry *g = &a.segment.geometry.classes[0];
        CHECK_OK(hub_segment_back(&a.segment, g->meta_offset, 40 * sizeof(hub_slot_shm)));
        CHECK_OK(hub_segment_back(&a.segment, g->holders_offset, 40 * sizeof(uint64_t)));
        if (announced) {
            uint32_t eight = 8;
            CHECK(hub_cas_acq_rel_32(&c->shared->in_service, &eight, 40));
        }
        for (int round = 0; round < 2; round++) {
            CHECK_EQ(arena_take_all(&a.host, SIZE, 0, held, 40), 40);
            CHECK_EQ(hub_in_service(c), 40);
            for (int i = 0; i < 40; i++) CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
            arena_check_all_free(&a);
        }
        arena_close(&a);
    }
}

/* A head that went full circle must not look unchanged: the tag. */
static void same_top_other_stack(void) {
    table t;
    uint32_t first, second, third, got[1];
    table_open(&t);
    hub_pool_class *c = class_of(&t.dead);
    hub_a64 *hot = &c->shared->hot;
    uint64_t seen = hub_load_relaxed_64(hot);
    CHECK_EQ(hub_stack_pop(c, hot, 1, &first), 1);
    CHECK_EQ(hub_stack_pop(c, hot, 1, &second), 1);
    CHECK_EQ(hub_stack_pop(c, hot, 1, &third), 1);
    hub_stack_push(c, hot, first, first);
    CHECK_EQ(hub_head_index(hub_load_relaxed_64(hot)), hub_head_index(seen));
    /* The slow one now tries what it prepared long ago: head -> second, which is not free. */
    uint64_t expected = seen;
    CHECK(!hub_cas_acq_rel_64(hot, &expected, hub_head_make(hub_head_tag(seen) + 1, second)));
    CHECK_EQ(hub_stack_pop(c, hot, 1, got), 1);
    CHECK_EQ(got[0], first);
    table_close(&t);
}

int main(void) {
    test_begin(60);
    RUN(killed_between_pop_and_claim);
    RUN(killed_after_claim);
    RUN(killed_between_free_and_link);
    RUN(killed_in_a_batch);
    RUN(killed_with_a_full_cache);
    RUN(chains);
    RUN(taken_by_a_scan_while_linked);
    RUN(popped_while_in_a_ring);
    RUN(remembered_but_taken);
    RUN(reclaim_takes_rings_of_the_dead);
    RUN(killed_while_growing);
    RUN(same_top_other_stack);
    return test_end();
}
