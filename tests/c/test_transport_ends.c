/* test_transport_ends.c - what a transport does beside its messages: how it learns that the other side
 * is gone, what it leaves behind when it is closed, how a call is interrupted, and what it says that
 * it is for an event loop.  Host and peer are one process. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "doorbell.h"
#include "pair.h"
#include "service.h"

static hub_frame frame;

static bool readable(int fd) {
    struct epoll_event event;
    int poll_fd = epoll_create1(EPOLL_CLOEXEC);
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    CHECK_EQ(epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event), 0);
    int count = epoll_wait(poll_fd, &event, 1, 0);
    CHECK_EQ(close(poll_fd), 0);
    return count == 1;
}

/* Does the waiter listen to the doorbell of that link? */
static bool listens(hub_transport *t, hub_link *link) {
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    CHECK_EQ(pthread_mutex_lock(&link->fd_lock), 0);
    int rc = epoll_ctl(t->waiter.wait_fd, EPOLL_CTL_MOD, link->fd, &event);
    if (rc == 0) { /* as it was */
        event.events = EPOLLIN | EPOLLRDHUP;
        event.data.u64 = (uint64_t)link->id << 32 | link->epoch;
        CHECK_EQ(epoll_ctl(t->waiter.wait_fd, EPOLL_CTL_MOD, link->fd, &event), 0);
    }
    CHECK_EQ(pthread_mutex_unlock(&link->fd_lock), 0);
    return rc == 0;
}

static int send_one(hub_transport *t, uint32_t to, uint64_t length) {
    static const char data[2048];
    hub_message message = message_of(7);
    return hub_send(t, to, &message, data, length, HUB_NOW);
}

/* The bell that the peer rings is ours, not the service thread's. */
static int take_bell(pair *p) {
    int bell = p->peer->bell_fd;
    p->peer->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK_GE(p->peer->bell_fd, 0);
    return bell;
}
static void give_bell(pair *p, int bell) {
    CHECK_EQ(close(p->peer->bell_fd), 0);
    p->peer->bell_fd = bell;
}

static void drop_all(pair *p) {
    hub_transport_unref(p->from_peer);
    hub_session_close(p->peer);
    hub_session_unref(p->peer);
    hub_transport_unref(p->from_host);
    hub_link_unref(p->link);
    hub_session_close(p->host);
    hub_session_unref(p->host);
}

/* ---- the host is gone --------------------------------------------------------------------- */

enum said { NOTHING, HOST_CLOSED, HOST_LEFT };

/* The host's end hangs up: in good order if it said so, in either of two places. */
static void good_order_is_what_was_said(void) {
    for (enum said said = NOTHING; said <= HOST_LEFT; said++) {
        hub_config config = config_tiny();
        config.classes[0].slots = config.classes[0].max_slots = 128; /* many enough to be cached */
        pair p;
        hub_slot slot;
        pair_open(&p, &config, false);
        CHECK_OK(hub_alloc(p.from_peer, 10, HUB_NOW, &slot));
        CHECK_OK(hub_slot_free(p.peer, &slot));
        if (said == HOST_CLOSED)
            hub_store_release_32(&hub_session_header(p.host)->host_closed, 1);
        if (said == HOST_LEFT)
            hub_store_release_32(&hub_session_peer(p.host, p.id)->host_left, 1);
        CHECK(listens(p.from_peer, p.from_peer->link));
        CHECK_EQ(shutdown(p.link->fd, SHUT_WR), 0);
        CHECK_RC(hub_recv(p.from_peer, &frame, soon()), HUB_EHOSTGONE);
        CHECK_EQ(hub_transport_clean(p.from_peer), said != NOTHING);
        CHECK(!listens(p.from_peer, p.from_peer->link)); /* or it would wake for ever */
        CHECK_RC(send_one(p.from_peer, HUB_TO_DEFAULT, 10), HUB_EHOSTGONE);
        CHECK_RC(hub_alloc(p.from_peer, 10, HUB_NOW, &slot), HUB_EHOSTGONE);
        drop_all(&p);
    }
}

