/* test_waiter_races.c - no wake-up is lost between threads, whichever way their steps fall. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "hub.h"
#include "waiter.h"

#define SLEEPERS 8 /* so many that one is always on its way in while the leader leaves */
#define NOTIFIERS 3

typedef struct stage {
    hub_waiter waiter;
    int bell;                  /* rung like a doorbell */
    hub_a64 produced;          /* things made true */
    hub_a64 consumed[SLEEPERS]; /* how many each sleeper has seen */
    uint64_t rounds;
} stage;

static void take_bell(void *context, uint64_t tag, uint32_t events) {
    stage *s = context;
    uint64_t value;
    (void)events;
    CHECK_EQ(tag, 1);
    ssize_t got = read(s->bell, &value, sizeof value);
    (void)got;
}

static void dawdle(test_random *r) {
    for (uint64_t n = random_below(r, 300); n > 0; n--) hub_pause();
}

typedef struct part {
    stage *stage;
    unsigned number;
} part;

static void *sleeping(void *argument) {
    part *p = argument;
    stage *s = p->stage;
    test_random r = {p->number + 1};
    uint64_t seen_things = 0;
    while (seen_things < s->rounds) {
        uint32_t seen = hub_waiter_generation(&s->waiter);
        uint64_t now = hub_load_acquire_64(&s->produced);
        if (now != seen_things) {
            seen_things = now;
            hub_store_release_64(&s->consumed[p->number], now);
            continue;
        }
        dawdle(&r);
        /* For ever: a lost wake-up is a hang, and the watchdog's business. Now and then with a
         * short deadline, so that leaders change. */
        int64_t deadline = random_below(&r, 8) ? HUB_FOREVER : hub_clock_ns() + 20000;
        int rc = hub_waiter_wait(&s->waiter, seen, deadline);
        CHECK(rc == 0 || rc == HUB_ETIMEDOUT);
    }
    return NULL;
}

/* One more thing only when every sleeper has seen the last: each wake-up counts. */
static void *notifying(void *argument) {
    part *p = argument;
    stage *s = p->stage;
    test_random r = {p->number + 100};
    for (;;) {
        uint64_t now = hub_load_acquire_64(&s->produced);
        if (now >= s->rounds) return NULL;
        for (unsigned i = 0; i < SLEEPERS; i++)
            while (hub_load_acquire_64(&s->consumed[i]) < now) {
                struct timespec briefly = {0, 1000};
                (void)nanosleep(&briefly, NULL);
            }
        dawdle(&r);
        if (!hub_cas_acq_rel_64(&s->produced, &now, now + 1)) continue;
        if (random_below(&r, 4) != 0) { /* mostly: who drained has to tell all others */
            uint64_t one = 1;
            CHECK_EQ(write(s->bell, &one, sizeof one), sizeof one);
        } else {
            hub_waiter_notify(&s->waiter);
        }
    }
}

static void play(bool event_loop, uint64_t rounds) {
    stage s;
    part sleepers[SLEEPERS], notifiers[NOTIFIERS];
    pthread_t threads[SLEEPERS + NOTIFIERS];
    memset(&s, 0, sizeof s);
    s.rounds = rounds;
    s.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(s.bell >= 0);
    CHECK_OK(hub_waiter_init(&s.waiter, take_bell, &s));
    CHECK_OK(hub_waiter_add(&s.waiter, s.bell, EPOLLIN, 1));
    /* With an event loop on the same waiter every notify signals its descriptor as well. */
    if (event_loop) hub_store_release_32(&s.waiter.fd_used, 1);
    for (unsigned i = 0; i < SLEEPERS; i++) {
        sleepers[i] = (part){&s, i};
        CHECK_EQ(pthread_create(&threads[i], NULL, sleeping, &sleepers[i]), 0);
    }
    for (unsigned i = 0; i < NOTIFIERS; i++) {
        notifiers[i] = (part){&s, i};
        CHECK_EQ(pthread_create(&threads[SLEEPERS + i], NULL, notifying, &notifiers[i]), 0);
    }
    for (unsigned i = 0; i < SLEEPERS + NOTIFIERS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    hub_waiter_fini(&s.waiter);
    CHECK_EQ(close(s.bell), 0);
}

static void threads_only(void) { play(false, test_rounds(12000)); }
static void beside_an_event_loop(void) { play(true, test_rounds(12000)); }

/* ---- an event loop alone, signalled by threads ----------------------------------------------- */

static void *signalling(void *argument) {
    part *p = argument;
    stage *s = p->stage;
    test_random r = {p->number + 200};
    for (;;) {
        uint64_t now = hub_load_acquire_64(&s->produced);
        if (now >= s->rounds) return NULL;
        if (hub_load_acquire_64(&s->consumed[0]) < now) {
            dawdle(&r);
            /* A second signal for the same thing: what the drain may swallow, the next must not
             * be lost to. */
            hub_waiter_signal(&s->waiter);
            continue;
        }
        if (hub_cas_acq_rel_64(&s->produced, &now, now + 1)) hub_waiter_signal(&s->waiter);
    }
}

static void signals_reach_the_loop(void) {
    stage s;
    part signallers[NOTIFIERS];
    pthread_t threads[NOTIFIERS];
    memset(&s, 0, sizeof s);
    s.rounds = test_rounds(40000);
    s.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK_OK(hub_waiter_init(&s.waiter, take_bell, &s));
    for (unsigned i = 0; i < NOTIFIERS; i++) {
        signallers[i] = (part){&s, i};
        CHECK_EQ(pthread_create(&threads[i], NULL, signalling, &signallers[i]), 0);
    }
    struct pollfd loop = {s.waiter.poll_fd, POLLIN, 0};
    while (hub_load_acquire_64(&s.consumed[0]) < s.rounds) {
        int got = poll(&loop, 1, 10000);
        if (got == 0) FAIL("a signal did not make the descriptor readable");
        hub_waiter_drain(&s.waiter);
        hub_store_release_64(&s.consumed[0], hub_load_acquire_64(&s.produced));
    }
    for (unsigned i = 0; i < NOTIFIERS; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    /* After all of that a single signal must still be seen. */
    hub_waiter_drain(&s.waiter);
    hub_waiter_signal(&s.waiter);
    CHECK_EQ(poll(&loop, 1, 10000), 1);
    hub_waiter_fini(&s.waiter);
    CHECK_EQ(close(s.bell), 0);
}

int main(void) {
    test_begin(120);
    RUN(threads_only);
    RUN(beside_an_event_loop);
    RUN(signals_reach_the_loop);
    return test_end();
}
