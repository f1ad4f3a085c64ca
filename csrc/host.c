/* host.c - creating and closing a hub, giving out peer ids. */
#define _GNU_SOURCE
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "doorbell.h"
#include "resource_limits.h"
#include "reclaim.h"
#include "service.h"
#include "transport.h"

#define MIB (1ULL << 20)

void hub_config_default(hub_config *config) {
    static const hub_class_config classes[] = {
        {1024, 1024, 4096},      {16 * 1024, 256, 1024}, {256 * 1024, 32, 128},
        {4 * MIB, 8, 32},        {16 * MIB, 4, 16},      {64 * MIB, 0, 32},
        {256 * MIB, 0, 8},       {1024 * MIB, 0, 4},
    };
    memset(config, 0, sizeof *config);
    memcpy(config->classes, classes, sizeof classes);
    config->class_count = sizeof classes / sizeof *classes;
    config->max_peers = 32;
    config->ring_capacity = 256;
    config->spin_ns = -1;
}

static int make_host(hub_session *s, hub_fault *fault) {
    s->host = calloc(1, sizeof *s->host);
    if (s->host == NULL) return -ENOMEM;
    s->host->poll_fd = s->host->self_pidfd = -1;
    for (uint32_t i = 0; i < HUB_PEERS_MAX; i++) {
        s->host->epochs[i] = HUB_START_EPOCH;
        s->host->up_positions[i] = s->host->down_positions[i] = HUB_START_64;
    }
    hub_session_init_pool(s);
    hub_pool_format(&s->pool);
    hub_store_relaxed_64(&hub_session_peer(s, 0)->state, hub_state_make(0, HUB_PEER_ACTIVE));
    hub_store_relaxed_32(&hub_session_peer(s, 0)->pid, (uint32_t)getpid());
    (void)strncpy(hub_session_peer(s, 0)->name, "host", HUB_NAME_MAX - 1);
    int rc = hub_service_start(s, fault);
    if (rc == 0) rc = hub_segment_publish(&s->segment, fault);
    return rc;
}

int hub_host_create(const char *path, const hub_config *config, hub_session **ret,
                    hub_fault *fault) {
    hub_session *s = hub_session_new();
    if (s == NULL) return -ENOMEM;
    int saved = errno;
    int rc = hub_segment_create(&s->segment, path, config, fault);
    if (rc == 0) {
        rc = make_host(s, fault);
        if (rc < 0) hub_service_stop(s);
    }
    errno = saved;
    if (rc < 0) {
        hub_session_unref(s);
        return rc;
    }
    hub_session_register(s);
    *ret = s;
    return 0;
}

/* ---- peers ---------------------------------------------------------------------- */

/* Ids go round, so that one just freed is the last to be given out again. */
static uint32_t free_id(hub_session *s) {
    uint32_t most = s->segment.geometry.max_peers - 1;
    for (uint32_t n = 0; n < most; n++) {
        uint32_t id = (s->host->last_id + n) % most + 1;
        if (s->host->links[id] == NULL) return id;
    }
    return 0;
}

static void reset_ring(hub_session *s, uint32_t number, uint64_t position) {
    hub_ring_shm *ring = hub_session_ring(s, number);
    ring->capacity = s->segment.geometry.ring_capacity;
    hub_store_relaxed_64(&ring->tail, position);
    hub_store_relaxed_64(&ring->head, position);
    hub_store_relaxed_32(&ring->sleeping, 0);
    hub_store_relaxed_32(&ring->want, 0);
    hub_store_release_32(&ring->closed, 0);
}

static int open_link(hub_session *s, hub_link *link) {
    int ends[2];
    int rc = hub_doorbell_pair(ends);
    if (rc < 0) return rc;
    link->fd = ends[0];
    link->peer_fd = ends[1];
    link->state = HUB_PEER_RESERVED;
    reset_ring(s, hub_ring_up(link->id), link->rx.head);
    reset_ring(s, hub_ring_down(link->id), link->tx.tail);
    hub_peer_shm *entry = hub_session_peer(s, link->id);
    memcpy(entry->name, link->name, sizeof entry->name);
    hub_store_relaxed_32(&entry->pid, 0);
    hub_store_relaxed_32(&entry->host_left, 0);
    rc = hub_service_watch_link(s, link);
    if (rc < 0) return rc;
    hub_store_release_64(&entry->state, hub_state_make(link->epoch, HUB_PEER_RESERVED));
    return 0;
}

