/* test_hub_liars.c - peers that lie faster than the host looks, and about others: it neither spins
 * for ever nor sleeps for ever, and believes of nobody what another has written.
 *
 * The liars are processes that write without a pause; a host that could be held by them would not
 * reach the end of its loop before the watchdog. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service.h"
#include "stage.h"
#include "transport.h"

#define ROUNDS 2000u

/* ---- faster than the host looks -------------------------------------------------------------- */

typedef struct hammer {
    int kind;
    gate begun;
} hammer;
enum { READY, SERVICE, BACKED, DOORBELL };

static int strike(peer_side *me) {
    hammer *h = me->argument;
    hub_session *s = me->session;
    static const char zeros[8192];
    gate_open(&h->begun);
    for (;;) switch (h->kind) {
        case READY:
            hub_store_relaxed_64(&hub_session_signals(s)->ready, UINT64_MAX);
            break;
        case SERVICE:
            for (uint32_t k = 0; k < s->pool.class_count; k++)
                hub_store_relaxed_32(&s->pool.classes[k].shared->in_service, 0);
            break;
        case BACKED:
            for (uint32_t i = 0; i < 2; i++) {
                hub_store_relaxed_32(&s->pool.classes[2].meta[i].backed, 0xFFFFFFFF);
                hub_store_relaxed_32(&s->pool.classes[2].meta[i].backed, 0);
            }
            break;
        default: (void)send(me->transport->link->fd, zeros, sizeof zeros, MSG_DONTWAIT); break;
        }
    return 0;
}

static void host_is_not_held(void) {
    for (int kind = READY; kind <= DOORBELL; kind++) {
        hub_config config = config_tiny();
        config.classes[0].max_slots = 2000; /* room to grow, in several steps */
        hub_session *host = host_open(&config);
        hub_transport *all = NULL;
        peer p;
        hammer h = {kind, {{0, 0}}};
        hub_frame frame;
        hub_slot slot;
        gate_init(&h.begun);
        if (kind == READY) CHECK_OK(hub_transport_open_host(host, "all", &all, NULL));
        peer_start(host, &p, all == NULL, strike, &h);
        hub_transport *t = all != NULL ? all : p.transport;
        gate_wait(&h.begun);
        for (unsigned i = 0; i < ROUNDS; i++) {
            CHECK_RC(hub_recv(t, &frame, HUB_NOW), HUB_EAGAIN);
            if (kind == DOORBELL) {
                CHECK_RC(hub_recv(t, &frame, hub_clock_ns() + 1000), HUB_ETIMEDOUT);
                continue;
            }
            int rc = hub_alloc(t, kind == BACKED ? 100 * KIB : 10, HUB_NOW, &slot);
            CHECK(rc == 0 || rc == HUB_EEXHAUSTED);
            if (rc == 0) (void)hub_slot_free(host, &slot);
            if (i % 16 == 0) CHECK_GE(INT64_MAX, (uint64_t)hub_session_trim(host));
        }
        /* Every sleep of it ends at once: a signal would never find it asleep. */
        if (kind == DOORBELL) CHECK_RC(hub_recv(t, &frame, HUB_FOREVER), HUB_EINTR);
        child_kill(p.pid);
        peer_wait_free(host, p.id);
        peer_drop(&p);
        if (all != NULL) {
            hub_transport_close(all);
            hub_transport_unref(all);
        }
        gate_fini(&h.begun);
        hub_session_close(host);
        hub_session_unref(host);
    }
}

/* Before it has attached: the service thread, which holds the session's lock, reads the doorbell.
 */
static int ring_for_ever(void *argument) {
    static const char zeros[8192];
    int fd = *(int *)argument;
    for (;;) (void)send(fd, zeros, sizeof zeros, MSG_DONTWAIT | MSG_NOSIGNAL);
    return 0;
}

