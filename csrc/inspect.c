/* inspect.c - statistics of a live session, and a look at any hub from outside. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "session.h"

static const hub_lane_shm *lane_of(const hub_geometry *g, const unsigned char *base, uint32_t id) {
    return (const hub_lane_shm *)(base + (id == 0 ? g->host_lane_offset : hub_block_offset(g, id)));
}

/* From shared memory alone; the names are copied and ended here, whatever is in them. */
static void fill_peers(const hub_geometry *g, const unsigned char *base,
                       const uint32_t owned_by[HUB_PEERS_MAX], hub_stat *ret) {
    const hub_peer_shm *peers = (const hub_peer_shm *)(base + g->peers_offset);
    ret->peer_count = 0;
    for (uint32_t id = 0; id < g->max_peers; id++) {
        uint64_t state = hub_load_acquire_64(&peers[id].state);
        if (hub_state_of(state) == HUB_PEER_FREE) continue;
        const hub_lane_shm *lane = lane_of(g, base, id);
        hub_peer_stat *p = &ret->peers[ret->peer_count++];
        memset(p, 0, sizeof *p);
        p->peer_id = id;
        p->state = hub_state_of(state);
        p->epoch = hub_state_epoch(state);
        p->pid = (int32_t)hub_load_relaxed_32(&peers[id].pid);
        memcpy(p->name, peers[id].name, sizeof p->name - 1);
        p->owned = owned_by[id];
        p->sent = hub_load_relaxed_64(&lane->sent);
        p->received = hub_load_relaxed_64(&lane->received);
        p->bytes_sent = hub_load_relaxed_64(&lane->bytes_sent);
        p->bytes_received = hub_load_relaxed_64(&lane->bytes_received);
        p->rings_rung = hub_load_relaxed_64(&lane->rings_rung);
        p->waits = hub_load_relaxed_64(&lane->waits);
    }
}

/* The host counts by link, not in its lane: its hot path then has no shared counter. */
static void fill_host_totals(hub_session *s, hub_stat *ret) {
    hub_peer_stat *host = ret->peer_count > 0 && ret->peers[0].peer_id == 0 ? &ret->peers[0] : NULL;
    (void)pthread_mutex_lock(&s->lock);
    ret->reclaimed = s->host->reclaimed;
    ret->violations = s->host->violations;
    ret->deaths = s->host->deaths;
    ret->detaches = s->host->detaches;
    for (uint32_t id = 1; host != NULL && id < HUB_PEERS_MAX; id++) {
        hub_link *link = s->host->links[id];
        if (link == NULL) continue;
        (void)pthread_mutex_lock(&link->tx_lock);
        host->sent += link->sent;
        host->bytes_sent += link->bytes_sent;
        host->rings_rung += link->tx_rung;
        (void)pthread_mutex_unlock(&link->tx_lock);
        (void)pthread_mutex_lock(&link->rx_lock);
        host->received += link->received;
        host->bytes_received += link->bytes_received;
        host->rings_rung += link->rx_rung;
        (void)pthread_mutex_unlock(&link->rx_lock);
    }
    (void)pthread_mutex_unlock(&s->lock);
}

int hub_session_stat(hub_session *s, hub_stat *ret) {
    uint32_t owned_by[HUB_PEERS_MAX];
    if (hub_load_relaxed_32(&s->forked)) return HUB_EFORKED;
    memset(ret, 0, sizeof *ret);
    hub_pool_count(&s->segment.geometry, s->segment.base, ret, owned_by);
    fill_peers(&s->segment.geometry, s->segment.base, owned_by, ret);
    ret->memory_bytes = hub_segment_usage(&s->segment);
    if (s->host != NULL) fill_host_totals(s, ret);
    return 0;
}

static void fill_rings(const hub_geometry *g, const unsigned char *base, hub_inspection *ret) {
    for (uint32_t id = 1; id < g->max_peers; id++)
        for (uint32_t down = 0; down < 2; down++) {
            uint64_t within = down ? hub_block_ring_down(g->ring_capacity) : HUB_BLOCK_RING_UP;
            const hub_ring_shm *ring =
                (const hub_ring_shm *)(base + hub_block_offset(g, id) + within);
            uint32_t n = 2 * id + down;
            ret->rings[n].head = hub_load_relaxed_64(&ring->head);
            ret->rings[n].tail = hub_load_relaxed_64(&ring->tail);
            ret->rings[n].capacity = ring->capacity;
            ret->rings[n].closed = hub_load_relaxed_32(&ring->closed);
            ret->rings[n].sleeping = hub_load_relaxed_32(&ring->sleeping);
            ret->rings[n].want = hub_load_relaxed_32(&ring->want);
        }
}

int hub_inspect(int fd, hub_inspection *ret, hub_fault *fault) {
    hub_segment copy;
    uint32_t owned_by[HUB_PEERS_MAX];
    int saved = errno;
    int rc = hub_segment_view(&copy, fd, fault);
    if (rc < 0) {
        errno = saved;
        return rc;
    }
    const hub_geometry *g = &copy.geometry;
    const hub_header_shm *header = (const hub_header_shm *)copy.base;
    const hub_signals_shm *signals = (const hub_signals_shm *)(copy.base + g->signals_offset);
    memset(ret, 0, sizeof *ret);
    hub_layout_config(g, &ret->config);
    hub_pool_count(g, copy.base, &ret->stat, owned_by);
    fill_peers(g, copy.base, owned_by, &ret->stat);
    ret->stat.memory_bytes = hub_segment_usage(&copy);
    ret->total_size = g->total_size;
    ret->data_offset = g->data_offset;
    ret->host_pid = header->host_pid;
    fill_rings(g, copy.base, ret);
    ret->waiters = hub_load_relaxed_64(&signals->pool_waiters);
    ret->ready = hub_load_relaxed_64(&signals->ready);
    ret->classes_offset = g->classes_offset;
    ret->peers_offset = g->peers_offset;
    ret->signals_offset = g->signals_offset;
    ret->blocks_offset = g->blocks_offset;
    ret->block_stride = g->block_stride;
    for (uint32_t i = 0; i < g->class_count; i++) {
        ret->meta_offset[i] = g->classes[i].meta_offset;
        ret->class_data_offset[i] = g->classes[i].data_offset;
    }
    struct stat st;
    bool named = fstat(fd, &st) == 0 && st.st_nlink > 0;
    bool process = header->host_pid > 0 && (kill(header->host_pid, 0) == 0 || errno == EPERM);
    ret->live = named ? hub_segment_locked(fd) : process && !hub_load_relaxed_32(&header->host_closed);
    hub_segment_view_fini(&copy);
    errno = saved;
    return 0;
}

int hub_unlink_if_stale(const char *path, hub_fault *fault) {
    int saved = errno;
    int rc = hub_segment_unlink_if_stale(path, fault);
    errno = saved;
    return rc;
}
