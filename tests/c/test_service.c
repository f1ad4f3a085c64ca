/* test_service.c - the host's service thread, step by step: what it writes into the table of peers,
 * whom it wakes, what it closes and stops listening to at each end of a life, and that an event of
 * one life is never taken for the next one's.  epoll_wait is this program's own, so that something
 * can happen between an event and its handling. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "doorbell.h"
#include "host.h"
#include "pair.h"
#include "service.h"

static hub_session *_Atomic interrupted; /* whose service thread is stopped after its next event */
static void (*then)(hub_session *);

int epoll_wait(int poll_fd, struct epoll_event *events, int most, int timeout) {
    int count = (int)syscall(SYS_epoll_pwait, poll_fd, events, most, timeout, NULL, 8);
    hub_session *s = interrupted;
    if (s != NULL && count > 0 && s->host->poll_fd == poll_fd) {
        interrupted = NULL;
        then(s);
    }
    return count;
}

static hub_frame frame;

static bool readable(int fd, int milliseconds) {
    struct pollfd one = {fd, POLLIN, 0};
    return poll(&one, 1, milliseconds) == 1 && (one.revents & POLLIN) != 0;
}
static bool ended(int fd) {
    struct pollfd one = {fd, POLLRDHUP, 0};
    return poll(&one, 1, 60000) == 1 && (one.revents & (POLLRDHUP | POLLHUP)) != 0;
}
static void lock(const pair *p) { CHECK_EQ(pthread_mutex_lock(&p->host->lock), 0); }
static void unlock(const pair *p) { CHECK_EQ(pthread_mutex_unlock(&p->host->lock), 0); }

static uint64_t word_of(const pair *p, uint32_t id) {
    return hub_load_acquire_64(&hub_session_peer(p->host, id)->state);
}
static void check_state(const pair *p, uint32_t epoch, uint32_t state) {
    CHECK_EQ(word_of(p, p->id), hub_state_make(epoch, state));
}
static void arm(hub_transport *t) {
    int fd = hub_transport_fd(t);
    do {
        hub_drain(t);
        CHECK_RC(hub_poll_recv(t, &frame, 0), HUB_EAGAIN);
    } while (readable(fd, 0));
}
/* Somebody waits for a slot, as the word says. */
static void say_waiting(const pair *p, uint64_t bits) {
    hub_store_relaxed_64(&hub_session_signals(p->host)->pool_waiters, bits);
}
static void drain(int fd) {
    char byte;
    while (recv(fd, &byte, 1, MSG_DONTWAIT) == 1) continue;
}

/* ---- the table ------------------------------------------------------------------------------------- */

static void entries_of_two_lives(void) {
    hub_config config = config_tiny();
    config.max_peers = 2;
    pair p;
    hub_slot held;
    pair_open(&p, &config, false);
    CHECK_EQ(word_of(&p, 0), hub_state_make(0, HUB_PEER_ACTIVE));
    CHECK_EQ(hub_load_relaxed_32(&hub_session_peer(p.host, 0)->pid), getpid());
    uint32_t first = p.link->epoch;
    hub_peer_shm *entry = hub_session_peer(p.host, p.id);
    check_state(&p, first, HUB_PEER_ACTIVE);
    CHECK_EQ(hub_load_relaxed_32(&entry->pid), getpid());
    CHECK_EQ(p.link->peer_fd, -1); /* or our copy would hide its end */
    CHECK_OK(hub_alloc(p.from_peer, 100, HUB_NOW, &held));
    hub_transport_close(p.from_peer);
    check_state(&p, first, HUB_PEER_LEAVING);
    CHECK_OK(hub_slot_free(p.peer, &held));
    pair_detach(&p);
    check_state(&p, first, HUB_PEER_FREE);
    /* What a liar may leave behind. */
    hub_ring_shm *rings[] = {pair_up(&p), pair_down(&p)};
    uint64_t positions[] = {p.host->host->up_positions[p.id], p.host->host->down_positions[p.id]};
    for (unsigned i = 0; i < 2; i++) {
        hub_store_relaxed_64(&rings[i]->head, 12345);
        hub_store_relaxed_64(&rings[i]->tail, 12345);
        hub_store_relaxed_32(&rings[i]->sleeping, 1);
        hub_store_relaxed_32(&rings[i]->want, 9);
        CHECK_EQ(hub_load_relaxed_32(&rings[i]->closed), 1);
    }
    hub_store_relaxed_32(&entry->host_left, 1);
    int fd;
    CHECK_OK(hub_host_add_peer(p.host, "second", &p.link, &fd));
    check_state(&p, first + 1, HUB_PEER_RESERVED);
    CHECK_EQ(hub_load_relaxed_32(&entry->pid), 0);
    CHECK_EQ(hub_load_relaxed_32(&entry->host_left), 0);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(hub_load_relaxed_64(&rings[i]->head), positions[i]);
        CHECK_EQ(hub_load_relaxed_64(&rings[i]->tail), positions[i]);
        CHECK_EQ(hub_load_relaxed_32(&rings[i]->sleeping), 0);
        CHECK_EQ(hub_load_relaxed_32(&rings[i]->want), 0);
        CHECK_EQ(hub_load_relaxed_32(&rings[i]->closed), 0);
    }
    hub_link_unref(p.link);
    host_close(p.host);
}

