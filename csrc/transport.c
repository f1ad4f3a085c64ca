/* transport.c - opening, closing, membership and statistics of transports. */
#define _GNU_SOURCE
#include "transport.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "doorbell.h"
#include "reclaim.h"
#include "service.h"

#ifdef __linux__
#include <sys/epoll.h>
#else
#define EPOLLIN 1
#define EPOLLRDHUP 2
#define EPOLLHUP 4
#define EPOLLERR 8
#endif

#define TAG_HOST_PROCESS (UINT64_MAX - 1)
#define DOORBELL_EVENTS (EPOLLIN | EPOLLRDHUP)
#define LOOK_AT_HOST_NS 5000000LL
#define HUNG_UP (EPOLLHUP | EPOLLRDHUP | EPOLLERR)

static uint64_t link_tag(const hub_link *link) { return (uint64_t)link->id << 32 | link->epoch; }

/* ---- what wakes the waiter -------------------------------------------------------- */

/* Under the lock that its closing takes: the number may be another link's a moment later, and that
 * one would be struck from the waiter. */
static void stop_listening(hub_transport *t, hub_link *link) {
    (void)pthread_mutex_lock(&link->fd_lock);
    hub_waiter_remove(&t->waiter, link->fd);
    (void)pthread_mutex_unlock(&link->fd_lock);
}

/* A peer's view of the host's end: closed in good order, or dead. */
static void host_is_gone(hub_transport *t) {
    hub_session *s = t->session;
    bool clean = hub_load_acquire_32(&hub_session_header(s)->host_closed) ||
                 hub_load_acquire_32(&hub_session_peer(s, s->id)->host_left);
    if (clean) hub_store_relaxed_32(&s->host_clean, 1);
    hub_store_release_32(&s->host_gone, 1);
    hub_store_release_32(&s->special, 1);
    stop_listening(t, t->link);
    hub_waiter_remove(&t->waiter, s->host_pidfd);
}

void hub_transport_look_at_host(hub_transport *t) {
    hub_session *s = t->session;
    if (s->host != NULL || hub_load_acquire_32(&s->host_gone)) return;
    /* Relaxed: at worst two threads look at once. */
    int64_t now = hub_clock_ns();
    if (now - (int64_t)hub_load_relaxed_64(&t->looked_at_host_ns) < LOOK_AT_HOST_NS) return;
    hub_store_relaxed_64(&t->looked_at_host_ns, (uint64_t)now);
    (void)pthread_mutex_lock(&t->link->fd_lock);
    bool gone = t->link->fd >= 0 && hub_doorbell_peer_closed(t->link->fd);
    (void)pthread_mutex_unlock(&t->link->fd_lock);
    if (!gone && !hub_pidfd_ended(s->host_pidfd)) return;
    host_is_gone(t);
    hub_waiter_notify(&t->waiter); /* what others would have been woken by was taken away */
}

static void on_ready(void *context, uint64_t tag, uint32_t events) {
    hub_transport *t = context;
    hub_link *link = NULL;
    if (tag == TAG_HOST_PROCESS) {
        host_is_gone(t);
        return;
    }
    if (t->all) {
        (void)pthread_mutex_lock(&t->lock);
        link = t->links[(tag >> 32) % HUB_PEERS_MAX];
        if (link != NULL && link_tag(link) == tag)
            hub_link_ref(link);
        else
            link = NULL;
        (void)pthread_mutex_unlock(&t->lock);
    } else {
        link = t->link;
    }
    if (link == NULL) return;
    if (events & EPOLLIN) hub_link_drain(link);
    if (events & HUNG_UP) {
        if (t->session->host == NULL)
            host_is_gone(t);
        else /* level-triggered: the service thread finds out what it means and tells us */
            stop_listening(t, link);
    }
    if (t->all) hub_link_unref(link);
}

/* ---- life ---------------------------------------------------------------------------- */

