/* transport_recv.c - receiving: one try, then spin, arm, look again, sleep. */
#include <string.h>

#include "doorbell.h"
#include "service.h"
#include "transport.h"

/* ---- one link ------------------------------------------------------------------------ */

static void fill(const hub_link *link, const hub_entry *entry, hub_frame *ret) {
    const hub_session *s = link->session;
    ret->message = entry->message;
    ret->length = entry->length;
    ret->peer_id = (uint16_t)(s->host != NULL ? link->id : 0);
    if (entry->ref == HUB_REF_NONE) {
        memset(&ret->slot, 0, sizeof ret->slot);
        ret->slot.ref = HUB_REF_NONE;
        return;
    }
    ret->slot.ref = entry->ref;
    ret->slot.gen = entry->gen;
    ret->slot.data = hub_pool_data(&s->pool, entry->ref);
    ret->slot.capacity = hub_pool_slot_size(&s->pool, entry->ref);
}

static size_t take_queued(hub_link *link, hub_frame *ret, size_t max) {
    size_t n = 0;
    while (n < max && link->queue_count > 0) {
        hub_queued *queued = &link->queue[link->queue_head++];
        link->queue_count--;
        if (queued->entry.ref == HUB_REF_NONE)
            memcpy(ret[n].inline_data, queued->inline_data, sizeof ret[n].inline_data);
        else
            (void)hub_fetch_add_acq_rel_32(&link->session->host->queued, UINT32_MAX);
        fill(link, &queued->entry, &ret[n]);
        link->bytes_received += queued->entry.length;
        n++;
    }
    return n;
}

/* The slot named in a message becomes ours. A reference or length that no slot has is the sender's
 * doing: HUB_EVIOLATION. One that the slot's own ctl or backing contradicts may be a third peer's:
 * HUB_ESTALE. */
static int take_slot(hub_link *link, const hub_entry *entry) {
    hub_pool *pool = &link->session->pool;
    if (!hub_pool_valid(pool, entry->ref) || entry->length > hub_pool_slot_size(pool, entry->ref))
        return HUB_EVIOLATION;
    if (entry->length > hub_pool_backed(pool, entry->ref)) return HUB_ESTALE;
    return hub_pool_move(pool, entry->ref, entry->gen, HUB_RING, link->in_ring, HUB_OWNED,
                         link->session->id);
}

/* After head has passed: D of ring.h and a fence came before. */
static void wake_sender(hub_link *link) {
    hub_ring_shm *ring = link->rx.ring;
    uint32_t want = hub_load_relaxed_32(&ring->want);
    if (want == 0 || hub_ring_free_cells(&link->rx) < want) return;
    if (hub_exchange_acq_rel_32(&ring->want, 0) == 0) return;
    link->rx_rung++;
    hub_link_ring(link);
}

static void count_received(hub_link *link, size_t n) {
    link->received += n;
    if (link->session->host != NULL) return;
    hub_lane_shm *lane = link->session->pool.lane; /* ours alone: plain stores */
    hub_store_relaxed_64(&lane->received, link->received);
    hub_store_relaxed_64(&lane->bytes_received, link->bytes_received);
}

/* Number received; HUB_EAGAIN; HUB_EPEERGONE; HUB_EVIOLATION (the ring is broken); HUB_ESTALE (one
 * message names a slot that it does not have; it was stepped over). */
static int receive(hub_link *link, hub_frame *ret, size_t max, bool *ret_more) {
    size_t n = 0;
    int rc = 0;
    (void)pthread_mutex_lock(&link->rx_lock);
    if (link->queue_count > 0) {
        n = take_queued(link, ret, max);
        *ret_more = true; /* at least the news of the death */
    } else if (link->rx_retired) {
        rc = hub_link_gone(link) ? HUB_EPEERGONE : HUB_EAGAIN;
    } else {
        while (n < max) {
            hub_entry entry;
            rc = hub_ring_next(&link->rx, &entry, ret[n].inline_data);
            if (rc < 0) break;
            if (entry.ref != HUB_REF_NONE) rc = take_slot(link, &entry);
            if (rc < 0) {
                if (n == 0) {
                    hub_ring_step(&link->rx, entry.cells);
                    hub_ring_commit(&link->rx);
                }
                break; /* with messages before it in hand it is met again next time */
            }
            hub_ring_step(&link->rx, entry.cells);
            fill(link, &entry, &ret[n++]);
            link->bytes_received += entry.length;
        }
        if (n > 0) {
            hub_ring_commit(&link->rx); /* nothing reaches the application before */
            wake_sender(link);
        }
        *ret_more = hub_ring_nonempty(&link->rx);
    }
    if (n > 0) count_received(link, n);
    (void)pthread_mutex_unlock(&link->rx_lock);
    return n > 0 ? (int)n : rc;
}