/* ---- whom it wakes --------------------------------------------------------------------------------- */

static void the_bell_is_relayed(void) {
    hub_config config = config_tiny();
    pair p;
    hub_link *reserved;
    int reserved_fd;
    pair_open(&p, &config, false);
    CHECK_OK(hub_host_add_peer(p.host, "not yet", &reserved, &reserved_fd));
    uint64_t not_yet = 1ULL << hub_link_peer_id(reserved);
    arm(p.from_host);
    drain(p.from_peer->link->fd);
    say_waiting(&p, 1ULL << p.id | not_yet);
    hub_session_ring_bell(p.host);
    CHECK(readable(p.from_peer->link->fd, 60000));
    CHECK(!readable(reserved_fd, 0)); /* it has a greeting to get there, and nothing else */
    CHECK(!readable(hub_transport_fd(p.from_host), 0));
    drain(p.from_peer->link->fd);
    say_waiting(&p, 1);
    hub_session_ring_bell(p.host);
    CHECK(readable(hub_transport_fd(p.from_host), 60000));
    CHECK(!readable(p.from_peer->link->fd, 0));
    say_waiting(&p, 0);
    hub_link_unref(reserved);
    pair_close(&p);
}

/* Two peers; one of them ends, in one way or another, and the other waits for a slot. */
static void after_an_end_all_are_woken(void) {
    for (unsigned way = 0; way < 2; way++) {
        hub_config config = config_tiny();
        pair p, q;
        pair_open(&p, &config, false);
        q = p;
        pair_attach(&q);
        CHECK(q.id != p.id);
        arm(q.from_host);
        arm(p.from_host);
        drain(q.from_peer->link->fd);
        say_waiting(&p, 1ULL << q.id | 1ULL << p.id);
        if (way == 0) {
            pair_detach(&p);
            CHECK_EQ(hub_load_relaxed_64(&hub_session_signals(q.host)->pool_waiters), 1ULL << q.id);
        } else {
            hub_service_violation(p.host, p.link, "tested");
            check_state(&p, p.link->epoch, HUB_PEER_QUARANTINED);
            CHECK(hub_link_gone(p.link));
            CHECK(p.link->alive);
            CHECK(ended(p.from_peer->link->fd)); /* it is told */
            CHECK(readable(hub_transport_fd(p.from_host), 60000));
            CHECK_EQ(hub_load_relaxed_32(&pair_up(&p)->closed), 1);
            CHECK_EQ(hub_load_relaxed_32(&pair_down(&p)->closed), 1);
        }
        CHECK(readable(q.from_peer->link->fd, 60000));
        CHECK(readable(hub_transport_fd(q.from_host), 60000));
        say_waiting(&q, 0);
        if (way == 1) {
            hub_transport_unref(p.from_peer);
            hub_session_close(p.peer);
            hub_session_unref(p.peer);
            hub_transport_unref(p.from_host);
            hub_link_unref(p.link);
            hub_transport_unref(q.from_peer);
            hub_session_close(q.peer);
            hub_session_unref(q.peer);
            hub_transport_unref(q.from_host);
            hub_link_unref(q.link);
            hub_session_close(q.host);
            hub_session_unref(q.host);
        } else {
            pair_close(&q);
        }
    }
}

