/* test_reclaim.c - what becomes of the two rings of a peer that is gone, whatever it has written
 * into them: what it published and no other is kept for the host, what it never received and nothing
 * else is listed, and every slot of both comes back. */
#define _GNU_SOURCE
#include <string.h>

#include "check.h"
#include "pair.h"
#include "reclaim.h"

static const char data[4096];

static hub_config config_two(void) {
    hub_config config = config_tiny();
    config.max_peers = 2; /* one id: every life is the next one's */
    return config;
}

static void send_ids(hub_transport *t, uint64_t first, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        hub_message message = message_of(first + i);
        /* Every second one in a slot. */
        CHECK_OK(hub_send(t, HUB_TO_DEFAULT, &message, data, i % 2 ? 1000 : 10, HUB_NOW));
    }
}

static void reclaim_rings(pair *p, bool alive) {
    CHECK_EQ(pthread_mutex_lock(&p->host->lock), 0);
    hub_reclaim_rings(p->host, p->link, alive);
    CHECK_EQ(pthread_mutex_unlock(&p->host->lock), 0);
}

static void check_undelivered(const hub_link *link, uint64_t first, unsigned count) {
    CHECK_EQ(link->undelivered_count, count);
    for (unsigned i = 0; i < count; i++) CHECK_EQ(link->undelivered[i], first + i);
}

/* Three were sent in this life, three in the one before it, none was received. */
static void undelivered_whatever_head_says(void) {
    for (unsigned lie = 0; lie < 5; lie++) {
        hub_config config = config_two();
        pair p;
        pair_open(&p, &config, false);
        send_ids(p.from_host, 11, 3);
        pair_detach(&p);
        host_check_all_free(p.host);
        pair_attach(&p);
        uint64_t begun = p.link->tx.tail;
        send_ids(p.from_host, 21, 3);
        CHECK_EQ(host_owned(p.host), 1);
        hub_a64 *head = &pair_down(&p)->head;
        uint64_t lies[] = {begun, begun - 1, begun - 3, begun + 4, begun + 1000};
        hub_store_release_64(head, lies[lie]);
        reclaim_rings(&p, false);
        check_undelivered(p.link, 21, 3);
        CHECK_EQ(host_owned(p.host), 0); /* at once, not when the process is gone */
        CHECK(p.link->tx_retired && p.link->rx_retired && p.link->retired);
        CHECK_EQ(hub_load_relaxed_32(&pair_up(&p)->closed), 1);
        CHECK_EQ(hub_load_relaxed_32(&pair_down(&p)->closed), 1);
        reclaim_rings(&p, false); /* a second time nothing happens */
        check_undelivered(p.link, 21, 3);
        pair_close(&p);
    }
}

/* One was received: the head says so; and what was scribbled on ends the list. */
static void only_what_was_never_received(void) {
    hub_frame frame;
    for (unsigned scribbled = 0; scribbled < 2; scribbled++) {
        hub_config config = config_two();
        pair p;
        pair_open(&p, &config, false);
        send_ids(p.from_host, 31, 4);
        receive(p.from_peer, &frame);
        if (scribbled) {
            hub_desc_shm *cells = (hub_desc_shm *)(pair_down(&p) + 1);
            cells[(p.link->tx.tail - 1) % 16].sequence ^= 1; /* the last one */
        }
        reclaim_rings(&p, false);
        check_undelivered(p.link, 32, 3 - scribbled);
        CHECK_EQ(host_owned(p.host), scribbled); /* its slot comes back with all that it holds */
        pair_close(&p);
    }
}

/* One that lives may still be reading: nothing is listed or taken. */
static void the_living_keep_what_they_have(void) {
    hub_config config = config_two();
    hub_frame frame;
    pair p;
    pair_open(&p, &config, false);
    send_ids(p.from_host, 41, 2);
    reclaim_rings(&p, true);
    CHECK_EQ(p.link->undelivered_count, 0);
    CHECK_EQ(host_owned(p.host), 1);
    for (unsigned i = 0; i < 2; i++) {
        receive(p.from_peer, &frame);
        CHECK_EQ(frame.message.message_id, 41 + i);
        frame_free(p.peer, &frame);
    }
    pair_close(&p);
}

/* Published by a peer with a forged slot beside good ones. */
static void stage_forged(pair *p, uint64_t id, uint32_t ref, uint32_t gen, uint64_t length) {
    hub_message message = message_of(id);
    hub_producer *tx = &p->from_peer->link->tx;
    CHECK_OK(hub_ring_room(tx, 1));
    hub_ring_stage(tx, &message, ref, gen, NULL, length);
    hub_ring_publish(tx);
}

