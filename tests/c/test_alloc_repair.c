/* test_alloc_repair.c - each repair of the pool by itself: what it mends, what it leaves, and that it
 * believes nothing that it reads on the way. */
#define _GNU_SOURCE
#include "alloc_repair.h"
#include "arena.h"
#include "check.h"

#define SLOTS 8u
#define SIZE (8 * KIB)

typedef struct world {
    arena a;
    hub_pool peer;
    hub_slot held[SLOTS];
} world;

static hub_pool_class *class_of(world *w) { return &w->a.host.classes[0]; }
static hub_slot_shm *meta_of(world *w, uint32_t index) { return &class_of(w)->meta[index]; }
static uint64_t ctl_of(world *w, uint32_t index) { return hub_load_relaxed_64(&meta_of(w, index)->ctl); }
static uint32_t backed_of(world *w, uint32_t index) {
    return hub_load_relaxed_32(&meta_of(w, index)->backed);
}

static void world_open(world *w, uint64_t size, uint32_t slots, uint32_t max_slots) {
    hub_config config = config_of_one(size, slots);
    config.classes[0].max_slots = max_slots;
    arena_open(&w->a, &config);
    arena_pool(&w->a, &w->peer, 3);
}

static void world_close(world *w) {
    hub_pool_fini(&w->peer);
    arena_close(&w->a);
}

/* The peer takes all, and gives back all but those that it keeps. */
static void keep(world *w, uint32_t kept) {
    CHECK_EQ(arena_take_all(&w->peer, SIZE, 0, w->held, SLOTS), SLOTS);
    for (uint32_t i = kept; i < SLOTS; i++)
        CHECK_OK(hub_pool_free(&w->peer, w->held[i].ref, w->held[i].gen));
    hub_pool_flush(&w->peer);
}

/* ---- in_service ------------------------------------------------------------------ */

static void plausible_is_a_whole_step(void) {
    static const uint32_t sound[] = {600, 856, 1000}, unsound[] = {0, 599, 601, 344, 1001, 1112};
    for (unsigned i = 0; i < sizeof sound / sizeof *sound; i++)
        CHECK(hub_pool_plausible_in_service(sound[i], 600, 1000));
    for (unsigned i = 0; i < sizeof unsound / sizeof *unsound; i++)
        CHECK(!hub_pool_plausible_in_service(unsound[i], 600, 1000));
    CHECK_EQ(hub_pool_most_pages(1), 1);
    CHECK_EQ(hub_pool_most_pages(HUB_PAGE), 1);
    CHECK_EQ(hub_pool_most_pages(HUB_PAGE + 1), 2);
}

static void in_service_holds_all_that_was_used(void) {
    static const struct { uint32_t slots, found, used, mended; } cases[] = {
        {8, 9, 0, 8},     {8, 9, 8, 8},      {8, 9, 9, 264},      {8, 264, 9, 264},
        {8, 264, 300, 520}, {8, 520, 9, 520}, {8, 7, 900, 1000},   {8, 0xFFFFFFFF, 0, 8},
        {600, 3, 0, 600}, {600, 344, 0, 600}, {600, 1000, 700, 1000}, {0, 5, 0, 0}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w;
        world_open(&w, KIB, cases[i].slots, 1000);
        hub_a32 *word = &class_of(&w)->shared->in_service;
        hub_store_release_32(word, cases[i].found);
        CHECK_OK(hub_pool_mend_in_service(&w.a.host, 0, cases[i].used));
        CHECK_EQ(hub_load_acquire_32(word), cases[i].mended);
        world_close(&w);
    }
}

/* ---- one slot ------------------------------------------------------------------------ */

static void what_is_seized_is_free_and_not_backed(void) {
    world w;
    world_open(&w, SIZE, SLOTS, SLOTS);
    keep(&w, 3);
    uint32_t index = hub_ref_index(w.held[0].ref);
    uint64_t ctl = ctl_of(&w, index);
    CHECK(!hub_ctl_linked(ctl));
    /* It was read while it was linked: a popper has cleared that since. */
    CHECK(hub_pool_seize(&w.a.host, w.held[0].ref, ctl & ~HUB_CTL_UNLINKED));
    CHECK_EQ(hub_ctl_state(ctl_of(&w, index)), HUB_FREE);
    CHECK_EQ(backed_of(&w, index), 0);
    CHECK_EQ(arena_check_stacks(&w.a, 0), SLOTS - 2);
    /* Something else of it has changed: it is left as it is. */
    uint64_t others[] = {ctl + (1ULL << 32), hub_ctl_moved(ctl, HUB_RING, 3),
                         hub_ctl_moved(ctl, HUB_OWNED, 4)};
    uint32_t second = hub_ref_index(w.held[1].ref);
    uint64_t before = ctl_of(&w, second);
    for (unsigned i = 0; i < 3; i++) CHECK(!hub_pool_seize(&w.a.host, w.held[1].ref, others[i]));
    CHECK_EQ(ctl_of(&w, second), before);
    CHECK_GE(backed_of(&w, second), 1);
    world_close(&w);
}

