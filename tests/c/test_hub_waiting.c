/* test_hub_waiting.c - waiting for slots, messages and room: served by another process, timed out,
 * interrupted, closed; and the same for an event loop, by descriptor. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "stage.h"

#define MS 1000000LL

/* A hub of a single slot: whoever has it keeps all others waiting. */
static hub_config config_single(uint32_t slots) {
    hub_config config = config_of_one(4096, slots);
    config.max_peers = 16;
    config.ring_capacity = 16;
    return config;
}

/* ---- an exhausted pool ----------------------------------------------------------------------- */

/* Takes the one slot, says so with an empty message, frees it when told by one. */
static int hold_until_told(peer_side *me) {
    hub_slot slot;
    hub_frame frame;
    for (;;) {
        CHECK_OK(hub_alloc(me->transport, 4096, soon(), &slot));
        send_bytes(me->transport, NULL, 0, 1);
        receive(me->transport, &frame);
        CHECK_OK(hub_slot_free(me->session, &slot));
        if (frame.message.message_id == 0) return 0;
        receive(me->transport, &frame);
    }
}

static void *free_when_host_waits(void *argument) {
    peer *p = argument;
    wait_pool_waiter(hub_link_session(p->link), 0);
    send_bytes(p->transport, NULL, 0, 1); /* frees */
    return NULL;
}

static void host_waits_for_a_peers_free(void) {
    hub_config config = config_single(1);
    hub_session *host = host_open(&config);
    peer p;
    hub_frame frame;
    hub_slot slot;
    peer_start(host, &p, true, hold_until_told, NULL);
    for (unsigned i = 0; i < test_rounds(300); i++) {
        pthread_t helper;
        receive(p.transport, &frame); /* it has the slot */
        CHECK_RC(hub_alloc(p.transport, 100, HUB_NOW, &slot), HUB_EEXHAUSTED);
        CHECK_EQ(pthread_create(&helper, NULL, free_when_host_waits, &p), 0);
        CHECK_OK(hub_alloc(p.transport, 100, soon(), &slot));
        CHECK_EQ(pthread_join(helper, NULL), 0);
        CHECK_OK(hub_slot_free(host, &slot));
        send_bytes(p.transport, NULL, 0, 2); /* again */
    }
    receive(p.transport, &frame);
    hub_inspection *look = malloc(sizeof *look);
    CHECK_OK(hub_inspect(hub_session_fd(host), look, NULL));
    CHECK_EQ(look->waiters, 0); /* who waited has cleared its bit */
    free(look);
    int64_t deadline = hub_clock_ns() + 20 * MS;
    CHECK_RC(hub_alloc(p.transport, 100, deadline, &slot), HUB_ETIMEDOUT);
    CHECK(hub_clock_ns() >= deadline);
    send_bytes(p.transport, NULL, 0, 0);
    peer_join(host, &p);
    host_close(host);
}

static int allocate_once(peer_side *me) {
    hub_slot slot;
    CHECK_OK(hub_alloc(me->transport, 1, soon(), &slot));
    slot.data[0] = 1;
    CHECK_OK(hub_slot_free(me->session, &slot));
    return 0;
}

/* Eight processes wait for one slot that is freed once: each is served in turn, by the others. */
static void eight_waiters_are_all_served(void) {
    hub_config config = config_single(1);
    for (unsigned round = 0; round < test_rounds(20); round++) {
        hub_session *host = host_open(&config);
        hub_transport *t;
        hub_slot slot;
        peer peers[8];
        CHECK_OK(hub_transport_open_host(host, "all", &t, NULL));
        CHECK_OK(hub_alloc(t, 4096, HUB_NOW, &slot));
        for (int i = 0; i < 8; i++) peer_start(host, &peers[i], false, allocate_once, NULL);
        for (int i = 0; i < 8; i++) wait_pool_waiter(host, peers[i].id);
        CHECK_OK(hub_slot_free(host, &slot));
        for (int i = 0; i < 8; i++) peer_join(host, &peers[i]);
        hub_transport_unref(t);
        host_close(host);
    }
}