/* Of the dead one's bits each goes, and nobody else's. */
static void bits_of_the_dead_go(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, false);
    hub_signals_shm *signals = hub_session_signals(p.host);
    uint64_t others = 1ULL << 40 | 1ULL << 41;
    hub_store_relaxed_64(&signals->pool_waiters, others | 1ULL << p.id);
    hub_store_relaxed_64(&signals->ready, others | 1ULL << p.id);
    hub_store_relaxed_8(&signals->spinning[p.id], 1);
    hub_store_relaxed_8(&signals->spinning[41], 1);
    pair_detach(&p);
    CHECK_EQ(hub_load_relaxed_64(&signals->pool_waiters), others);
    CHECK_EQ(hub_load_relaxed_64(&signals->ready), others);
    CHECK_EQ(hub_load_relaxed_8(&signals->spinning[p.id]), 0);
    CHECK_EQ(hub_load_relaxed_8(&signals->spinning[41]), 1);
    hub_store_relaxed_64(&signals->pool_waiters, 0);
    host_close(p.host);
}

/* ---- what it closes --------------------------------------------------------------------------------- */

/* Cancelled, and somebody else has a copy of the peer's end: he sees its end, ours is closed, the id
 * stays taken until he closes it. */
static void cancelled(void) {
    hub_config config = config_tiny();
    config.max_peers = 2;
    pair p;
    int fd;
    memset(&p, 0, sizeof p);
    p.host = host_open(&config);
    CHECK_OK(hub_transport_open_host(p.host, "all", &p.from_host, NULL));
    CHECK_OK(hub_host_add_peer(p.host, "cancelled", &p.link, &fd));
    p.id = hub_link_peer_id(p.link);
    int copy = dup(fd);
    arm(p.from_host);
    CHECK_OK(hub_host_remove_peer(p.host, p.id));
    check_state(&p, p.link->epoch, HUB_PEER_CANCELLED);
    CHECK(ended(copy));
    CHECK_EQ(p.link->peer_fd, -1);
    CHECK_EQ(hub_load_relaxed_32(&pair_up(&p)->closed), 1);
    CHECK_EQ(hub_load_relaxed_32(&pair_down(&p)->closed), 1);
    CHECK(hub_link_gone(p.link) && p.link->never_attached);
    CHECK(readable(hub_transport_fd(p.from_host), 60000));
    CHECK_OK(hub_host_remove_peer(p.host, p.id)); /* again: it is on its way */
    hub_link *next;
    CHECK_RC(hub_host_add_peer(p.host, "too early", &next, &fd), HUB_ELIMIT);
    CHECK_EQ(close(copy), 0);
    peer_wait_free(p.host, p.id);
    lock(&p);
    CHECK_EQ(p.link->fd, -1);
    CHECK_EQ(p.link->pidfd, -1);
    CHECK_EQ(p.link->watch_fd, -1);
    CHECK(p.host->host->links[p.id] == NULL);
    unlock(&p);
    hub_link_unref(p.link);
    hub_transport_unref(p.from_host);
    host_close(p.host);
}

/* It ended before it attached, and a copy of our end is somewhere: nothing of that life is listened
 * to any more, or the thread would never sleep again. */
static void what_ended_is_not_listened_to(void) {
    hub_config config = config_tiny();
    pair p;
    int fd, ready[2];
    struct epoll_event events[8];
    memset(&p, 0, sizeof p);
    p.host = host_open(&config);
    CHECK_OK(hub_host_add_peer(p.host, "never", &p.link, &fd));
    p.id = hub_link_peer_id(p.link);
    CHECK_EQ(pipe(ready), 0);
    CHECK_OK(hub_link_watch(p.link, ready[0])); /* in the place of a process that was started */
    lock(&p); /* the service thread closes them */
    int copies[] = {dup(p.link->fd), dup(p.link->watch_fd)};
    unlock(&p);
    hub_link_close_peer_fd(p.link);
    peer_wait_free(p.host, p.id);
    CHECK_EQ(write(ready[1], "", 1), 1);
    lock(&p);
    CHECK_EQ(p.link->fd, -1);
    CHECK_EQ(p.link->peer_fd, -1);
    CHECK_EQ(p.link->watch_fd, -1);
    CHECK_EQ(epoll_wait(p.host->host->poll_fd, events, 8, 0), 0);
    unlock(&p);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(close(copies[i]), 0);
        CHECK_EQ(close(ready[i]), 0);
    }
    hub_link_unref(p.link);
    host_close(p.host);
}

static bool is_watched(pair *p) {
    lock(p);
    bool watched = p->link->watch_fd >= 0;
    unlock(p);
    return watched;
}