/* Who never sleeps looks for the host's end now and then, and says it in the very call that sees it. */
static void seen_by_who_never_waits(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, false);
    hub_a64 *looked = &p.from_peer->looked_at_host_ns;
    hub_store_relaxed_64(looked, 0);
    CHECK_RC(hub_recv(p.from_peer, &frame, HUB_NOW), HUB_EAGAIN);
    CHECK_REL(hub_load_relaxed_64(looked), !=, 0);
    CHECK_EQ(shutdown(p.link->fd, SHUT_WR), 0);
    hub_store_relaxed_64(looked, (uint64_t)hub_clock_ns() + 60000000000u); /* just now */
    CHECK_RC(hub_recv(p.from_peer, &frame, HUB_NOW), HUB_EAGAIN);
    CHECK_EQ(hub_load_acquire_32(&p.peer->host_gone), 0);
    uint32_t generation = hub_waiter_generation(&p.from_peer->waiter);
    hub_store_relaxed_64(looked, 0);
    CHECK_RC(hub_recv(p.from_peer, &frame, HUB_NOW), HUB_EHOSTGONE);
    uint32_t told = hub_waiter_generation(&p.from_peer->waiter);
    CHECK_REL(told, !=, generation); /* whoever sleeps here is told */
    hub_store_relaxed_64(looked, 0);
    hub_transport_look_at_host(p.from_peer);
    CHECK_EQ(hub_waiter_generation(&p.from_peer->waiter), told); /* once */
    drop_all(&p);
}

static void not_now_for_who_sends(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, false);
    while (send_one(p.from_peer, HUB_TO_DEFAULT, 10) == 0) continue;
    CHECK_EQ(shutdown(p.link->fd, SHUT_WR), 0);
    hub_store_relaxed_64(&p.from_peer->looked_at_host_ns, 0);
    CHECK_RC(send_one(p.from_peer, HUB_TO_DEFAULT, 10), HUB_EHOSTGONE);
    drop_all(&p);
}

/* ---- attaching ------------------------------------------------------------------------------- */

static void a_wrong_welcome_is_none(void) {
    for (unsigned wrong = 0; wrong < 2; wrong++) {
        hub_config config = config_tiny();
        hub_session *host = host_open(&config), *peer;
        hub_link *link;
        hub_transport *t;
        hub_fault fault = {0, ""};
        hub_welcome welcome;
        char path[64];
        int fd, ends[2];
        CHECK_OK(hub_host_add_peer(host, "peer", &link, &fd));
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", hub_session_fd(host));
        CHECK_OK_FAULT(hub_peer_open(path, hub_link_peer_id(link), &peer, &fault), fault);
        CHECK_OK_FAULT(hub_peer_register(peer, &fault), fault);
        CHECK_OK(hub_doorbell_pair(ends)); /* its other end is not the host's */
        memset(&welcome, 0, sizeof welcome);
        welcome.magic = wrong == 0 ? HUB_WELCOME_MAGIC + 1 : HUB_WELCOME_MAGIC;
        welcome.version = wrong == 1 ? HUB_VERSION_MAJOR + 1 : HUB_VERSION_MAJOR;
        welcome.geometry = peer->segment.geometry;
        CHECK_OK(hub_doorbell_send_message(ends[0], &welcome, sizeof welcome, ends, 2));
        unsigned before = open_descriptors();
        CHECK_RC(hub_transport_open_peer(peer, ends[1], "peer", soon(), &t, &fault), HUB_EFORMAT);
        CHECK_EQ(open_descriptors(), before); /* what came with it is closed */
        for (unsigned i = 0; i < 2; i++) CHECK_EQ(close(ends[i]), 0);
        hub_session_close(peer);
        /* It had claimed its id, and gives it up. */
        CHECK_EQ(peer_state(host, hub_link_peer_id(link)), HUB_PEER_CANCELLED);
        hub_session_unref(peer);
        hub_link_unref(link);
        hub_session_close(host);
        hub_session_unref(host);
    }
    hub_session *peer;
    CHECK_RC(hub_peer_open("/nowhere", 0, &peer, NULL), HUB_EINVAL);
    CHECK_RC(hub_peer_open("/nowhere", HUB_PEERS_MAX, &peer, NULL), HUB_EINVAL);
    CHECK_RC(hub_peer_open("/nowhere", 1, &peer, NULL), -ENOENT);
}