int hub_host_add_peer(hub_session *s, const char *name, hub_link **ret_link, int *ret_peer_fd) {
    int rc = hub_session_check(s);
    if (rc < 0) return rc;
    if (s->host == NULL) return HUB_EINVAL;
    (void)pthread_mutex_lock(&s->lock);
    uint32_t id = free_id(s);
    hub_link *link = NULL;
    if (hub_session_closed(s)) rc = HUB_ECLOSED;
    else if (id == 0) rc = HUB_ELIMIT;
    else
        rc = hub_segment_back(&s->segment, hub_block_offset(&s->segment.geometry, id),
                              s->segment.geometry.block_stride);
    if (rc == 0) {
        /* The epoch is raised only with the id: it goes on through all lives. */
        link = hub_link_new(s, id, s->host->epochs[id] + 1, name, s->host->up_positions[id],
                            s->host->down_positions[id]);
        rc = link == NULL ? -ENOMEM : open_link(s, link);
    }
    if (rc == 0) {
        s->host->epochs[id] = link->epoch;
        s->host->last_id = id;
        s->host->links[id] = hub_link_ref(link);
        if (s->host->all != NULL) hub_transport_adopt(s->host->all, link);
        *ret_link = link;
        *ret_peer_fd = link->peer_fd;
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (rc < 0) hub_link_unref(link);
    return rc;
}

int hub_host_remove_peer(hub_session *s, uint32_t id) {
    int rc = hub_session_check(s);
    if (rc < 0) return rc;
    if (s->host == NULL || id < 1 || id >= s->segment.geometry.max_peers) return HUB_ENOPEER;
    (void)pthread_mutex_lock(&s->lock);
    hub_link *link = s->host->links[id];
    if (link != NULL) {
        if (link->state == HUB_PEER_RESERVED || link->state == HUB_PEER_ATTACHING)
            hub_service_cancel(s, link, "removed by the host");
        else if (link->state != HUB_PEER_CANCELLED)
            rc = HUB_ESTATE;
    }
    (void)pthread_mutex_unlock(&s->lock);
    return rc;
}

int hub_link_watch(hub_link *link, int pidfd) {
    hub_session *s = link->session;
    int rc = hub_session_check(s);
    if (rc < 0) return rc;
    int saved = errno;
    int copy = fcntl(pidfd, F_DUPFD_CLOEXEC, 0);
    rc = copy < 0 ? -errno : 0;
    errno = saved;
    if (rc < 0) return rc;
    (void)pthread_mutex_lock(&s->lock);
    bool waits = s->host->links[link->id] == link &&
                 (link->state == HUB_PEER_RESERVED || link->state == HUB_PEER_ATTACHING);
    if (waits && link->watch_fd < 0) {
        link->watch_fd = copy;
        copy = -1;
        rc = hub_service_watch_process(s, link);
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (copy >= 0) (void)close(copy); /* attached or gone already: nothing to cancel */
    errno = saved;
    return rc;
}

int hub_host_next_event(hub_session *s, hub_event *ret) {
    int found = 0;
    if (s->host == NULL || hub_load_relaxed_32(&s->forked)) return 0;
    (void)pthread_mutex_lock(&s->lock);
    if (s->host->event_count > 0) {
        *ret = s->host->events[s->host->event_head];
        s->host->event_head = (s->host->event_head + 1) % HUB_EVENTS;
        s->host->event_count--;
        found = 1;
    }
    (void)pthread_mutex_unlock(&s->lock);
    return found;
}

/* ---- closing --------------------------------------------------------------------- */

void hub_host_close(hub_session *s) {
    /* Before any hang-up: a peer that sees one looks here to tell closing from death. */
    hub_store_release_32(&hub_session_header(s)->host_closed, 1);
    hub_service_stop(s);
    (void)pthread_mutex_lock(&s->lock);
    hub_link *links[HUB_PEERS_MAX];
    memcpy(links, s->host->links, sizeof links);
    memset(s->host->links, 0, sizeof s->host->links);
    for (uint32_t i = 0; i < HUB_PEERS_MAX; i++) {
        if (links[i] == NULL) continue;
        hub_reclaim_rings(s, links[i], true);
        if (!hub_link_gone(links[i])) links[i]->clean = true;
        hub_link_set_gone(links[i]);
        hub_link_close_fd(links[i]);
        hub_link_close_peer_fd(links[i]);
    }
    hub_session_notify_locked(s);
    int saved = errno;
    hub_segment_unlink(&s->segment);
    errno = saved;
    (void)pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < HUB_PEERS_MAX; i++) hub_link_unref(links[i]);
}