static void a_neighbour_on_the_page_keeps_its_bytes(void) {
    world w;
    hub_slot slots[SLOTS];
    world_open(&w, KIB, SLOTS, SLOTS);
    CHECK_EQ(arena_take_all(&w.peer, KIB, 0, slots, SLOTS), SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) pattern_write(slots[i].data, KIB, i);
    CHECK(hub_pool_seize(&w.a.host, slots[0].ref, ctl_of(&w, hub_ref_index(slots[0].ref))));
    for (uint32_t i = 1; i < SLOTS; i++) pattern_check(slots[i].data, KIB, i);
    world_close(&w);
}

static void only_what_is_free_is_freshened(void) {
    world w;
    world_open(&w, SIZE, SLOTS, SLOTS);
    keep(&w, 1);
    CHECK(!hub_pool_freshen(&w.a.host, w.held[0].ref));
    CHECK_EQ(hub_pool_owned(&w.peer, 3, 9), 1);
    uint32_t index = hub_ref_index(w.held[1].ref);
    CHECK_GE(backed_of(&w, index), 1);
    uint64_t use = hub_segment_usage(&w.a.segment);
    CHECK(hub_pool_freshen(&w.a.host, w.held[1].ref));
    CHECK_EQ(hub_segment_usage(&w.a.segment), use - SIZE);
    CHECK_EQ(backed_of(&w, index), 0);
    CHECK_EQ(hub_ctl_state(ctl_of(&w, index)), HUB_FREE);
    CHECK_EQ(hub_pool_owned(&w.a.host, 0, 9), 0);
    world_close(&w);
}

static void too_much_backed_is_backed_whole(void) {
    world w;
    world_open(&w, SIZE, SLOTS, SLOTS);
    keep(&w, 1);
    uint32_t index = hub_ref_index(w.held[0].ref);
    hub_store_release_32(&meta_of(&w, index)->backed, 77);
    CHECK(!hub_pool_mend_backed(&w.a.host, w.held[0].ref, 78)); /* it says something else by now */
    CHECK_EQ(backed_of(&w, index), 77);
    CHECK(hub_pool_mend_backed(&w.a.host, w.held[0].ref, 77));
    CHECK_EQ(backed_of(&w, index), SIZE / HUB_PAGE);
    world_close(&w);
}

/* ---- stacks ---------------------------------------------------------------------------- */

static void what_is_remembered_is_linked_once(void) {
    world w;
    world_open(&w, SIZE, SLOTS, SLOTS);
    keep(&w, 1);
    uint32_t index, gen;
    CHECK_EQ(hub_stack_pop(class_of(&w), &class_of(&w)->shared->hot, 1, &index), 1);
    CHECK(hub_claim_popped(&w.peer, class_of(&w), index, &gen));
    uint64_t mine = ctl_of(&w, index);
    /* As a thread remembers it: FREE with L = 0. */
    CHECK(hub_cas_acq_rel_64(&meta_of(&w, index)->ctl, &mine,
                             hub_ctl_moved(mine, HUB_FREE, 0) | HUB_CTL_UNLINKED));
    CHECK_EQ(arena_check_stacks(&w.a, 0), SLOTS - 2);
    CHECK_EQ(hub_pool_link_remembered(&w.a.host, 0), 1);
    CHECK_EQ(arena_check_stacks(&w.a, 0), SLOTS - 1);
    CHECK_EQ(hub_pool_link_remembered(&w.a.host, 0), 0);
    world_close(&w);
}

