/* transport_send.c - allocating and sending, with waiting for slots and for room. */
#include "alloc_quick.h"
#include "doorbell.h"
#include "service.h"
#include "transport.h"

/* ---- whom ---------------------------------------------------------------------------- */

int hub_transport_find(hub_transport *t, uint32_t to, hub_link **ret) {
    int rc = hub_transport_check(t);
    if (rc < 0) return rc;
    if (!t->all) {
        uint32_t other = t->session->host != NULL ? t->link->id : 0;
        if (to != HUB_TO_DEFAULT && to != other) return HUB_ENOPEER;
        *ret = t->link;
        return 0;
    }
    if (to >= t->session->segment.geometry.max_peers) return HUB_ENOPEER; /* of 0 there is no link */
    (void)pthread_mutex_lock(&t->lock);
    rc = HUB_ENOPEER;
    if (t->links[to] != NULL) {
        *ret = hub_link_ref(t->links[to]);
        rc = 0;
    } else {
        for (hub_link *link = t->retired; link != NULL; link = link->next_retired)
            if (link->id == to) rc = HUB_EPEERGONE;
    }
    (void)pthread_mutex_unlock(&t->lock);
    return rc;
}

void hub_transport_found_done(hub_transport *t, hub_link *link) {
    if (t->all) hub_link_unref(link);
}

uint32_t hub_transport_epoch(hub_transport *t, uint32_t to) {
    hub_link *link;
    if (hub_transport_find(t, to, &link) < 0) return 0;
    uint32_t epoch = link->epoch;
    hub_transport_found_done(t, link);
    return epoch;
}

/* ---- one try ------------------------------------------------------------------------------ */

static int why_retired(const hub_link *link) {
    if (link->session->host == NULL) return HUB_ECLOSED; /* by nothing but its own closing */
    /* Between the death and its end the sender waits like one on a full ring. */
    return hub_link_gone(link) ? HUB_EPEERGONE : HUB_ERINGFULL;
}

/* The receiver is to look: C of transport.h, a full fence came after it. */
static void wake_receiver(hub_link *link) {
    hub_session *s = link->session;
    if (s->host == NULL) {
        hub_a64 *ready = &s->pool.signals->ready;
        uint64_t bit = 1ULL << s->id;
        if ((hub_load_relaxed_64(ready) & bit) == 0) {
            (void)hub_fetch_or_acq_rel_64(ready, bit);
            hub_fence_after_rmw(); /* the consumer: sleeping = 1, fence, look at ready */
        }
    }
    hub_a32 *sleeping = &link->tx.ring->sleeping;
    if (hub_load_relaxed_32(sleeping) == 0) return; /* D */
    if (hub_exchange_acq_rel_32(sleeping, 0) == 0) return; /* another of our threads won */
    link->tx_rung++;
    hub_link_ring(link);
}

static void count_sent(hub_link *link, size_t n, uint64_t bytes) {
    link->sent += n;
    link->bytes_sent += bytes;
    if (link->session->host != NULL) return;
    hub_lane_shm *lane = link->session->pool.lane;
    hub_store_relaxed_64(&lane->sent, link->sent);
    hub_store_relaxed_64(&lane->bytes_sent, link->bytes_sent);
    hub_store_relaxed_64(&lane->rings_rung, link->tx_rung + link->rx_rung);
}

static int send_slot_once(hub_link *link, const hub_message *message, const hub_slot *slot,
                          uint64_t length) {
    hub_pool *pool = &link->session->pool;
    uint32_t me = link->session->id;
    (void)pthread_mutex_lock(&link->tx_lock);
    int rc = link->tx_retired ? why_retired(link) : hub_ring_room(&link->tx, 1);
    /* Release, in the CAS: the payload is written before the receiver's CAS takes the slot. */
    if (rc == 0)
        rc = hub_pool_move(pool, slot->ref, slot->gen, HUB_OWNED, me, HUB_RING, link->out_ring);
    if (rc == 0) {
        hub_ring_stage(&link->tx, message, slot->ref, slot->gen, NULL, length);
        hub_ring_publish(&link->tx);
        /* Closed by the host meanwhile: take it back, unless the host already has. The host itself
         * closes its sending rings under tx_lock, and does not believe what a peer writes here. */
        if (link->session->host == NULL && hub_load_acquire_32(&link->tx.ring->closed) &&
            hub_pool_move(pool, slot->ref, slot->gen, HUB_RING, link->out_ring, HUB_OWNED, me) == 0) {
            rc = HUB_EHOSTGONE;
        } else {
            count_sent(link, 1, length);
            wake_receiver(link);
        }
    }
    (void)pthread_mutex_unlock(&link->tx_lock);
    return rc;
}