static hub_transport *transport_new(hub_session *s, const char *name, int *ret_code) {
    hub_transport *t = calloc(1, sizeof *t);
    *ret_code = t == NULL ? -ENOMEM : 0;
    if (t == NULL) return NULL;
    *ret_code = hub_waiter_init(&t->waiter, on_ready, t);
    if (*ret_code < 0) {
        free(t);
        return NULL;
    }
    hub_store_relaxed_32(&t->refs, 1);
    hub_store_relaxed_64(&t->next_id, HUB_START_64 + 1);
    t->session = hub_session_ref(s);
    if (name != NULL) (void)strncpy(t->name, name, sizeof t->name - 1);
    t->retired_end = &t->retired;
    (void)pthread_mutex_init(&t->lock, NULL);
    (void)pthread_mutex_init(&t->rx_lock, NULL);
    hub_spin_init(&t->spin, s->segment.geometry.spin_ns);
    hub_spin_init(&t->room_spin, s->segment.geometry.spin_ns);
    return t;
}

static void transport_free(hub_transport *t) {
    hub_session *s = t->session;
    hub_waiter_fini(&t->waiter);
    hub_link_unref(t->link);
    for (uint32_t i = 0; i < HUB_PEERS_MAX; i++) hub_link_unref(t->links[i]);
    while (t->retired != NULL) {
        hub_link *next = t->retired->next_retired;
        hub_link_unref(t->retired);
        t->retired = next;
    }
    (void)pthread_mutex_destroy(&t->lock);
    (void)pthread_mutex_destroy(&t->rx_lock);
    free(t);
    hub_session_unref(s);
}

hub_transport *hub_transport_ref(hub_transport *t) {
    (void)hub_fetch_add_acq_rel_32(&t->refs, 1);
    return t;
}

void hub_transport_unref(hub_transport *t) {
    if (t == NULL || hub_load_relaxed_32(&t->session->forked)) return;
    /* Under the lock, so that nobody finds it in the list once the last reference is gone. */
    (void)pthread_mutex_lock(&t->session->lock);
    bool last = hub_fetch_add_acq_rel_32(&t->refs, UINT32_MAX) == 1;
    for (hub_transport **at = &t->session->transports; last && *at != NULL; at = &(*at)->next)
        if (*at == t) {
            *at = t->next;
            break;
        }
    (void)pthread_mutex_unlock(&t->session->lock);
    if (!last) return;
    hub_transport_close(t);
    transport_free(t);
}

static void enlist(hub_transport *t) {
    t->next = t->session->transports;
    t->session->transports = t;
}

