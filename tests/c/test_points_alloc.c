/* test_points_alloc.c - the allocator, stopped before each of its atomic operations while another
 * process does a whole operation of its own: whatever both do, no slot is given out twice, lost, or
 * linked twice, none that was free all the time is missed, and nobody's pages are punched away. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "alloc_internal.h"
#include "alloc_repair.h"
#include "arena.h"
#include "check.h"
#include "points.h"

#define SLOTS_MOST 64u
#define DEAD 3u /* the third process: dead, where it is reclaimed */

/* The host (0) and two peers, as one process: their pools share nothing but the arena. */
typedef struct world {
    arena a;
    hub_pool pools[3]; /* of peers 1, 2 and DEAD */
    hub_slot held[3][SLOTS_MOST];
    uint32_t count[3];
    uint64_t size;
    uint32_t strays; /* FREE slots that are nowhere, at most */
    bool capped;     /* what is not backed cannot be had */
    bool must; /* slots are free that no rival takes: alloc has to find one */
    bool waiting;   /* one found nothing, and sleeps until it is woken */
    uint32_t kicks; /* since it began to wait */
    void (*first)(struct world *, uint32_t who);
    void (*second)(struct world *, uint32_t who);
} world;

static void count_kick(void *context, uint64_t waiters) {
    world *w = context;
    CHECK(waiters != 0);
    w->kicks++;
}

static uint32_t slots_of(world *w) { return hub_in_service(&w->a.host.classes[0]); }

static void keep(world *w, uint32_t who, const hub_slot *slot) {
    for (uint32_t p = 0; p < 3; p++)
        for (uint32_t i = 0; i < w->count[p]; i++)
            if (w->held[p][i].ref == slot->ref) FAIL("slot %#x was given out twice", slot->ref);
    CHECK_REL(w->count[who], <, SLOTS_MOST);
    CHECK_GE(hub_pool_backed(&w->pools[who], slot->ref), w->size);
    pattern_write(slot->data, w->size, (uint64_t)slot->ref << 32 | slot->gen);
    w->held[who][w->count[who]++] = *slot;
}

/* ---- what a process does ------------------------------------------------------------------------ */

static void alloc(world *w, uint32_t who) {
    hub_slot slot;
    int rc = hub_pool_alloc(&w->pools[who], w->size, &slot);
    if (rc == HUB_EEXHAUSTED && !(w->must && who == 0)) return;
    CHECK_OK(rc);
    keep(w, who, &slot);
}

static void drop(world *w, uint32_t who) {
    if (w->count[who] == 0) return;
    const hub_slot *slot = &w->held[who][--w->count[who]];
    pattern_check(slot->data, w->size, (uint64_t)slot->ref << 32 | slot->gen);
    CHECK_OK(hub_pool_free(&w->pools[who], slot->ref, slot->gen));
    CHECK_RC(hub_pool_free(&w->pools[who], slot->ref, slot->gen), HUB_ESTALE);
}

/* What is there already, wherever it lies: as alloc does when no memory is left. */
static void scan_backed(world *w, uint32_t who) {
    hub_pool_class *c = &w->pools[who].classes[0];
    uint32_t index, gen;
    hub_slot slot;
    if (!hub_pool_scan_backed(&w->pools[who], c, w->size, &index, &gen)) return;
    slot.ref = hub_ref_make(0, index);
    slot.gen = gen;
    slot.data = hub_pool_data(&w->pools[who], slot.ref);
    slot.capacity = w->size;
    keep(w, who, &slot);
}

static void flush(world *w, uint32_t who) { hub_pool_flush(&w->pools[who]); }
static void trim(world *w, uint32_t who) { (void)hub_pool_trim(&w->pools[who], UINT64_MAX); }

/* A slot goes into a ring and comes back: L may change under each step. */
static void through_a_ring(world *w, uint32_t who) {
    if (w->count[who] == 0) return;
    const hub_slot *slot = &w->held[who][w->count[who] - 1];
    uint32_t me = w->pools[who].me, ring = hub_ring_up(me);
    CHECK_OK(hub_pool_move(&w->pools[who], slot->ref, slot->gen, HUB_OWNED, me, HUB_RING, ring));
    CHECK_OK(hub_pool_move(&w->pools[who], slot->ref, slot->gen, HUB_RING, ring, HUB_OWNED, me));
}

/* The one on top goes, the one below it goes, the first comes back: A, B, A. */
static void a_b_a(world *w, uint32_t who) {
    uint32_t before = w->count[who];
    alloc(w, who);
    alloc(w, who);
    if (w->count[who] < before + 2) return;
    hub_slot top = w->held[who][before];
    w->held[who][before] = w->held[who][before + 1];
    w->count[who]--;
    CHECK_OK(hub_pool_free(&w->pools[who], top.ref, top.gen));
}