/* One slot is made to lead to `next`; all that can be followed comes off, and then on again. */
static void restack(uint32_t next, bool hot) {
    world w;
    world_open(&w, SIZE, SLOTS, SLOTS);
    if (hot) keep(&w, 0);
    hub_a64 *head = hot ? &class_of(&w)->shared->hot : &class_of(&w)->shared->cold;
    uint32_t top = hub_head_index(hub_load_acquire_64(head));
    uint64_t tag = hub_head_tag(hub_load_acquire_64(head));
    uint32_t below = hub_load_relaxed_32(&meta_of(&w, top)->next);
    CHECK_REL(below, <, SLOTS);
    if (next != HUB_INDEX_NONE) hub_store_relaxed_32(&meta_of(&w, below)->next, next);
    hub_pool_restack(&w.a.host, 0, hot);
    CHECK_EQ(hub_head_index(hub_load_acquire_64(head)), HUB_INDEX_NONE);
    CHECK_EQ(hub_head_tag(hub_load_acquire_64(head)), tag + 1);
    CHECK(!hub_ctl_linked(ctl_of(&w, top)) && !hub_ctl_linked(ctl_of(&w, below)));
    CHECK_EQ(ctl_of(&w, SLOTS), 0); /* beyond the class */
    CHECK_EQ(hub_pool_link_remembered(&w.a.host, 0), next == HUB_INDEX_NONE ? SLOTS : 2);
    CHECK_EQ(arena_check_stacks(&w.a, 0), next == HUB_INDEX_NONE ? SLOTS : 2);
    world_close(&w);
}

static void a_broken_stack_is_taken_off_and_put_back(void) {
    for (unsigned hot = 0; hot < 2; hot++) {
        restack(HUB_INDEX_NONE, hot); /* whole */
        restack(SLOTS, hot);          /* leads out of the class */
    }
    world w; /* a circle of one */
    world_open(&w, SIZE, SLOTS, SLOTS);
    uint32_t top = hub_head_index(hub_load_acquire_64(&class_of(&w)->shared->cold));
    hub_store_relaxed_32(&meta_of(&w, top)->next, top);
    hub_pool_restack(&w.a.host, 0, false);
    CHECK_EQ(hub_pool_link_remembered(&w.a.host, 0), 1);
    world_close(&w);
}

/* What is owned comes off, what is free goes on, each to the stack that `backed` says. */
static void relist(uint32_t kept, uint32_t freshened) {
    world w;
    world_open(&w, SIZE, SLOTS, SLOTS);
    CHECK_EQ(arena_take_all(&w.peer, SIZE, 0, w.held, SLOTS), SLOTS);
    for (uint32_t i = kept; i < SLOTS; i++)
        CHECK_OK(hub_pool_free(&w.peer, w.held[i].ref, w.held[i].gen));
    hub_pool_flush(&w.peer);
    for (uint32_t i = kept; i < kept + freshened; i++)
        CHECK(hub_pool_freshen(&w.a.host, w.held[i].ref));
    uint32_t gen, scanned = hub_ref_index(w.held[SLOTS - 1].ref); /* owned, and on a stack */
    CHECK(hub_take_free(&w.peer, class_of(&w), scanned, &gen));
    CHECK(hub_ctl_linked(ctl_of(&w, scanned)));
    hub_pool_relist(&w.a.host, 0);
    CHECK(!hub_ctl_linked(ctl_of(&w, scanned)));
    CHECK_EQ(hub_ctl_state(ctl_of(&w, scanned)), HUB_OWNED);
    CHECK_EQ(arena_check_stacks(&w.a, 0), SLOTS - kept - 1);
    uint32_t on[2] = {0, 0};
    hub_a64 *heads[2] = {&class_of(&w)->shared->hot, &class_of(&w)->shared->cold};
    for (unsigned cold = 0; cold < 2; cold++)
        for (uint32_t index = hub_head_index(hub_load_acquire_64(heads[cold]));
             index != HUB_INDEX_NONE; index = hub_load_relaxed_32(&meta_of(&w, index)->next)) {
            CHECK_EQ(backed_of(&w, index) == 0, cold);
            on[cold]++;
        }
    CHECK_EQ(on[1], freshened);
    CHECK_EQ(on[0], SLOTS - kept - 1 - freshened);
    world_close(&w);
}

static void both_stacks_anew(void) {
    relist(0, 0);         /* all hot */
    relist(0, SLOTS - 1); /* all cold */
    relist(2, 2);
    relist(SLOTS - 1, 0); /* nothing is free */
}

int main(void) {
    test_begin(60);
    RUN(plausible_is_a_whole_step);
    RUN(in_service_holds_all_that_was_used);
    RUN(what_is_seized_is_free_and_not_backed);
    RUN(a_neighbour_on_the_page_keeps_its_bytes);
    RUN(only_what_is_free_is_freshened);
    RUN(too_much_backed_is_backed_whole);
    RUN(what_is_remembered_is_linked_once);
    RUN(a_broken_stack_is_taken_off_and_put_back);
    RUN(both_stacks_anew);
    return test_end();
}
