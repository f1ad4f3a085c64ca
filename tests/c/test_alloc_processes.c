/* test_alloc_processes.c - eight processes at once on all classes, without and with kills: no slot
 * is given to two, none is lost, the counts are exact at the end. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arena.h"
#include "check.h"

#define WORKERS 8
#define HOLD 12

typedef struct shared {
    arena a;
    hub_a32 ready, stop;
    hub_a64 done[WORKERS + 1];
    unsigned rounds; /* 0: until killed or told to stop */
} shared;

typedef struct worker {
    shared *s;
    uint32_t id;
    uint64_t seed;
} worker;

/* Small enough that two cores can empty every class. */
static hub_config crowded(void) {
    hub_config config = config_of_the_table(false);
    config.class_count = 0;
    config_add(&config, 1 * KIB, 48, 96);
    config_add(&config, 16 * KIB, 32, 32);
    config_add(&config, 256 * KIB, 8, 16);
    config_add(&config, 4 * MIB, 4, 4);
    config_add(&config, 16 * MIB, 0, 3);
    config.max_bytes = 64 * MIB; /* the large classes take memory from each other */
    return config;
}

static uint64_t pick_size(test_random *r) {
    static const uint64_t limits[] = {1 * KIB, 16 * KIB, 256 * KIB, 4 * MIB, 16 * MIB};
    uint64_t pick = random_below(r, 100);
    unsigned k = pick < 50 ? 0 : pick < 80 ? 1 : pick < 95 ? 2 : pick < 98 ? 3 : 4;
    return 1 + random_below(r, limits[k]);
}

/* First and last word of the part that was asked for: nobody else writes them while it is held. */
static void stamp(const hub_slot *slot, uint64_t size, uint64_t value) {
    memcpy(slot->data, &value, size < 8 ? size : 8);
    if (size >= 16) memcpy(slot->data + size - 8, &value, 8);
}
static void stamp_check(const hub_slot *slot, uint64_t size, uint64_t value) {
    if (memcmp(slot->data, &value, size < 8 ? size : 8) != 0 ||
        (size >= 16 && memcmp(slot->data + size - 8, &value, 8) != 0))
        FAIL("slot %#x was written by another while it was held", slot->ref);
}

static int work(void *argument) {
    worker *w = argument;
    shared *s = w->s;
    hub_pool pool;
    hub_slot held[HOLD];
    uint64_t sizes[HOLD], stamps[HOLD];
    unsigned count = 0;
    test_random r = {w->seed};
    arena_pool(&s->a, &pool, w->id);
    (void)hub_fetch_add_acq_rel_32(&s->ready, 1);
    for (unsigned i = 0; s->rounds ? i < s->rounds : !hub_load_acquire_32(&s->stop); i++) {
        if (count < HOLD && random_below(&r, 2)) {
            uint64_t size = pick_size(&r);
            if (size > pool.largest) size = pool.largest;
            int rc = hub_pool_alloc(&pool, size, &held[count]);
            if (rc == 0) {
                sizes[count] = size;
                stamps[count] = ((uint64_t)w->id << 56) ^ random_next(&r);
                stamp(&held[count], size, stamps[count]);
                count++;
            } else {
                CHECK_RC(rc, HUB_EEXHAUSTED);
            }
        } else if (count > 0) {
            uint64_t which = random_below(&r, count);
            stamp_check(&held[which], sizes[which], stamps[which]);
            CHECK_OK(hub_pool_free(&pool, held[which].ref, held[which].gen));
            count--;
            held[which] = held[count];
            sizes[which] = sizes[count];
            stamps[which] = stamps[count];
        }
        if (random_below(&r, 500) == 0) (void)hub_pool_trim(&pool, random_below(&r, 8 * MIB));
        (void)hub_fetch_add_acq_rel_64(&s->done[w->id], 1);
    }
    while (count > 0) {
        count--;
        stamp_check(&held[count], sizes[count], stamps[count]);
        CHECK_OK(hub_pool_free(&pool, held[count].ref, held[count].gen));
    }
    hub_pool_flush(&pool);
    return 0;
}