/* A peer waits that another peer frees: through the host's service thread, the host's program is
 * not involved (it waits in waitpid). */
static int free_after_a_while(peer_side *me) {
    hub_slot slot;
    gate *gates = me->argument;
    CHECK_OK(hub_alloc(me->transport, 4096, soon(), &slot));
    gate_open(&gates[0]);
    gate_wait(&gates[1]);
    CHECK_OK(hub_slot_free(me->session, &slot));
    gate_wait(&gates[1]);
    return 0;
}

static void one_peer_frees_for_another(void) {
    hub_config config = config_single(1);
    hub_session *host = host_open(&config);
    peer holder, waiter;
    gate gates[2];
    gate_init(&gates[0]);
    gate_init(&gates[1]);
    peer_start(host, &holder, true, free_after_a_while, gates);
    gate_wait(&gates[0]);
    peer_start(host, &waiter, true, allocate_once, NULL);
    wait_pool_waiter(host, waiter.id);
    gate_open(&gates[1]);
    child_ok(waiter.pid);
    gate_open(&gates[1]);
    child_ok(holder.pid);
    peer_wait_free(host, waiter.id);
    peer_wait_free(host, holder.id);
    peer_drop(&waiter);
    peer_drop(&holder);
    gate_fini(&gates[0]);
    gate_fini(&gates[1]);
    host_close(host);
}

/* The holder dies: its slot goes to who waits, host or peer. */
static int hold_for_ever(peer_side *me) {
    hub_slot slot;
    CHECK_OK(hub_alloc(me->transport, 4096, soon(), &slot));
    send_bytes(me->transport, NULL, 0, 1);
    CHECK_OK(hub_recv(me->transport, malloc(sizeof(hub_frame)), soon()));
    return 0;
}

static void a_death_serves_waiters(void) {
    hub_config config = config_single(1);
    hub_session *host = host_open(&config);
    for (int i = 0; i < 10; i++) {
        peer holder, waiter;
        hub_frame frame;
        peer_start(host, &holder, true, hold_for_ever, NULL);
        receive(holder.transport, &frame);
        peer_start(host, &waiter, true, allocate_once, NULL);
        wait_pool_waiter(host, waiter.id);
        child_kill(holder.pid);
        peer_join(host, &waiter);
        peer_wait_free(host, holder.id);
        peer_drop(&holder);
    }
    host_close(host);
}

/* ---- signals, close -------------------------------------------------------------------------- */

static void nothing(int signal_number) { (void)signal_number; }

typedef struct waiting {
    hub_transport *transport;
    int kind; /* 0 recv, 1 alloc, 2 send */
    int rc;
    pthread_t thread;
    hub_a32 ended;
} waiting;

static void *wait_for_it(void *argument) {
    waiting *w = argument;
    hub_slot slot;
    hub_message m = message_of(1);
    hub_frame *frame = malloc(sizeof *frame);
    if (w->kind == 0) w->rc = hub_recv(w->transport, frame, HUB_FOREVER);
    if (w->kind == 1) w->rc = hub_alloc(w->transport, 4096, HUB_FOREVER, &slot);
    if (w->kind == 2) w->rc = hub_send(w->transport, HUB_TO_DEFAULT, &m, "", 0, HUB_FOREVER);
    free(frame);
    hub_store_release_32(&w->ended, 1);
    return NULL;
}

static int stay(peer_side *me) {
    gate_wait(me->argument);
    return 0;
}

typedef struct blocked {
    hub_session *host;
    peer p;
    gate go;
    hub_slot slot;
    waiting all[3];
} blocked;

