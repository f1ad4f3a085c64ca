/* test_alloc_threads.c - several threads on one pool, and two pools in one process that hand slots
 * to each other: payloads are ordered by nothing but the allocator, which a thread sanitizer sees.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arena.h"
#include "check.h"

#define THREADS 6 /* more than there are cache lanes */

typedef struct crowd {
    arena a;
    hub_pool other;
    unsigned rounds;
} crowd;

typedef struct member {
    crowd *c;
    hub_pool *pool;
    uint64_t seed;
    pthread_t thread;
} member;

/* Plain writes and reads of the payload: a race on them is the allocator's mistake. */
static void use(hub_slot *slot, uint64_t size, uint64_t value) {
    uint64_t *words = (uint64_t *)(void *)slot->data;
    uint64_t last = size / 8 - 1;
    words[0] = value;
    words[last] = value;
    for (uint64_t n = value % 64; n > 0; n--) hub_pause();
    CHECK_EQ(words[0], value);
    CHECK_EQ(words[last], value);
}

static void *allocate_and_free(void *argument) {
    member *m = argument;
    test_random r = {m->seed};
    for (unsigned i = 0; i < m->c->rounds; i++) {
        hub_slot slots[4];
        unsigned got = 0;
        for (unsigned n = (unsigned)random_below(&r, 4) + 1; n > 0; n--) {
            uint64_t size = random_below(&r, 3) ? 1024 : 16 * KIB;
            int rc = hub_pool_alloc(m->pool, size, &slots[got]);
            if (rc == 0) {
                use(&slots[got], size, random_next(&r));
                got++;
            } else {
                CHECK_RC(rc, HUB_EEXHAUSTED);
            }
        }
        while (got > 0) {
            got--;
            CHECK_OK(hub_pool_free(m->pool, slots[got].ref, slots[got].gen));
        }
        if (random_below(&r, 200) == 0) (void)hub_pool_trim(m->pool, 64 * KIB);
        if (random_below(&r, 100) == 0) hub_pool_flush(m->pool);
    }
    hub_pool_flush(m->pool);
    return NULL;
}

static void crowd_open(crowd *c, uint32_t slots, unsigned rounds) {
    hub_config config = config_of_one(1024, slots);
    config_add(&config, 16 * KIB, slots / 2, slots);
    arena_open(&c->a, &config);
    arena_pool(&c->a, &c->other, 1);
    c->rounds = rounds;
}

static void crowd_close(crowd *c) {
    arena_check_all_free(&c->a);
    hub_pool_fini(&c->other);
    arena_close(&c->a);
}