/* What a broken message means, said outside of all locks. */
static int judge(hub_link *link, int rc) {
    hub_session *s = link->session;
    if (rc != HUB_EVIOLATION && rc != HUB_ESTALE) return rc;
    if (s->host != NULL && rc == HUB_EVIOLATION)
        hub_service_violation(s, link, "its ring holds what no peer may write");
    else if (s->host != NULL)
        hub_service_report(s, link, "a message names a slot that is not in its ring");
    return HUB_EVIOLATION;
}

/* ---- a transport ------------------------------------------------------------------------ */

static int receive_from_all(hub_transport *t, hub_frame *ret, size_t max, bool *ret_more) {
    hub_a64 *ready = &hub_session_signals(t->session)->ready;
    hub_link *broken = NULL;
    uint64_t looked = 0; /* at each ring once: a liar sets its bit as often as it is taken */
    int rc = HUB_EAGAIN;
    (void)pthread_mutex_lock(&t->rx_lock); /* links and retired change under this and t->lock */
    if (hub_load_acquire_32(&t->retired_count) > 0) {
        rc = receive(t->retired, ret, max, ret_more);
        *ret_more = true;
        (void)pthread_mutex_unlock(&t->rx_lock);
        return rc;
    }
    for (;;) {
        /* The producer sets its bit where it finds it clear, after its publish fence; taken here
         * before the rings are looked at. Left alone while it says nothing new. */
        uint64_t seen = hub_load_relaxed_64(ready);
        if (seen & ~t->pending) {
            t->pending |= hub_exchange_acq_rel_64(ready, 0);
            hub_fence_after_rmw();
        }
        /* Also after the exchange: a reclaim, or a lying peer, may have cleared what was seen. */
        uint64_t left = t->pending & ~looked;
        if (left == 0) break;
        uint64_t later = t->turn < 64 ? left & (~0ULL << t->turn) : 0;
        uint32_t id = (uint32_t)__builtin_ctzll(later != 0 ? later : left);
        hub_link *link = t->links[id];
        bool more = false;
        rc = link == NULL ? HUB_EAGAIN : receive(link, ret, max, &more);
        if (rc > 0) {
            t->turn = (id + 1) % HUB_PEERS_MAX; /* fair: the next one first */
            if (!more) t->pending &= ~(1ULL << id);
            *ret_more = t->pending != 0;
            break;
        }
        t->pending &= ~(1ULL << id);
        looked |= 1ULL << id;
        if (rc != HUB_EAGAIN) {
            broken = hub_link_ref(link);
            break;
        }
    }
    (void)pthread_mutex_unlock(&t->rx_lock);
    if (broken != NULL) {
        rc = judge(broken, rc);
        hub_link_unref(broken);
    }
    return rc;
}

/* Number received, or why not. */
static int try_recv(hub_transport *t, hub_frame *ret, size_t max) {
    bool more = false;
    int rc = hub_transport_check(t);
    if (rc < 0) return rc;
    if (t->all) {
        rc = receive_from_all(t, ret, max, &more);
    } else {
        rc = judge(t->link, receive(t->link, ret, max, &more));
        if (rc == HUB_EAGAIN && t->session->host == NULL &&
            hub_load_acquire_32(&t->session->host_gone)) {
            /* What it published before it went is there: one more look after the news. */
            rc = judge(t->link, receive(t->link, ret, max, &more));
            if (rc == HUB_EAGAIN) rc = hub_transport_closed(t) ? HUB_ECLOSED : HUB_EHOSTGONE;
        }
    }
    if (rc > 0 && more && hub_load_relaxed_32(&t->waiter.fd_used)) hub_waiter_signal(&t->waiter);
    return rc;
}

bool hub_transport_nonempty(const hub_transport *t) {
    if (t->all)
        return hub_load_relaxed_64(&hub_session_signals(t->session)->ready) != 0 ||
               hub_load_relaxed_32(&t->retired_count) > 0;
    const hub_ring_shm *ring = t->link->rx.ring;
    return hub_load_relaxed_64(&ring->tail) != hub_load_relaxed_64(&ring->head);
}

static void arm_ring(hub_link *link) {
    hub_a32 *sleeping = &link->rx.ring->sleeping;
    /* Already set: whoever takes it rings, so nothing is lost by not setting it again. */
    if (hub_load_relaxed_32(sleeping) == 0) (void)hub_exchange_acq_rel_32(sleeping, 1); /* A */
}