static void service_is_not_held(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_link *link, *other;
    int fd, other_fd;
    CHECK_OK(hub_host_add_peer(host, "rings", &link, &fd));
    pid_t pid = child_start(ring_for_ever, &fd);
    hub_link_close_peer_fd(link);
    for (unsigned i = 0; i < 200; i++) {
        CHECK_OK(hub_host_add_peer(host, "other", &other, &other_fd));
        CHECK_OK(hub_host_remove_peer(host, hub_link_peer_id(other)));
        hub_link_unref(other);
    }
    child_kill(pid);
    peer_wait_free(host, hub_link_peer_id(link));
    hub_link_unref(link);
    host_close(host);
}

/* ---- about others ---------------------------------------------------------------------------- */

/* What anybody can write into a peer's entry, while it works, and while it leaves. */
static void say(hub_session *host, uint32_t id, uint32_t epoch, uint32_t state) {
    hub_store_release_64(&hub_session_peer(host, id)->state, hub_state_make(epoch, state));
    hub_session_ring_bell(host);
}

static int echo_and_hold(peer_side *me) {
    gate *gates = me->argument;
    hub_frame frame, held;
    receive(me->transport, &held); /* a slot, pinned until the end */
    for (int i = 0; i < 2; i++) {
        receive(me->transport, &frame);
        send_bytes(me->transport, frame_data(&frame), frame.length, frame.message.message_id);
        frame_free(me->session, &frame);
    }
    gate_wait(&gates[2]);
    hub_transport_close(me->transport);
    gate_open(&gates[0]);
    gate_wait(&gates[1]);
    check_pattern(me->session, &held); /* nobody else has got it */
    frame_free(me->session, &held);
    return 0;
}

static void others_cannot_make_it_leave(void) {
    static const uint32_t lies[] = {HUB_PEER_LEAVING, HUB_PEER_LEFT};
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    gate gates[3];
    peer p;
    hub_frame frame;
    hub_event event;
    for (int i = 0; i < 3; i++) gate_init(&gates[i]);
    peer_start(host, &p, true, echo_and_hold, gates);
    peer_wait_active(host, &p);
    send_pattern(p.transport, 1 * MIB, 1);
    for (int i = 0; i < 2; i++) {
        say(host, p.id, hub_link_epoch(p.link), lies[i]);
        send_pattern(p.transport, 100, 2 + (uint64_t)i);
        receive(p.transport, &frame);
        check_pattern(host, &frame);
    }
    CHECK_EQ(hub_link_gone(p.link), 0);
    while (hub_host_next_event(host, &event)) CHECK_EQ(event.kind, HUB_EVENT_ATTACHED);
    hub_store_release_64(&hub_session_peer(host, p.id)->state,
                         hub_state_make(hub_link_epoch(p.link), HUB_PEER_ACTIVE));
    gate_open(&gates[2]);
    /* It leaves and holds a slot: no lie frees that. */
    gate_wait(&gates[0]);
    (void)wait_event(host, HUB_EVENT_LEFT, p.id);
    say(host, p.id, hub_link_epoch(p.link), HUB_PEER_LEFT);
    hub_slot slot[2];
    CHECK_OK(hub_alloc(p.transport, 1 * MIB, HUB_NOW, &slot[0]));
    memset(slot[0].data, 0xEE, 1 * MIB);
    int rc = hub_alloc(p.transport, 1 * MIB, hub_clock_ns() + 200000000, &slot[1]);
    CHECK(rc == HUB_EPEERGONE || rc == HUB_ETIMEDOUT);
    CHECK_OK(hub_slot_free(host, &slot[0]));
    say(host, p.id, hub_link_epoch(p.link), HUB_PEER_LEAVING);
    gate_open(&gates[1]);
    peer_join(host, &p);
    for (int i = 0; i < 3; i++) gate_fini(&gates[i]);
    host_close(host);
}

