/* test_hub_all.c - the transport of all peers at once: fair, with later peers, each death told once
 * and after everything that was published; slots passed on from peer to peer without a copy. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session.h"
#include "stage.h"

#define STOP UINT64_MAX

static hub_transport *open_all(hub_session *host) {
    hub_transport *t;
    hub_fault fault = {0, ""};
    CHECK_OK_FAULT(hub_transport_open_host(host, "all", &t, &fault), fault);
    return t;
}

static void send_to(hub_transport *t, uint32_t to, uint64_t id) {
    unsigned char bytes[8];
    hub_message m = message_of(id);
    pattern_write(bytes, 8, id);
    CHECK_OK(hub_send(t, to, &m, bytes, 8, soon()));
}

/* Echo until STOP; the id comes back. */
static int echo(peer_side *me) {
    hub_frame frame;
    for (;;) {
        receive(me->transport, &frame);
        check_pattern(me->session, &frame);
        if (frame.message.message_id == STOP) return 0;
        if (frame.slot.data != NULL)
            CHECK_OK(
                hub_send_slot(me->transport, 0, &frame.message, &frame.slot, frame.length, soon()));
        else
            CHECK_OK(hub_send(me->transport, 0, &frame.message, frame.inline_data, frame.length,
                              soon()));
    }
}

/* The next news of a death; other frames would be a mistake. */
static hub_gone next_gone(hub_transport *t) {
    hub_frame frame;
    hub_gone gone;
    CHECK_RC(hub_recv(t, &frame, soon()), HUB_EPEERGONE);
    CHECK_EQ(hub_transport_gone(t, &gone), 1);
    return gone;
}

static void any_peer_any_order(void) {
    hub_config config = config_tiny();
    config.max_peers = 64;
    hub_session *host = host_open(&config);
    hub_transport *t = open_all(host);
    peer peers[63];
    unsigned answered[64] = {0};
    hub_frame frame;
    hub_message m = message_of(1);
    CHECK_RC(hub_send(t, 1, &m, "", 0, HUB_NOW), HUB_ENOPEER);
    CHECK_RC(hub_send(t, HUB_TO_DEFAULT, &m, "", 0, HUB_NOW), HUB_ENOPEER);
    CHECK_RC(hub_send(t, 0, &m, "", 0, HUB_NOW), HUB_ENOPEER);
    for (int i = 0; i < 63; i++) {
        peer_start(host, &peers[i], false, echo, NULL);
        send_to(t, peers[i].id, peers[i].id); /* before it has attached */
    }
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 63; i++) {
            receive(t, &frame);
            CHECK_EQ(frame.message.message_id, frame.peer_id);
            answered[frame.peer_id]++;
        }
        for (int i = 0; i < 63; i++) CHECK_EQ(answered[peers[i].id], round + 1);
        for (int i = 0; i < 63 && round < 4; i++) send_to(t, peers[i].id, peers[i].id);
    }
    for (int i = 0; i < 63; i++) send_to(t, peers[i].id, STOP);
    for (int i = 0; i < 63; i++) {
        hub_gone gone = next_gone(t);
        CHECK_EQ(gone.clean, 1);
        free(gone.ids);
    }
    CHECK_RC(hub_recv(t, &frame, HUB_NOW), HUB_EAGAIN);
    for (int i = 0; i < 63; i++) peer_join(host, &peers[i]);
    hub_transport_stat stat;
    hub_transport_stat_read(t, &stat);
    CHECK_EQ(stat.sent, 63 * 6);
    CHECK_EQ(stat.received, 63 * 5);
    hub_transport_unref(t);
    host_close(host);
}

/* ---- fairness -------------------------------------------------------------------------------- */

static int flood(peer_side *me) {
    for (uint64_t i = 0;; i++) {
        hub_message m = message_of(i);
        int rc = hub_send(me->transport, 0, &m, "", 0, soon());
        if (rc == HUB_EHOSTGONE) return 0;
        CHECK_OK(rc);
    }
}

