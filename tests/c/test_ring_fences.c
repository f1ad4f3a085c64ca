/* test_ring_fences.c - the two store-then-load pairs of a ring, as a litmus test: one side publishes
 * and looks whether the other sleeps, the other says that it sleeps and looks for a message. One of
 * them has to see the other, or a wake-up is lost. The same of the room that a sender waits for.
 *
 * line is in their cache while the line that they store to is not. Without the fence the store is in
 * the buffer still when the load is done: one round in some hundred, on x86 too. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "ring.h"

#define CAPACITY 16u
#ifdef HUB_TSAN
#define ROUNDS 20000u
#else
#define ROUNDS 400000u
#endif

typedef struct __attribute__((aligned(128))) padded {
    hub_a32 value;
} padded;

typedef struct sides {
    hub_ring_shm *ring;
    hub_producer producer;
    hub_consumer consumer;
    padded there[2]; /* the round that each side has come to */
    padded seen;     /* what the first one saw of the other */
} sides;

/* Both in the same round: the last look of each costs the other nothing. */
static void meet(sides *s, int me, uint32_t round) {
    hub_store_release_32(&s->there[me].value, round);
    for (uint32_t n = 0; hub_load_acquire_32(&s->there[1 - me].value) < round; n++)
        if (n > 1000) (void)sched_yield(); /* one core for both */
}

/* A moment that varies, so that the two operations meet at all their instructions. */
static void dawdle(uint32_t round, uint32_t salt) {
    for (uint32_t n = (round * 2654435761u + salt) >> 24; n-- > 0;) __asm__ __volatile__("");
}

static void send_one(sides *s) {
    const hub_message message = {.message_id = 7};
    CHECK_OK(hub_ring_room(&s->producer, 1));
    hub_ring_stage(&s->producer, &message, HUB_REF_NONE, 0, "x", 1);
}

static void take_one(sides *s) {
    hub_entry entry;
    unsigned char data[HUB_INLINE_MAX];
    CHECK_OK(hub_ring_next(&s->consumer, &entry, data));
    hub_ring_step(&s->consumer, entry.cells);
}

static void *sender_of_messages(void *argument) {
    sides *s = argument;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        send_one(s);
        meet(s, 0, 4 * round);
        (void)hub_load_relaxed_32(&s->ring->sleeping);
        meet(s, 0, 4 * round + 1);
        dawdle(round, 1);
        hub_ring_publish(&s->producer);
        uint32_t sleeping = hub_load_relaxed_32(&s->ring->sleeping);
        hub_store_relaxed_32(&s->seen.value, sleeping);
        meet(s, 0, 4 * round + 2);
        meet(s, 0, 4 * round + 3);
    }
    return NULL;
}

static void receive_messages(sides *s) {
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        hub_store_relaxed_32(&s->ring->sleeping, 0);
        meet(s, 1, 4 * round);
        (void)hub_ring_nonempty(&s->consumer);
        meet(s, 1, 4 * round + 1);
        dawdle(round, 2);
        (void)hub_exchange_acq_rel_32(&s->ring->sleeping, 1);
        hub_fence_after_rmw();
        bool there = hub_ring_nonempty(&s->consumer);
        meet(s, 1, 4 * round + 2);
        uint32_t sleeping = hub_load_relaxed_32(&s->seen.value);
        if (!there && !sleeping)
            FAIL("round %u: the receiver sleeps, its message is there, and nobody wakes it", round);
        take_one(s);
        hub_ring_commit(&s->consumer);
        meet(s, 1, 4 * round + 3);
    }
}

static void *receiver_of_a_full_ring(void *argument) {
    sides *s = argument;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        take_one(s);
        meet(s, 0, 4 * round);
        (void)hub_load_relaxed_32(&s->ring->want);
        meet(s, 0, 4 * round + 1);
        dawdle(round, 1);
        hub_ring_commit(&s->consumer);
        uint32_t want = hub_load_relaxed_32(&s->ring->want);
        hub_store_relaxed_32(&s->seen.value, want);
        meet(s, 0, 4 * round + 2);
        meet(s, 0, 4 * round + 3);
    }
    return NULL;
}

static void fill_the_ring(sides *s) {
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        hub_store_relaxed_32(&s->ring->want, 0);
        meet(s, 1, 4 * round);
        (void)hub_load_relaxed_64(&s->ring->head);
        meet(s, 1, 4 * round + 1);
        dawdle(round, 2);
        (void)hub_exchange_acq_rel_32(&s->ring->want, 1);
        hub_fence_after_rmw();
        bool room = hub_ring_room(&s->producer, 1) == 0;
        meet(s, 1, 4 * round + 2);
        uint32_t wanted = hub_load_relaxed_32(&s->seen.value);
        if (!room && !wanted)
            FAIL("round %u: the sender sleeps, there is room, and nobody wakes it", round);
        send_one(s);
        hub_ring_publish(&s->producer);
        meet(s, 1, 4 * round + 3);
    }
}

static void sides_run(sides *s, void *(*other)(void *), void (*mine)(sides *)) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, other, s), 0);
    mine(s);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    free(s->ring);
}

static void sides_init(sides *s) {
    memset(s, 0, sizeof *s);
    void *at = NULL;
    CHECK_EQ(posix_memalign(&at, 128, hub_ring_bytes(CAPACITY)), 0);
    memset(at, 0, hub_ring_bytes(CAPACITY));
    s->ring = at;
    s->ring->capacity = CAPACITY;
    hub_producer_init(&s->producer, s->ring, CAPACITY, 0);
    hub_consumer_init(&s->consumer, s->ring, CAPACITY, 0);
}

static void test_a_message_or_a_sleeper_is_seen(void) {
    sides s;
    sides_init(&s);
    sides_run(&s, sender_of_messages, receive_messages);
}

static void test_room_or_a_waiter_is_seen(void) {
    sides s;
    sides_init(&s);
    for (uint32_t i = 0; i < CAPACITY; i++) {
        send_one(&s);
        hub_ring_publish(&s.producer);
    }
    sides_run(&s, receiver_of_a_full_ring, fill_the_ring);
}

int main(void) {
    test_begin(120);
    RUN(test_a_message_or_a_sleeper_is_seen);
    RUN(test_room_or_a_waiter_is_seen);
    return test_end();
}