/* A peer that does nothing, a full ring, an empty pool, and three threads that wait for each. */
static void blocked_open(blocked *b) {
    hub_config config = config_single(1);
    config.spin_ns = 0;
    hub_message m = message_of(0);
    gate_init(&b->go);
    b->host = host_open(&config);
    peer_start(b->host, &b->p, true, stay, &b->go);
    peer_wait_active(b->host, &b->p);
    CHECK_OK(hub_alloc(b->p.transport, 4096, HUB_NOW, &b->slot));
    while (hub_send(b->p.transport, HUB_TO_DEFAULT, &m, "", 0, HUB_NOW) == 0) {}
    for (int i = 0; i < 3; i++) {
        b->all[i].transport = b->p.transport;
        b->all[i].kind = i;
        hub_store_relaxed_32(&b->all[i].ended, 0);
        CHECK_EQ(pthread_create(&b->all[i].thread, NULL, wait_for_it, &b->all[i]), 0);
    }
    wait_ring_asleep(b->host, 2 * b->p.id);
    wait_ring_wanted(b->host, 2 * b->p.id + 1);
    wait_pool_waiter(b->host, 0);
}

static void blocked_close(blocked *b) {
    CHECK_OK(hub_slot_free(b->host, &b->slot));
    gate_open(&b->go);
    peer_join(b->host, &b->p);
    gate_fini(&b->go);
    host_close(b->host);
}

static void signals_interrupt_each_wait(void) {
    struct sigaction action;
    blocked b;
    memset(&action, 0, sizeof action);
    action.sa_handler = nothing;
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    blocked_open(&b);
    for (int i = 0; i < 3; i++) {
        while (!hub_load_acquire_32(&b.all[i].ended)) {
            CHECK_EQ(pthread_kill(b.all[i].thread, SIGUSR1), 0);
            test_pause();
        }
        CHECK_EQ(pthread_join(b.all[i].thread, NULL), 0);
        CHECK_RC(b.all[i].rc, HUB_EINTR);
    }
    blocked_close(&b);
}

static void close_wakes_each_wait(void) {
    blocked b;
    blocked_open(&b);
    hub_transport_close(b.p.transport);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pthread_join(b.all[i].thread, NULL), 0);
        CHECK_RC(b.all[i].rc, HUB_ECLOSED);
    }
    hub_slot slot;
    CHECK_RC(hub_alloc(b.p.transport, 1, HUB_FOREVER, &slot), HUB_ECLOSED);
    blocked_close(&b);
}

static void host_close_wakes_each_wait(void) {
    blocked b;
    blocked_open(&b);
    hub_session_close(b.host);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pthread_join(b.all[i].thread, NULL), 0);
        CHECK_RC(b.all[i].rc, HUB_ECLOSED);
    }
    CHECK_OK(hub_slot_free(b.host, &b.slot)); /* what one holds can be freed to the end */
    gate_open(&b.go);
    child_ok(b.p.pid);
    peer_drop(&b.p);
    gate_fini(&b.go);
    hub_session_unref(b.host);
}

/* Spinning is a part of the wait, not an addition to it. At a second of spinning for each of these
 * the watchdog would come first. */
static void spinning_ends_at_the_deadline(void) {
    hub_config config = config_single(1);
    config.spin_ns = 1000 * MS;
    hub_session *host = host_open(&config);
    peer p;
    gate go;
    hub_frame frame;
    hub_message m = message_of(0);
    hub_buffer empty = {"", 0};
    hub_slot slot;
    size_t sent;
    gate_init(&go);
    peer_start(host, &p, true, stay, &go);
    while (hub_send(p.transport, HUB_TO_DEFAULT, &m, "", 0, HUB_NOW) == 0) {}
    CHECK_OK(hub_alloc(p.transport, 4096, HUB_NOW, &slot));
    for (int i = 0; i < 70; i++) {
        CHECK_RC(hub_recv(p.transport, &frame, hub_clock_ns() + MS), HUB_ETIMEDOUT);
        CHECK_RC(hub_send_slot(p.transport, HUB_TO_DEFAULT, &m, &slot, 1, hub_clock_ns() + MS),
                 HUB_ETIMEDOUT);
        CHECK_RC(
            hub_send_many(p.transport, HUB_TO_DEFAULT, &m, &empty, 1, hub_clock_ns() + MS, &sent),
            HUB_ETIMEDOUT);
    }
    CHECK_OK(hub_slot_free(host, &slot));
    gate_open(&go);
    peer_join(host, &p);
    gate_fini(&go);
    host_close(host);
}

/* ---- by descriptor --------------------------------------------------------------------------- */

