/* test_hub_threads.c - several threads on one transport, on both sides and in both directions:
 * every message exactly once, in order per sender; closing in the middle; frames freed by others.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "stage.h"

#define SENDERS 3
#define RECEIVERS 3

typedef struct traffic {
    hub_session *session;
    hub_transport *transport;
    uint32_t to;
    unsigned each; /* messages a sender sends */
    hub_a32 left;  /* messages that are still to be received */
    hub_a32 *seen; /* how often, by sender and number */
} traffic;

typedef struct worker {
    traffic *t;
    unsigned number;
    pthread_t thread;
} worker;

static void *sending(void *argument) {
    worker *w = argument;
    traffic *t = w->t;
    test_random r = {w->number + 1};
    unsigned char bytes[2000];
    for (uint64_t i = 0; i < t->each; i++) {
        uint64_t length = random_below(&r, 3) ? random_below(&r, 241) : random_below(&r, 2000);
        hub_message m = message_of((uint64_t)w->number << 32 | i);
        pattern_write(bytes, length, m.message_id);
        int rc;
        if (random_below(&r, 2)) {
            rc = hub_send(t->transport, t->to, &m, bytes, length, soon());
        } else {
            hub_slot slot;
            rc = hub_alloc(t->transport, length, soon(), &slot);
            CHECK_OK(rc);
            memcpy(slot.data, bytes, length);
            rc = hub_send_slot(t->transport, t->to, &m, &slot, length, soon());
        }
        CHECK_OK(rc);
    }
    return NULL;
}

static void *receiving(void *argument) {
    worker *w = argument;
    traffic *t = w->t;
    hub_frame *frame = malloc(sizeof *frame);
    uint64_t last[SENDERS] = {0};
    CHECK(frame != NULL);
    for (;;) {
        /* Claimed first: so that none waits for a message that another has. */
        uint32_t left = hub_load_acquire_32(&t->left);
        do {
            if (left == 0) {
                free(frame);
                return NULL;
            }
        } while (!hub_cas_acq_rel_32(&t->left, &left, left - 1));
        receive(t->transport, frame);
        uint64_t sender = frame->message.message_id >> 32;
        uint64_t number = frame->message.message_id & 0xFFFFFFFF;
        CHECK_REL(sender, <, SENDERS);
        CHECK_REL(number, <, t->each);
        CHECK_EQ(hub_fetch_add_acq_rel_32(&t->seen[sender * t->each + number], 1), 0); /* once */
        CHECK_GE(number + 1, last[sender]); /* never back, as one thread sees it */
        last[sender] = number + 1;
        check_pattern(t->session, frame);
        frame_free(t->session, frame);
    }
}

static void exchange(hub_session *s, hub_transport *transport, uint32_t to, unsigned each) {
    traffic t;
    worker senders[SENDERS], receivers[RECEIVERS];
    memset(&t, 0, sizeof t);
    t.session = s;
    t.transport = transport;
    t.to = to;
    t.each = each;
    t.seen = calloc((size_t)SENDERS * each, sizeof *t.seen);
    CHECK(t.seen != NULL);
    hub_store_relaxed_32(&t.left, SENDERS * each);
    for (unsigned i = 0; i < SENDERS; i++) {
        senders[i] = (worker){&t, i, 0};
        CHECK_EQ(pthread_create(&senders[i].thread, NULL, sending, &senders[i]), 0);
    }
    for (unsigned i = 0; i < RECEIVERS; i++) {
        receivers[i] = (worker){&t, i, 0};
        CHECK_EQ(pthread_create(&receivers[i].thread, NULL, receiving, &receivers[i]), 0);
    }
    for (unsigned i = 0; i < SENDERS; i++) CHECK_EQ(pthread_join(senders[i].thread, NULL), 0);
    for (unsigned i = 0; i < RECEIVERS; i++) CHECK_EQ(pthread_join(receivers[i].thread, NULL), 0);
    for (size_t i = 0; i < (size_t)SENDERS * each; i++)
        CHECK_EQ(hub_load_relaxed_32(&t.seen[i]), 1);
    free(t.seen);
}

static int exchange_back(peer_side *me) {
    hub_frame frame;
    exchange(me->session, me->transport, 0, *(unsigned *)me->argument);
    CHECK_RC(hub_recv(me->transport, &frame, soon()), HUB_EHOSTGONE);
    return 0;
}

static void many_threads_both_ways(void) {
    static const int64_t spins[] = {0, -1};
    for (int i = 0; i < 4; i++) {
        hub_config config = config_tiny();
        config.spin_ns = spins[i % 2];
        hub_session *host = host_open(&config);
        hub_transport *all = NULL;
        peer p;
        unsigned each = test_rounds(1200);
        if (i >= 2) CHECK_OK(hub_transport_open_host(host, "all", &all, NULL));
        peer_start(host, &p, all == NULL, exchange_back, &each);
        exchange(host, all != NULL ? all : p.transport, p.id, each);
        hub_transport_close(all != NULL ? all : p.transport);
        peer_join(host, &p);
        hub_transport_unref(all);
        host_close(host);
    }
}

/* ---- closing while others are inside --------------------------------------------------------- */