static void published_is_kept_and_forged_is_not(void) {
    hub_config config = config_two();
    hub_slot ring_slot, own;
    hub_frame frame;
    pair p;
    pair_open(&p, &config, false);
    hub_pool *pool = &p.peer->pool;
    send_ids(p.from_peer, 51, 2);
    CHECK_OK(hub_pool_alloc(pool, 100 * 1024, &ring_slot)); /* of 1 MiB, a tenth of it backed */
    CHECK_OK(hub_pool_move(pool, ring_slot.ref, ring_slot.gen, HUB_OWNED, p.id, HUB_RING,
                           hub_ring_up(p.id)));
    CHECK_OK(hub_pool_alloc(pool, 1000, &own));
    uint64_t backed = hub_pool_backed(pool, ring_slot.ref);
    CHECK_REL(backed, <, ring_slot.capacity);
    stage_forged(&p, 90, ring_slot.ref, ring_slot.gen, ring_slot.capacity + 1);
    stage_forged(&p, 91, ring_slot.ref, ring_slot.gen, backed + 1);
    stage_forged(&p, 92, ring_slot.ref, ring_slot.gen + 1, 10);
    stage_forged(&p, 93, own.ref, own.gen, 10); /* never moved into the ring */
    stage_forged(&p, 94, hub_ref_make(7, 0), 0, 0); /* no such class */
    stage_forged(&p, 95, hub_ref_make(2, 2), 0, 10); /* no such slot */
    stage_forged(&p, 53, ring_slot.ref, ring_slot.gen, backed);
    send_ids(p.from_peer, 54, 1);
    reclaim_rings(&p, false);
    CHECK_EQ(p.link->queue_count, 4);
    for (unsigned i = 0; i < 4; i++) CHECK_EQ(p.link->queue[i].entry.message.message_id, 51 + i);
    hub_a32 *queued = &p.host->host->queued; /* slots, which fsck takes for no strays */
    CHECK_EQ(hub_load_relaxed_32(queued), 2);
    CHECK_EQ(hub_load_relaxed_64(&pair_up(&p)->head), p.link->rx.head); /* where the next life begins */
    CHECK_EQ(hub_pool_owned(pool, 0, 99), 2);
    for (unsigned i = 0; i < 4; i++) {
        receive(p.from_host, &frame);
        CHECK_EQ(frame.message.message_id, 51 + i);
        CHECK_EQ(hub_load_relaxed_32(queued), i < 1 ? 2 : i < 2 ? 1 : 0);
        frame_free(p.host, &frame);
        reclaim_rings(&p, false); /* again: what was received does not come back */
    }
    CHECK_OK(hub_pool_free(pool, own.ref, own.gen));
    pair_close(&p);
}

/* Quarantined, then dead: what the host has received meanwhile does not come again. */
static void kept_once_though_reclaimed_twice(void) {
    hub_config config = config_two();
    hub_frame frame;
    pair p;
    pair_open(&p, &config, false);
    send_ids(p.from_peer, 71, 4);
    reclaim_rings(&p, true);
    for (unsigned i = 0; i < 4; i++) {
        receive(p.from_host, &frame);
        CHECK_EQ(frame.message.message_id, 71 + i);
        frame_free(p.host, &frame);
        reclaim_rings(&p, false);
        CHECK_EQ(p.link->queue_count, 3 - i);
    }
    CHECK_EQ(hub_load_relaxed_32(&p.host->host->queued), 0);
    pair_close(&p);
}

static void no_more_than_was_kept(void) {
    hub_config config = config_two();
    hub_frame frames[8];
    pair p;
    pair_open(&p, &config, false);
    send_ids(p.from_peer, 81, 5);
    reclaim_rings(&p, false);
    CHECK_EQ(hub_recv_many(p.from_host, frames, 2), 2);
    CHECK_EQ(hub_recv_many(p.from_host, frames + 2, 6), 3);
    for (unsigned i = 0; i < 5; i++) {
        CHECK_EQ(frames[i].message.message_id, 81 + i);
        frame_free(p.host, &frames[i]);
    }
    CHECK_EQ(p.link->queue_count, 0);
    pair_close(&p);
}

/* Unread, and never read: the queue's slots go with the link. */
static void unread_go_with_the_link(void) {
    hub_config config = config_two();
    pair p;
    pair_open(&p, &config, false);
    send_ids(p.from_peer, 61, 6);
    reclaim_rings(&p, false);
    CHECK_EQ(host_owned(p.host), 3);
    CHECK_EQ(hub_pool_owned(&p.host->pool, 0, 99), 3);
    CHECK_EQ(hub_load_relaxed_32(&p.host->host->queued), 3);
    pair_detach(&p);
    CHECK_EQ(hub_load_relaxed_32(&p.host->host->queued), 0);
    host_close(p.host); /* all are free */
}

int main(void) {
    test_begin(120);
    RUN(undelivered_whatever_head_says);
    RUN(only_what_was_never_received);
    RUN(the_living_keep_what_they_have);
    RUN(published_is_kept_and_forged_is_not);
    RUN(kept_once_though_reclaimed_twice);
    RUN(no_more_than_was_kept);
    RUN(unread_go_with_the_link);
    return test_end();
}