/* ---- opened late -------------------------------------------------------------------------------- */

/* On a life that is over a transport may still be opened: it gets what was not read. */
static void opened_after_the_end(void) {
    hub_config config = config_tiny();
    hub_fault fault = {0, ""};
    pair p;
    hub_transport *late;
    pair_open_without(&p, &config);
    CHECK_OK(send_one(p.from_peer, HUB_TO_DEFAULT, 10));
    hub_transport_unref(p.from_peer);
    hub_session_close(p.peer);
    hub_session_unref(p.peer);
    peer_wait_free(p.host, p.id);
    CHECK_OK_FAULT(hub_transport_open_host_peer(p.host, p.link, "late", &late, &fault), fault);
    receive(late, &frame);
    CHECK_EQ(frame.message.message_id, 7);
    CHECK_RC(hub_recv(late, &frame, HUB_NOW), HUB_EPEERGONE);
    hub_transport_unref(late);
    hub_link_unref(p.link);
    host_close(p.host);
}

/* One that is quarantined is still in the table; nobody listens to it any more. */
static void the_quarantined_are_not_adopted(void) {
    hub_config config = config_tiny();
    hub_fault fault = {0, ""};
    pair p;
    pair_open_without(&p, &config);
    hub_service_violation(p.host, p.link, "tested");
    CHECK_OK_FAULT(hub_transport_open_host(p.host, "all", &p.from_host, &fault), fault);
    CHECK(p.from_host->links[p.id] == NULL);
    CHECK_RC(send_one(p.from_host, p.id, 10), HUB_ENOPEER);
    drop_all(&p);
}

/* ---- all peers ------------------------------------------------------------------------------------- */

static void news_of_the_dead_come_after_their_messages(void) {
    hub_config config = config_tiny();
    pair p;
    hub_gone gone;
    pair_open(&p, &config, true);
    CHECK_EQ(hub_transport_gone(p.from_host, &gone), 0);
    CHECK_OK(send_one(p.from_peer, HUB_TO_DEFAULT, 10));
    CHECK_OK(send_one(p.from_peer, HUB_TO_DEFAULT, 1000));
    uint32_t dead = p.id;
    pair_detach(&p);
    for (unsigned n = 0; n < 2; n++) {
        CHECK_EQ(hub_transport_gone(p.from_host, &gone), 0);
        CHECK_RC(send_one(p.from_host, dead, 10), HUB_EPEERGONE);
        CHECK_RC(send_one(p.from_host, dead + 1, 10), HUB_ENOPEER); /* another that is not there */
        receive(p.from_host, &frame);
        frame_free(p.host, &frame);
    }
    CHECK_EQ(hub_transport_gone(p.from_host, &gone), 1);
    CHECK_EQ(gone.peer_id, dead);
    CHECK_RC(send_one(p.from_host, dead, 10), HUB_ENOPEER);
    hub_transport_unref(p.from_host);
    host_close(p.host);
}

static void nothing_is_told_of_the_living(void) {
    hub_config config = config_tiny();
    pair p;
    hub_gone gone;
    pair_open(&p, &config, false);
    CHECK_EQ(hub_transport_gone(p.from_host, &gone), 0);
    CHECK_EQ(hub_transport_gone(p.from_peer, &gone), 0);
    pair_close(&p);
}

/* A readiness that was seen before the id's next life is not that one's. */
static void readiness_belongs_to_a_life(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, true);
    hub_waiter *waiter = &p.from_host->waiter;
    uint64_t tag = (uint64_t)p.id << 32 | (p.link->epoch - 1);
    CHECK(listens(p.from_host, p.link));
    waiter->on_ready(waiter->context, tag, EPOLLRDHUP);
    CHECK(listens(p.from_host, p.link));
    waiter->on_ready(waiter->context, tag + 1, EPOLLRDHUP);
    CHECK(!listens(p.from_host, p.link));
    pair_close(&p);
}

