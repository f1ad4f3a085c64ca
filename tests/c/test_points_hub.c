/* test_points_hub.c - host and peer, stopped before each atomic operation of what they do while the
 * other does a whole operation of its own: no wake-up is lost, whoever waits for a message, room or a
 * slot; what is sent while the ring is closed is either delivered or back in its owner's hand; one
 * claimant gets an id; the last slot of a leaving peer is told. */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "pair.h"
#include "points.h"
#include "reclaim.h"

#define LONG_MS 60000

typedef struct world {
    pair p;
    hub_transport *waits, *acts; /* who waits, who does what is waited for */
    hub_session *waiting, *acting;
    hub_frame frame;
    hub_slot slot, slots[16];
    unsigned count;
    int waited, acted; /* results; 1: not done yet */
    int slept;         /* the waiter found nothing and waits for its descriptor */
} world;

static unsigned schedules;
static const char data[2048];

static int send_now(hub_transport *t, uint32_t to, uint64_t length) {
    hub_message message = message_of(1);
    return hub_send(t, to, &message, data, length, HUB_NOW);
}
static uint32_t other_of(const world *w) {
    return w->acts == w->p.from_host ? w->p.id : HUB_TO_DEFAULT;
}

/* The waiter's descriptor must become readable, unless it found what it waits for. */
static void wait_readable(world *w) {
    struct pollfd one = {hub_transport_fd(w->waits), POLLIN, 0};
    int got = poll(&one, 1, LONG_MS);
    if (got != 1) FAIL("what was waited for is there, and the descriptor is not readable");
    hub_drain(w->waits);
}

/* Both ways: the waiter stopped while the other acts, and the other stopped while it waits. */
static void both_ways(world *w, void (*waiter)(void *), void (*actor)(void *), void (*reset)(world *),
                      void (*after)(world *)) {
    for (unsigned way = 0; way < 2; way++) {
        bool more = true;
        for (unsigned n = 0; more; n++) {
            reset(w);
            w->waited = w->acted = 1;
            more = way == 0 ? points_run(n, waiter, actor, w) : points_run(n, actor, waiter, w);
            if (w->acted == 1) actor(w);
            if (w->waited == 1) waiter(w);
            after(w);
            schedules++;
        }
    }
}

static void sides(world *w, bool host_waits) {
    w->waits = host_waits ? w->p.from_host : w->p.from_peer;
    w->acts = host_waits ? w->p.from_peer : w->p.from_host;
    w->waiting = host_waits ? w->p.host : w->p.peer;
    w->acting = host_waits ? w->p.peer : w->p.host;
    (void)hub_transport_fd(w->waits);
}

/* ---- a message ------------------------------------------------------------------------------------ */

static void wait_message(void *argument) {
    world *w = argument;
    w->waited = hub_poll_recv(w->waits, &w->frame, 0);
}
static void act_send(void *argument) {
    world *w = argument;
    w->acted = send_now(w->acts, other_of(w), 10);
}
static void reset_message(world *w) {
    hub_drain(w->waits);
    while (hub_recv(w->waits, &w->frame, HUB_NOW) == 0) continue;
    hub_drain(w->waits);
}
static void after_message(world *w) {
    CHECK_OK(w->acted);
    if (w->waited == 0) return;
    CHECK_RC(w->waited, HUB_EAGAIN);
    do { /* a signal for nothing may be left over: then it waits again */
        wait_readable(w);
        wait_message(w);
    } while (w->waited == HUB_EAGAIN);
    CHECK_OK(w->waited);
}

static void messages_wake(void) {
    for (unsigned kind = 0; kind < 3; kind++) { /* peer, host, host of all */
        static world w;
        hub_config config = config_tiny();
        pair_open(&w.p, &config, kind == 2);
        sides(&w, kind > 0);
        both_ways(&w, wait_message, act_send, reset_message, after_message);
        pair_close(&w.p);
    }
}

/* ---- room in the ring ------------------------------------------------------------------------------ */