/* The rings of an id that is still to attach: it cannot any more, and everybody is told. */
static void scribbled_before_it_attached(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_transport *t;
    hub_link *link;
    hub_frame frame;
    hub_gone gone;
    int fd;
    CHECK_OK(hub_host_add_peer(host, "late", &link, &fd));
    uint32_t id = hub_link_peer_id(link);
    CHECK_OK(hub_transport_open_host_peer(host, link, "late", &t, NULL));
    hub_store_relaxed_64(&hub_session_ring(host, hub_ring_up(id))->tail, 1ULL << 40);
    CHECK_RC(hub_recv(t, &frame, soon()), HUB_EVIOLATION);
    hub_event event = wait_event(host, HUB_EVENT_VIOLATION, id);
    CHECK(event.detail[0] != 0);
    (void)wait_event(host, HUB_EVENT_CANCELLED, id);
    CHECK_RC(hub_recv(t, &frame, soon()), HUB_EPEERGONE);
    CHECK_EQ(hub_transport_gone(t, &gone), 1);
    CHECK_EQ(gone.never_attached, 1);
    free(gone.ids);
    hub_transport_close(t);
    hub_transport_unref(t);
    hub_link_unref(link);
    host_close(host);
}

/* ---- what the caller may not ask ------------------------------------------------------------- */

static void slots_that_are_not_the_callers(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_transport *t;
    hub_link *link;
    hub_slot slot, other;
    hub_message m = message_of(1);
    int fd;
    CHECK_OK(hub_host_add_peer(host, "none", &link, &fd));
    CHECK_OK(hub_transport_open_host_peer(host, link, "none", &t, NULL));
    CHECK_OK(hub_alloc(t, 20 * KIB, HUB_NOW, &slot));
    uint32_t refs[] = {HUB_REF_NONE, hub_ref_make(7, 0), hub_ref_make(2, 2),
                       hub_ref_make(2, 0x1FFFFFFF), hub_ref_make(0, 0), slot.ref};
    for (unsigned i = 0; i < sizeof refs / sizeof *refs; i++) {
        other = slot;
        other.ref = refs[i];
        other.gen += refs[i] == slot.ref;
        CHECK_RC(hub_slot_back(host, &other, 1 * MIB), HUB_ESTALE);
        CHECK_RC(hub_slot_free(host, &other), HUB_ESTALE);
        CHECK_RC(hub_send_slot(t, HUB_TO_DEFAULT, &m, &other, 10, HUB_NOW), HUB_ESTALE);
    }
    other = slot;
    other.capacity = UINT64_MAX;
    CHECK_RC(hub_slot_back(host, &other, 1 * MIB + 1), HUB_ETOOLARGE);
    /* Five pages are backed: the receiver could not read more. */
    CHECK_RC(hub_send_slot(t, HUB_TO_DEFAULT, &m, &slot, 20 * KIB + 1, HUB_NOW), HUB_EINVAL);
    CHECK_RC(hub_send_slot(t, HUB_TO_DEFAULT, &m, &other, UINT64_MAX, HUB_NOW), HUB_EINVAL);
    CHECK_OK(hub_slot_back(host, &slot, 1 * MIB));
    CHECK_OK(hub_send_slot(t, HUB_TO_DEFAULT, &m, &slot, 1 * MIB, HUB_NOW));
    CHECK_RC(hub_slot_back(host, &slot, 1 * MIB), HUB_ESTALE); /* handed over */
    hub_transport_close(t);
    hub_transport_unref(t);
    hub_link_unref(link);
    host_close(host);
}

/* ---- nobody sleeps for ever ------------------------------------------------------------------ */

typedef struct sleeper {
    int kind;
    gate asleep, go;
} sleeper;
enum { MESSAGE, MESSAGE_FOR_ALL, ROOM, SLOT };

