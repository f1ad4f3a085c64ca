/* test_alloc_every_instruction.c - a process killed at every single instruction of what needs more
 * than the 8 slots of test_slots_every_instruction.c, or a hub of its own: the cache (remembered,
 * full, flushed), growth, scan, trim, hand-over.  Alone, and while another process takes and gives
 * back slots of the same class.  Afterwards every slot can be had, each once, and no memory is
 * taken that nobody counts.
 *
 * A sample, another one each time; SHMHUB_STRIDE=1 for every instruction. */
#define _GNU_SOURCE
#include "arena.h"
#include "check.h"
#include "step.h"

#define DEAD 3u
#define BUSY 5u

typedef struct table {
    arena a;
    hub_pool dead, live, busy;
    hub_slot held[64]; /* of `dead`, before it is let go */
    unsigned count;
} table;

typedef struct operation {
    const char *name;
    uint64_t slot_size;
    uint32_t slots, max_slots;
    void (*prepare)(table *);
    void (*operate)(table *);
} operation;

/* ---- the operations -------------------------------------------------------------------------- */

static void take(table *t, unsigned count) {
    while (t->count < count) {
        CHECK_OK(hub_pool_alloc(&t->dead, t->dead.largest, &t->held[t->count]));
        t->count++;
    }
}

static void give(table *t, unsigned count) {
    for (; count > 0; count--) {
        t->count--;
        CHECK_OK(hub_pool_free(&t->dead, t->held[t->count].ref, t->held[t->count].gen));
    }
}

/* All slots backed and on the hot stack. */
static void all_hot(table *t) {
    hub_slot all[64];
    uint32_t count = arena_take_all(&t->live, t->live.largest, 0, all, 64);
    while (count-- > 0) CHECK_OK(hub_pool_free(&t->live, all[count].ref, all[count].gen));
    hub_pool_flush(&t->live);
}
static void nothing(table *t) { (void)t; }
static void alloc_and_free(table *t) {
    take(t, 1);
    give(t, 1);
}
static void cache_full(table *t) {
    all_hot(t);
    take(t, 5);
    give(t, 4);
}
static void free_one_more(table *t) { give(t, 1); }
static void several_held(table *t) {
    all_hot(t);
    take(t, 3);
}
static void flush(table *t) {
    give(t, 2);
    hub_pool_flush(&t->dead);
}
static void all_in_anothers_cache_or_held(table *t) {
    all_hot(t);
    hub_slot all[64];
    uint32_t count = arena_take_all(&t->live, t->live.largest, 0, all, 64);
    /* Four are FREE with L = 0 in a cache: only a scan finds them. */
    for (uint32_t i = 0; i < 4; i++) CHECK_OK(hub_pool_free(&t->live, all[i].ref, all[i].gen));
    (void)count;
}
static void trim_all(table *t) { (void)hub_pool_trim(&t->dead, UINT64_MAX); }
static void hand_over(table *t) {
    hub_slot *s = &t->held[0];
    CHECK_OK(hub_pool_move(&t->dead, s->ref, s->gen, HUB_OWNED, DEAD, HUB_RING, hub_ring_up(DEAD)));
}
static void held_with_a_part_backed(table *t) {
    CHECK_OK(hub_pool_alloc(&t->dead, 5000, &t->held[0]));
    t->count = 1;
}
static void back_more(table *t) { CHECK_OK(hub_pool_back(&t->dead, t->held[0].ref, 200000)); }

static const operation operations[] = {
    {"cache-alloc-free", 4096, 64, 64, all_hot, alloc_and_free},
    {"cache-free-full", 4096, 64, 64, cache_full, free_one_more},
    {"cache-flush", 4096, 64, 64, several_held, flush},
    {"cache-alloc-cold", 4096, 64, 64, nothing, alloc_and_free},
    {"stack-alloc-free", 1 * MIB, 4, 4, all_hot, alloc_and_free},
    {"grow", 4096, 0, 8, nothing, alloc_and_free},
    {"cache-grow", 4096, 0, 40, nothing, alloc_and_free},
    {"cache-scan", 4096, 64, 64, all_in_anothers_cache_or_held, alloc_and_free},
    {"pool-trim", 65536, 5, 5, all_hot, trim_all},
    {"pool-back", 1 * MIB, 4, 4, held_with_a_part_backed, back_more},
    {"hand-over", 4096, 64, 64, several_held, hand_over},
};

/* ---- dying ----------------------------------------------------------------------------------- */

typedef struct victim {
    table *t;
    const operation *op;
    stepped *where;
} victim;

static int operate(void *argument) {
    victim *v = argument;
    step_begin(v->where);
    v->op->operate(v->t);
    step_end(v->where, 0);
    return 0;
}

static void table_open(table *t, const operation *op) {
    hub_config config = config_of_one(op->slot_size, op->slots);
    config.classes[0].max_slots = op->max_slots;
    arena_open(&t->a, &config);
    arena_pool(&t->a, &t->dead, DEAD);
    arena_pool(&t->a, &t->live, 4);
    arena_pool(&t->a, &t->busy, BUSY);
    t->count = 0;
}