/* As many as go: inline ones are staged and published together; larger ones get a slot without
 * waiting. *ret_sent counts; the code says why it stopped short. */
static int send_run(hub_link *link, const hub_message *messages, const hub_buffer *buffers,
                    size_t count, size_t *ret_sent) {
    hub_pool *pool = &link->session->pool;
    size_t n = 0;
    uint64_t bytes = 0;
    (void)pthread_mutex_lock(&link->tx_lock);
    int rc = link->tx_retired ? why_retired(link) : 0;
    while (rc == 0 && n < count) {
        uint64_t length = buffers[n].length;
        if (length <= HUB_INLINE_MAX) {
            rc = hub_ring_room(&link->tx, hub_ring_cells(length));
            if (rc < 0) break;
            hub_ring_stage(&link->tx, &messages[n], HUB_REF_NONE, 0, buffers[n].data, length);
        } else {
            hub_slot slot;
            rc = hub_ring_room(&link->tx, 1);
            if (rc == 0) rc = hub_pool_alloc(pool, length, &slot);
            if (rc < 0) break;
            hub_copy(slot.data, buffers[n].data, length);
            (void)hub_pool_move(pool, slot.ref, slot.gen, HUB_OWNED, link->session->id, HUB_RING,
                                link->out_ring);
            hub_ring_stage(&link->tx, &messages[n], slot.ref, slot.gen, NULL, length);
        }
        bytes += length;
        n++;
    }
    if (n > 0) {
        hub_ring_publish(&link->tx);
        count_sent(link, n, bytes);
        wake_receiver(link);
    }
    (void)pthread_mutex_unlock(&link->tx_lock);
    *ret_sent = n;
    return rc;
}

/* An inline payload, with tx_lock; whoever sleeps there is still to be woken. */
static int publish_inline(hub_link *link, const hub_message *message, const void *data,
                          uint64_t length) {
    int rc = link->tx_retired ? why_retired(link)
                              : hub_ring_room(&link->tx, hub_ring_cells(length));
    if (rc < 0) return rc;
    hub_ring_stage(&link->tx, message, HUB_REF_NONE, 0, data, length);
    hub_ring_publish(&link->tx); /* with its fence: who wakes looks after it */
    count_sent(link, 1, length);
    return 0;
}

/* The usual send: one peer, a short payload, room for it. false: ask send_run why not. */
static bool send_inline_once(hub_transport *t, const hub_message *message, const void *data,
                             uint64_t length) {
    hub_link *link = t->link;
    if (hub_load_acquire_32(&t->closed) || hub_load_relaxed_32(&t->session->special)) return false;
    (void)pthread_mutex_lock(&link->tx_lock);
    bool sent = publish_inline(link, message, data, length) == 0;
    if (sent) wake_receiver(link);
    (void)pthread_mutex_unlock(&link->tx_lock);
    return sent;
}

/* ---- waiting ---------------------------------------------------------------------------------- */

static void arm_want(hub_link *link, uint32_t cells) {
    (void)hub_exchange_acq_rel_32(&link->tx.ring->want, cells);
    hub_store_relaxed_32(&link->wanted, 1); /* for the look-out, under no order */
    hub_fence(); /* want / head: the receiver stores head, fence, loads want */
}

static int blamed(hub_link *link, int rc) {
    if (rc == HUB_EVIOLATION && link->session->host != NULL)
        hub_service_violation(link->session, link, "its ring's head is where no receiver can be");
    return rc;
}

static int sleep_once(hub_transport *t, uint32_t seen, int64_t deadline, uint32_t *woken) {
    (void)hub_fetch_add_acq_rel_64(&t->waits, 1);
    if (t->session->host == NULL)
        hub_store_relaxed_64(&t->session->pool.lane->waits, hub_load_relaxed_64(&t->waits));
    int rc = hub_waiter_wait(&t->waiter, seen, deadline);
    return rc == 0 && ++*woken == HUB_FUTILE_WAKES_MAX ? HUB_EINTR : rc;
}

