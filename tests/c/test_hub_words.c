/* test_hub_words.c - the words by which two sides tell each other: who sets which, when, and who
 * takes it away.  Host and peer are one process, so that each step is seen before the next. */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "check.h"
#include "pair.h"

static hub_frame frame;

static int try_recv(hub_transport *t) {
    int rc = hub_recv(t, &frame, HUB_NOW);
    return rc;
}

static void take(hub_transport *t, hub_session *s) {
    CHECK_OK(try_recv(t));
    frame_free(s, &frame);
}

static int send_one(hub_transport *t, uint64_t length) {
    static const char data[2048];
    hub_message message = message_of(7);
    return hub_send(t, HUB_TO_DEFAULT, &message, data, length, HUB_NOW);
}

/* Only a receiver that waits for its descriptor arms, and it does so once; the sender takes the
 * word away and rings, once; while it is not armed nobody rings. */
static void sleeping_is_set_once_and_taken_once(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, false);
    hub_transport *sides[2] = {p.from_host, p.from_peer};
    hub_session *sessions[2] = {p.host, p.peer};
    for (unsigned receiver = 0; receiver < 2; receiver++) {
        hub_transport *in = sides[receiver], *out = sides[1 - receiver];
        hub_a32 *sleeping = receiver == 0 ? &pair_up(&p)->sleeping : &pair_down(&p)->sleeping;
        CHECK_EQ(hub_load_relaxed_32(sleeping), 0);
        CHECK_RC(try_recv(in), HUB_EAGAIN);
        CHECK_EQ(hub_load_relaxed_32(sleeping), 0); /* nobody waits for the descriptor */
        CHECK_OK(send_one(out, 10));
        CHECK_EQ(out->link->tx_rung, 0);
        take(in, sessions[receiver]);
        struct pollfd one = {hub_transport_fd(in), POLLIN, 0};
        CHECK_EQ(poll(&one, 1, 0), 1); /* readable at first: look */
        CHECK_RC(try_recv(in), HUB_EAGAIN);
        CHECK_EQ(hub_load_relaxed_32(sleeping), 1);
        CHECK_EQ(poll(&one, 1, 0), 0);
        for (unsigned n = 0; n < 3; n++) CHECK_OK(send_one(out, 10));
        CHECK_EQ(hub_load_relaxed_32(sleeping), 0);
        CHECK_EQ(out->link->tx_rung, 1);
        CHECK_EQ(poll(&one, 1, 60000), 1);
        for (unsigned n = 0; n < 3; n++) take(in, sessions[receiver]);
        CHECK_RC(try_recv(in), HUB_EAGAIN);
        CHECK_EQ(hub_load_relaxed_32(sleeping), 1);
        CHECK_RC(try_recv(in), HUB_EAGAIN); /* armed still */
        CHECK_EQ(hub_load_relaxed_32(sleeping), 1);
        CHECK_EQ(poll(&one, 1, 0), 0);
        CHECK_OK(send_one(out, 1000)); /* in a slot */
        CHECK_EQ(out->link->tx_rung, 2);
        CHECK_EQ(poll(&one, 1, 60000), 1);
        take(in, sessions[receiver]);
    }
    pair_close(&p);
}

/* What is left in the ring makes the descriptor readable again. */
static void the_rest_is_signalled(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, false);
    struct pollfd one = {hub_transport_fd(p.from_peer), POLLIN, 0};
    CHECK_RC(try_recv(p.from_peer), HUB_EAGAIN);
    CHECK_OK(send_one(p.from_host, 10));
    CHECK_OK(send_one(p.from_host, 10));
    CHECK_EQ(poll(&one, 1, 60000), 1);
    hub_drain(p.from_peer);
    CHECK_EQ(poll(&one, 1, 0), 0);
    take(p.from_peer, p.peer);
    CHECK_EQ(poll(&one, 1, 0), 1);
    hub_drain(p.from_peer);
    take(p.from_peer, p.peer);
    CHECK_EQ(poll(&one, 1, 0), 0);
    pair_close(&p);
}