/* ---- closing ------------------------------------------------------------------------------------------ */

/* A child has a copy of the peer's descriptor: its end is seen all the same, nothing is listened to
 * any more, and what the thread remembered lies on the stacks. */
static void a_closed_peer_leaves_nothing(void) {
    hub_config config;
    hub_config_default(&config);
    pair p;
    hub_slot slot;
    hub_fsck_totals totals;
    pair_open(&p, &config, false);
    CHECK_OK(hub_alloc(p.from_peer, 1000, HUB_NOW, &slot));
    CHECK_OK(hub_slot_free(p.peer, &slot));
    CHECK_OK(hub_host_fsck(p.host, 0, 0, NULL, NULL, &totals));
    CHECK_GE(totals.remembered, 1);
    int copy = dup(p.from_peer->link->fd), bell = take_bell(&p);
    uint32_t generation = hub_waiter_generation(&p.from_peer->waiter);
    hub_transport_close(p.from_peer);
    CHECK_REL(hub_waiter_generation(&p.from_peer->waiter), !=, generation);
    CHECK(readable(p.peer->bell_fd)); /* it says that it has left */
    give_bell(&p, bell);
    wait_event(p.host, HUB_EVENT_LEFT, p.id);
    CHECK_OK(hub_host_fsck(p.host, 0, 0, NULL, NULL, &totals));
    CHECK_EQ(totals.remembered, 0);
    (void)shutdown(p.link->fd, SHUT_WR);
    CHECK(!readable(p.from_peer->waiter.wait_fd));
    CHECK_EQ(close(copy), 0);
    drop_all(&p);
}

/* With a slot in hand it says that it leaves, not that it has left: the bell is rung for that, too. */
static void leaving_is_said_with_the_bell(void) {
    hub_config config = config_tiny();
    pair p;
    hub_slot slot;
    pair_open(&p, &config, false);
    CHECK_OK(hub_alloc(p.from_peer, 1000, HUB_NOW, &slot));
    int bell = take_bell(&p);
    hub_transport_close(p.from_peer);
    CHECK(readable(p.peer->bell_fd));
    give_bell(&p, bell);
    CHECK_OK(hub_slot_free(p.peer, &slot));
    drop_all(&p);
}

static void a_closed_host_side_lets_go(void) {
    for (unsigned all = 0; all < 2; all++) {
        hub_config config = config_tiny();
        pair p;
        pair_open(&p, &config, all);
        CHECK(listens(p.from_host, p.link));
        uint32_t generation = hub_waiter_generation(&p.from_host->waiter);
        hub_transport_close(p.from_host);
        CHECK(!listens(p.from_host, p.link));
        CHECK_REL(hub_waiter_generation(&p.from_host->waiter), !=, generation);
        CHECK_EQ(hub_load_relaxed_32(&hub_session_peer(p.host, p.id)->host_left), 1);
        CHECK_EQ(hub_load_relaxed_32(&pair_up(&p)->closed), 1);
        CHECK_EQ(hub_load_relaxed_32(&pair_down(&p)->closed), 1);
        CHECK_EQ(hub_pool_owned(&p.host->pool, p.id, 9), 0);
        CHECK_RC(hub_recv(p.from_peer, &frame, soon()), HUB_EHOSTGONE);
        CHECK_EQ(hub_transport_clean(p.from_peer), 1);
        drop_all(&p);
    }
}

/* Its ring is not retired by that: the transport itself has to refuse. */
static void a_closed_host_side_sends_nothing_to_who_leaves(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, false);
    CHECK_EQ(pthread_mutex_lock(&p.host->lock), 0);
    p.link->state = HUB_PEER_LEAVING;
    CHECK_EQ(pthread_mutex_unlock(&p.host->lock), 0);
    hub_transport_close(p.from_host);
    CHECK_RC(send_one(p.from_host, HUB_TO_DEFAULT, 10), HUB_ECLOSED);
    CHECK_RC(send_one(p.from_host, HUB_TO_DEFAULT, 1000), HUB_ECLOSED);
    drop_all(&p);
}

