/* service_lookout.c - nobody in the host sleeps for ever because a peer has lied.
 *
 * Whether to wake the other side is said in words that any peer can overwrite: sleeping, want,
 * ready, pool_waiters.  Honest peers never lose one (the protocols of transport.h and alloc.h); a
 * peer that scribbles can clear one, and then the host would not be told of a message, of room or
 * of a free slot that is there.  So, every two seconds while peers are attached, the service thread
 * looks at the things themselves, and wakes who waits.  It costs nothing that could be measured,
 * and it is no part of any protocol: without liars it never finds anything. */
#include "doorbell.h"
#include "service.h"
#include "transport.h"

#define LOOK_NS 2000000000LL

hub_a32 hub_service_lookout_off;

/* Unread in shared memory, as far as the words there can be believed. */
static bool unread(const hub_ring_shm *ring) {
    return hub_load_relaxed_64(&ring->tail) != hub_load_relaxed_64(&ring->head);
}

static bool has_room(const hub_link *link) {
    const hub_ring_shm *ring = link->tx.ring;
    uint64_t used = hub_load_relaxed_64(&ring->tail) - hub_load_relaxed_64(&ring->head);
    return used < link->tx.capacity;
}

static void look_at_link(hub_session *s, hub_link *link) {
    bool wake = false;
    if (unread(link->rx.ring)) {
        /* An all-peers transport looks where a bit is set. */
        (void)hub_fetch_or_acq_rel_64(&s->pool.signals->ready, 1ULL << link->id);
        wake = true;
    }
    if (hub_load_relaxed_32(&link->wanted) && has_room(link)) {
        hub_store_relaxed_32(&link->wanted, 0);
        wake = true;
    }
    if (wake && link->transport != NULL) hub_waiter_notify(&link->transport->waiter);
    if (unread(link->tx.ring)) hub_link_ring(link); /* the peer's own sleep, too */
}

static void look_at_waiters(hub_session *s) {
    hub_a64 *word = &s->pool.signals->pool_waiters;
    if (s->pool_waiters == 0 || (hub_load_relaxed_64(word) & 1)) return;
    (void)hub_fetch_or_acq_rel_64(word, 1);
    hub_session_notify_locked(s);
}

int hub_service_lookout(hub_session *s) {
    bool any = false;
    if (hub_load_relaxed_32(&hub_service_lookout_off)) return -1;
    int64_t now = hub_clock_ns(), left = s->host->looked_out_at + LOOK_NS - now;
    for (uint32_t id = 1; id < s->segment.geometry.max_peers; id++) {
        hub_link *link = s->host->links[id];
        if (link == NULL || link->state != HUB_PEER_ACTIVE) continue;
        any = true;
        if (left <= 0) look_at_link(s, link);
    }
    if (!any) return -1;
    if (left <= 0) {
        look_at_waiters(s);
        s->host->looked_out_at = now;
        left = LOOK_NS;
    }
    return (int)(left / 1000000) + 1;
}