/* One that never stops does not keep the others from being heard. */
static void busy_peer_starves_nobody(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_transport *t = open_all(host);
    peer busy, quiet[3];
    hub_frame frame;
    peer_start(host, &busy, false, flood, NULL);
    for (int i = 0; i < 3; i++) peer_start(host, &quiet[i], false, echo, NULL);
    unsigned heard = 0, noise = 0, answers = 0;
    for (int i = 0; i < 3; i++) send_to(t, quiet[i].id, 1);
    while (heard < test_rounds(300) || noise == 0) { /* and the busy one is heard as well */
        receive(t, &frame);
        if (frame.peer_id == busy.id) {
            noise++;
            continue;
        }
        heard++;
        answers++;
        send_to(t, frame.peer_id, 1);
    }
    CHECK_REL(answers, >, 0);
    hub_session_close(host);
    child_ok(busy.pid);
    for (int i = 0; i < 3; i++) {
        (void)kill(quiet[i].pid, SIGKILL); /* they wait for an answer that does not come */
        (void)child_wait(quiet[i].pid);
        peer_drop(&quiet[i]);
    }
    peer_drop(&busy);
    hub_transport_unref(t);
    hub_session_unref(host);
}

/* ---- deaths ---------------------------------------------------------------------------------- */

static int publish_five_and_die(peer_side *me) {
    for (uint64_t i = 0; i < 5; i++) send_pattern(me->transport, i * 200, i);
    CHECK_EQ(kill(getpid(), SIGKILL), 0);
    return 1;
}

/* Everything it published comes first, then its death, once; the others go on, also a next life. */
static void deaths_are_told_once(void) {
    hub_config config = config_tiny();
    config.max_peers = 3;
    hub_session *host = host_open(&config);
    hub_transport *t = open_all(host);
    peer other;
    hub_frame frame;
    peer_start(host, &other, false, echo, NULL);
    for (unsigned life = 0; life < 20; life++) {
        peer p;
        uint64_t next = 0;
        int rc;
        peer_start(host, &p, false, publish_five_and_die, NULL);
        (void)child_wait(p.pid);
        while ((rc = hub_recv(t, &frame, soon())) == 0) {
            CHECK_EQ(frame.peer_id, p.id);
            CHECK_EQ(frame.message.message_id, next++);
            check_pattern(host, &frame);
            frame_free(host, &frame);
        }
        CHECK_RC(rc, HUB_EPEERGONE);
        CHECK_EQ(next, 5);
        hub_gone gone;
        CHECK_EQ(hub_transport_gone(t, &gone), 1);
        CHECK_EQ(gone.peer_id, p.id);
        CHECK_EQ(gone.epoch, hub_link_epoch(p.link));
        CHECK_EQ(gone.pid, p.pid);
        CHECK_EQ(gone.clean, 0);
        free(gone.ids);
        CHECK_EQ(hub_transport_gone(t, &gone), 0);
        CHECK_RC(hub_recv(t, &frame, HUB_NOW), HUB_EAGAIN);
        peer_wait_free(host, p.id);
        hub_message m = message_of(0);
        CHECK_RC(hub_send(t, p.id, &m, "", 0, HUB_NOW), HUB_ENOPEER);
        CHECK_EQ(hub_transport_epoch(t, p.id), 0);
        CHECK_EQ(hub_transport_epoch(t, other.id), hub_link_epoch(other.link));
        peer_drop(&p);
        send_to(t, other.id, life);
        receive(t, &frame);
        CHECK_EQ(frame.peer_id, other.id);
    }
    send_to(t, other.id, STOP);
    hub_gone gone = next_gone(t);
    CHECK_EQ(gone.clean, 1);
    free(gone.ids);
    peer_join(host, &other);
    hub_transport_unref(t);
    host_close(host);
}

static int wait_for_kill(peer_side *me) {
    (void)me;
    for (;;) (void)pause();
    return 0;
}

static void what_was_never_received_is_listed(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_transport *t = open_all(host);
    peer p;
    peer_start(host, &p, false, wait_for_kill, NULL);
    for (uint64_t i = 0; i < 4; i++) send_to(t, p.id, 50 + i);
    peer_wait_active(host, &p);
    child_kill(p.pid);
    hub_gone gone = next_gone(t);
    CHECK_EQ(gone.undelivered, 4);
    for (uint64_t i = 0; i < 4; i++) CHECK_EQ(gone.ids[i], 50 + i);
    free(gone.ids);
    peer_wait_free(host, p.id);
    peer_drop(&p);
    hub_transport_unref(t);
    host_close(host);
}

/* ---- passing on ------------------------------------------------------------------------------ */