/* The process that was started has ended: our copy of the peer's end goes. */
static void a_started_process_ends(void) {
    hub_config config = config_tiny();
    pair p;
    int fd, ready[2];
    memset(&p, 0, sizeof p);
    p.host = host_open(&config);
    CHECK_OK(hub_host_add_peer(p.host, "a child of it may come", &p.link, &fd));
    p.id = hub_link_peer_id(p.link);
    int copy = dup(fd);
    CHECK_EQ(pipe(ready), 0);
    CHECK_OK(hub_link_watch(p.link, ready[0]));
    CHECK_EQ(close(ready[1]), 0);
    for (int there = 0; there >= 0;) {
        test_pause();
        lock(&p);
        there = p.link->peer_fd;
        unlock(&p);
    }
    check_state(&p, p.link->epoch, HUB_PEER_RESERVED);
    CHECK_EQ(close(copy), 0);
    peer_wait_free(p.host, p.id);
    CHECK_EQ(close(ready[0]), 0);
    /* One that is gone, or not this life's, is not watched. */
    CHECK_EQ(pipe(ready), 0);
    CHECK_OK(hub_link_watch(p.link, ready[0]));
    CHECK(!is_watched(&p));
    hub_link_unref(p.link);
    pair_attach(&p);
    CHECK_OK(hub_link_watch(p.link, ready[0])); /* attached: its own pidfd tells */
    CHECK(!is_watched(&p));
    for (unsigned i = 0; i < 2; i++) CHECK_EQ(close(ready[i]), 0);
    pair_close(&p);
}

/* ---- an event of an earlier life ------------------------------------------------------------------------ */

static hub_link *next_life;
static int next_fd;

static void another_life_begins(hub_session *s) {
    CHECK_OK(hub_host_remove_peer(s, 1));
    CHECK_OK(hub_host_add_peer(s, "next", &next_life, &next_fd));
}

static void events_belong_to_a_life(void) {
    hub_config config = config_tiny();
    config.max_peers = 2;
    pair p;
    int fd;
    memset(&p, 0, sizeof p);
    p.host = host_open(&config);
    CHECK_OK(hub_host_add_peer(p.host, "first", &p.link, &fd));
    p.id = hub_link_peer_id(p.link);
    then = another_life_begins;
    interrupted = p.host;
    hub_link_close_peer_fd(p.link); /* the doorbell hangs up; the thread is stopped there */
    while (interrupted != NULL) test_pause();
    then = NULL;
    hub_session_ring_bell(p.host); /* one more round, and both are through */
    while (readable(p.host->bell_fd, 0)) test_pause();
    lock(&p);
    CHECK(p.host->host->links[1] == next_life);
    CHECK_EQ(next_life->state, HUB_PEER_RESERVED);
    CHECK_EQ(next_life->epoch, p.link->epoch + 1);
    unlock(&p);
    hub_link_unref(p.link);
    hub_link_unref(next_life);
    host_close(p.host);
}

/* ---- closing the hub --------------------------------------------------------------------------------------- */

/* A transport that was opened while the hub was being closed is woken, and told. */
static void closed_under_an_open_transport(void) {
    hub_config config = config_tiny();
    pair p;
    hub_link *reserved;
    int fd;
    pair_open(&p, &config, false);
    CHECK_OK(hub_host_add_peer(p.host, "reserved", &reserved, &fd));
    int copy = dup(fd);
    arm(p.from_host);
    (void)hub_exchange_acq_rel_32(&p.host->closed, 1);
    hub_host_close(p.host);
    CHECK_EQ(hub_load_relaxed_32(&hub_session_header(p.host)->host_closed), 1);
    CHECK(readable(hub_transport_fd(p.from_host), 60000));
    hub_drain(p.from_host);
    CHECK_RC(hub_poll_recv(p.from_host, &frame, 0), HUB_EPEERGONE);
    CHECK(hub_link_gone(p.link) && p.link->clean);
    CHECK_EQ(hub_load_relaxed_32(&pair_up(&p)->closed), 1);
    CHECK_EQ(hub_load_relaxed_32(&pair_down(&p)->closed), 1);
    CHECK_EQ(p.link->fd, -1);
    CHECK_EQ(reserved->peer_fd, -1);
    CHECK_EQ(reserved->fd, -1);
    CHECK(ended(p.from_peer->link->fd));
    CHECK(ended(copy));
    CHECK_EQ(close(copy), 0);
    hub_link_unref(reserved);
    hub_link_unref(p.link);
    hub_transport_unref(p.from_host);
    hub_transport_unref(p.from_peer);
    hub_session_close(p.peer);
    hub_session_unref(p.peer);
    hub_session_unref(p.host);
}

/* ---- the look-out: what a liar has cleared ------------------------------------------------------------------ */

