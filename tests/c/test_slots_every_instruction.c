/* test_slots_every_instruction.c - a peer killed at every instruction of alloc, free and back, by
 * what the allocator finds: hot, cold, the last one, none on a stack, none of the class, none at
 * all; a linked one freed; somebody waiting for what is freed.
 *
 * A sample, another one each time; SHMHUB_STRIDE=1 for every instruction. */
#include "check.h"
#include "scene.h"

#define EVERY VICTIM_SLOTS

static int alloc_small(victim *v) { return hub_alloc(v->transport, 1000, HUB_NOW, &v->held[31]); }
static int alloc_middle(victim *v) { return hub_alloc(v->transport, 9000, HUB_NOW, &v->held[31]); }
static int alloc_large(victim *v) {
    return hub_alloc(v->transport, 200 * KIB, HUB_NOW, &v->held[31]);
}
static void class_taken(victim *v) { victim_take(v, 1000, 8); }
static void all_but_one_taken(victim *v) {
    victim_take(v, 1000, 8); /* the small ones, as far as they go */
    victim_take(v, 1000, EVERY);
    if (v->count > 0) CHECK_OK(hub_slot_free(v->session, &v->held[--v->count]));
}
static void all_taken(victim *v) { victim_take(v, 1000, EVERY); }
static void hold_small(victim *v) { victim_take(v, 1000, 2); }
static void hold_one(victim *v) { victim_take(v, 1000, 1); }
static int free_one(victim *v) {
    if (v->count == 0) return 0; /* in a crowd others may have had them all */
    return hub_slot_free(v->session, &v->held[--v->count]);
}
static void hold_large(victim *v) { victim_take(v, 200 * KIB, 1); }
static int free_all(victim *v) {
    while (v->count > 0) CHECK_OK(hub_slot_free(v->session, &v->held[--v->count]));
    return 0;
}
static void hold_a_part(victim *v) {
    (void)hub_session_trim(v->session);
    victim_take(v, 20 * KIB, 1);
}
static int back(victim *v) {
    return v->count == 0 ? 0 : hub_slot_back(v->session, &v->held[0], 300 * KIB);
}
static int wait_for_slot(victim *v) {
    return hub_alloc(v->transport, 1000, HUB_FOREVER, &v->held[31]);
}

static const operation operations[] = {
    {"alloc-hot", world_as_it_is, 0, prepare_nothing, alloc_small, NULL, 0, 0},
    {"alloc-hot-large", world_as_it_is, 0, prepare_nothing, alloc_large, NULL, 0, 0},
    {"alloc-cold", world_cold, 0, prepare_nothing, alloc_middle, NULL, 0, 0},
    {"alloc-cold-large", world_cold, 0, prepare_nothing, alloc_large, NULL, 0, 0},
    {"alloc-spill", world_as_it_is, 0, class_taken, alloc_small, NULL, 0, 0},
    {"alloc-spill-cold", world_cold, 0, class_taken, alloc_small, NULL, 0, 0},
    {"alloc-last", world_as_it_is, 0, all_but_one_taken, alloc_small, NULL, 0, 0},
    {"alloc-empty", world_as_it_is, 0, all_taken, alloc_small, NULL, HUB_EEXHAUSTED, 0},
    {"alloc-wait", world_taken, 0, prepare_nothing, wait_for_slot, asleep_until_freed, 0, 0},
    {"free", world_as_it_is, 0, hold_small, free_one, NULL, 0, 0},
    {"free-large", world_as_it_is, 0, hold_large, free_all, NULL, 0, 0},
    {"free-all", world_as_it_is, 0, all_taken, free_all, NULL, 0, SCENE_BY_EVENT},
    {"free-awaited", world_as_it_is, 0, all_taken, free_one, NULL, 0, SCENE_ALLOCATORS},
    {"free-last-awaited", world_one_left, 0, hold_one, free_one, NULL, 0, SCENE_ALLOCATORS},
    {"back", world_as_it_is, 0, hold_a_part, back, NULL, 0, 0},
};

/* In a hub of its own: they stay off the stacks. */
static const operation orphans[] = {
    {"alloc-scan", world_orphaned, 0, prepare_nothing, alloc_small, NULL, 0, 0},
    {"free-linked", world_orphaned, 0, hold_small, free_one, NULL, 0, 0},
};

int main(void) {
    static scene s;
    test_begin(step_seconds());
    unsigned before = open_descriptors();
    scene_open(&s);
    for (unsigned i = 0; i < sizeof operations / sizeof *operations; i++)
        scene_prove(&s, &operations[i]);
    scene_close(&s);
    scene_open(&s);
    for (unsigned i = 0; i < sizeof orphans / sizeof *orphans; i++) scene_prove(&s, &orphans[i]);
    scene_close(&s);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
