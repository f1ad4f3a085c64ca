/* link.c - see link.h. */
#define _GNU_SOURCE
#include "link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "doorbell.h"
#include "session.h"

hub_link *hub_link_new(hub_session *session, uint32_t id, uint32_t epoch, const char *name,
                       uint64_t up_position, uint64_t down_position) {
    uint32_t capacity = session->segment.geometry.ring_capacity;
    bool host = session->host != NULL;
    hub_link *link = calloc(1, sizeof *link);
    if (link == NULL) return NULL;
    if (host) {
        link->queue = calloc(capacity, sizeof *link->queue);
        link->undelivered = calloc(capacity, sizeof *link->undelivered);
        if (link->queue == NULL || link->undelivered == NULL) {
            free(link->queue);
            free(link->undelivered);
            free(link);
            return NULL;
        }
    }
    hub_store_relaxed_32(&link->refs, 1);
    link->session = hub_session_ref(session);
    link->id = id;
    link->epoch = epoch;
    if (name != NULL) (void)strncpy(link->name, name, sizeof link->name - 1);
    link->fd = link->peer_fd = link->pidfd = link->watch_fd = -1;
    (void)pthread_mutex_init(&link->tx_lock, NULL);
    (void)pthread_mutex_init(&link->rx_lock, NULL);
    (void)pthread_mutex_init(&link->fd_lock, NULL);
    link->out_ring = host ? hub_ring_down(id) : hub_ring_up(id);
    link->in_ring = host ? hub_ring_up(id) : hub_ring_down(id);
    hub_producer_init(&link->tx, hub_session_ring(session, link->out_ring), capacity,
                      host ? down_position : up_position);
    hub_consumer_init(&link->rx, hub_session_ring(session, link->in_ring), capacity,
                      host ? up_position : down_position);
    return link;
}

hub_link *hub_link_ref(hub_link *link) {
    (void)hub_fetch_add_acq_rel_32(&link->refs, 1);
    return link;
}

void hub_link_unref(hub_link *link) {
    if (link == NULL || hub_load_relaxed_32(&link->session->forked)) return;
    if (hub_fetch_add_acq_rel_32(&link->refs, UINT32_MAX) != 1) return;
    hub_link_drop_queue(link);
    hub_link_close_fd(link);
    hub_link_close_peer_fd(link);
    int saved = errno;
    if (link->pidfd >= 0) (void)close(link->pidfd);
    if (link->watch_fd >= 0) (void)close(link->watch_fd);
    errno = saved;
    (void)pthread_mutex_destroy(&link->tx_lock);
    (void)pthread_mutex_destroy(&link->rx_lock);
    (void)pthread_mutex_destroy(&link->fd_lock);
    free(link->queue);
    free(link->undelivered);
    hub_session *session = link->session;
    free(link);
    hub_session_unref(session);
}

uint32_t hub_link_peer_id(const hub_link *link) { return link->id; }
uint32_t hub_link_epoch(const hub_link *link) { return link->epoch; }
hub_session *hub_link_session(const hub_link *link) { return link->session; }
int hub_link_fd(const hub_link *link) { return link->fd; }

void hub_link_set_gone(hub_link *link) { hub_store_release_32(&link->gone, 1); }

void hub_link_ring(hub_link *link) {
    (void)pthread_mutex_lock(&link->fd_lock);
    if (link->fd >= 0) (void)hub_doorbell_ring(link->fd);
    (void)pthread_mutex_unlock(&link->fd_lock);
}

void hub_link_drain(hub_link *link) {
    (void)pthread_mutex_lock(&link->fd_lock);
    if (link->fd >= 0) (void)hub_doorbell_drain(link->fd);
    (void)pthread_mutex_unlock(&link->fd_lock);
}

void hub_link_hang_up(hub_link *link) {
    int saved = errno;
    (void)pthread_mutex_lock(&link->fd_lock);
    if (link->fd >= 0) (void)shutdown(link->fd, SHUT_WR);
    (void)pthread_mutex_unlock(&link->fd_lock);
    errno = saved;
}

static void close_under_lock(hub_link *link, int *fd) {
    int saved = errno;
    (void)pthread_mutex_lock(&link->fd_lock);
    if (*fd >= 0) (void)close(*fd);
    *fd = -1;
    (void)pthread_mutex_unlock(&link->fd_lock);
    errno = saved;
}

void hub_link_close_fd(hub_link *link) { close_under_lock(link, &link->fd); }

void hub_link_close_peer_fd(hub_link *link) {
    if (!hub_load_relaxed_32(&link->session->forked)) close_under_lock(link, &link->peer_fd);
}

void hub_link_drop_queue(hub_link *link) {
    while (link->queue_count > 0) {
        hub_entry *entry = &link->queue[link->queue_head].entry;
        if (entry->ref != HUB_REF_NONE) {
            (void)hub_pool_discard(&link->session->pool, entry->ref, entry->gen, HUB_OWNED,
                                   link->session->id);
            (void)hub_fetch_add_acq_rel_32(&link->session->host->queued, UINT32_MAX);
        }
        link->queue_head++;
        link->queue_count--;
    }
}