static void wait_room(void *argument) {
    world *w = argument;
    uint32_t to = w->waits == w->p.from_host ? w->p.id : HUB_TO_DEFAULT;
    int rc = hub_poll_arm(w->waits, to, HUB_POLL_SEND, 10);
    w->waited = rc < 0 ? rc : send_now(w->waits, to, 10);
}
static void act_receive(void *argument) {
    world *w = argument;
    w->acted = hub_recv(w->acts, &w->frame, HUB_NOW);
}
static void reset_room(world *w) {
    uint32_t to = w->waits == w->p.from_host ? w->p.id : HUB_TO_DEFAULT;
    hub_poll_cancel(w->waits, HUB_POLL_SEND);
    while (send_now(w->waits, to, 10) == 0) continue;
    hub_drain(w->waits);
}
static void after_room(world *w) {
    CHECK_OK(w->acted);
    if (w->waited == 0) return;
    CHECK_RC(w->waited, HUB_ERINGFULL);
    wait_readable(w);
    wait_room(w);
    CHECK_OK(w->waited);
}

static void room_wakes(void) {
    for (unsigned host_waits = 0; host_waits < 2; host_waits++) {
        static world w;
        hub_config config = config_tiny();
        pair_open(&w.p, &config, false);
        sides(&w, host_waits != 0);
        both_ways(&w, wait_room, act_receive, reset_room, after_room);
        while (hub_recv(w.acts, &w.frame, HUB_NOW) == 0) continue;
        hub_poll_cancel(w.waits, HUB_POLL_SEND);
        pair_close(&w.p);
    }
}

/* ---- a slot ----------------------------------------------------------------------------------------- */

static void wait_slot(void *argument) {
    world *w = argument;
    int rc = hub_poll_arm(w->waits, HUB_TO_DEFAULT, HUB_POLL_ALLOC, 100);
    w->waited = rc < 0 ? rc : hub_alloc(w->waits, 100, HUB_NOW, &w->slot);
}
static void act_free(void *argument) {
    world *w = argument;
    w->acted = hub_slot_free(w->acting, &w->slots[--w->count]);
}
static void reset_slot(world *w) {
    hub_poll_cancel(w->waits, HUB_POLL_ALLOC);
    while (hub_alloc(w->acts, 100, HUB_NOW, &w->slots[w->count]) == 0) w->count++;
    CHECK_GE(w->count, 1);
    hub_drain(w->waits);
}
static void after_slot(world *w) {
    CHECK_OK(w->acted);
    while (w->waited == HUB_EEXHAUSTED) {
        wait_readable(w);
        wait_slot(w);
    }
    CHECK_OK(w->waited);
    hub_poll_cancel(w->waits, HUB_POLL_ALLOC);
    CHECK_OK(hub_slot_free(w->waiting, &w->slot));
}

static void slots_wake(void) {
    for (unsigned host_waits = 0; host_waits < 2; host_waits++) {
        static world w;
        hub_config config = config_of_one(1024, 8);
        config.max_peers = 4;
        config.ring_capacity = 16;
        pair_open(&w.p, &config, false);
        w.count = 0;
        sides(&w, host_waits != 0);
        both_ways(&w, wait_slot, act_free, reset_slot, after_slot);
        while (w.count > 0) act_free(&w);
        pair_close(&w.p);
    }
}

/* ---- sending into a ring that is being closed -------------------------------------------------------- */

static void peer_sends_slot(void *argument) {
    world *w = argument;
    hub_message message = message_of(77);
    w->acted = hub_send_slot(w->p.from_peer, HUB_TO_DEFAULT, &message, &w->slot, 600, HUB_NOW);
}
static void host_reclaims(void *argument) {
    world *w = argument;
    CHECK_EQ(pthread_mutex_lock(&w->p.host->lock), 0);
    hub_reclaim_rings(w->p.host, w->p.link, false);
    CHECK_EQ(pthread_mutex_unlock(&w->p.host->lock), 0);
    w->waited = 0;
}

