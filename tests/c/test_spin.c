/* test_spin.c - spinning before sleeping: bounded, given up when it does not pay, announced to the
 * other processes so that spinners never outnumber the cores, and ended by a close or a death.
 * One process that is a host; rings and the other peers' announcements are written by hand. */
#define _GNU_SOURCE
#include <sched.h>
#include <string.h>

#include "check.h"
#include "stage.h"
#include "transport.h"

#define FORGIVEN 9u /* spins in vain before they become rarer */

typedef struct table {
    hub_session *host;
    hub_link *link;
    hub_transport *transport;
    int peer_fd;
} table;

static void table_open(table *t) {
    hub_fault fault = {0, ""};
    hub_config config = config_tiny();
    t->host = host_open(&config);
    CHECK_OK(hub_host_add_peer(t->host, "never comes", &t->link, &t->peer_fd));
    CHECK_OK_FAULT(hub_transport_open_host_peer(t->host, t->link, NULL, &t->transport, &fault),
                   fault);
}

static void table_close(table *t) {
    hub_transport_unref(t->transport);
    hub_link_unref(t->link);
    host_close(t->host);
}

/* What a spin looks at: true from the `when`-th look on (from 1; 0: never). */
typedef struct looked {
    table *t;
    unsigned looks, when;
    unsigned announced; /* looks at which our byte was set */
    hub_a32 *then_set;  /* at the first look */
} looked;

static bool look(const void *context) {
    looked *l = (looked *)(uintptr_t)context;
    l->looks++;
    l->announced += hub_load_relaxed_8(&hub_session_signals(l->t->host)->spinning[0]) != 0;
    if (l->then_set != NULL) hub_store_relaxed_32(l->then_set, 1);
    return l->when != 0 && l->looks >= l->when;
}

static bool spin(table *t, hub_spin *s, looked *l, bool long_one) {
    l->t = t;
    return hub_spin_until(t->transport, s, look, l, -1, long_one);
}

static void counted_and_announced(void) {
    table t;
    table_open(&t);
    hub_spin s = {0};
    hub_spin_init(&s, 1000000000); /* a second is enough, however busy the machine */
    looked l = {0};
    l.when = 3;
    CHECK(spin(&t, &s, &l, true));
    CHECK_EQ(l.looks, 3);
    CHECK_EQ(l.announced, 3);
    CHECK_EQ(hub_load_relaxed_8(&hub_session_signals(t.host)->spinning[0]), 0);
    CHECK_EQ(hub_load_relaxed_64(&s.spins), 1);
    CHECK_EQ(hub_load_relaxed_64(&s.hits), 1);
    CHECK_EQ(hub_load_relaxed_32(&s.misses), 0);

    hub_spin_init(&s, 1000); /* never there */
    for (unsigned misses = 1; misses <= 3; misses++) {
        l = (looked){0};
        CHECK(!spin(&t, &s, &l, true));
        CHECK_GE(l.looks, 1);
        CHECK_EQ(hub_load_relaxed_32(&s.misses), misses);
        CHECK_EQ(hub_load_relaxed_64(&s.spins), 1 + misses);
        CHECK_EQ(hub_load_relaxed_64(&s.hits), 1);
    }
    hub_spin_init(&s, 1000000000);
    l = (looked){0};
    l.when = 1;
    CHECK(spin(&t, &s, &l, false)); /* a short one: not announced, what it finds is learnt */
    CHECK_EQ(l.announced, 0);
    CHECK_EQ(hub_load_relaxed_32(&s.misses), 0);
    CHECK_EQ(hub_load_relaxed_64(&s.hits), 2);
    hub_spin_init(&s, 0);
    l = (looked){0};
    CHECK(!spin(&t, &s, &l, true));
    CHECK_EQ(l.looks, 0);
    table_close(&t);
}

/* True from a moment on; the look itself may take long, as when the core is another's. */
typedef struct slow_look {
    int64_t from, takes;
} slow_look;

static bool look_slowly(const void *context) {
    const slow_look *l = context;
    int64_t begun = hub_clock_ns();
    if (l->takes > 0)
        while (hub_clock_ns() < begun + l->takes) hub_pause();
    return hub_clock_ns() >= l->from;
}

/* What takes as long as waking up would is worth a spin; what comes after the limit is not. */
static void late_but_within_the_limit(void) {
    table t;
    table_open(&t);
    hub_spin s = {0};
    hub_spin_init(&s, 1000000000);
    slow_look l = {hub_clock_ns() + 600000000, 0};
    CHECK(hub_spin_until(t.transport, &s, look_slowly, &l, -1, true));
    CHECK_EQ(hub_load_relaxed_32(&s.misses), 0);
    CHECK_EQ(hub_load_relaxed_64(&s.hits), 1);
    hub_spin_init(&s, 1000000);
    l = (slow_look){0, 5000000};
    CHECK(hub_spin_until(t.transport, &s, look_slowly, &l, -1, true));
    CHECK_EQ(hub_load_relaxed_32(&s.misses), 1);
    CHECK_EQ(hub_load_relaxed_64(&s.hits), 1);
    table_close(&t);
}