/* ---- slots ------------------------------------------------------------------------------------------------ */

/* Who frees wakes the others, and himself only if he waits. */
static void a_free_tells_who_waits(void) {
    hub_config config = config_tiny();
    pair p;
    hub_slot slot;
    pair_open(&p, &config, false);
    hub_a64 *waiters = &hub_session_signals(p.host)->pool_waiters;
    int bell = take_bell(&p);
    static const struct { bool other, own; } cases[] = {{false, false}, {true, false}, {false, true}};
    for (unsigned i = 0; i < 3; i++) {
        uint64_t value;
        CHECK_OK(hub_alloc(p.from_peer, 1000, HUB_NOW, &slot));
        hub_store_release_64(waiters,
                             (cases[i].other ? 1ULL << 40 : 0) | (cases[i].own ? 1ULL << p.id : 0));
        uint32_t generation = hub_waiter_generation(&p.from_peer->waiter);
        CHECK_OK(hub_slot_free(p.peer, &slot));
        CHECK_EQ(read(p.peer->bell_fd, &value, sizeof value) == sizeof value, cases[i].other);
        CHECK_EQ(hub_waiter_generation(&p.from_peer->waiter) != generation, cases[i].own);
    }
    hub_store_release_64(waiters, 0);
    give_bell(&p, bell);
    pair_close(&p);
}

static void only_ones_own_slots(void) {
    hub_config config = config_tiny();
    pair p;
    hub_slot slot, stale;
    pair_open(&p, &config, false);
    CHECK_OK(hub_alloc(p.from_peer, 100 * KIB, HUB_NOW, &slot));
    uint64_t backed = hub_pool_backed(&p.peer->pool, slot.ref);
    CHECK_REL(backed, <, 1 * MIB);
    stale = slot;
    stale.gen--;
    CHECK_RC(hub_slot_back(p.peer, &stale, 1 * MIB), HUB_ESTALE);
    CHECK_RC(hub_slot_back(p.host, &slot, 1 * MIB), HUB_ESTALE);
    CHECK_EQ(hub_pool_backed(&p.peer->pool, slot.ref), backed);
    CHECK_RC(hub_slot_back(p.peer, &slot, 1 * MIB + 1), HUB_ETOOLARGE);
    CHECK_OK(hub_slot_back(p.peer, &slot, 1 * MIB));
    CHECK_EQ(hub_pool_backed(&p.peer->pool, slot.ref), 1 * MIB);
    /* In a forked child it is the parent's. */
    hub_store_relaxed_32(&p.peer->forked, 1);
    hub_store_release_32(&p.peer->special, 1);
    CHECK_RC(hub_slot_free(p.peer, &slot), HUB_EFORKED);
    CHECK(hub_pool_is_mine(&p.peer->pool, slot.ref, slot.gen));
    CHECK_EQ(hub_session_forked(p.peer), 1);
    hub_store_relaxed_32(&p.peer->forked, 0);
    hub_store_release_32(&p.peer->special, 0);
    CHECK_EQ(hub_session_forked(p.peer), 0);
    CHECK_OK(hub_slot_free(p.peer, &slot));
    CHECK_GE(hub_session_trim(p.peer), (int64_t)MIB);
    CHECK_EQ(hub_session_held(p.peer), 0);
    (void)hub_session_hold(p.peer);
    CHECK_EQ(hub_session_held(p.peer), 1);
    hub_session_unhold(p.peer);
    CHECK_EQ(hub_session_held(p.peer), 0);
    pair_close(&p);
}