static void wait_readable(hub_transport *t) {
    struct pollfd one = {hub_transport_fd(t), POLLIN, 0};
    int got;
    do {
        got = poll(&one, 1, 20000);
    } while (got < 0 && errno == EINTR);
    if (got != 1) FAIL("the descriptor did not become readable");
    hub_drain(t);
}

static int stream(peer_side *me) {
    unsigned total = *(unsigned *)me->argument;
    test_random r = {1};
    for (uint64_t id = 0; id < total; id++) {
        for (uint64_t n = random_below(&r, 4) ? 0 : random_below(&r, 20000); n > 0; n--)
            hub_pause();
        send_pattern(me->transport, random_below(&r, 6) ? id % 100 : 2000, id);
    }
    return 0;
}

static void event_loop_receives(void) {
    static const int64_t spins[] = {0, -1};
    for (int i = 0; i < 2; i++) {
        hub_config config = config_single(4);
        config.spin_ns = spins[i];
        hub_session *host = host_open(&config);
        peer p;
        hub_frame frame;
        unsigned total = test_rounds(4000);
        peer_start(host, &p, true, stream, &total);
        for (uint64_t next = 0;;) {
            int rc = hub_poll_recv(p.transport, &frame, -1);
            if (rc == HUB_EAGAIN) {
                wait_readable(p.transport);
                continue;
            }
            if (rc == HUB_EPEERGONE) {
                CHECK_EQ(next, total);
                break;
            }
            CHECK_OK(rc);
            CHECK_EQ(frame.message.message_id, next++);
            check_pattern(host, &frame);
            frame_free(host, &frame);
        }
        peer_join(host, &p);
        host_close(host);
    }
}

static int send_three(peer_side *me) {
    for (uint64_t id = 0; id < 3; id++) send_pattern(me->transport, 10, id);
    gate_wait(me->argument);
    return 0;
}

/* A receive that leaves messages makes the descriptor readable, however they came. */
static void what_is_left_is_readable(void) {
    hub_config config = config_single(1);
    hub_session *host = host_open(&config);
    peer p;
    gate go;
    hub_frame frame;
    gate_init(&go);
    peer_start(host, &p, true, send_three, &go);
    int fd = hub_transport_fd(p.transport);
    hub_inspection *look = malloc(sizeof *look);
    do {
        test_pause();
        CHECK_OK(hub_inspect(hub_session_fd(host), look, NULL));
    } while (look->rings[2 * p.id].tail - look->rings[2 * p.id].head < 3);
    free(look);
    for (uint64_t id = 0; id < 3; id++) {
        hub_drain(p.transport);
        CHECK_OK(hub_recv(p.transport, &frame, HUB_NOW));
        CHECK_EQ(frame.message.message_id, id);
        struct pollfd one = {fd, POLLIN, 0};
        if (id < 2) CHECK_EQ(poll(&one, 1, 0), 1);
    }
    CHECK_RC(hub_recv(p.transport, &frame, HUB_NOW), HUB_EAGAIN);
    gate_open(&go);
    peer_join(host, &p);
    gate_fini(&go);
    host_close(host);
}

/* fileno() and the plain non-blocking calls: an empty one arms, readable means try again. */
static void plain_receives_by_descriptor(void) {
    hub_config config = config_single(4);
    hub_session *host = host_open(&config);
    peer p;
    hub_frame frames[8];
    unsigned total = test_rounds(4000);
    uint64_t next = 0;
    peer_start(host, &p, true, stream, &total);
    (void)hub_transport_fd(p.transport);
    for (bool gone = false; !gone;) {
        wait_readable(p.transport);
        for (;;) {
            int rc = next % 2 ? hub_recv_many(p.transport, frames, 8)
                              : hub_recv(p.transport, frames, HUB_NOW);
            int got = rc > 0 ? rc : rc == 0 ? 1 : 0;
            gone = rc == HUB_EPEERGONE;
            if (rc < 0) CHECK(rc == HUB_EAGAIN || gone);
            for (int i = 0; i < got; i++) {
                CHECK_EQ(frames[i].message.message_id, next++);
                frame_free(host, &frames[i]);
            }
            if (rc < 0) break;
        }
    }
    CHECK_EQ(next, total);
    peer_join(host, &p);
    host_close(host);
}

