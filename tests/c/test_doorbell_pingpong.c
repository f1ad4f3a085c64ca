/* test_doorbell_pingpong.c - rings and doorbells between two processes: 100000 messages to and fro
 * with random pauses on either side and no wake-up lost; and the same for ring space.
 *
 * The protocol is the one of docs/protocol.md, written out:
 *   consumer: drain; sleeping = 1; fence; look at the ring again; sleep
 *   producer: publish; fence; if sleeping: exchange 0, and the winner rings */
#define _GNU_SOURCE
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "doorbell.h"
#include "ring.h"

#define CAPACITY 8u

typedef struct half {
    hub_ring_shm ring;
    unsigned char cells[CAPACITY * HUB_CELL];
} half;

typedef struct table {
    half there, back;
    int ends[2];
    unsigned messages;
    hub_a64 slept, rung;
} table;

static void dawdle(test_random *r) {
    uint64_t kind = random_below(r, 16);
    uint64_t turns = kind == 0 ? 3000 : kind < 4 ? 200 : kind < 8 ? 20 : 0;
    for (uint64_t n = turns > 0 ? random_below(r, turns) : 0; n > 0; n--) hub_pause();
}

static void ring_if(table *t, hub_a32 *word, int fd) {
    if (hub_load_relaxed_32(word) != 0 && hub_exchange_acq_rel_32(word, 0) != 0) {
        CHECK_OK(hub_doorbell_ring(fd));
        (void)hub_fetch_add_acq_rel_64(&t->rung, 1);
    }
}

static void send_number(table *t, hub_producer *p, int fd, uint64_t number, test_random *r) {
    hub_message m = {number, 0, 0, 0, 0};
    CHECK_OK(hub_ring_room(p, 1));
    dawdle(r);
    hub_ring_stage(p, &m, HUB_REF_NONE, 0, NULL, 0);
    hub_ring_publish(p);
    ring_if(t, &p->ring->sleeping, fd);
}

static uint64_t receive_number(table *t, hub_consumer *c, int fd, test_random *r) {
    hub_entry entry;
    unsigned char data[HUB_INLINE_MAX];
    for (;;) {
        int rc = hub_ring_next(c, &entry, data);
        if (rc == 0) break;
        CHECK_RC(rc, HUB_EAGAIN);
        (void)hub_doorbell_drain(fd);
        hub_store_relaxed_32(&c->ring->sleeping, 1);
        hub_fence();
        dawdle(r);
        if (hub_ring_nonempty(c)) continue;
        (void)hub_fetch_add_acq_rel_64(&t->slept, 1);
        CHECK_RC(hub_doorbell_wait(fd, hub_clock_ns() + 20000000000LL), 1); /* 0: lost */
        CHECK_EQ(hub_doorbell_peer_closed(fd), 0);
    }
    hub_ring_step(c, entry.cells);
    hub_ring_commit(c);
    return entry.message.message_id;
}

static int echo(void *argument) {
    table *t = argument;
    hub_producer p;
    hub_consumer c;
    test_random r = {2};
    CHECK_EQ(close(t->ends[0]), 0);
    hub_consumer_init(&c, &t->there.ring, CAPACITY, HUB_START_64);
    hub_producer_init(&p, &t->back.ring, CAPACITY, HUB_START_64);
    for (unsigned i = 0; i < t->messages; i++) {
        uint64_t number = receive_number(t, &c, t->ends[1], &r);
        CHECK_EQ(number, i);
        send_number(t, &p, t->ends[1], number, &r);
    }
    /* The last ring may still be on its way when we go: wait for the other end's hang-up. */
    struct pollfd end = {t->ends[1], POLLRDHUP, 0};
    CHECK_EQ(poll(&end, 1, 20000), 1);
    return 0;
}

static table *table_new(unsigned messages) {
    table *t = shared_memory(sizeof *t);
    hub_a64 *counters[] = {&t->there.ring.tail, &t->there.ring.head, &t->back.ring.tail,
                           &t->back.ring.head};
    for (int i = 0; i < 4; i++) hub_store_relaxed_64(counters[i], HUB_START_64);
    t->messages = messages;
    CHECK_OK(hub_doorbell_pair(t->ends));
    return t;
}