/* want: what the sender waits for; taken by the receive after which as much is free. */
static void want_is_met_or_stays(void) {
    hub_config config = config_tiny(); /* rings of 16 cells */
    for (unsigned up = 0; up < 2; up++) {
        pair p;
        pair_open(&p, &config, false);
        hub_transport *out = up ? p.from_peer : p.from_host, *in = up ? p.from_host : p.from_peer;
        hub_session *reader = up ? p.host : p.peer;
        hub_a32 *want = up ? &pair_up(&p)->want : &pair_down(&p)->want;
        for (unsigned n = 0; n < 16; n++) CHECK_OK(send_one(out, 10));
        CHECK_RC(send_one(out, 10), HUB_ERINGFULL);
        CHECK_EQ(hub_load_relaxed_32(want), 0);
        CHECK_OK(hub_poll_arm(out, HUB_TO_DEFAULT, HUB_POLL_SEND, 200)); /* five cells */
        CHECK_EQ(hub_load_relaxed_32(want), 5);
        struct pollfd one = {hub_transport_fd(out), POLLIN, 0};
        for (unsigned n = 0; n < 4; n++) {
            take(in, reader);
            CHECK_EQ(hub_load_relaxed_32(want), 5);
            CHECK_EQ(in->link->rx_rung, 0);
        }
        CHECK_EQ(poll(&one, 1, 0), 0);
        take(in, reader);
        CHECK_EQ(hub_load_relaxed_32(want), 0);
        CHECK_EQ(in->link->rx_rung, 1);
        CHECK_EQ(poll(&one, 1, 60000), 1);
        take(in, reader);
        CHECK_EQ(in->link->rx_rung, 1);
        while (try_recv(in) == 0) frame_free(reader, &frame);
        hub_poll_cancel(out, HUB_POLL_SEND);
        pair_close(&p);
    }
}

/* The peer's bit in `ready`: set after a publish where it is clear, taken when the host looks. */
static void ready_is_set_by_peers(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, true);
    hub_a64 *ready = &hub_session_signals(p.host)->ready;
    uint64_t bit = 1ULL << p.id;
    while (try_recv(p.from_host) == 0) continue;
    CHECK_EQ(hub_load_relaxed_64(ready), 0);
    CHECK_OK(send_one(p.from_peer, 10));
    CHECK_EQ(hub_load_relaxed_64(ready), bit);
    hub_store_relaxed_64(ready, bit | 1ULL << 40); /* others' bits stay */
    CHECK_OK(send_one(p.from_peer, 10));
    CHECK_EQ(hub_load_relaxed_64(ready), bit | 1ULL << 40);
    CHECK(hub_transport_nonempty(p.from_host));
    take(p.from_host, p.host);
    CHECK_EQ(hub_load_relaxed_64(ready), 0);
    take(p.from_host, p.host);
    CHECK_RC(try_recv(p.from_host), HUB_EAGAIN);
    CHECK(!hub_transport_nonempty(p.from_host));
    hub_message message = message_of(1);
    CHECK_OK(hub_send(p.from_host, p.id, &message, "x", 1, HUB_NOW));
    CHECK_EQ(hub_load_relaxed_64(ready), 0); /* the host sets nobody's */
    take(p.from_peer, p.peer);
    pair_close(&p);
}

/* What a peer counts it writes into its lane. */
static void lanes_count(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, false);
    hub_lane_shm *lane = pair_lane(&p);
    (void)hub_transport_fd(p.from_host);
    CHECK_RC(try_recv(p.from_host), HUB_EAGAIN); /* armed: the first send rings */
    CHECK_OK(send_one(p.from_peer, 10));
    CHECK_EQ(hub_load_relaxed_64(&lane->rings_rung), 0); /* told with the next send */
    CHECK_OK(send_one(p.from_peer, 1000));
    CHECK_EQ(hub_load_relaxed_64(&lane->rings_rung), 1);
    CHECK_EQ(hub_load_relaxed_64(&lane->sent), 2);
    CHECK_EQ(hub_load_relaxed_64(&lane->bytes_sent), 1010);
    CHECK_OK(send_one(p.from_peer, 10));
    for (unsigned n = 0; n < 3; n++) take(p.from_host, p.host);
    CHECK_OK(send_one(p.from_host, 20));
    CHECK_OK(send_one(p.from_host, 500));
    take(p.from_peer, p.peer);
    take(p.from_peer, p.peer);
    CHECK_EQ(hub_load_relaxed_64(&lane->received), 2);
    CHECK_EQ(hub_load_relaxed_64(&lane->bytes_received), 520);
    CHECK_EQ(hub_load_relaxed_64(&lane->waits), 0);
    for (unsigned n = 0; n < 16; n++) CHECK_OK(send_one(p.from_peer, 0));
    hub_message message = message_of(1);
    CHECK_RC(hub_send(p.from_peer, HUB_TO_DEFAULT, &message, "", 0, hub_clock_ns() + 1000000),
             HUB_ETIMEDOUT);
    CHECK_EQ(hub_load_relaxed_64(&lane->waits), 1);
    CHECK_EQ(hub_load_relaxed_32(&pair_up(&p)->want), 1);
    hub_transport_stat stat;
    hub_transport_stat_read(p.from_peer, &stat);
    CHECK_EQ(stat.sent, 19);
    CHECK_EQ(stat.bytes_sent, 1020);
    CHECK_EQ(stat.received, 2);
    CHECK_EQ(stat.bytes_received, 520);
    CHECK_EQ(stat.waits, 1);
    CHECK_RC(hub_recv(p.from_peer, &frame, hub_clock_ns() + 1000000), HUB_ETIMEDOUT);
    hub_transport_stat_read(p.from_peer, &stat);
    CHECK_EQ(stat.waits, 2);
    CHECK_GE(stat.spins, 1); /* for the message that did not come */
    while (try_recv(p.from_host) == 0) frame_free(p.host, &frame);
    hub_transport_stat_read(p.from_host, &stat);
    CHECK_EQ(stat.received, 19);
    CHECK_EQ(stat.rings_rung, 1); /* the room that was wanted is there */
    pair_close(&p);
}