static int host_gone(const hub_transport *t) {
    return t->session->host == NULL && hub_load_acquire_32(&t->session->host_gone) ? HUB_EHOSTGONE
                                                                                   : 0;
}

static __attribute__((noinline)) int not_now(hub_transport *t, int rc) {
    hub_transport_look_at_host(t);
    return host_gone(t) < 0 ? HUB_EHOSTGONE : rc;
}

int hub_send_slot(hub_transport *t, uint32_t to, const hub_message *message, const hub_slot *slot,
                  uint64_t length, int64_t deadline) {
    hub_link *link;
    int rc = hub_transport_find(t, to, &link);
    if (rc < 0) return rc;
    bool spun = false;
    uint32_t woken = 0;
    /* More than is backed would be the receiver's violation to find. */
    if (!hub_pool_is_mine(&t->session->pool, slot->ref, slot->gen)) rc = HUB_ESTALE;
    else if (length > hub_pool_backed(&t->session->pool, slot->ref)) rc = HUB_EINVAL;
    while (rc == 0) {
        rc = host_gone(t);
        if (rc == 0) rc = send_slot_once(link, message, slot, length);
        if (rc == 0) break;
        if (rc != HUB_ERINGFULL || (deadline == HUB_NOW && !hub_load_relaxed_32(&t->waiter.fd_used)))
            break;
        if (deadline != HUB_NOW && !spun) { /* once: then it sleeps */
            spun = true;
            rc = hub_transport_check(t);
            if (rc < 0) break;
            if (hub_spin_for_room(t, link, 1, hub_spin_left(deadline))) continue;
        }
        uint32_t seen = hub_waiter_generation(&t->waiter);
        arm_want(link, 1);
        rc = hub_transport_check(t);
        if (rc == 0) rc = send_slot_once(link, message, slot, length);
        if (rc != HUB_ERINGFULL || deadline == HUB_NOW) break;
        rc = sleep_once(t, seen, deadline, &woken);
        if (rc == HUB_ETIMEDOUT) {
            rc = send_slot_once(link, message, slot, length);
            if (rc == HUB_ERINGFULL) rc = HUB_ETIMEDOUT;
            break;
        }
        if (rc == 0) rc = hub_transport_check(t);
    }
    if (deadline == HUB_NOW && (rc == HUB_ERINGFULL || rc == HUB_EEXHAUSTED)) rc = not_now(t, rc);
    rc = blamed(link, rc);
    hub_transport_found_done(t, link);
    return rc;
}

/* `receiver`: whom the slot is for; its end ends the wait (a peer's link to the host never is gone:
 * host_gone tells). NULL: nobody in particular. */
static __attribute__((noinline)) int alloc_waiting(hub_transport *t, const hub_link *receiver,
                                                   uint64_t size, int64_t deadline,
                                                   hub_slot *ret) {
    hub_session *s = t->session;
    uint32_t woken = 0;
    int rc;
    hub_session_pool_wait_begin(s);
    for (;;) {
        uint32_t seen = hub_waiter_generation(&t->waiter);
        rc = hub_transport_check(t);
        if (rc == 0) rc = host_gone(t);
        if (rc == 0 && receiver != NULL && hub_link_gone(receiver)) rc = HUB_EPEERGONE;
        if (rc == 0) rc = hub_pool_alloc(&s->pool, size, ret); /* D of alloc.h */
        if (rc != HUB_EEXHAUSTED) break;
        rc = sleep_once(t, seen, deadline, &woken);
        if (rc == HUB_ETIMEDOUT) {
            rc = hub_pool_alloc(&s->pool, size, ret);
            if (rc == HUB_EEXHAUSTED) rc = HUB_ETIMEDOUT;
            break;
        }
        if (rc < 0) break;
    }
    hub_session_pool_wait_end(s);
    return rc;
}

static __attribute__((noinline)) int why_not(const hub_transport *t) {
    int rc = hub_transport_check(t);
    return rc < 0 ? rc : host_gone(t);
}