static void closed_rings(void) {
    for (unsigned way = 0; way < 2; way++) {
        bool more = true;
        for (unsigned n = 0; more; n++) {
            static world w;
            hub_config config = config_tiny();
            pair_open(&w.p, &config, false);
            CHECK_OK(hub_alloc(w.p.from_peer, 600, HUB_NOW, &w.slot));
            w.waited = w.acted = 1;
            more = way == 0 ? points_run(n, peer_sends_slot, host_reclaims, &w)
                            : points_run(n, host_reclaims, peer_sends_slot, &w);
            if (w.acted == 1) peer_sends_slot(&w);
            if (w.waited == 1) host_reclaims(&w);
            hub_pool *pool = &w.p.host->pool;
            if (w.acted == 0) {
                CHECK_EQ(w.p.link->queue_count, 1); /* published means delivered */
                CHECK_EQ(hub_pool_owned(pool, 0, 9), 1);
                CHECK_EQ(hub_pool_owned(pool, w.p.id, 9), 0);
            } else {
                CHECK_RC(w.acted, HUB_EHOSTGONE);
                CHECK_EQ(w.p.link->queue_count, 0);
                CHECK_EQ(hub_pool_owned(pool, w.p.id, 9), 1);
                CHECK_OK(hub_slot_free(w.p.peer, &w.slot));
            }
            pair_close(&w.p);
            schedules++;
        }
    }
}

/* A liar goes on publishing while its ring is emptied: not more is kept than there is room for. */
static void liar_publishes(void *argument) {
    world *w = argument;
    hub_producer *tx = &w->p.from_peer->link->tx;
    for (unsigned i = 0; i < 16; i++) {
        hub_message message = message_of(i);
        hub_ring_stage(tx, &message, HUB_REF_NONE, 0, data, 10);
    }
    hub_ring_publish(tx);
    w->acted = 0;
}

static void liars_are_bounded(void) {
    bool more = true;
    for (unsigned n = 0; more; n++) {
        static world w;
        hub_config config = config_tiny();
        pair_open(&w.p, &config, false);
        for (unsigned i = 0; i < 16; i++) CHECK_OK(send_now(w.p.from_peer, HUB_TO_DEFAULT, 10));
        more = points_run(n, host_reclaims, liar_publishes, &w);
        CHECK_LE(w.p.link->queue_count, 16);
        pair_close(&w.p);
        schedules++;
    }
}

/* ---- claiming an id ------------------------------------------------------------------------------------ */

typedef struct claim {
    hub_session *sessions[2];
    int rc[2];
} claim;
static void claim_first(void *argument) {
    claim *c = argument;
    c->rc[0] = hub_peer_register(c->sessions[0], NULL);
}
static void claim_second(void *argument) {
    claim *c = argument;
    c->rc[1] = hub_peer_register(c->sessions[1], NULL);
}

static void one_claimant(void) {
    hub_config config = config_tiny();
    bool more = true;
    for (unsigned n = 0; more; n++) {
        hub_session *host = host_open(&config);
        hub_link *link;
        char path[64];
        int peer_fd;
        claim c = {{NULL, NULL}, {1, 1}};
        CHECK_OK(hub_host_add_peer(host, "claimed", &link, &peer_fd));
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", hub_session_fd(host));
        for (unsigned i = 0; i < 2; i++)
            CHECK_OK(hub_peer_open(path, hub_link_peer_id(link), &c.sessions[i], NULL));
        more = points_run(n, claim_first, claim_second, &c);
        if (c.rc[1] == 1) claim_second(&c);
        CHECK((c.rc[0] == 0) != (c.rc[1] == 0));
        CHECK(c.rc[0] == HUB_ESTATE || c.rc[1] == HUB_ESTATE);
        for (unsigned i = 0; i < 2; i++) {
            hub_session_close(c.sessions[i]);
            hub_session_unref(c.sessions[i]);
        }
        /* The claim was given up; without a doorbell nobody else can take it. */
        CHECK_EQ(peer_state(host, hub_link_peer_id(link)), HUB_PEER_CANCELLED);
        hub_link_unref(link);
        host_close(host);
        schedules++;
    }
}