/* Of small ones a thread remembers some: also from there nothing is given or taken any more. */
static void not_from_the_cache_either(void) {
    hub_config config;
    hub_config_default(&config);
    pair p;
    hub_slot slot, more;
    pair_open(&p, &config, false);
    CHECK_OK(hub_alloc(p.from_host, 1000, HUB_NOW, &slot));
    CHECK_OK(hub_slot_free(p.host, &slot));
    CHECK_OK(hub_alloc(p.from_host, 1000, HUB_NOW, &slot));
    CHECK_OK(hub_alloc(p.from_host, 1000, HUB_NOW, &more));
    CHECK_OK(hub_slot_free(p.host, &more));
    hub_store_relaxed_32(&p.host->forked, 1);
    hub_store_release_32(&p.host->special, 1);
    CHECK_RC(hub_slot_free(p.host, &slot), HUB_EFORKED);
    CHECK(hub_pool_is_mine(&p.host->pool, slot.ref, slot.gen));
    hub_store_relaxed_32(&p.host->forked, 0);
    hub_store_release_32(&p.host->special, 0);
    hub_transport_close(p.from_host);
    CHECK_RC(hub_alloc(p.from_host, 1000, HUB_NOW, &more), HUB_ECLOSED);
    CHECK_OK(hub_slot_free(p.host, &slot));
    drop_all(&p);
}

/* A message that names a slot which is not in the ring is stepped over, for the sender, too. */
static void a_stale_message_is_stepped_over(void) {
    hub_config config = config_tiny();
    pair p;
    hub_slot slot;
    hub_message message = message_of(9);
    pair_open(&p, &config, false);
    CHECK_OK(hub_alloc(p.from_peer, 1000, HUB_NOW, &slot));
    hub_producer *tx = &p.from_peer->link->tx;
    uint64_t head = hub_load_relaxed_64(&tx->ring->head);
    CHECK_OK(hub_ring_room(tx, 1));
    hub_ring_stage(tx, &message, slot.ref, slot.gen, NULL, 10); /* it is still the peer's own */
    hub_ring_publish(tx);
    CHECK_RC(hub_recv(p.from_host, &frame, HUB_NOW), HUB_EVIOLATION);
    CHECK_EQ(hub_load_relaxed_64(&tx->ring->head), head + 1);
    CHECK_OK(send_one(p.from_peer, HUB_TO_DEFAULT, 10));
    receive(p.from_host, &frame);
    CHECK_OK(hub_slot_free(p.peer, &slot));
    pair_close(&p);
}

/* ---- interrupted ------------------------------------------------------------------------------------------ */

static void *receive_one(void *transport) {
    return (void *)(intptr_t)hub_recv(transport, &frame, HUB_FOREVER);
}

static void an_interrupt_is_for_one_receive(void) {
    hub_config config = config_tiny();
    pair p;
    pthread_t thread;
    void *rc;
    pair_open(&p, &config, false);
    hub_transport_interrupt(p.from_host);
    CHECK_RC(hub_recv(p.from_host, &frame, HUB_NOW), HUB_EAGAIN); /* it would not sleep */
    CHECK_RC(hub_recv(p.from_host, &frame, soon()), HUB_EINTR);
    CHECK_RC(hub_recv(p.from_host, &frame, hub_clock_ns() + 1000000), HUB_ETIMEDOUT);
    CHECK_EQ(pthread_create(&thread, NULL, receive_one, p.from_host), 0);
    wait_ring_asleep(p.host, hub_ring_up(p.id));
    while (hub_load_relaxed_32(&p.from_host->waiter.leading) == 0) test_pause();
    hub_transport_interrupt(p.from_host);
    CHECK_EQ(pthread_join(thread, &rc), 0);
    CHECK_RC((int)(intptr_t)rc, HUB_EINTR);
    pair_close(&p);
}

static hub_a32 enough;

static void *ring_without_end(void *link) {
    while (hub_load_relaxed_32(&enough) == 0) (void)hub_doorbell_ring(((hub_link *)link)->fd);
    return NULL;
}

/* Where every sleep ends at once, the caller sees his signals all the same. */
static void who_is_woken_in_vain_returns(void) {
    hub_config config = config_tiny();
    pair p;
    pthread_t thread;
    pair_open(&p, &config, false);
    hub_store_relaxed_32(&enough, 0);
    CHECK_EQ(pthread_create(&thread, NULL, ring_without_end, p.from_peer->link), 0);
    CHECK_RC(hub_recv(p.from_host, &frame, HUB_FOREVER), HUB_EINTR);
    hub_store_relaxed_32(&enough, 1);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    pair_close(&p);
}