static __attribute__((noinline)) int alloc_slowly(hub_transport *t, uint64_t size,
                                                  int64_t deadline, hub_slot *ret) {
    int rc = 0;
    if (hub_load_acquire_32(&t->closed) || hub_load_acquire_32(&t->session->special))
        rc = why_not(t);
    if (rc < 0) return rc;
    rc = hub_pool_alloc(&t->session->pool, size, ret);
    if (rc != HUB_EEXHAUSTED) return rc;
    /* A host's slot on the transport of one peer is for that peer. */
    const hub_link *receiver = t->all ? NULL : t->link;
    if (deadline == HUB_NOW)
        return receiver != NULL && hub_link_gone(receiver) ? HUB_EPEERGONE
                                                           : not_now(t, HUB_EEXHAUSTED);
    return alloc_waiting(t, receiver, size, deadline, ret);
}

int hub_alloc(hub_transport *t, uint64_t size, int64_t deadline, hub_slot *ret) {
    if (!hub_load_acquire_32(&t->closed) && !hub_load_acquire_32(&t->session->special) &&
        hub_alloc_quick(&t->session->pool, size, ret))
        return 0;
    return alloc_slowly(t, size, deadline, ret);
}

int hub_alloc_to(hub_transport *t, uint32_t to, uint64_t size, int64_t deadline, hub_slot *ret) {
    hub_link *link;
    int rc = hub_alloc(t, size, HUB_NOW, ret);
    if (rc != HUB_EEXHAUSTED) return rc;
    rc = hub_transport_find(t, to, &link);
    if (rc < 0) return rc;
    if (deadline == HUB_NOW) /* the task of an event loop would wait for a slot for the dead */
        rc = hub_link_gone(link) ? HUB_EPEERGONE : HUB_EEXHAUSTED;
    else
        rc = alloc_waiting(t, link, size, deadline, ret);
    hub_transport_found_done(t, link);
    return rc;
}

/* A slot that we have just allocated for it is said to be another's, or to hold less: not the
 * caller's argument is wrong. */
static int lied_about(int rc) {
    return rc == HUB_EINVAL || rc == HUB_ESTALE ? HUB_EVIOLATION : rc;
}

int hub_send_many(hub_transport *t, uint32_t to, const hub_message *messages,
                  const hub_buffer *buffers, size_t count, int64_t deadline, size_t *ret_sent) {
    hub_link *link;
    bool spun = false;
    uint32_t woken = 0;
    *ret_sent = 0;
    int rc = hub_transport_find(t, to, &link);
    if (rc < 0) return rc;
    while (*ret_sent < count) {
        size_t n = 0;
        const hub_message *next = messages + *ret_sent;
        const hub_buffer *rest = buffers + *ret_sent;
        rc = host_gone(t);
        if (rc == 0) rc = send_run(link, next, rest, count - *ret_sent, &n);
        *ret_sent += n;
        if (n > 0) spun = false;
        if (n > 0 && (rc == 0 || rc == HUB_ERINGFULL || rc == HUB_EEXHAUSTED)) continue;
        if (rc == HUB_EEXHAUSTED && deadline != HUB_NOW) {
            /* Wait for a slot as an alloc does, and send in it. */
            hub_slot slot;
            rc = alloc_waiting(t, link, rest[0].length, deadline, &slot);
            if (rc < 0) break;
            hub_copy(slot.data, rest[0].data, rest[0].length);
            rc = lied_about(hub_send_slot(t, to, &next[0], &slot, rest[0].length, deadline));
            if (rc < 0) {
                (void)hub_slot_free(t->session, &slot);
                break;
            }
            *ret_sent += 1;
            continue;
        }
        if (rc != HUB_ERINGFULL || (deadline == HUB_NOW && !hub_load_relaxed_32(&t->waiter.fd_used)))
            break;
        uint32_t cells = rest[0].length <= HUB_INLINE_MAX ? hub_ring_cells(rest[0].length) : 1;
        if (deadline != HUB_NOW && !spun &&
            hub_spin_for_room(t, link, cells, hub_spin_left(deadline))) {
            rc = hub_transport_check(t);
            if (rc < 0) break;
            spun = true; /* once without progress: then it sleeps */
            continue;
        }
        uint32_t seen = hub_waiter_generation(&t->waiter);
        arm_want(link, cells);
        rc = hub_transport_check(t);
        if (rc == 0) rc = send_run(link, next, rest, count - *ret_sent, &n);
        *ret_sent += n;
        if (n > 0 && (rc == 0 || rc == HUB_ERINGFULL || rc == HUB_EEXHAUSTED)) continue;
        if (rc == HUB_EEXHAUSTED && deadline != HUB_NOW) continue;
        if (rc != HUB_ERINGFULL || deadline == HUB_NOW) break;
        rc = sleep_once(t, seen, deadline, &woken);
        if (rc == HUB_ETIMEDOUT) {
            rc = send_run(link, next, rest, count - *ret_sent, &n);
            *ret_sent += n;
            if (*ret_sent == count) rc = 0;
            if (rc == HUB_ERINGFULL || rc == HUB_EEXHAUSTED) rc = HUB_ETIMEDOUT;
            break;
        }
        if (rc < 0) break;
        rc = hub_transport_check(t);
        if (rc < 0) break;
    }
    if (deadline == HUB_NOW && (rc == HUB_ERINGFULL || rc == HUB_EEXHAUSTED)) rc = not_now(t, rc);
    rc = blamed(link, rc);
    hub_transport_found_done(t, link);
    return rc;
}