/* ---- leaving with a slot in hand ------------------------------------------------------------------------- */

static void peer_leaves(void *argument) {
    world *w = argument;
    hub_transport_close(w->p.from_peer);
    w->waited = 0;
}
static void peer_frees(void *argument) {
    world *w = argument;
    w->acted = hub_slot_free(w->p.peer, &w->slot);
}

static void the_last_slot_is_told(void) {
    for (unsigned way = 0; way < 4; way++) {
        bool more = true;
        for (unsigned n = 0; more; n++) {
            static world w;
            hub_config config = config_tiny();
            if (way >= 2) config.classes[0].slots = config.classes[0].max_slots = 64; /* remembered */
            pair_open(&w.p, &config, false);
            CHECK_OK(hub_alloc(w.p.from_peer, 600, HUB_NOW, &w.slot));
            w.waited = w.acted = 1;
            more = way % 2 == 0 ? points_run(n, peer_leaves, peer_frees, &w)
                                : points_run(n, peer_frees, peer_leaves, &w);
            if (w.waited == 1) peer_leaves(&w);
            if (w.acted == 1) peer_frees(&w);
            CHECK_OK(w.acted);
            uint64_t state = hub_load_acquire_64(&hub_session_peer(w.p.host, w.p.id)->state);
            if (hub_state_of(state) != HUB_PEER_LEFT && hub_state_of(state) != HUB_PEER_FREE)
                FAIL("it holds nothing, and says only '%s'",
                     hub_peer_state_name(hub_state_of(state)));
            pair_close(&w.p);
            schedules++;
        }
    }
}

/* ---- counters and bits that several change ----------------------------------------------------------- */

static struct {
    pair p, q; /* two peers of one host */
    uint64_t ids[2];
    unsigned ran;
} both;

static void ref_link(void *argument) { (void)argument, (void)hub_link_ref(both.p.link); }
static void unref_link(void *argument) { (void)argument, hub_link_unref(both.p.link); }
static void ref_transport(void *argument) {
    (void)argument, (void)hub_transport_ref(both.p.from_host);
}
static void unref_transport(void *argument) {
    (void)argument, hub_transport_unref(both.p.from_host);
}
static void ref_session(void *argument) { (void)argument, (void)hub_session_ref(both.p.host); }
static void unref_session(void *argument) { (void)argument, hub_session_unref(both.p.host); }
static void hold_session(void *argument) { (void)argument, (void)hub_session_hold(both.p.host); }
static void unhold_session(void *argument) { (void)argument, hub_session_unhold(both.p.host); }
static void first_id(void *argument) {
    (void)argument;
    both.ids[0] = hub_transport_next_id(both.p.from_host);
}
static void second_id(void *argument) {
    (void)argument;
    both.ids[1] = hub_transport_next_id(both.p.from_host);
}
static void first_waits(void *argument) {
    (void)argument, hub_session_pool_wait_begin(both.p.peer);
}
static void second_waits(void *argument) {
    (void)argument, hub_session_pool_wait_begin(both.q.peer);
}
static void first_ends(void *argument) { (void)argument, hub_session_pool_wait_end(both.p.peer); }
static void first_sends(void *argument) {
    (void)argument;
    CHECK_OK(send_now(both.p.from_peer, HUB_TO_DEFAULT, 1));
}
static void second_sends(void *argument) {
    (void)argument;
    CHECK_OK(send_now(both.q.from_peer, HUB_TO_DEFAULT, 1));
}
static void rival_ran(void (*rival)(void *), bool reached) {
    if (!reached) rival(NULL);
}

static uint64_t refs_of_session(void) { return hub_load_relaxed_64(&both.p.host->refs); }