static void look_out(const pair *p) {
    lock(p);
    hub_store_relaxed_32(&hub_service_lookout_off, 0);
    p->host->host->looked_out_at = 0;
    CHECK_GE(hub_service_lookout(p->host), 1);
    hub_store_relaxed_32(&hub_service_lookout_off, 1);
    CHECK_EQ((uint32_t)hub_service_lookout(p->host), (uint32_t)-1);
    unlock(p);
}

static void the_look_out_sees(void) {
    hub_config config = config_tiny();
    hub_message message = message_of(1);
    hub_slot slot;
    pair p;
    pair_open(&p, &config, false);
    hub_signals_shm *signals = hub_session_signals(p.host);
    int host_fd = hub_transport_fd(p.from_host);
    arm(p.from_host);
    look_out(&p); /* nothing is there: nobody is woken */
    CHECK(!readable(host_fd, 0));
    CHECK(!readable(p.from_peer->link->fd, 0));
    CHECK_EQ(hub_load_relaxed_64(&signals->ready), 0);
    /* A message that nobody rang for. */
    hub_store_relaxed_32(&pair_up(&p)->sleeping, 0);
    CHECK_OK(hub_send(p.from_peer, HUB_TO_DEFAULT, &message, "x", 1, HUB_NOW));
    hub_store_relaxed_64(&signals->ready, 0);
    CHECK(!readable(host_fd, 0));
    look_out(&p);
    CHECK(readable(host_fd, 60000));
    CHECK_EQ(hub_load_relaxed_64(&signals->ready), 1ULL << p.id);
    hub_drain(p.from_host);
    CHECK_OK(hub_poll_recv(p.from_host, &frame, 0));
    arm(p.from_host);
    /* One for the peer. */
    drain(p.from_peer->link->fd);
    hub_store_relaxed_32(&pair_down(&p)->sleeping, 0);
    CHECK_OK(hub_send(p.from_host, HUB_TO_DEFAULT, &message, "x", 1, HUB_NOW));
    CHECK(!readable(p.from_peer->link->fd, 0));
    look_out(&p);
    CHECK(readable(p.from_peer->link->fd, 60000));
    CHECK(!readable(host_fd, 0)); /* room is wanted by nobody */
    /* Room in the peer's ring. */
    while (hub_send(p.from_host, HUB_TO_DEFAULT, &message, "x", 1, HUB_NOW) == 0) continue;
    CHECK_OK(hub_poll_arm(p.from_host, p.id, HUB_POLL_SEND, 1));
    look_out(&p);
    CHECK(!readable(host_fd, 0)); /* full */
    CHECK_EQ(hub_load_relaxed_32(&p.link->wanted), 1);
    hub_store_relaxed_32(&pair_down(&p)->want, 0);
    CHECK_OK(hub_recv(p.from_peer, &frame, HUB_NOW));
    CHECK(!readable(host_fd, 0));
    look_out(&p);
    CHECK(readable(host_fd, 60000));
    CHECK_EQ(hub_load_relaxed_32(&p.link->wanted), 0);
    hub_poll_cancel(p.from_host, HUB_POLL_SEND);
    arm(p.from_host);
    look_out(&p);
    CHECK(!readable(host_fd, 0));
    while (hub_recv(p.from_peer, &frame, HUB_NOW) == 0) continue;
    /* A slot for the host. */
    CHECK_OK(hub_poll_arm(p.from_host, p.id, HUB_POLL_ALLOC, 100));
    look_out(&p);
    CHECK(!readable(host_fd, 0)); /* its bit is there: whoever frees tells */
    hub_store_relaxed_64(&signals->pool_waiters, 4);
    look_out(&p);
    CHECK_EQ(hub_load_relaxed_64(&signals->pool_waiters), 1 | 4);
    CHECK(readable(host_fd, 60000));
    CHECK_OK(hub_alloc(p.from_host, 100, HUB_NOW, &slot));
    CHECK_OK(hub_slot_free(p.host, &slot));
    hub_poll_cancel(p.from_host, HUB_POLL_ALLOC);
    CHECK_EQ(hub_load_relaxed_64(&signals->pool_waiters), 4);
    hub_store_relaxed_64(&signals->pool_waiters, 0);
    pair_close(&p);
}

int main(void) {
    test_begin(300);
    RUN(entries_of_two_lives);
    RUN(the_bell_is_relayed);
    RUN(after_an_end_all_are_woken);
    RUN(bits_of_the_dead_go);
    RUN(cancelled);
    RUN(what_ended_is_not_listened_to);
    RUN(a_started_process_ends);
    RUN(events_belong_to_a_life);
    RUN(closed_under_an_open_transport);
    RUN(the_look_out_sees);
    return test_end();
}