/* Reclaimed: then the living own what they own, and all else can be had, each slot once. */
static void table_check(table *t, uint64_t fresh) {
    hub_slot all[64];
    (void)hub_pool_reclaim(&t->a.host, DEAD);
    CHECK_EQ(hub_pool_owned(&t->a.host, DEAD, UINT32_MAX), 0);
    (void)arena_check_stacks(&t->a, 0);
    (void)hub_pool_reclaim(&t->a.host, 4); /* the others let go of everything as well */
    arena_check_all_free(&t->a);
    for (int round = 0; round < 2; round++) {
        uint32_t most = t->a.config.classes[0].max_slots;
        CHECK_EQ(arena_take_all(&t->a.host, 1, 0, all, 64), most);
        for (uint32_t i = 0; i < most; i++) {
            all[i].data[0] = 1; /* backed, whatever it was */
            CHECK_OK(hub_pool_free(&t->a.host, all[i].ref, all[i].gen));
        }
        arena_check_all_free(&t->a);
    }
    /* Not a page that nobody counts; growth has its bookkeeping, four pages at most. */
    (void)hub_pool_trim(&t->a.host, UINT64_MAX);
    CHECK_LE(hub_segment_usage(&t->a.segment), fresh + 4 * HUB_PAGE);
}

/* ---- the other process ----------------------------------------------------------------------- */

typedef struct rounds {
    hub_a64 made;
    hub_a32 end;
} rounds;

typedef struct busy {
    table *t;
    rounds *r;
} busy;

static int take_and_give(void *argument) {
    const busy *b = argument;
    hub_pool *pool = &b->t->busy;
    for (uint64_t round = 0; !hub_load_acquire_32(&b->r->end); round++) {
        hub_slot held[3];
        unsigned count = 0;
        for (; count < 3; count++) {
            int rc = hub_pool_alloc(pool, 4096, &held[count]);
            if (rc == HUB_EEXHAUSTED) break;
            CHECK_OK(rc);
            pattern_write(held[count].data, 4096, round + count);
        }
        for (unsigned i = 0; i < count; i++) {
            pattern_check(held[i].data, 4096, round + i);
            CHECK_OK(hub_pool_free(pool, held[i].ref, held[i].gen));
        }
        (void)hub_fetch_add_acq_rel_64(&b->r->made, 1);
    }
    return 0; /* with what it remembers: a scan finds that */
}

static void await_rounds(const rounds *r, uint64_t count) {
    uint64_t from = hub_load_acquire_64(&r->made);
    while (hub_load_acquire_64(&r->made) - from < count) test_pause();
}

/* ---- one run --------------------------------------------------------------------------------- */

static bool die_after(const operation *op, stepped *where, rounds *r, unsigned steps,
                      unsigned *ret_made) {
    table t;
    victim v = {&t, op, where};
    busy b = {&t, r};
    pid_t other = 0;
    test_again(120);
    table_open(&t, op);
    uint64_t fresh = hub_segment_usage(&t.a.segment);
    op->prepare(&t);
    hub_store_release_32(&where->over, 0);
    if (r != NULL) {
        hub_store_release_32(&r->end, 0);
        other = child_start(take_and_give, &b);
        await_rounds(r, 1);
    }
    pid_t pid = child_start(operate, &v);
    stepper st = {.pid = pid, .where = where, .watched = -1};
    bool over = step_until(&st, steps, UINT32_MAX) == STEP_OVER;
    *ret_made = st.steps;
    if (r != NULL) await_rounds(r, 10); /* while it stands in the middle */
    child_kill(pid);
    if (r != NULL) {
        await_rounds(r, 1);
        hub_store_release_32(&r->end, 1);
        child_ok(other);
        CHECK_EQ(hub_pool_owned(&t.a.host, BUSY, UINT32_MAX), 0);
    }
    table_check(&t, fresh);
    hub_pool_fini(&t.dead);
    hub_pool_fini(&t.live);
    hub_pool_fini(&t.busy);
    arena_close(&t.a);
    return over;
}

static void at_every_point(const operation *op, stepped *where, rounds *r, unsigned length,
                           unsigned first) {
    const char *mode = r != NULL ? "crowd" : "alone";
    unsigned made, points = 0, runs = 0, over = 0, stride = step_stride(length);
    unsigned most = r != NULL ? length + length / 4 : 2 * length;
    for (unsigned steps = first; over < 3 && steps <= most; steps += stride, runs++) {
        test_doing("%s, %s: point %u of %u", op->name, mode, steps, length);
        if (die_after(op, where, r, steps, &made)) {
            over++; /* it was shorter this time */
        } else {
            CHECK_EQ(made, steps);
            over = 0;
            points++;
        }
    }
    test_doing("%s", "");
    test_say("prove: %s %s points=%u of=%u stride=%u runs=%u failures=0", op->name, mode, points,
             length, stride, runs);
    CHECK_GE(points, 2);
}

int main(void) {
    test_begin(step_seconds());
    stepped *where = shared_memory(sizeof *where);
    rounds *r = shared_memory(sizeof *r);
    test_random random = {step_seed()};
    for (unsigned i = 0; i < sizeof operations / sizeof *operations; i++) {
        unsigned length;
        CHECK(die_after(&operations[i], where, NULL, UINT32_MAX, &length));
        unsigned first = (unsigned)random_below(&random, step_stride(length));
        at_every_point(&operations[i], where, NULL, length, first);
        at_every_point(&operations[i], where, r, length, first);
    }
    return test_end();
}