/* What one peer sent reaches another in the very same slot. */
static void passed_on_without_a_copy(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_transport *t = open_all(host);
    peer first, second;
    hub_frame frame, again;
    peer_start(host, &first, false, echo, NULL);
    peer_start(host, &second, false, echo, NULL);
    unsigned char *bytes = malloc(16 * KIB);
    for (uint64_t id = 0; id < test_rounds(500); id++) {
        hub_message m = message_of(id);
        pattern_write(bytes, 16 * KIB, id);
        CHECK_OK(hub_send(t, first.id, &m, bytes, 16 * KIB, soon()));
        receive(t, &frame);
        CHECK_EQ(frame.peer_id, first.id);
        CHECK_OK(hub_send_slot(t, second.id, &frame.message, &frame.slot, frame.length, soon()));
        CHECK_RC(hub_slot_free(host, &frame.slot), HUB_ESTALE); /* moved: no longer ours */
        receive(t, &again);
        CHECK_EQ(again.peer_id, second.id);
        CHECK_EQ(again.slot.ref, frame.slot.ref);
        CHECK_EQ(again.slot.gen, frame.slot.gen);
        check_pattern(host, &again);
        frame_free(host, &again);
    }
    free(bytes);
    send_to(t, first.id, STOP);
    free(next_gone(t).ids);
    send_to(t, second.id, STOP);
    free(next_gone(t).ids);
    peer_join(host, &first);
    peer_join(host, &second);
    hub_transport_unref(t);
    host_close(host);
}

/* ---- who has which peer ---------------------------------------------------------------------- */

static void one_transport_a_peer(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer own, late;
    hub_frame frame;
    hub_fault fault = {0, ""};
    hub_transport *t, *second;
    peer_start(host, &own, true, echo, NULL);
    CHECK_RC(hub_transport_open_host_peer(host, own.link, "x", &second, &fault), HUB_EBUSY);
    t = open_all(host);
    CHECK_RC(hub_transport_open_host(host, "x", &second, &fault), HUB_EBUSY);
    hub_message m = message_of(1);
    CHECK_RC(hub_send(t, own.id, &m, "", 0, HUB_NOW), HUB_ENOPEER); /* it has its own */
    peer_start(host, &late, false, echo, NULL);
    CHECK_RC(hub_transport_open_host_peer(host, late.link, "x", &second, &fault), HUB_EBUSY);
    send_to(own.transport, own.id, 1);
    send_to(t, late.id, 2);
    receive(own.transport, &frame);
    CHECK_EQ(frame.message.message_id, 1);
    receive(t, &frame);
    CHECK_EQ(frame.message.message_id, 2);
    CHECK_RC(hub_recv(t, &frame, HUB_NOW), HUB_EAGAIN);
    send_to(own.transport, own.id, STOP);
    peer_join(host, &own);
    send_to(t, late.id, STOP);
    free(next_gone(t).ids);
    peer_join(host, &late);
    hub_transport_unref(t);
    host_close(host);
}

/* The word that says which rings are ready: cleared by a reclaim, or set and cleared by a peer that
 * lies, between the host's look at it and its exchange. */
static hub_session *flickering;
static hub_a32 enough;

static void *flicker(void *unused) {
    hub_a64 *ready = &hub_session_signals(flickering)->ready;
    while (!hub_load_acquire_32(&enough)) {
        (void)hub_fetch_or_acq_rel_64(ready, 1ULL << 3);
        (void)hub_fetch_and_acq_rel_64(ready, ~(1ULL << 3));
    }
    return unused;
}

static void ready_word_flickers(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_transport *t = open_all(host);
    hub_frame frame;
    pthread_t thread;
    flickering = host;
    CHECK_EQ(pthread_create(&thread, NULL, flicker, NULL), 0);
    for (unsigned i = 0; i < test_rounds(300000); i++)
        CHECK_RC(hub_recv(t, &frame, HUB_NOW), HUB_EAGAIN);
    hub_store_release_32(&enough, 1);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    hub_transport_close(t);
    hub_transport_unref(t);
    host_close(host);
}

int main(void) {
    test_begin(120);
    unsigned before = open_descriptors();
    RUN(any_peer_any_order);
    RUN(busy_peer_starves_nobody);
    RUN(deaths_are_told_once);
    RUN(what_was_never_received_is_listed);
    RUN(passed_on_without_a_copy);
    RUN(one_transport_a_peer);
    RUN(ready_word_flickers);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