/* ---- for an event loop ---------------------------------------------------------------------------------------- */

static void what_a_loop_waits_for(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, false);
    hub_waiter *waiter = &p.from_host->waiter;
    CHECK_EQ(hub_load_relaxed_32(&waiter->fd_used), 0);
    CHECK_RC(hub_poll_recv(p.from_host, &frame, 0), HUB_EAGAIN);
    CHECK_EQ(hub_load_relaxed_32(&waiter->fd_used), 1);
    CHECK_EQ(hub_load_relaxed_32(&waiter->loop_waits_recv), 1);
    CHECK_OK(send_one(p.from_peer, HUB_TO_DEFAULT, 10));
    CHECK_OK(hub_poll_recv(p.from_host, &frame, 0));
    CHECK_EQ(hub_load_relaxed_32(&waiter->loop_waits_recv), 0);
    CHECK_OK(hub_poll_arm(p.from_host, HUB_TO_DEFAULT, HUB_POLL_SEND, 10));
    CHECK_EQ(hub_load_relaxed_32(&waiter->loop_waits_send), 1);
    CHECK_EQ(hub_load_relaxed_32(&pair_down(&p)->want), 1);
    hub_drain(p.from_host);
    CHECK(!readable(waiter->poll_fd));
    hub_poll_cancel(p.from_host, HUB_POLL_SEND);
    CHECK(readable(waiter->poll_fd)); /* other tasks look */
    CHECK_EQ(hub_load_relaxed_32(&waiter->loop_waits_send), 0);
    hub_drain(p.from_host);
    hub_poll_cancel(p.from_host, HUB_POLL_SEND); /* there is nothing to cancel */
    CHECK(!readable(waiter->poll_fd));
    CHECK_OK(hub_poll_arm(p.from_host, HUB_TO_DEFAULT, HUB_POLL_ALLOC, 10));
    CHECK_EQ(hub_load_relaxed_32(&waiter->loop_waits_alloc), 1);
    CHECK_EQ(hub_load_acquire_64(&hub_session_signals(p.host)->pool_waiters), 1);
    hub_poll_cancel(p.from_host, HUB_POLL_ALLOC);
    CHECK_EQ(hub_load_relaxed_32(&waiter->loop_waits_alloc), 0);
    CHECK_EQ(hub_load_acquire_64(&hub_session_signals(p.host)->pool_waiters), 0);
    CHECK(readable(waiter->poll_fd));
    hub_drain(p.from_host);
    pair_close(&p);
}

/* Several at a time: in vain it drains, arms, and waits for the next. */
static void many_drain_before_they_arm(void) {
    hub_config config = config_tiny();
    pair p;
    hub_frame frames[2];
    pair_open(&p, &config, false);
    int fd = hub_transport_fd(p.from_host);
    CHECK(readable(fd)); /* at first: look */
    CHECK_RC(hub_recv_many(p.from_host, frames, 2), HUB_EAGAIN);
    CHECK(!readable(fd));
    CHECK_EQ(hub_load_relaxed_32(&pair_up(&p)->sleeping), 1);
    CHECK_OK(send_one(p.from_peer, HUB_TO_DEFAULT, 10));
    CHECK(readable(fd));
    CHECK_EQ(hub_recv_many(p.from_host, frames, 2), 1);
    CHECK_RC(hub_recv_many(p.from_host, frames, 2), HUB_EAGAIN);
    CHECK(!readable(fd));
    pair_close(&p);
}

/* Who sends without waiting, beside a loop that waits for the descriptor, arms for as much as his
 * message takes. */