/* After some in vain the next become rarer, down to one in 16; one that pays makes them usual. */
static void rarer_when_in_vain(void) {
    table t;
    table_open(&t);
    hub_spin s = {0};
    hub_spin_init(&s, -1);
    for (unsigned i = 0; i < FORGIVEN; i++) {
        looked l = {0};
        CHECK(!spin(&t, &s, &l, true));
        CHECK_GE(l.looks, 1);
    }
    unsigned spun = 0;
    for (unsigned i = 0; i < 160; i++) {
        looked l = {0};
        CHECK(!spin(&t, &s, &l, true));
        spun += l.looks > 0;
    }
    CHECK_GE(spun, 160 / 16);
    CHECK_LE(spun, 160 / 16 + 4); /* the first of them at one in 2, 4, 8 */
    CHECK_EQ(hub_load_relaxed_32(&s.misses), FORGIVEN + spun);
    looked l = {0};
    l.when = 1;
    CHECK(!spin(&t, &s, &l, false)); /* a short one teaches nothing: not even tried */
    CHECK_EQ(l.looks, 0);
    do { /* found late (the machine is busy) it counts as in vain */
        l = (looked){0};
        l.when = 1;
        (void)spin(&t, &s, &l, true);
    } while (hub_load_relaxed_32(&s.misses) != 0);
    l = (looked){0};
    CHECK(!spin(&t, &s, &l, true));
    CHECK_GE(l.looks, 1);
    table_close(&t);
}

/* One core, counted when first needed: another that spins is one too many, we ourselves are not. */
static void no_more_than_cores(void) {
    table t;
    table_open(&t);
    hub_signals_shm *signals = hub_session_signals(t.host);
    hub_spin s = {0};
    hub_spin_init(&s, 1000);
    for (unsigned peer = 1; peer < t.host->segment.geometry.max_peers; peer++) {
        looked l = {0};
        hub_store_relaxed_8(&signals->spinning[peer], 1);
        CHECK(!spin(&t, &s, &l, true));
        CHECK_EQ(l.looks, 0);
        CHECK_EQ(hub_load_relaxed_8(&signals->spinning[0]), 0);
        hub_store_relaxed_8(&signals->spinning[peer], 0);
    }
    hub_store_relaxed_8(&signals->spinning[0], 1);
    looked l = {0};
    CHECK(!spin(&t, &s, &l, true));
    CHECK_GE(l.looks, 1);
    table_close(&t);
}

/* Looks come 16 at a time; after each such run the end is looked for. */
static void ended_by_close_or_death(void) {
    table t;
    table_open(&t);
    hub_a32 *ends[] = {&t.transport->closed, &t.host->host_gone};
    for (unsigned i = 0; i < 2; i++) {
        hub_spin s = {0};
        looked l = {0};
        hub_spin_init(&s, 1000000000);
        l.then_set = ends[i];
        CHECK(!spin(&t, &s, &l, true));
        CHECK_LE(l.looks, 16);
        hub_store_relaxed_32(ends[i], 0);
    }
    table_close(&t);
}

static void looks_at_the_ring(void) {
    table t;
    table_open(&t);
    hub_transport *tr = t.transport;
    hub_ring_shm *ring = t.link->rx.ring;
    hub_spin_init(&tr->spin, 20000);
    hub_store_relaxed_64(&ring->tail, 5);
    hub_store_relaxed_64(&ring->head, 5);
    CHECK(!hub_spin_for_message(tr, -1, false));
    CHECK(!hub_spin_for_message(tr, -1, true));
    hub_store_relaxed_32(&tr->spin.misses, 0);
    hub_store_relaxed_64(&ring->tail, 6);
    CHECK(!hub_spin_for_message(tr, 0, false)); /* no time at all */
    CHECK(hub_spin_for_message(tr, -1, false));
    CHECK_EQ(hub_load_relaxed_64(&tr->spin.hits), 0); /* seen before a clock was looked at */
    hub_spin_init(&tr->spin, -1);
    hub_store_relaxed_32(&tr->spin.misses, 100);
    CHECK(!hub_spin_for_message(tr, -1, false));
    hub_store_relaxed_64(&ring->tail, 0);
    hub_store_relaxed_64(&ring->head, 0);
    table_close(&t);
}

/* A quarter of the ring is waited for; less is enough in the end if it is what was wanted. */
static void looks_for_room(void) {
    table t;
    table_open(&t);
    hub_transport *tr = t.transport;
    hub_ring_shm *ring = t.link->tx.ring;
    uint32_t capacity = t.link->tx.capacity;
    hub_store_relaxed_64(&ring->tail, capacity + 4);
    hub_store_relaxed_64(&ring->head, 4);
    hub_spin_init(&tr->room_spin, 1000);
    CHECK(!hub_spin_for_room(tr, t.link, 1, -1));
    hub_store_relaxed_64(&ring->head, 5);
    CHECK(hub_spin_for_room(tr, t.link, 1, -1));
    CHECK(!hub_spin_for_room(tr, t.link, 2, -1));
    CHECK_EQ(hub_load_relaxed_64(&tr->room_spin.hits), 0);
    hub_spin_init(&tr->room_spin, 1000000000);
    hub_store_relaxed_64(&ring->head, 4 + capacity / 4);
    CHECK(hub_spin_for_room(tr, t.link, 1, -1));
    CHECK_EQ(hub_load_relaxed_64(&tr->room_spin.hits), 1);
    hub_store_relaxed_64(&ring->tail, 0);
    hub_store_relaxed_64(&ring->head, 0);
    table_close(&t);
}

int main(void) {
    cpu_set_t all, one;
    test_begin(120);
    CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    for (int cpu = 0; CPU_COUNT(&one) == 0 && cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, &one);
    CHECK_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    RUN(counted_and_announced); /* here the cores are counted, once */
    CHECK_EQ(sched_setaffinity(0, sizeof all, &all), 0);
    RUN(late_but_within_the_limit);
    RUN(rarer_when_in_vain);
    RUN(no_more_than_cores);
    RUN(ended_by_close_or_death);
    RUN(looks_at_the_ring);
    RUN(looks_for_room);
    return test_end();
}