/* The host sleeps, the words that say so are cleared, then what it waits for is there. */
static int take_the_wake_up(peer_side *me) {
    sleeper *w = me->argument;
    hub_session *s = me->session;
    hub_ring_shm *up = hub_session_ring(s, hub_ring_up(s->id));
    hub_ring_shm *down = hub_session_ring(s, hub_ring_down(s->id));
    hub_slot held[2];
    hub_frame frame;
    if (w->kind == SLOT)
        for (int i = 0; i < 2; i++) CHECK_OK(hub_alloc(me->transport, 1 * MIB, HUB_NOW, &held[i]));
    gate_open(&w->asleep);
    gate_wait(&w->go);
    hub_store_relaxed_32(&up->sleeping, 0);
    hub_store_relaxed_32(&down->want, 0);
    hub_store_relaxed_64(&hub_session_signals(s)->pool_waiters, 0);
    hub_fence();
    if (w->kind == ROOM) receive(me->transport, &frame);
    else if (w->kind == SLOT) CHECK_OK(hub_slot_free(s, &held[0]));
    else send_bytes(me->transport, "x", 1, 5);
    hub_store_relaxed_64(&hub_session_signals(s)->ready, 0);
    int rc;
    do {
        rc = hub_recv(me->transport, &frame, soon());
    } while (rc == 0); /* until the host goes: it has been served */
    if (w->kind == SLOT) (void)hub_slot_free(s, &held[1]);
    return rc == HUB_EHOSTGONE ? 0 : 1;
}

typedef struct waiting {
    hub_transport *t;
    uint32_t id;
    int kind, rc;
} waiting;

static void *wait_for_it(void *argument) {
    waiting *w = argument;
    hub_message m = message_of(9);
    hub_frame frame;
    hub_slot slot;
    if (w->kind == ROOM)
        w->rc = hub_send(w->t, w->id, &m, "y", 1, HUB_FOREVER);
    else if (w->kind == SLOT)
        w->rc = hub_alloc(w->t, 1 * MIB, HUB_FOREVER, &slot);
    else
        w->rc = hub_recv(w->t, &frame, HUB_FOREVER);
    if (w->rc == 0 && w->kind == SLOT) (void)hub_slot_free(hub_transport_session(w->t), &slot);
    return NULL;
}

static void host_wakes_all_the_same(void) {
    hub_store_relaxed_32(&hub_service_lookout_off, 0);
    for (int kind = MESSAGE; kind <= SLOT; kind++) {
        hub_config config = config_tiny();
        config.spin_ns = 0;
        hub_session *host = host_open(&config);
        hub_transport *all = NULL;
        sleeper asleep = {kind, {{0, 0}}, {{0, 0}}};
        hub_message m = message_of(1);
        pthread_t thread;
        peer p;
        gate_init(&asleep.asleep);
        gate_init(&asleep.go);
        if (kind == MESSAGE_FOR_ALL) CHECK_OK(hub_transport_open_host(host, "all", &all, NULL));
        peer_start(host, &p, all == NULL, take_the_wake_up, &asleep);
        gate_wait(&asleep.asleep);
        waiting w = {all != NULL ? all : p.transport, p.id, kind, 1};
        while (kind == ROOM && hub_send(w.t, p.id, &m, "", 0, HUB_NOW) == 0) continue;
        CHECK_EQ(pthread_create(&thread, NULL, wait_for_it, &w), 0);
        if (kind == ROOM) wait_ring_wanted(host, hub_ring_down(p.id));
        else if (kind == SLOT) wait_pool_waiter(host, 0);
        else wait_ring_asleep(host, hub_ring_up(p.id));
        gate_open(&asleep.go);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_OK(w.rc);
        peer_drop(&p);
        if (all != NULL) {
            hub_transport_close(all);
            hub_transport_unref(all);
        }
        child_ok(p.pid);
        peer_wait_free(host, p.id);
        gate_fini(&asleep.asleep);
        gate_fini(&asleep.go);
        host_close(host);
    }
}

int main(void) {
    test_begin(250);
    RUN(host_is_not_held);
    RUN(service_is_not_held);
    RUN(others_cannot_make_it_leave);
    RUN(scribbled_before_it_attached);
    RUN(slots_that_are_not_the_callers);
    RUN(host_wakes_all_the_same);
    return test_end();
}