static void all_and_back(world *w, uint32_t who) {
    uint32_t before = w->count[who], last;
    do {
        last = w->count[who];
        alloc(w, who);
    } while (w->count[who] > last);
    while (w->count[who] > before) drop(w, who);
}

/* The host takes back what the dead one holds. */
static void reclaim(world *w, uint32_t who) {
    (void)who;
    w->count[2] = 0;
    (void)hub_pool_reclaim(&w->a.host, DEAD);
}

/* fsck at work beside the others: what it takes it frees, what it takes off it puts back. */
static void seize(world *w, uint32_t who) {
    (void)who;
    uint32_t count = w->count[2];
    w->count[2] = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t ref = w->held[2][i].ref;
        (void)hub_pool_seize(
            &w->a.host, ref,
            hub_load_relaxed_64(&w->a.host.classes[0].meta[hub_ref_index(ref)].ctl));
    }
}
static void freshen(world *w, uint32_t who) {
    (void)who;
    for (uint32_t i = 0; i < slots_of(w); i++) (void)hub_pool_freshen(&w->a.host, hub_ref_make(0, i));
}
static void restack(world *w, uint32_t who) {
    (void)who;
    hub_pool_restack(&w->a.host, 0, true);
    hub_pool_restack(&w->a.host, 0, false);
    (void)hub_pool_link_remembered(&w->a.host, 0);
}
static void mend(world *w, uint32_t who) {
    (void)who;
    CHECK_OK(hub_pool_mend_in_service(&w->a.host, 0, 0));
}

/* As hub_alloc waits: its bit, then a last try. It sleeps on when that fails. */
static void wait_for_slot(world *w, uint32_t who) {
    uint32_t before = w->count[who];
    w->kicks = 0;
    (void)hub_fetch_or_acq_rel_64(&w->a.host.signals->pool_waiters, 1ULL << w->pools[who].me);
    alloc(w, who);
    w->waiting = w->count[who] == before;
}

/* ---- how it begins ------------------------------------------------------------------------------- */

/* Everything used once: backed, and on the hot stack. */
static void warm(world *w) {
    uint32_t last;
    do {
        last = w->count[1];
        alloc(w, 1);
    } while (w->count[1] > last);
    while (w->count[1] > 0) drop(w, 1);
    hub_pool_flush(&w->pools[1]);
}

static void take(world *w, uint32_t who, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        uint32_t before = w->count[who];
        alloc(w, who);
        CHECK_EQ(w->count[who], before + 1);
    }
}

static void cold(world *w) { (void)w; }
static void hot(world *w) { warm(w); }
static void one_each(world *w) {
    warm(w);
    take(w, 0, 1);
    take(w, 1, 1);
    take(w, 2, 1);
}
/* Peer 2 has all but one; that one is on the stack, peer 1 has one. */
static void nearly_empty(world *w) {
    warm(w);
    take(w, 0, 1);
    take(w, 2, 1);
    take(w, 1, slots_of(w) - 3);
}
static void empty(world *w) {
    nearly_empty(w);
    take(w, 0, 1);
}
/* Both remember slots (where there are caches), the rest is peer 2's. */
static void remembered(world *w) {
    warm(w);
    take(w, 0, 2);
    take(w, 1, slots_of(w) - 2);
    drop(w, 0);
    drop(w, 1);
}
/* FREE and linked and on no stack: somebody died with them in hand. */
static void astray(world *w) {
    uint32_t index;
    hub_pool_class *c = &w->pools[2].classes[0];
    warm(w);
    CHECK_EQ(hub_stack_pop(c, &c->shared->hot, 1, &index), 1);
    w->strays = 1;
    take(w, 0, 1);
    take(w, 1, slots_of(w) - 3);
}
/* All that is in service is mine; more may come. */
static void outgrown(world *w) { take(w, 0, slots_of(w)); }
/* At the cap: one slot is backed and remembered by peer 2, of the others nothing is. */
static void capped(world *w) {
    take(w, 1, 1);
    drop(w, 1);
    w->capped = true;
    hub_pool *all[] = {&w->a.host, &w->pools[0], &w->pools[1], &w->pools[2]};
    for (unsigned i = 0; i < 4; i++) all[i]->max_bytes = hub_segment_usage(&w->a.segment);
}
/* Taken by a scan while linked: OWNED, L = 1, and still on the stack. */
static void taken_while_linked(world *w) {
    warm(w);
    for (uint32_t who = 0; who < 3; who++) {
        hub_slot slot;
        hub_pool_class *c = &w->pools[who].classes[0];
        uint32_t index, gen;
        CHECK(hub_pool_scan(&w->pools[who], c, &index, &gen));
        slot.ref = hub_ref_make(0, index);
        slot.gen = gen;
        slot.data = hub_pool_data(&w->pools[who], slot.ref);
        slot.capacity = w->size;
        keep(w, who, &slot);
    }
}