static void *until_closed(void *argument) {
    worker *w = argument;
    hub_transport *t = w->t->transport;
    hub_frame *frame = malloc(sizeof *frame);
    test_random r = {w->number + 50};
    for (;;) {
        hub_message m = message_of(1);
        hub_slot slot;
        int rc;
        switch (random_below(&r, 4)) {
        case 0:
            rc = hub_recv(t, frame, random_below(&r, 2) ? HUB_NOW : hub_clock_ns() + 100000);
            if (rc == 0) frame_free(w->t->session, frame);
            break;
        case 1: rc = hub_send(t, HUB_TO_DEFAULT, &m, "abc", 3, HUB_NOW); break;
        case 2:
            rc = hub_alloc(t, 1000, hub_clock_ns() + 100000, &slot);
            if (rc == 0) CHECK_OK(hub_slot_free(w->t->session, &slot));
            break;
        default: {
            hub_transport_stat stat;
            hub_transport_stat_read(t, &stat);
            rc = 0;
        }
        }
        if (rc == HUB_ECLOSED || rc == HUB_EHOSTGONE || rc == HUB_EPEERGONE) break;
        CHECK(rc == 0 || rc == HUB_EAGAIN || rc == HUB_ERINGFULL || rc == HUB_EEXHAUSTED ||
              rc == HUB_ETIMEDOUT);
    }
    free(frame);
    return NULL;
}

static void run_until_closed(hub_session *s, hub_transport *transport, bool close_here) {
    traffic t;
    worker workers[4];
    memset(&t, 0, sizeof t);
    t.session = s;
    t.transport = transport;
    for (unsigned i = 0; i < 4; i++) {
        workers[i] = (worker){&t, i, 0};
        CHECK_EQ(pthread_create(&workers[i].thread, NULL, until_closed, &workers[i]), 0);
    }
    if (close_here) {
        for (int i = 0; i < 20; i++) test_pause();
        hub_transport_close(transport);
    }
    for (unsigned i = 0; i < 4; i++) CHECK_EQ(pthread_join(workers[i].thread, NULL), 0);
}

static int until_the_host_goes(peer_side *me) {
    run_until_closed(me->session, me->transport, *(int *)me->argument == 0);
    return 0;
}

static void closed_by_either_side(void) {
    for (unsigned i = 0; i < test_rounds(30); i++) {
        hub_config config = config_tiny();
        hub_session *host = host_open(&config);
        peer p;
        int host_closes = (int)(i % 2);
        peer_start(host, &p, true, until_the_host_goes, &host_closes);
        (void)wait_event(host, HUB_EVENT_ATTACHED, p.id); /* the state may have passed already */
        run_until_closed(host, p.transport, host_closes);
        peer_join(host, &p);
        host_close(host);
    }
}

/* Peers come and go while threads of the host work on the all-peers transport. */
static int say_something(peer_side *me) {
    for (uint64_t i = 0; i < 20; i++) send_pattern(me->transport, i * 20, i);
    return 0;
}

typedef struct hall {
    hub_session *host;
    hub_transport *transport;
    hub_a32 messages, gone, stop;
} hall;

static void *serve_all(void *argument) {
    hall *h = argument;
    hub_frame *frame = malloc(sizeof *frame);
    hub_gone gone;
    while (!hub_load_acquire_32(&h->stop)) {
        int rc = hub_recv(h->transport, frame, hub_clock_ns() + 20000000);
        if (rc == 0) {
            check_pattern(h->host, frame);
            frame_free(h->host, frame);
            (void)hub_fetch_add_acq_rel_32(&h->messages, 1);
        } else if (rc == HUB_EPEERGONE) {
            if (hub_transport_gone(h->transport, &gone)) {
                free(gone.ids);
                (void)hub_fetch_add_acq_rel_32(&h->gone, 1);
            }
        } else {
            CHECK_RC(rc, HUB_ETIMEDOUT);
        }
    }
    free(frame);
    return NULL;
}

static void peers_come_and_go(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hall h;
    pthread_t threads[3];
    unsigned lives = test_rounds(60);
    memset(&h, 0, sizeof h);
    h.host = host;
    CHECK_OK(hub_transport_open_host(host, "all", &h.transport, NULL));
    for (int i = 0; i < 3; i++) CHECK_EQ(pthread_create(&threads[i], NULL, serve_all, &h), 0);
    for (unsigned i = 0; i < lives; i++) {
        peer p;
        peer_start(host, &p, false, say_something, NULL);
        child_ok(p.pid);
        peer_wait_free(host, p.id);
        hub_link_unref(p.link);
    }
    while (hub_load_acquire_32(&h.gone) < lives) test_pause();
    CHECK_EQ(hub_load_acquire_32(&h.messages), 20 * lives);
    CHECK_EQ(hub_load_acquire_32(&h.gone), lives);
    hub_store_release_32(&h.stop, 1);
    for (int i = 0; i < 3; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);
    hub_transport_close(h.transport);
    hub_transport_unref(h.transport);
    host_close(host);
}

int main(void) {
    test_begin(150);
    unsigned before = open_descriptors();
    RUN(many_threads_both_ways);
    RUN(closed_by_either_side);
    RUN(peers_come_and_go);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