/* Exhausted is counted for the class that had none. */
static void exhaustion_is_counted(void) {
    hub_config config = config_tiny();
    pair p;
    hub_slot slots[15];
    unsigned count = 0;
    pair_open(&p, &config, false);
    while (hub_alloc(p.from_peer, 100, HUB_NOW, &slots[count]) == 0) count++;
    CHECK_EQ(count, 14); /* 8 of 1 KiB, then 4 and 2 larger ones */
    for (unsigned k = 0; k < 3; k++) {
        uint64_t tries = k == 0 ? 7 : k == 1 ? 3 : 1;
        CHECK_EQ(hub_load_relaxed_64(&pair_lane(&p)->exhausted[k]), tries);
    }
    while (count-- > 0) CHECK_OK(hub_slot_free(p.peer, &slots[count]));
    pair_close(&p);
}

/* The ring was closed by the host between a peer's look and its publish: the slot goes back to its
 * owner, or, if the host was quicker, the send counts. */
static void closed_after_publishing(void) {
    hub_config config = config_tiny();
    pair p;
    hub_slot slot;
    pair_open(&p, &config, false);
    hub_store_release_32(&pair_up(&p)->closed, 1);
    CHECK_OK(hub_alloc(p.from_peer, 600, HUB_NOW, &slot));
    hub_message message = message_of(3);
    CHECK_RC(hub_send_slot(p.from_peer, HUB_TO_DEFAULT, &message, &slot, 600, HUB_NOW),
             HUB_EHOSTGONE);
    CHECK_EQ(hub_pool_owned(&p.host->pool, p.id, 99), 1);
    CHECK_OK(hub_slot_free(p.peer, &slot));
    hub_store_release_32(&pair_up(&p)->closed, 0);
    /* The host does not believe that word of its own ring: a peer can write it. */
    hub_store_release_32(&pair_down(&p)->closed, 1);
    CHECK_OK(send_one(p.from_host, 600));
    hub_store_release_32(&pair_down(&p)->closed, 0);
    take(p.from_peer, p.peer);
    /* The message that was taken back is still in the ring; what it names is not in there. */
    pair_close(&p);
}

/* A process that waits for a slot and frees one itself is not told by the host: it tells itself. */
static void own_waiters_are_told(void) {
    hub_config config = config_tiny();
    hub_slot slot;
    pair p;
    pair_open(&p, &config, false);
    hub_a64 *waiters = &hub_session_signals(p.host)->pool_waiters;
    CHECK_OK(hub_alloc(p.from_peer, 100, HUB_NOW, &slot));
    struct pollfd one = {hub_transport_fd(p.from_peer), POLLIN, 0};
    hub_drain(p.from_peer);
    CHECK_OK(hub_poll_arm(p.from_peer, HUB_TO_DEFAULT, HUB_POLL_ALLOC, 100));
    CHECK_EQ(hub_load_relaxed_64(waiters), 1ULL << p.id);
    hub_session_pool_wait_begin(p.peer); /* a second one of that process */
    hub_session_pool_wait_end(p.peer);
    CHECK_EQ(hub_load_relaxed_64(waiters), 1ULL << p.id);
    CHECK_EQ(poll(&one, 1, 0), 0);
    CHECK_OK(hub_slot_free(p.peer, &slot));
    CHECK_EQ(poll(&one, 1, 60000), 1);
    hub_store_relaxed_64(waiters, 1ULL << p.id | 1ULL << 40);
    hub_poll_cancel(p.from_peer, HUB_POLL_ALLOC);
    CHECK_EQ(hub_load_relaxed_64(waiters), 1ULL << 40);
    hub_poll_cancel(p.from_peer, HUB_POLL_ALLOC); /* nothing to cancel */
    CHECK_EQ(hub_load_relaxed_64(waiters), 1ULL << 40);
    hub_store_relaxed_64(waiters, 0);
    pair_close(&p);
}

/* ---- who listens to whom --------------------------------------------------------------------- */

static bool hears(const hub_transport *t, const hub_link *link) {
    struct epoll_event events[8];
    uint64_t tag = (uint64_t)link->id << 32 | link->epoch;
    int count = epoll_wait(t->waiter.wait_fd, events, 8, 0);
    CHECK(count >= 0);
    for (int i = 0; i < count; i++)
        if (events[i].data.u64 == tag) return true;
    return false;
}