static void to_and_fro(void) {
    table *t = table_new(test_rounds(100000));
    hub_producer p;
    hub_consumer c;
    test_random r = {1};
    pid_t pid = child_start(echo, t);
    CHECK_EQ(close(t->ends[1]), 0);
    hub_producer_init(&p, &t->there.ring, CAPACITY, HUB_START_64);
    hub_consumer_init(&c, &t->back.ring, CAPACITY, HUB_START_64);
    for (unsigned i = 0; i < t->messages; i++) {
        send_number(t, &p, t->ends[0], i, &r);
        CHECK_EQ(receive_number(t, &c, t->ends[0], &r), i);
    }
    CHECK_EQ(close(t->ends[0]), 0);
    child_ok(pid);
    CHECK_GE(hub_load_relaxed_64(&t->slept), t->messages / 100); /* else nothing was tried */
    CHECK_GE(hub_load_relaxed_64(&t->rung), t->messages / 100);
    test_say("    slept %llu times, rung %llu", (unsigned long long)hub_load_relaxed_64(&t->slept),
             (unsigned long long)hub_load_relaxed_64(&t->rung));
}

/* ---- waiting for space: the want word, taken only when that much is free --------------------- */

static int drink(void *argument) {
    table *t = argument;
    hub_consumer c;
    hub_entry entry;
    unsigned char data[HUB_INLINE_MAX];
    test_random r = {3};
    CHECK_EQ(close(t->ends[0]), 0);
    hub_consumer_init(&c, &t->there.ring, CAPACITY, HUB_START_64);
    for (unsigned i = 0; i < t->messages;) {
        int rc = hub_ring_next(&c, &entry, data);
        if (rc == HUB_EAGAIN) {
            hub_pause();
            continue;
        }
        CHECK_OK(rc);
        CHECK_EQ(entry.message.message_id, i);
        dawdle(&r);
        hub_ring_step(&c, entry.cells);
        hub_ring_commit(&c);
        i++;
        uint32_t want = hub_load_relaxed_32(&c.ring->want);
        if (want != 0 && hub_ring_free_cells(&c) >= want) ring_if(t, &c.ring->want, t->ends[1]);
    }
    struct pollfd end = {t->ends[1], POLLRDHUP, 0};
    CHECK_EQ(poll(&end, 1, 20000), 1);
    return 0;
}

static void waiting_for_space(void) {
    table *t = table_new(test_rounds(50000));
    hub_producer p;
    test_random r = {4};
    static const unsigned char zeros[HUB_INLINE_MAX];
    pid_t pid = child_start(drink, t);
    CHECK_EQ(close(t->ends[1]), 0);
    hub_producer_init(&p, &t->there.ring, CAPACITY, HUB_START_64);
    for (unsigned i = 0; i < t->messages; i++) {
        hub_message m = {i, 0, 0, 0, 0};
        uint64_t length = random_below(&r, HUB_INLINE_MAX + 1);
        uint32_t cells = hub_ring_cells(length);
        while (hub_ring_room(&p, cells) == HUB_ERINGFULL) {
            (void)hub_doorbell_drain(t->ends[0]);
            hub_store_relaxed_32(&p.ring->want, cells);
            hub_fence();
            dawdle(&r);
            if (hub_ring_room(&p, cells) == 0) break;
            (void)hub_fetch_add_acq_rel_64(&t->slept, 1);
            CHECK_RC(hub_doorbell_wait(t->ends[0], hub_clock_ns() + 20000000000LL), 1);
        }
        hub_ring_stage(&p, &m, HUB_REF_NONE, 0, zeros, length);
        hub_ring_publish(&p);
    }
    while (hub_load_acquire_64(&t->there.ring.head) != p.tail) test_pause();
    CHECK_EQ(close(t->ends[0]), 0);
    child_ok(pid);
    CHECK_GE(hub_load_relaxed_64(&t->slept), t->messages / 100);
}

int main(void) {
    test_begin(120);
    RUN(to_and_fro);
    RUN(waiting_for_space);
    return test_end();
}