static void run_members(crowd *c, bool two_pools) {
    member members[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        members[i].c = c;
        members[i].pool = two_pools && i % 2 ? &c->other : &c->a.host;
        members[i].seed = i + 1;
        CHECK_EQ(pthread_create(&members[i].thread, NULL, allocate_and_free, &members[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) CHECK_EQ(pthread_join(members[i].thread, NULL), 0);
}

static void threads_share_a_pool(void) {
    crowd c;
    crowd_open(&c, 200, test_rounds(4000));
    run_members(&c, false);
    crowd_close(&c);
}

/* Fewer slots than are wanted: scans take slots that others have popped or remember. */
static void two_pools_and_too_few_slots(void) {
    crowd c;
    crowd_open(&c, 18, test_rounds(4000));
    run_members(&c, true);
    crowd_close(&c);
}

/* Lanes of threads that have ended are taken over, and none is lost: generations of threads. */
static void threads_come_and_go(void) {
    crowd c;
    crowd_open(&c, 200, 40);
    for (unsigned n = 0; n < test_rounds(60); n++) run_members(&c, true);
    crowd_close(&c);
}

/* ---- allocated in one thread, freed in another ----------------------------------------------- */

#define QUEUE 8

typedef struct hand_over {
    crowd *c;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    hub_slot queue[QUEUE];
    unsigned first, count;
    unsigned total;
} hand_over;

static void *take_and_free(void *argument) {
    hand_over *h = argument;
    for (unsigned i = 0; i < h->total; i++) {
        (void)pthread_mutex_lock(&h->lock);
        while (h->count == 0) (void)pthread_cond_wait(&h->changed, &h->lock);
        hub_slot slot = h->queue[h->first];
        h->first = (h->first + 1) % QUEUE;
        h->count--;
        (void)pthread_cond_signal(&h->changed);
        (void)pthread_mutex_unlock(&h->lock);
        CHECK_EQ(*(uint64_t *)(void *)slot.data, slot.ref ^ 0x5555ULL);
        CHECK_OK(hub_pool_free(&h->c->a.host, slot.ref, slot.gen));
    }
    hub_pool_flush(&h->c->a.host);
    return NULL;
}

static void allocated_here_freed_there(void) {
    crowd c;
    hand_over h;
    pthread_t other;
    crowd_open(&c, 200, 0);
    memset(&h, 0, sizeof h);
    h.c = &c;
    h.total = test_rounds(20000);
    (void)pthread_mutex_init(&h.lock, NULL);
    (void)pthread_cond_init(&h.changed, NULL);
    CHECK_EQ(pthread_create(&other, NULL, take_and_free, &h), 0);
    for (unsigned i = 0; i < h.total; i++) {
        hub_slot slot;
        CHECK_OK(hub_pool_alloc(&c.a.host, 1024, &slot)); /* never exhausted: at most 8 + caches */
        *(uint64_t *)(void *)slot.data = slot.ref ^ 0x5555ULL;
        (void)pthread_mutex_lock(&h.lock);
        while (h.count == QUEUE) (void)pthread_cond_wait(&h.changed, &h.lock);
        h.queue[(h.first + h.count) % QUEUE] = slot;
        h.count++;
        (void)pthread_cond_signal(&h.changed);
        (void)pthread_mutex_unlock(&h.lock);
    }
    CHECK_EQ(pthread_join(other, NULL), 0);
    (void)pthread_mutex_destroy(&h.lock);
    (void)pthread_cond_destroy(&h.changed);
    crowd_close(&c);
}

/* ---- forks ----------------------------------------------------------------------------------- */

typedef struct claimer {
    crowd *c;
    hub_a32 stop;
} claimer;

/* A new pool again and again: each claims its lanes for this thread. */
static void use_new_pool(arena *a, uint32_t peer) {
    hub_pool pool;
    hub_slot slot;
    arena_pool(a, &pool, peer);
    CHECK_OK(hub_pool_alloc(&pool, 1024, &slot));
    CHECK_OK(hub_pool_free(&pool, slot.ref, slot.gen));
    hub_pool_flush(&pool);
    hub_pool_fini(&pool);
}

static void *claim_lanes(void *argument) {
    claimer *m = argument;
    while (!hub_load_acquire_32(&m->stop)) use_new_pool(&m->c->a, 2);
    return NULL;
}

static int claim_in_child(void *argument) {
    crowd *c = argument;
    (void)alarm(20); /* ends it where a lock was inherited taken */
    use_new_pool(&c->a, 3);
    return 0;
}

/* A child may open a pool of its own (multiprocessing forks peers): no lock of a thread that it
 * does not have may stop it. */
static void forked_while_others_claim(void) {
    crowd c;
    claimer m;
    pthread_t threads[2];
    crowd_open(&c, 200, 0);
    memset(&m, 0, sizeof m);
    m.c = &c;
    for (int i = 0; i < 2; i++) CHECK_EQ(pthread_create(&threads[i], NULL, claim_lanes, &m), 0);
    for (unsigned i = 0; i < test_rounds(400); i++) child_run(claim_in_child, &c);
    hub_store_release_32(&m.stop, 1);
    for (int i = 0; i < 2; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    crowd_close(&c);
}

int main(void) {
    test_begin(120);
    RUN(threads_share_a_pool);
    RUN(two_pools_and_too_few_slots);
    RUN(threads_come_and_go);
    RUN(allocated_here_freed_there);
    RUN(forked_while_others_claim);
    return test_end();
}