/* ---- all of it ------------------------------------------------------------------------------------- */

/* One arena for all schedules of a configuration: its bookkeeping is put back as it was at first. */
static arena shared_arena;
static unsigned char *at_first;

static void world_begin(world *w) {
    memset(w, 0, sizeof *w);
    w->size = 64; /* of the page that is backed: enough to see it punched */
    w->a = shared_arena;
    memcpy(w->a.segment.base, at_first, w->a.segment.geometry.data_offset);
    for (uint32_t p = 0; p < 3; p++) {
        arena_pool(&w->a, &w->pools[p], p + 1);
        w->pools[p].kick = count_kick;
        w->pools[p].kick_context = w;
        /* Under a lock of this process, which a rival in the same thread would wait for. */
        (void)hub_cache_mine(&w->pools[p].classes[0]);
    }
    w->a.host.kick = count_kick;
    w->a.host.kick_context = w;
}

static bool remembered_by_any(const world *w, uint32_t index) {
    for (uint32_t p = 0; p < 3; p++)
        for (uint32_t lane = 0; lane < HUB_CACHE_LANES; lane++) {
            const hub_cache *cache = &w->pools[p].classes[0].caches[lane];
            for (uint32_t i = 0; i < cache->count; i++)
                if (cache->items[i] == index) return true;
        }
    return false;
}

/* Nobody died: what is free is on a stack, or remembered. A scan finds the others as well, but by
 * then they were lost. */
static void check_strays(world *w) {
    const hub_pool_class *c = &w->a.host.classes[0];
    unsigned char on_stack[SLOTS_MOST] = {0};
    const hub_a64 *heads[] = {&c->shared->hot, &c->shared->cold};
    uint32_t strays = 0;
    for (unsigned h = 0; h < 2; h++)
        for (uint32_t i = hub_head_index(hub_load_relaxed_64(heads[h])); i != HUB_INDEX_NONE;
             i = hub_load_relaxed_32(&c->meta[i].next))
            on_stack[i] = 1;
    for (uint32_t i = 0; i < slots_of(w); i++) {
        uint64_t ctl = hub_load_relaxed_64(&c->meta[i].ctl);
        if (hub_ctl_state(ctl) != HUB_FREE) continue;
        strays += hub_ctl_linked(ctl) ? !on_stack[i] : !remembered_by_any(w, i);
    }
    CHECK_LE(strays, w->strays);
}

static void world_check(world *w) {
    uint32_t held = 0;
    for (uint32_t p = 0; p < 3; p++)
        for (uint32_t i = 0; i < w->count[p]; i++) {
            const hub_slot *slot = &w->held[p][i];
            uint64_t ctl =
                hub_load_relaxed_64(&w->a.host.classes[0].meta[hub_ref_index(slot->ref)].ctl);
            CHECK_EQ(hub_ctl_gen(ctl), slot->gen);
            CHECK_EQ(hub_ctl_state(ctl), HUB_OWNED);
            CHECK_EQ(hub_ctl_owner(ctl), p + 1);
            pattern_check(slot->data, w->size, (uint64_t)slot->ref << 32 | slot->gen);
            held++;
        }
    hub_class_stat s = arena_count(&w->a, 0);
    CHECK_EQ(s.owned, held);
    CHECK_EQ(s.free, s.slots - held);
    uint32_t to_be_had = s.free;
    for (uint32_t i = 0; w->capped && i < s.slots; i++) /* only what is backed */
        to_be_had -= hub_load_relaxed_32(&w->a.host.classes[0].meta[i].backed) == 0;
    if (w->waiting && to_be_had > 0 && w->kicks == 0) FAIL("a slot is free and its waiter sleeps");
    w->waiting = false;
    (void)arena_check_stacks(&w->a, 0);
    check_strays(w);
}

/* Then all goes back, and everybody in turn gets every slot: stacks, caches and strays. */
static void world_end(world *w) {
    world_check(w);
    w->a.host.max_bytes = w->a.config.max_bytes;
    for (uint32_t p = 0; p < 3; p++) w->pools[p].max_bytes = w->a.config.max_bytes;
    for (uint32_t p = 0; p < 3; p++)
        while (w->count[p] > 0) drop(w, p);
    for (uint32_t p = 0; p < 3; p++) {
        uint32_t last;
        do {
            last = w->count[p];
            alloc(w, p);
        } while (w->count[p] > last);
        CHECK_EQ(w->count[p], slots_of(w));
        while (w->count[p] > 0) drop(w, p);
        arena_check_all_free(&w->a);
    }
    for (uint32_t p = 0; p < 3; p++) hub_pool_fini(&w->pools[p]);
}