static int swallow(peer_side *me) {
    hub_frame frame;
    test_random r = {3};
    for (uint64_t id = 0;; id++) {
        receive(me->transport, &frame);
        CHECK_EQ(frame.message.message_id, id);
        check_pattern(me->session, &frame);
        for (uint64_t n = random_below(&r, 20000); n > 0; n--) hub_pause();
        frame_free(me->session, &frame);
        if (frame.message.flags) return 0;
    }
}

/* Sends that find the ring full or the pool empty, armed and tried again when readable. */
static void event_loop_sends(void) {
    hub_config config = config_single(2);
    hub_session *host = host_open(&config);
    peer p;
    unsigned total = test_rounds(3000), armed[2] = {0, 0};
    peer_start(host, &p, true, swallow, NULL);
    for (uint64_t id = 0; id < total; id++) {
        unsigned char bytes[500];
        uint64_t length = id % 3 ? id % 241 : 500;
        hub_message m = message_of(id);
        pattern_write(bytes, length, id);
        m.flags = id == total - 1;
        for (;;) {
            int rc = hub_send(p.transport, HUB_TO_DEFAULT, &m, bytes, length, HUB_NOW);
            if (rc == 0) break;
            int kind = rc == HUB_ERINGFULL ? HUB_POLL_SEND : HUB_POLL_ALLOC;
            CHECK(rc == HUB_ERINGFULL || rc == HUB_EEXHAUSTED);
            CHECK_OK(hub_poll_arm(p.transport, HUB_TO_DEFAULT, kind, length));
            armed[kind == HUB_POLL_ALLOC]++;
            rc = hub_send(p.transport, HUB_TO_DEFAULT, &m, bytes, length, HUB_NOW);
            if (rc < 0) wait_readable(p.transport);
            hub_poll_cancel(p.transport, kind);
            if (rc == 0) break;
        }
    }
    CHECK_GE(armed[0] + armed[1], 10);
    peer_join(host, &p);
    host_close(host);
}

/* Cancelled and closed waits leave no bit behind that would be rung for ever. */
static void cancelled_polls_leave_nothing(void) {
    hub_config config = config_single(1);
    hub_session *host = host_open(&config);
    hub_transport *t;
    hub_slot slot;
    hub_inspection *look = malloc(sizeof *look);
    CHECK_OK(hub_transport_open_host(host, "all", &t, NULL));
    CHECK_OK(hub_alloc(t, 4096, HUB_NOW, &slot));
    for (int i = 0; i < 3; i++) {
        CHECK_OK(hub_poll_arm(t, HUB_TO_DEFAULT, HUB_POLL_ALLOC, 4096));
        CHECK_OK(hub_poll_arm(t, HUB_TO_DEFAULT, HUB_POLL_ALLOC, 4096));
        CHECK_OK(hub_inspect(hub_session_fd(host), look, NULL));
        CHECK_EQ(look->waiters, 1);
        if (i < 2) hub_poll_cancel(t, HUB_POLL_ALLOC);
        else hub_transport_close(t);
        CHECK_OK(hub_inspect(hub_session_fd(host), look, NULL));
        CHECK_EQ(look->waiters, 0);
    }
    free(look);
    CHECK_OK(hub_slot_free(host, &slot));
    hub_transport_unref(t);
    host_close(host);
}

int main(void) {
    test_begin(150);
    unsigned before = open_descriptors();
    RUN(host_waits_for_a_peers_free);
    RUN(one_peer_frees_for_another);
    RUN(eight_waiters_are_all_served);
    RUN(a_death_serves_waiters);
    RUN(signals_interrupt_each_wait);
    RUN(close_wakes_each_wait);
    RUN(host_close_wakes_each_wait);
    RUN(spinning_ends_at_the_deadline);
    RUN(event_loop_receives);
    RUN(what_is_left_is_readable);
    RUN(plain_receives_by_descriptor);
    RUN(event_loop_sends);
    RUN(cancelled_polls_leave_nothing);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
