/* reclaim.c - see reclaim.h. */
#include "reclaim.h"

#include <string.h>

#include "transport.h"

/* What the peer never received: [its head, our tail). The head is the peer's word; it is taken only
 * if it lies among what was sent in this life. Descriptors were written by us, but may have been
 * scribbled on. */
static void list_undelivered(hub_session *s, hub_link *link) {
    hub_producer *tx = &link->tx;
    hub_consumer reader;
    uint64_t head = hub_load_acquire_64(&tx->ring->head);
    uint64_t most = tx->tail - s->host->down_positions[link->id];
    if (most > tx->capacity) most = tx->capacity;
    if (tx->tail - head > most) head = tx->head;
    if (tx->tail - head > most) head = tx->tail - most; /* never looked at before */
    hub_consumer_init(&reader, tx->ring, tx->capacity, head);
    reader.tail = tx->tail;
    while (reader.head != tx->tail) {
        hub_entry entry;
        unsigned char unused[HUB_INLINE_MAX];
        if (hub_ring_next(&reader, &entry, unused) < 0) return;
        link->undelivered[link->undelivered_count++] = entry.message.message_id;
        /* Of an inline one that is no slot, and nothing happens. */
        (void)hub_pool_discard(&s->pool, entry.ref, entry.gen, HUB_RING, link->out_ring);
        hub_ring_step(&reader, entry.cells);
    }
}

/* Published means delivered: unread messages move to the private queue, RING -> OWNED(host). */
static void save_published(hub_session *s, hub_link *link) {
    hub_consumer *rx = &link->rx;
    /* A ring holds no more messages than cells; one that lives and lies could go on publishing. */
    for (uint32_t n = 0; n < rx->capacity; n++) {
        hub_queued *place = &link->queue[link->queue_count];
        if (hub_ring_next(rx, &place->entry, place->inline_data) < 0) return; /* empty, or broken */
        hub_ring_step(rx, place->entry.cells);
        if (place->entry.ref == HUB_REF_NONE ||
            (hub_pool_valid(&s->pool, place->entry.ref) &&
             place->entry.length <= hub_pool_backed(&s->pool, place->entry.ref) &&
             hub_pool_move(&s->pool, place->entry.ref, place->entry.gen, HUB_RING, link->in_ring,
                           HUB_OWNED, s->id) == 0)) {
            if (place->entry.ref != HUB_REF_NONE) (void)hub_fetch_add_acq_rel_32(&s->host->queued, 1);
            link->queue_count++;
        }
    }
}

void hub_reclaim_rings(hub_session *s, hub_link *link, bool alive) {
    (void)pthread_mutex_lock(&link->tx_lock);
    link->tx_retired = true;
    hub_store_release_32(&link->tx.ring->closed, 1);
    /* Alive and not leaving: it may still be reading what we sent, so nothing is taken from it. */
    if (!alive && link->undelivered_count == 0) list_undelivered(s, link);
    (void)pthread_mutex_unlock(&link->tx_lock);

    /* The peer looks at `closed` after it has published (fence between): either it sees this store
     * and takes the slot back, or its message is seen here. */
    hub_store_release_32(&link->rx.ring->closed, 1);
    hub_fence();
    (void)pthread_mutex_lock(&link->rx_lock);
    if (!link->rx_retired) {
        link->queue_head = 0;
        save_published(s, link);
        link->rx_retired = true;
        hub_ring_commit(&link->rx);
    }
    (void)pthread_mutex_unlock(&link->rx_lock);
    link->retired = true;
}

void hub_reclaim_all(hub_session *s, hub_link *link) {
    hub_host *host = s->host;
    hub_reclaim_rings(s, link, false);
    host->reclaimed += hub_pool_reclaim(&s->pool, link->id);
    uint64_t bit = 1ULL << link->id;
    (void)hub_fetch_and_acq_rel_64(&s->pool.signals->pool_waiters, ~bit);
    (void)hub_fetch_and_acq_rel_64(&s->pool.signals->ready, ~bit);
    hub_store_relaxed_8(&s->pool.signals->spinning[link->id], 0);
    host->up_positions[link->id] = link->rx.head;
    host->down_positions[link->id] = link->tx.tail;
    hub_store_release_64(&hub_session_peer(s, link->id)->state,
                         hub_state_make(link->epoch, HUB_PEER_FREE));
    if (host->links[link->id] == link) {
        host->links[link->id] = NULL;
        hub_link_unref(link);
    }
}