static void run_first(void *argument) {
    world *w = argument;
    w->first(w, 0);
}
static void run_second(void *argument) {
    world *w = argument;
    w->second(w, 1);
}

typedef struct step {
    const char *name;
    void (*run)(world *, uint32_t);
    bool takes; /* slots */
} step;
static const step alloc_step = {"alloc", alloc, true}, free_step = {"free", drop, false},
                  flush_step = {"flush", flush, false}, trim_step = {"trim", trim, true},
                  ring_step = {"ring", through_a_ring, false}, aba_step = {"a-b-a", a_b_a, true},
                  all_step = {"all", all_and_back, true}, reclaim_step = {"reclaim", reclaim, false},
                  wait_step = {"wait", wait_for_slot, true}, seize_step = {"seize", seize, false},
                  freshen_step = {"freshen", freshen, true},
                  restack_step = {"restack", restack, true},
                  scan_step = {"scan", scan_backed, true}, mend_step = {"mend", mend, false};
#define STEPS_MOST 12
typedef struct plan {
    void (*begins[8])(world *);
    const step *steps[STEPS_MOST];
} plan;

static unsigned schedules;

static void every_point(void (*begin)(world *), const step *first, const step *second) {
    bool more = true;
    for (unsigned n = 0; more; n++) {
        static world w;
        world_begin(&w);
        begin(&w);
        w.first = first->run;
        w.second = second->run;
        w.must = arena_count(&w.a, 0).free > 0 && !second->takes && first->run == alloc;
        more = points_run(n, run_first, run_second, &w);
        w.must = false;
        world_end(&w);
        schedules++;
    }
}

static void every_pair(hub_config *config, const plan *p) {
    config->max_peers = 4; /* little bookkeeping to put back */
    config->ring_capacity = HUB_RING_CAPACITY_MIN;
    arena_open(&shared_arena, config);
    uint64_t bytes = shared_arena.segment.geometry.data_offset;
    at_first = malloc(bytes);
    CHECK(at_first != NULL);
    for (uint32_t peer = 1; peer < 4; peer++) {
        hub_pool unused;
        arena_pool(&shared_arena, &unused, peer);
    }
    memcpy(at_first, shared_arena.segment.base, bytes);
    for (unsigned b = 0; p->begins[b] != NULL; b++)
        for (unsigned i = 0; p->steps[i] != NULL; i++)
            for (unsigned k = 0; p->steps[k] != NULL; k++)
                every_point(p->begins[b], p->steps[i], p->steps[k]);
    free(at_first);
    arena_close(&shared_arena);
}

static void few_large_slots(void) {
    hub_config config = config_of_one(8192, 5); /* no caches */
    static const plan p = {
        {cold, hot, one_each, nearly_empty, empty, astray, taken_while_linked},
        {&alloc_step, &free_step, &trim_step, &ring_step, &aba_step, &all_step, &reclaim_step,
         &wait_step, &seize_step, &scan_step},
    };
    every_pair(&config, &p);
}

/* Each remembers two, and pops two at once. */
static void remembered_slots(void) {
    hub_config config = config_of_one(4096, 32);
    static const plan p = {
        {hot, remembered, taken_while_linked},
        {&alloc_step, &free_step, &flush_step, &trim_step, &aba_step, &seize_step},
    };
    every_pair(&config, &p);
}

static void less_than_a_page(void) {
    hub_config config = config_of_one(1024, 16);
    static const plan p = {
        {remembered, capped},
        {&alloc_step, &free_step, &flush_step, &trim_step, &wait_step, &freshen_step},
    };
    every_pair(&config, &p);
}

static void growing(void) {
    hub_config config = config_of_one(4096, 3);
    config.classes[0].max_slots = 5;
    static const plan p = {
        {cold, outgrown},
        {&alloc_step, &free_step, &aba_step, &all_step, &wait_step, &mend_step},
    };
    every_pair(&config, &p);
}

static void repaired_beside_the_others(void) {
    hub_config config = config_of_one(8192, 5);
    static const plan p = {
        {hot, one_each, nearly_empty, taken_while_linked},
        {&alloc_step, &free_step, &aba_step, &trim_step, &restack_step, &freshen_step},
    };
    every_pair(&config, &p);
}

int main(void) {
    test_begin(300);
    points_needed();
    RUN(few_large_slots);
    RUN(remembered_slots);
    RUN(less_than_a_page);
    RUN(growing);
    RUN(repaired_beside_the_others);
    test_say("  %u schedules", schedules);
    return test_end();
}