static void arm(hub_transport *t) {
    if (t->all) {
        (void)pthread_mutex_lock(&t->lock);
        for (uint32_t i = 1; i < HUB_PEERS_MAX; i++)
            if (t->links[i] != NULL) arm_ring(t->links[i]);
        (void)pthread_mutex_unlock(&t->lock);
    } else {
        arm_ring(t->link);
    }
    hub_fence(); /* between A and B of transport.h */
}

static int arm_and_try(hub_transport *t, hub_frame *ret, size_t max) {
    arm(t);
    return try_recv(t, ret, max); /* B */
}

void hub_transport_interrupt(hub_transport *t) {
    (void)hub_exchange_acq_rel_32(&t->interrupted, 1);
    hub_waiter_notify(&t->waiter); /* raises the generation, which hub_recv takes before it looks */
}

static bool interrupted(hub_transport *t) {
    return hub_load_relaxed_32(&t->interrupted) != 0 &&
           hub_exchange_acq_rel_32(&t->interrupted, 0) != 0;
}

/* Nothing there, and no time to wait: unless the host is gone, which is news. */
static int nothing_now(hub_transport *t, hub_frame *ret, size_t max) {
    hub_transport_look_at_host(t);
    return t->session->host == NULL && hub_load_acquire_32(&t->session->host_gone)
               ? try_recv(t, ret, max)
               : HUB_EAGAIN;
}

int hub_recv(hub_transport *t, hub_frame *ret, int64_t deadline) {
    bool spun = false;
    uint32_t woken = 0;
    for (;;) {
        int rc = try_recv(t, ret, 1);
        if (rc == HUB_EAGAIN && deadline == HUB_NOW && hub_load_relaxed_32(&t->waiter.fd_used)) {
            hub_waiter_drain(&t->waiter); /* before arming */
            rc = arm_and_try(t, ret, 1);
        }
        if (rc == HUB_EAGAIN && deadline == HUB_NOW) rc = nothing_now(t, ret, 1);
        if (rc != HUB_EAGAIN || deadline == HUB_NOW) return rc > 0 ? 0 : rc;
        if (!spun) {
            spun = true;
            if (hub_spin_for_message(t, hub_spin_left(deadline), true)) continue;
        }
        uint32_t seen = hub_waiter_generation(&t->waiter);
        rc = arm_and_try(t, ret, 1);
        if (rc != HUB_EAGAIN) return rc > 0 ? 0 : rc;
        if (interrupted(t)) return HUB_EINTR;
        (void)hub_fetch_add_acq_rel_64(&t->waits, 1);
        rc = hub_waiter_wait(&t->waiter, seen, deadline);
        if (rc == HUB_ETIMEDOUT) {
            rc = try_recv(t, ret, 1);
            return rc > 0 ? 0 : rc == HUB_EAGAIN ? HUB_ETIMEDOUT : rc;
        }
        if (rc < 0) return rc;
        if (++woken == HUB_FUTILE_WAKES_MAX) return HUB_EINTR;
    }
}

int hub_spin_recv(hub_transport *t, hub_frame *ret, int64_t max_spin_ns) {
    if (!hub_spin_for_message(t, max_spin_ns, false)) return HUB_EAGAIN;
    int rc = try_recv(t, ret, 1);
    return rc > 0 ? 0 : rc;
}

int hub_poll_recv(hub_transport *t, hub_frame *ret, int64_t max_spin_ns) {
    int rc = try_recv(t, ret, 1);
    if (rc == HUB_EAGAIN && hub_spin_for_message(t, max_spin_ns, true)) rc = try_recv(t, ret, 1);
    if (rc == HUB_EAGAIN) {
        (void)hub_exchange_acq_rel_32(&t->waiter.fd_used, 1);
        hub_store_release_32(&t->waiter.loop_waits_recv, 1); /* before arming: see waiter.h */
        rc = arm_and_try(t, ret, 1);
    }
    if (rc != HUB_EAGAIN && hub_load_relaxed_32(&t->waiter.loop_waits_recv))
        hub_store_release_32(&t->waiter.loop_waits_recv, 0);
    return rc > 0 ? 0 : rc;
}

int hub_recv_many(hub_transport *t, hub_frame *ret, size_t max) {
    int rc = max == 0 ? 0 : try_recv(t, ret, max);
    if (rc == HUB_EAGAIN && hub_load_relaxed_32(&t->waiter.fd_used)) {
        hub_waiter_drain(&t->waiter);
        rc = arm_and_try(t, ret, max);
    }
    if (rc == HUB_EAGAIN) rc = nothing_now(t, ret, max);
    return rc;
}