static void counted(void (*up)(void *), void (*down)(void *), bool link) {
    hub_a32 *word = link ? &both.p.link->refs : &both.p.from_host->refs;
    for (unsigned n = 0; n < 4; n++) {
        uint32_t before = hub_load_relaxed_32(word);
        rival_ran(up, points_run(n, up, up, NULL));
        CHECK_EQ(hub_load_relaxed_32(word), before + 2);
        rival_ran(up, points_run(n, down, up, NULL));
        CHECK_EQ(hub_load_relaxed_32(word), before + 2);
        down(NULL);
        down(NULL);
        CHECK_EQ(hub_load_relaxed_32(word), before);
    }
}

static void counted_session(void (*up)(void *), void (*down)(void *), uint64_t unit) {
    for (unsigned n = 0; n < 4; n++) {
        uint64_t before = refs_of_session();
        rival_ran(up, points_run(n, up, up, NULL));
        CHECK_EQ(refs_of_session(), before + 2 * unit);
        rival_ran(up, points_run(n, down, up, NULL));
        CHECK_EQ(refs_of_session(), before + 2 * unit);
        rival_ran(down, points_run(n, down, down, NULL));
        CHECK_EQ(refs_of_session(), before);
    }
}

static void nothing_is_lost(void) {
    hub_config config = config_tiny();
    hub_frame frame;
    pair_open(&both.p, &config, false);
    both.q = both.p;
    pair_attach(&both.q);
    counted(ref_link, unref_link, true);
    counted(ref_transport, unref_transport, false);
    counted_session(ref_session, unref_session, 1);
    counted_session(hold_session, unhold_session, (1ULL << 32) + 1);
    CHECK_EQ(hub_session_held(both.p.host), 0);
    hold_session(NULL);
    CHECK_EQ(hub_session_held(both.p.host), 1);
    unhold_session(NULL);
    both.ids[0] = hub_transport_next_id(both.p.from_host);
    CHECK_EQ(both.ids[0], HUB_START_64 + 1);
    hub_a64 *waiters = &hub_session_signals(both.p.host)->pool_waiters;
    hub_a64 *ready = &hub_session_signals(both.p.host)->ready;
    uint64_t one = 1ULL << both.p.id, two = 1ULL << both.q.id;
    for (unsigned n = 0; n < 8; n++) {
        rival_ran(second_id, points_run(n, first_id, second_id, NULL));
        CHECK(both.ids[0] != both.ids[1]);
        rival_ran(second_waits, points_run(n, first_waits, second_waits, NULL));
        CHECK_EQ(hub_load_relaxed_64(waiters), one | two);
        hub_session_pool_wait_end(both.q.peer);
        CHECK_EQ(hub_load_relaxed_64(waiters), one);
        rival_ran(second_waits, points_run(n, first_ends, second_waits, NULL));
        CHECK_EQ(hub_load_relaxed_64(waiters), two);
        hub_session_pool_wait_end(both.q.peer);
        CHECK_EQ(hub_load_relaxed_64(waiters), 0);
    }
    bool more = true;
    for (unsigned n = 0; more; n++) {
        hub_store_relaxed_64(ready, 0);
        more = points_run(n, first_sends, second_sends, NULL);
        rival_ran(second_sends, more);
        CHECK_EQ(hub_load_relaxed_64(ready), one | two);
        CHECK_OK(hub_recv(both.p.from_host, &frame, HUB_NOW));
        CHECK_OK(hub_recv(both.q.from_host, &frame, HUB_NOW));
        schedules++;
    }
    pair_detach(&both.p);
    pair_close(&both.q);
}

int main(void) {
    test_begin(300);
    points_needed();
    RUN(messages_wake);
    RUN(room_wakes);
    RUN(slots_wake);
    RUN(closed_rings);
    RUN(liars_are_bounded);
    RUN(one_claimant);
    RUN(the_last_slot_is_told);
    RUN(nothing_is_lost);
    test_say("  %u schedules", schedules);
    return test_end();
}