static void who_sends_beside_a_loop_arms(void) {
    hub_config config = config_tiny(); /* rings of 16 cells */
    hub_slot slot;
    hub_message message = message_of(8);
    for (unsigned used = 0; used < 2; used++) {
        pair p;
        pair_open(&p, &config, false);
        hub_a32 *want = &pair_down(&p)->want;
        CHECK_OK(hub_alloc(p.from_host, 1000, HUB_NOW, &slot));
        for (unsigned n = 0; n < 16; n++) CHECK_OK(send_one(p.from_host, HUB_TO_DEFAULT, 10));
        if (used) (void)hub_transport_fd(p.from_host);
        CHECK_RC(hub_send_slot(p.from_host, HUB_TO_DEFAULT, &message, &slot, 1000, HUB_NOW),
                 HUB_ERINGFULL);
        CHECK_EQ(hub_load_relaxed_32(want), used);
        CHECK_RC(send_one(p.from_host, HUB_TO_DEFAULT, 200), HUB_ERINGFULL);
        CHECK_EQ(hub_load_relaxed_32(want), used ? 5 : 0);
        CHECK_RC(send_one(p.from_host, HUB_TO_DEFAULT, 10), HUB_ERINGFULL);
        CHECK_EQ(hub_load_relaxed_32(want), used);
        CHECK_OK(hub_slot_free(p.host, &slot));
        pair_close(&p);
    }
}

/* A thread that receives takes a byte that was meant for the loop: it passes it on; and says nothing
 * where there was none. */
static void what_a_thread_drains_is_passed_on(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, false);
    int fd = hub_transport_fd(p.from_host);
    hub_drain(p.from_host);
    CHECK_RC(hub_poll_recv(p.from_host, &frame, 0), HUB_EAGAIN);
    CHECK(!readable(fd));
    CHECK_RC(hub_recv(p.from_host, &frame, HUB_NOW), HUB_EAGAIN);
    CHECK(!readable(fd));
    CHECK_OK(hub_doorbell_ring(p.from_peer->link->fd));
    CHECK(readable(fd));
    CHECK_RC(hub_recv(p.from_host, &frame, HUB_NOW), HUB_EAGAIN);
    CHECK(readable(fd));
    hub_drain(p.from_host);
    pair_close(&p);
}

static void what_is_counted_is_told(void) {
    hub_config config = config_tiny();
    pair p;
    hub_transport_stat stat;
    pair_open(&p, &config, false);
    hub_store_relaxed_64(&p.from_host->waits, 41);
    hub_store_relaxed_64(&p.from_host->spin.spins, 42);
    hub_store_relaxed_64(&p.from_host->spin.hits, 43);
    hub_transport_stat_read(p.from_host, &stat);
    CHECK_EQ(stat.waits, 41);
    CHECK_EQ(stat.spins, 42);
    CHECK_EQ(stat.spin_hits, 43);
    CHECK_EQ(hub_transport_next_id(p.from_host), HUB_START_64 + 1);
    CHECK_EQ(hub_transport_next_id(p.from_host), HUB_START_64 + 2);
    CHECK_EQ(strcmp(hub_peer_state_name(99), "unknown"), 0);
    pair_close(&p);
}

int main(void) {
    test_begin(120);
    host_can_be();
    RUN(good_order_is_what_was_said);
    RUN(seen_by_who_never_waits);
    RUN(not_now_for_who_sends);
    RUN(a_wrong_welcome_is_none);
    RUN(opened_after_the_end);
    RUN(the_quarantined_are_not_adopted);
    RUN(news_of_the_dead_come_after_their_messages);
    RUN(nothing_is_told_of_the_living);
    RUN(readiness_belongs_to_a_life);
    RUN(a_closed_peer_leaves_nothing);
    RUN(leaving_is_said_with_the_bell);
    RUN(a_closed_host_side_lets_go);
    RUN(a_closed_host_side_sends_nothing_to_who_leaves);
    RUN(a_free_tells_who_waits);
    RUN(only_ones_own_slots);
    RUN(not_from_the_cache_either);
    RUN(a_stale_message_is_stepped_over);
    RUN(an_interrupt_is_for_one_receive);
    RUN(who_is_woken_in_vain_returns);
    RUN(what_a_loop_waits_for);
    RUN(many_drain_before_they_arm);
    RUN(who_sends_beside_a_loop_arms);
    RUN(what_a_thread_drains_is_passed_on);
    RUN(what_is_counted_is_told);
    return test_end();
}