/* Armed before that peer was there: its coming makes the waiter look, and so arm, again. */
static void newcomers_are_listened_to(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, true);
    pair_detach(&p);
    hub_gone gone;
    while (try_recv(p.from_host) == 0) frame_free(p.host, &frame);
    CHECK_EQ(hub_transport_gone(p.from_host, &gone), 1);
    struct pollfd one = {hub_transport_fd(p.from_host), POLLIN, 0};
    do {
        hub_drain(p.from_host);
        CHECK_RC(hub_poll_recv(p.from_host, &frame, 0), HUB_EAGAIN);
    } while (poll(&one, 1, 0) == 1);
    pair_attach(&p);
    CHECK_EQ(poll(&one, 1, 60000), 1);
    hub_drain(p.from_host);
    CHECK_RC(hub_poll_recv(p.from_host, &frame, 0), HUB_EAGAIN);
    CHECK_OK(send_one(p.from_peer, 10));
    CHECK_EQ(poll(&one, 1, 60000), 1);
    CHECK_OK(hub_poll_recv(p.from_host, &frame, 0));
    pair_close(&p);
}

/* An all-peers transport that is opened when the peer is active already. */
static void opened_late_it_listens(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, false);
    hub_transport *own = p.from_host;
    CHECK_OK(hub_transport_open_host(p.host, "late", &p.from_host, NULL));
    CHECK_EQ(p.link->transport == own, 1);
    hub_transport_unref(p.from_host);
    p.from_host = own;
    pair_close(&p);

    memset(&p, 0, sizeof p);
    pair_open_without(&p, &config);
    CHECK_OK(hub_transport_open_host(p.host, "late", &p.from_host, NULL));
    struct pollfd one = {hub_transport_fd(p.from_host), POLLIN, 0};
    do {
        hub_drain(p.from_host);
        CHECK_RC(hub_poll_recv(p.from_host, &frame, 0), HUB_EAGAIN);
    } while (poll(&one, 1, 0) == 1);
    CHECK_OK(send_one(p.from_peer, 10));
    CHECK_EQ(poll(&one, 1, 60000), 1);
    CHECK_OK(hub_poll_recv(p.from_host, &frame, 0));
    pair_close(&p);
}

/* The hang-up was seen before the service thread had told what it means: it tells by itself. */
static void leaving_is_told(void) {
    for (unsigned all = 0; all < 2; all++) {
        hub_config config = config_tiny();
        hub_slot held;
        pair p;
        pair_open(&p, &config, all != 0);
        CHECK_OK(hub_alloc(p.from_peer, 100, HUB_NOW, &held));
        struct pollfd one = {hub_transport_fd(p.from_host), POLLIN, 0};
        CHECK_EQ(pthread_mutex_lock(&p.host->lock), 0);
        hub_transport_close(p.from_peer);
        do { /* the hang-up, and no more of it */
            CHECK_EQ(poll(&one, 1, 60000), 1);
            hub_drain(p.from_host);
            CHECK_RC(hub_poll_recv(p.from_host, &frame, 0), HUB_EAGAIN);
        } while (hears(p.from_host, p.link) || poll(&one, 1, 0) == 1);
        CHECK_EQ(pthread_mutex_unlock(&p.host->lock), 0);
        CHECK_EQ(poll(&one, 1, 60000), 1);
        hub_drain(p.from_host);
        CHECK_RC(hub_poll_recv(p.from_host, &frame, 0), HUB_EPEERGONE);
        CHECK_OK(hub_slot_free(p.peer, &held));
        pair_close(&p);
    }
}

/* A copy of our end, in a child, keeps the description alive: what is gone is not listened to. */
static void the_gone_are_not_listened_to(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, true);
    int copy = dup(p.link->fd);
    CHECK(copy >= 0);
    hub_link *link = hub_link_ref(p.link);
    pair_detach(&p);
    CHECK(!hears(p.from_host, link));
    hub_link_unref(link);
    CHECK_EQ(close(copy), 0);
    hub_transport_unref(p.from_host);
    host_close(p.host);
}

int main(void) {
    test_begin(300);
    RUN(sleeping_is_set_once_and_taken_once);
    RUN(the_rest_is_signalled);
    RUN(want_is_met_or_stays);
    RUN(ready_is_set_by_peers);
    RUN(lanes_count);
    RUN(exhaustion_is_counted);
    RUN(closed_after_publishing);
    RUN(own_waiters_are_told);
    RUN(newcomers_are_listened_to);
    RUN(opened_late_it_listens);
    RUN(leaving_is_told);
    RUN(the_gone_are_not_listened_to);
    return test_end();
}