/* Every slot of every class can be had again by one process, each once. */
static void all_can_be_had(shared *s) {
    hub_config config = s->a.config;
    for (uint32_t k = 0; k < config.class_count; k++) {
        hub_slot held[128];
        uint32_t most = config.classes[k].max_slots;
        uint64_t size =
            k == 0 ? 1 : config.classes[k - 1].slot_size + 1; /* a page: never the cap */
        CHECK_EQ(arena_take_all(&s->a.host, size, k, held, 128), most);
        for (uint32_t i = 0; i < most; i++)
            CHECK_OK(hub_pool_free(&s->a.host, held[i].ref, held[i].gen));
        (void)hub_pool_trim(&s->a.host, UINT64_MAX);
    }
    arena_check_all_free(&s->a);
}

static void hammering(void) {
    shared *s = shared_memory(sizeof *s);
    hub_config config = crowded();
    pid_t pids[WORKERS];
    worker workers[WORKERS];
    arena_open(&s->a, &config);
    s->rounds = test_rounds(6000);
    for (uint32_t i = 0; i < WORKERS; i++) {
        workers[i] = (worker){s, i + 1, 1000 + i};
        pids[i] = child_start(work, &workers[i]);
    }
    for (uint32_t i = 0; i < WORKERS; i++) child_ok(pids[i]);
    arena_check_all_free(&s->a);
    CHECK_LE(hub_segment_usage(&s->a.segment), config.max_bytes);
    all_can_be_had(s);
    arena_close(&s->a);
}

/* Each class by itself, far too few slots for all: mostly found exhausted, never wrong. */
static void one_class_contended(void) {
    static const uint64_t sizes[] = {1 * KIB, 16 * KIB, 256 * KIB};
    for (unsigned k = 0; k < 3; k++) {
        shared *s = shared_memory(sizeof *s);
        hub_config config = config_of_one(sizes[k], 20);
        pid_t pids[WORKERS];
        worker workers[WORKERS];
        arena_open(&s->a, &config);
        s->rounds = test_rounds(5000);
        for (uint32_t i = 0; i < WORKERS; i++) {
            workers[i] = (worker){s, i + 1, 2000 + i};
            pids[i] = child_start(work, &workers[i]);
        }
        for (uint32_t i = 0; i < WORKERS; i++) child_ok(pids[i]);
        arena_check_all_free(&s->a);
        hub_slot held[20];
        CHECK_EQ(arena_take_all(&s->a.host, sizes[k], 0, held, 20), 20);
        arena_close(&s->a);
    }
}

/* SIGKILL at random moments, ids used again; what the dead held is taken back every time. */
static void killed_at_random(void) {
    shared *s = shared_memory(sizeof *s);
    hub_config config = crowded();
    pid_t pids[WORKERS];
    worker workers[WORKERS];
    test_random r = {4242};
    unsigned kills = test_rounds(150), owned_something = 0;
    arena_open(&s->a, &config);
    for (uint32_t i = 0; i < WORKERS; i++) {
        workers[i] = (worker){s, i + 1, 3000 + i};
        pids[i] = child_start(work, &workers[i]);
    }
    while (hub_load_acquire_32(&s->ready) < WORKERS) test_pause();
    for (unsigned n = 0; n < kills; n++) {
        uint32_t which = (uint32_t)random_below(&r, WORKERS);
        /* After it has done something, and then somewhere in the middle of the next thing. */
        uint64_t before = hub_load_acquire_64(&s->done[which + 1]);
        while (hub_load_acquire_64(&s->done[which + 1]) < before + 3) test_pause();
        for (uint64_t spin = random_below(&r, 5000); spin > 0; spin--) hub_pause();
        child_kill(pids[which]);
        owned_something += hub_pool_reclaim(&s->a.host, which + 1) > 0;
        CHECK_EQ(hub_pool_owned(&s->a.host, which + 1, UINT32_MAX), 0);
        workers[which].seed = random_next(&r);
        pids[which] = child_start(work, &workers[which]);
    }
    hub_store_release_32(&s->stop, 1);
    for (uint32_t i = 0; i < WORKERS; i++) child_ok(pids[i]);
    CHECK_GE(owned_something, kills / 4); /* or the kills came too early to say anything */
    arena_check_all_free(&s->a);
    all_can_be_had(s);
    arena_close(&s->a);
}

int main(void) {
    test_begin(200);
    RUN(hammering);
    RUN(one_class_contended);
    RUN(killed_at_random);
    return test_end();
}