int hub_transport_open_host_peer(hub_session *s, hub_link *link, const char *name,
                                 hub_transport **ret, hub_fault *fault) {
    int rc = hub_session_check(s);
    if (rc < 0) return rc;
    if (s->host == NULL || link->session != s)
        return hub_fault_set(fault, HUB_EINVAL, "the doorbell of peer %u belongs to another hub",
                             link->id);
    hub_transport *t = transport_new(s, name, &rc);
    if (t == NULL) return rc;
    t->link = hub_link_ref(link);
    (void)pthread_mutex_lock(&s->lock);
    if (link->transport != NULL)
        rc = hub_fault_set(fault, HUB_EBUSY, "peer %u has a transport already: one reader and one "
                           "writer a ring; share that transport", link->id);
    else if (link->tx_retired && !hub_link_gone(link))
        rc = hub_fault_set(fault, HUB_EBUSY, "the transport of peer %u was closed: it has been told "
                           "to leave", link->id);
    if (rc == 0) {
        link->transport = t;
        enlist(t);
        if (link->state == HUB_PEER_ACTIVE) hub_transport_link_active(t, link);
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (rc < 0) {
        transport_free(t);
        return rc;
    }
    *ret = t;
    return 0;
}

int hub_transport_open_host(hub_session *s, const char *name, hub_transport **ret,
                            hub_fault *fault) {
    int rc = hub_session_check(s);
    if (rc < 0) return rc;
    if (s->host == NULL) return hub_fault_set(fault, HUB_EINVAL, "only a host talks to all peers");
    hub_transport *t = transport_new(s, name, &rc);
    if (t == NULL) return rc;
    t->all = true;
    (void)pthread_mutex_lock(&s->lock);
    if (s->host->all != NULL) {
        rc = hub_fault_set(fault, HUB_EBUSY, "this hub has an all-peers transport already");
    } else {
        s->host->all = t;
        enlist(t);
        for (uint32_t i = 1; i < HUB_PEERS_MAX; i++)
            if (s->host->links[i] != NULL && s->host->links[i]->transport == NULL &&
                !s->host->links[i]->retired)
                hub_transport_adopt(t, s->host->links[i]);
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (rc < 0) {
        transport_free(t);
        return rc;
    }
    *ret = t;
    return 0;
}

/* ---- attach: the peer's side of the handshake -------------------------------------------- */

static int say_hello(hub_session *s, int fd, hub_fault *fault) {
    hub_hello hello = {HUB_HELLO_MAGIC, HUB_VERSION_MAJOR, s->id, 0};
    int pidfd = hub_pidfd_open((int32_t)getpid());
    int rc = hub_doorbell_send_message(fd, &hello, sizeof hello, &pidfd, pidfd < 0 ? 0 : 1);
    int saved = errno;
    if (pidfd >= 0) (void)close(pidfd);
    errno = saved;
    if (rc == -EPIPE || rc == -ECONNRESET)
        return hub_fault_set(fault, HUB_EHOSTGONE,
                             "attaching peer %u: the host hung up (it ended, closed the hub or "
                             "removed this peer)", s->id);
    if (rc < 0)
        return hub_fault_set(fault, rc, "attaching peer %u: doorbell fd %d: %s", s->id, fd,
                             strerror(-rc));
    s->hello_sent = true;
    return 0;
}

static int await_welcome(hub_session *s, int fd, int64_t deadline, hub_welcome *ret,
                         int fds[HUB_MESSAGE_FDS], hub_fault *fault) {
    int32_t pid;
    for (;;) {
        int rc = hub_doorbell_wait(fd, deadline);
        if (rc < 0) return rc;
        if (rc == 0)
            return hub_fault_set(fault, HUB_ETIMEDOUT, "attaching peer %u: no answer from the host",
                                 s->id);
        rc = hub_doorbell_recv_message(fd, ret, sizeof *ret, fds, &pid);
        if (rc == -EAGAIN) continue;
        if (rc == 0 || rc == -ECONNRESET)
            return hub_fault_set(fault, HUB_EHOSTGONE,
                                 "attaching peer %u: the host hung up before it answered", s->id);
        if (rc < 0) return rc;
        if (rc != (int)sizeof *ret || ret->magic != HUB_WELCOME_MAGIC ||
            ret->version != HUB_VERSION_MAJOR) {
            for (int i = 0; i < HUB_MESSAGE_FDS; i++)
                if (fds[i] >= 0) (void)close(fds[i]);
            return hub_fault_set(fault, HUB_EFORMAT,
                                 "attaching peer %u: the answer on the doorbell is no welcome of "
                                 "this version", s->id);
        }
        return 0;
    }
}

static int open_with(hub_session *s, int fd, const char *name, const hub_welcome *welcome,
                     const int fds[HUB_MESSAGE_FDS], hub_transport **ret, hub_fault *fault) {
    int rc = 0;
    s->bell_fd = fds[0];
    s->host_pidfd = fds[1];
    if (fds[0] < 0 || fds[1] < 0)
        return hub_fault_set(fault, -EMFILE,
                             "attaching peer %u: no room for the descriptors that the host sent; "
                             "raise RLIMIT_NOFILE", s->id);
    if (memcmp(&welcome->geometry, &s->segment.geometry, sizeof s->segment.geometry) != 0)
        return hub_fault_set(fault, HUB_EFORMAT,
                             "attaching peer %u: the host's hub is not the one that was opened "
                             "(its geometry differs): wrong --hub-path?", s->id);
    hub_link *link =
        hub_link_new(s, s->id, welcome->epoch, name, welcome->up_tail, welcome->down_head);
    if (link == NULL) return -ENOMEM;
    hub_transport *t = transport_new(s, name, &rc);
    if (t == NULL) {
        hub_link_unref(link);
        return rc;
    }
    t->link = link;
    s->attached = true;
    s->epoch = welcome->epoch;
    link->fd = fd;
    rc = hub_waiter_add(&t->waiter, fd, DOORBELL_EVENTS, link_tag(link));
    if (rc == 0) rc = hub_waiter_add(&t->waiter, s->host_pidfd, EPOLLIN, TAG_HOST_PROCESS);
    if (rc < 0) {
        link->fd = -1; /* still the caller's */
        s->attached = false;
        transport_free(t);
        return rc;
    }
    (void)pthread_mutex_lock(&s->lock);
    enlist(t);
    (void)pthread_mutex_unlock(&s->lock);
    *ret = t;
    return 0;
}

int hub_transport_open_peer(hub_session *s, int doorbell_fd, const char *name, int64_t deadline,
                            hub_transport **ret, hub_fault *fault) {
    int rc = hub_session_check(s), fds[HUB_MESSAGE_FDS];
    hub_welcome welcome;
    if (rc < 0) return rc;
    if (s->host != NULL) return hub_fault_set(fault, HUB_EINVAL, "a host is not attached as a peer");
    if (s->attached)
        return hub_fault_set(fault, HUB_EBUSY, "peer %u has a transport already", s->id);
    if (!s->registered)
        return hub_fault_set(fault, HUB_ENOTATTACHED,
                             "peer %u has not claimed its id: call register() first", s->id);
    rc = hub_doorbell_check(doorbell_fd, fault);
    if (rc == 0 && !s->hello_sent) rc = say_hello(s, doorbell_fd, fault);
    if (rc == 0) rc = await_welcome(s, doorbell_fd, deadline, &welcome, fds, fault);
    if (rc < 0) return rc;
    if (welcome.status < 0)
        return hub_fault_set(fault, welcome.status, "attaching peer %u: the host refused: %.119s",
                             s->id, welcome.text);
    return open_with(s, doorbell_fd, name, &welcome, fds, ret, fault);
}

/* ---- closing --------------------------------------------------------------------------------- */

static void close_peer(hub_transport *t) {
    hub_session *s = t->session;
    hub_link *link = t->link;
    /* Threads inside an operation finish it under these locks. */
    (void)pthread_mutex_lock(&link->tx_lock);
    link->tx_retired = true;
    (void)pthread_mutex_unlock(&link->tx_lock);
    (void)pthread_mutex_lock(&link->rx_lock);
    link->rx_retired = true;
    (void)pthread_mutex_unlock(&link->rx_lock);
    stop_listening(t, link);
    hub_pool_flush(&s->pool);
    /* Said before the hang-up, which is what the host looks at. */
    uint64_t active = hub_state_make(s->epoch, HUB_PEER_ACTIVE);
    (void)hub_cas_acq_rel_64(&hub_session_peer(s, s->id)->state, &active,
                             hub_state_make(s->epoch, HUB_PEER_LEAVING));
    hub_store_release_32(&s->leaving, 1);
    hub_store_release_32(&s->special, 1);
    /* A free after this store checks for itself; one before it is counted here. No test sees it
     * missing: the store is in the buffer for some nanoseconds only (tests/mutants). */
    hub_fence();
    hub_session_check_left(s);
    hub_link_hang_up(link); /* seen even where a child has a copy of the descriptor */
    hub_link_close_fd(link);
    hub_session_ring_bell(s);
}

/* Under the session's lock: the peer is told to leave; what it holds stays until it does. */
static void host_lets_go(hub_session *s, hub_link *link, bool cancel) {
    link->transport = NULL;
    if (link->state == HUB_PEER_ACTIVE) {
        hub_store_release_32(&hub_session_peer(s, link->id)->host_left, 1);
        hub_reclaim_rings(s, link, true);
        hub_link_hang_up(link);
    } else if (cancel && (link->state == HUB_PEER_RESERVED || link->state == HUB_PEER_ATTACHING)) {
        hub_service_cancel(s, link, "its transport was closed");
    }
}

static void close_host(hub_transport *t) {
    hub_session *s = t->session;
    (void)pthread_mutex_lock(&s->lock);
    if (t->all) {
        s->host->all = NULL;
        for (uint32_t i = 1; i < HUB_PEERS_MAX; i++) {
            if (t->links[i] == NULL) continue;
            stop_listening(t, t->links[i]);
            host_lets_go(s, t->links[i], false);
        }
        for (hub_link *link = t->retired; link != NULL; link = link->next_retired)
            link->transport = NULL;
    } else {
        stop_listening(t, t->link);
        if (t->link->transport == t) host_lets_go(s, t->link, true);
    }
    (void)pthread_mutex_unlock(&s->lock);
}

void hub_transport_close(hub_transport *t) {
    hub_session *s = t->session;
    if (hub_load_relaxed_32(&s->forked)) return;
    if (hub_exchange_acq_rel_32(&t->closed, 1)) return;
    hub_waiter_notify(&t->waiter);
    hub_poll_cancel(t, HUB_POLL_ALLOC);
    if (s->host != NULL)
        close_host(t);
    else
        close_peer(t);
}

int hub_transport_closed(const hub_transport *t) { return hub_load_relaxed_32(&t->closed) != 0; }
hub_session *hub_transport_session(const hub_transport *t) { return t->session; }
int hub_transport_clean(const hub_transport *t) {
    return hub_load_relaxed_32(&t->session->host_clean) != 0;
}
uint64_t hub_transport_next_id(hub_transport *t) {
    return hub_fetch_add_acq_rel_64(&t->next_id, 1);
}

int hub_transport_fd(hub_transport *t) {
    if (hub_transport_check(t) < 0) return -1;
    /* Readable at first: the caller then tries, and that try arms. */
    if (hub_exchange_acq_rel_32(&t->waiter.fd_used, 1) == 0) hub_waiter_signal(&t->waiter);
    return t->waiter.poll_fd;
}

void hub_drain(hub_transport *t) {
    if (hub_transport_check(t) == 0) hub_waiter_drain_loop(&t->waiter);
}

/* ---- membership (the session's lock is held) ---------------------------------------------------- */

void hub_transport_adopt(hub_transport *t, hub_link *link) {
    link->transport = t;
    (void)pthread_mutex_lock(&t->rx_lock);
    (void)pthread_mutex_lock(&t->lock);
    t->links[link->id] = hub_link_ref(link);
    t->pending |= 1ULL << link->id; /* its ready bit may have been taken before we listened */
    (void)pthread_mutex_unlock(&t->lock);
    (void)pthread_mutex_unlock(&t->rx_lock);
    if (link->state == HUB_PEER_ACTIVE) hub_transport_link_active(t, link);
}

void hub_transport_link_active(hub_transport *t, hub_link *link) {
    (void)pthread_mutex_lock(&link->fd_lock);
    (void)hub_waiter_add(&t->waiter, link->fd, DOORBELL_EVENTS, link_tag(link));
    (void)pthread_mutex_unlock(&link->fd_lock);
    hub_waiter_notify(&t->waiter);
}

void hub_transport_link_gone(hub_transport *t, hub_link *link) {
    stop_listening(t, link);
    if (t->all) {
        (void)pthread_mutex_lock(&t->rx_lock);
        (void)pthread_mutex_lock(&t->lock);
        if (t->links[link->id] == link) { /* the reference goes with it */
            t->links[link->id] = NULL;
            link->next_retired = NULL;
            *t->retired_end = link;
            t->retired_end = &link->next_retired;
            (void)hub_fetch_add_acq_rel_32(&t->retired_count, 1);
        }
        (void)pthread_mutex_unlock(&t->lock);
        (void)pthread_mutex_unlock(&t->rx_lock);
    }
    hub_waiter_notify(&t->waiter);
}

static void fill_gone(hub_link *link, hub_gone *ret) {
    memset(ret, 0, sizeof *ret);
    (void)pthread_mutex_lock(&link->tx_lock);
    ret->peer_id = link->id;
    ret->epoch = link->epoch;
    ret->pid = link->pid;
    ret->clean = link->clean;
    ret->alive = link->alive;
    ret->never_attached = link->never_attached;
    if (link->undelivered_count > 0) {
        ret->ids = malloc(link->undelivered_count * sizeof *ret->ids);
        if (ret->ids != NULL) {
            ret->undelivered = link->undelivered_count;
            memcpy(ret->ids, link->undelivered, ret->undelivered * sizeof *ret->ids);
        }
    }
    (void)pthread_mutex_unlock(&link->tx_lock);
}

static void keep_totals(hub_transport *t, const hub_link *link) {
    t->past_sent += link->sent;
    t->past_received += link->received;
    t->past_bytes_sent += link->bytes_sent;
    t->past_bytes_received += link->bytes_received;
    t->past_rung += link->tx_rung + link->rx_rung;
}

int hub_transport_gone(hub_transport *t, hub_gone *ret) {
    if (hub_load_relaxed_32(&t->session->forked)) return 0;
    if (!t->all) {
        if (!hub_link_gone(t->link)) return 0;
        fill_gone(t->link, ret);
        return 1;
    }
    hub_link *link = NULL;
    (void)pthread_mutex_lock(&t->session->lock);
    (void)pthread_mutex_lock(&t->rx_lock);
    (void)pthread_mutex_lock(&t->lock);
    if (t->retired != NULL && t->retired->queue_count == 0) {
        link = t->retired;
        t->retired = link->next_retired;
        if (t->retired == NULL) t->retired_end = &t->retired;
        (void)hub_fetch_add_acq_rel_32(&t->retired_count, UINT32_MAX);
        keep_totals(t, link);
        link->transport = NULL;
    }
    (void)pthread_mutex_unlock(&t->lock);
    (void)pthread_mutex_unlock(&t->rx_lock);
    (void)pthread_mutex_unlock(&t->session->lock);
    if (link == NULL) return 0;
    fill_gone(link, ret);
    hub_link_unref(link);
    return 1;
}

static void add_link_stat(hub_link *link, hub_transport_stat *ret) {
    (void)pthread_mutex_lock(&link->tx_lock);
    ret->sent += link->sent;
    ret->bytes_sent += link->bytes_sent;
    ret->rings_rung += link->tx_rung;
    (void)pthread_mutex_unlock(&link->tx_lock);
    (void)pthread_mutex_lock(&link->rx_lock);
    ret->received += link->received;
    ret->bytes_received += link->bytes_received;
    ret->rings_rung += link->rx_rung;
    (void)pthread_mutex_unlock(&link->rx_lock);
}

void hub_transport_stat_read(hub_transport *t, hub_transport_stat *ret) {
    memset(ret, 0, sizeof *ret);
    if (hub_load_relaxed_32(&t->session->forked)) return;
    ret->waits = hub_load_relaxed_64(&t->waits);
    ret->spins = hub_load_relaxed_64(&t->spin.spins);
    ret->spin_hits = hub_load_relaxed_64(&t->spin.hits);
    if (t->link != NULL) add_link_stat(t->link, ret);
    (void)pthread_mutex_lock(&t->lock);
    ret->sent += t->past_sent;
    ret->received += t->past_received;
    ret->bytes_sent += t->past_bytes_sent;
    ret->bytes_received += t->past_bytes_received;
    ret->rings_rung += t->past_rung;
    for (uint32_t i = 0; i < HUB_PEERS_MAX; i++)
        if (t->links[i] != NULL) add_link_stat(t->links[i], ret);
    for (hub_link *link = t->retired; link != NULL; link = link->next_retired)
        add_link_stat(link, ret);
    (void)pthread_mutex_unlock(&t->lock);
}