int hub_send(hub_transport *t, uint32_t to, const hub_message *message, const void *data,
             uint64_t length, int64_t deadline) {
    if (length <= HUB_INLINE_MAX) {
        hub_buffer one = {data, (size_t)length};
        size_t sent;
        if (!t->all && to == HUB_TO_DEFAULT && send_inline_once(t, message, data, length)) return 0;
        return hub_send_many(t, to, message, &one, 1, deadline, &sent);
    }
    hub_slot slot;
    int rc = hub_alloc_to(t, to, length, deadline, &slot);
    if (rc < 0) return rc;
    hub_copy(slot.data, data, length);
    rc = lied_about(hub_send_slot(t, to, message, &slot, length, deadline));
    if (rc < 0) (void)hub_slot_free(t->session, &slot);
    return rc;
}

int hub_send_quietly(hub_transport *t, uint32_t to, const hub_message *message, const void *data,
                     uint64_t length) {
    hub_link *link;
    if (length > HUB_INLINE_MAX) return HUB_EINVAL;
    int rc = hub_transport_find(t, to, &link);
    if (rc < 0) return rc;
    (void)pthread_mutex_lock(&link->tx_lock);
    rc = publish_inline(link, message, data, length);
    (void)pthread_mutex_unlock(&link->tx_lock);
    rc = blamed(link, rc);
    hub_transport_found_done(t, link);
    return rc;
}

void hub_wake(hub_transport *t, uint32_t to) {
    hub_link *link;
    if (hub_transport_find(t, to, &link) < 0) return; /* gone: nobody is to be woken */
    (void)pthread_mutex_lock(&link->tx_lock);
    if (!link->tx_retired) wake_receiver(link); /* else the ring may be another life's */
    (void)pthread_mutex_unlock(&link->tx_lock);
    hub_transport_found_done(t, link);
}

/* ---- for event loops ------------------------------------------------------------------------------ */

int hub_poll_arm(hub_transport *t, uint32_t to, int kind, uint64_t length) {
    hub_link *link;
    int rc = hub_transport_check(t);
    if (rc < 0) return rc;
    (void)hub_exchange_acq_rel_32(&t->waiter.fd_used, 1);
    if (kind == HUB_POLL_ALLOC) {
        hub_store_release_32(&t->waiter.loop_waits_alloc, 1); /* before arming: see waiter.h */
        if (hub_exchange_acq_rel_32(&t->poll_waits, 1) == 0) hub_session_pool_wait_begin(t->session);
        hub_fence();
        return 0;
    }
    rc = hub_transport_find(t, to, &link);
    if (rc < 0) return rc;
    hub_store_release_32(&t->waiter.loop_waits_send, 1);
    arm_want(link, length <= HUB_INLINE_MAX ? hub_ring_cells(length) : 1);
    hub_transport_found_done(t, link);
    return 0;
}

void hub_poll_cancel(hub_transport *t, int kind) {
    if (hub_load_relaxed_32(&t->session->forked)) return;
    if (kind == HUB_POLL_SEND) {
        if (hub_exchange_acq_rel_32(&t->waiter.loop_waits_send, 0) == 0) return;
    } else {
        hub_store_release_32(&t->waiter.loop_waits_alloc, 0);
        if (hub_exchange_acq_rel_32(&t->poll_waits, 0) == 0) return;
        hub_session_pool_wait_end(t->session);
    }
    /* Other tasks of the loop may still wait: let them look and arm for themselves. */
    if (!hub_transport_closed(t)) hub_waiter_signal(&t->waiter);
}
