/* session.c - life of a session in either role, forks, and what host and peer share. */
#define _GNU_SOURCE
#include "session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc_quick.h"
#include "doorbell.h"
#include "host.h"
#include "transport.h"

/* ---- forks -------------------------------------------------------------------- */
/* A forked child has copies of our doorbells: kept open they would hide our death from the other
 * side.  So they are closed there, and every operation is disabled, freeing included: a slot freed
 * by the child would be the parent's.  What a child may be meant to inherit (the hub's descriptor,
 * the peer's end of a doorbell) stays: between fork and exec we cannot tell. */

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static hub_session *registry;
static pthread_once_t registry_once = PTHREAD_ONCE_INIT;

static void before_fork(void) {
    (void)pthread_mutex_lock(&registry_lock);
    for (hub_session *s = registry; s != NULL; s = s->next_registered)
        (void)pthread_mutex_lock(&s->lock);
}

static void after_fork_in_parent(void) {
    for (hub_session *s = registry; s != NULL; s = s->next_registered)
        (void)pthread_mutex_unlock(&s->lock);
    (void)pthread_mutex_unlock(&registry_lock);
}

static void close_fd(int *fd) {
    if (*fd >= 0) (void)close(*fd);
    *fd = -1;
}

static void close_link_in_child(hub_link *link) {
    if (link == NULL) return;
    close_fd(&link->fd);
    close_fd(&link->pidfd);
    close_fd(&link->watch_fd);
}

static void after_fork_in_child(void) {
    int saved = errno;
    for (hub_session *s = registry; s != NULL; s = s->next_registered) {
        hub_store_relaxed_32(&s->forked, 1);
        hub_store_relaxed_32(&s->special, 1);
        close_fd(&s->segment.lock_fd);
        close_fd(&s->bell_fd);
        close_fd(&s->host_pidfd);
        if (s->host != NULL) {
            close_fd(&s->host->poll_fd);
            close_fd(&s->host->self_pidfd);
            for (uint32_t i = 0; i < HUB_PEERS_MAX; i++) close_link_in_child(s->host->links[i]);
        }
        for (hub_transport *t = s->transports; t != NULL; t = t->next) {
            hub_waiter_close_fds(&t->waiter);
            close_link_in_child(t->link);
        }
        (void)pthread_mutex_unlock(&s->lock);
    }
    registry = NULL;
    (void)pthread_mutex_unlock(&registry_lock);
    errno = saved;
}

static void install_fork_handlers(void) {
    (void)pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void hub_session_register(hub_session *s) {
    (void)pthread_once(&registry_once, install_fork_handlers);
    (void)pthread_mutex_lock(&registry_lock);
    s->next_registered = registry;
    if (registry != NULL) registry->previous_registered = s;
    registry = s;
    (void)pthread_mutex_unlock(&registry_lock);
}

static void unregister(hub_session *s) {
    (void)pthread_mutex_lock(&registry_lock);
    if (s->next_registered != NULL) s->next_registered->previous_registered = s->previous_registered;
    if (s->previous_registered != NULL)
        s->previous_registered->next_registered = s->next_registered;
    else if (registry == s)
        registry = s->next_registered;
    (void)pthread_mutex_unlock(&registry_lock);
}

/* ---- life ------------------------------------------------------------------------ */

/* Somebody waits for a slot and one was freed. A peer never rings for its own bit alone. The host
 * leaves its own waiters to the service thread, because it may free under the session's lock. */
static void kick(void *context, uint64_t waiters) {
    hub_session *s = context;
    uint64_t mine = 1ULL << s->id;
    if (s->host != NULL || (waiters & ~mine)) hub_session_ring_bell(s);
    if (s->host == NULL && (waiters & mine)) hub_session_notify(s);
}

void hub_session_init_pool(hub_session *s) {
    hub_pool_init(&s->pool, &s->segment, s->id, hub_session_lane(s, s->id));
    s->pool.kick = kick;
    s->pool.kick_context = s;
}

hub_session *hub_session_new(void) {
    hub_session *s = calloc(1, sizeof *s);
    if (s == NULL) return NULL;
    hub_store_relaxed_64(&s->refs, 1);
    s->segment.fd = s->segment.lock_fd = s->bell_fd = s->host_pidfd = -1;
    (void)pthread_mutex_init(&s->lock, NULL);
    return s;
}

#define REFERENCE 1ULL
#define HOLDER ((1ULL << 32) | REFERENCE)

hub_session *hub_session_ref(hub_session *s) {
    (void)hub_fetch_add_acq_rel_64(&s->refs, REFERENCE);
    return s;
}

hub_session *hub_session_hold(hub_session *s) {
    (void)hub_fetch_add_acq_rel_64(&s->refs, HOLDER);
    return s;
}

uint32_t hub_session_held(const hub_session *s) {
    return (uint32_t)(hub_load_acquire_64(&s->refs) >> 32);
}

static void end(hub_session *s) {
    unregister(s);
    int saved = errno;
    close_fd(&s->bell_fd);
    close_fd(&s->host_pidfd);
    if (s->host != NULL) {
        close_fd(&s->host->poll_fd);
        close_fd(&s->host->self_pidfd);
        free(s->host);
    }
    hub_pool_fini(&s->pool);
    hub_segment_fini(&s->segment);
    errno = saved;
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}

static void drop(hub_session *s, uint64_t what) {
    if (hub_load_relaxed_32(&s->forked)) return;
    if (hub_fetch_add_acq_rel_64(&s->refs, 0 - what) == what) end(s);
}

void hub_session_unref(hub_session *s) {
    if (s != NULL) drop(s, REFERENCE);
}

void hub_session_unhold(hub_session *s) { drop(s, HOLDER); }

int hub_peer_open(const char *path, uint32_t peer_id, hub_session **ret, hub_fault *fault) {
    if (peer_id < 1 || peer_id >= HUB_PEERS_MAX)
        return hub_fault_set(fault, HUB_EINVAL, "peer id %u is out of range (1..%d)", peer_id,
                             HUB_PEERS_MAX - 1);
    hub_session *s = hub_session_new();
    if (s == NULL) return -ENOMEM;
    int saved = errno;
    int rc = hub_segment_open(&s->segment, path, fault);
    if (rc == 0 && peer_id >= s->segment.geometry.max_peers)
        rc = hub_fault_set(fault, HUB_EINVAL, "peer id %u is out of range: this hub has 1..%u",
                           peer_id, s->segment.geometry.max_peers - 1);
    errno = saved;
    if (rc < 0) {
        hub_session_unref(s);
        return rc;
    }
    s->id = peer_id;
    hub_session_init_pool(s);
    hub_session_register(s);
    *ret = s;
    return 0;
}

int hub_peer_register(hub_session *s, hub_fault *fault) {
    int rc = hub_session_check(s);
    if (rc < 0) return rc;
    if (s->host != NULL) return hub_fault_set(fault, HUB_EINVAL, "the host registers nowhere");
    hub_a64 *word = &hub_session_peer(s, s->id)->state;
    uint64_t found = hub_load_acquire_64(word);
    while (hub_state_of(found) == HUB_PEER_RESERVED) {
        uint64_t claimed = hub_state_make(hub_state_epoch(found), HUB_PEER_ATTACHING);
        if (!hub_cas_acq_rel_64(word, &found, claimed)) continue; /* a second claimant loses here */
        s->epoch = hub_state_epoch(found);
        s->registered = true;
        return 0;
    }
    if (s->registered) return 0;
    if (hub_state_of(found) == HUB_PEER_FREE)
        return hub_fault_set(fault, HUB_ENOPEER,
                             "peer id %u was never added to this hub (or is gone): the host calls "
                             "add_peer first and passes its id on",
                             s->id);
    return hub_fault_set(fault, HUB_ESTATE,
                         "peer id %u is already taken (%s): each process needs an id of its own",
                         s->id, hub_peer_state_name(hub_state_of(found)));
}

void hub_session_close(hub_session *s) {
    if (hub_load_relaxed_32(&s->forked)) return;
    if (hub_exchange_acq_rel_32(&s->closed, 1)) return;
    /* Transports first: their threads wake with HUB_ECLOSED. */
    for (;;) {
        (void)pthread_mutex_lock(&s->lock);
        hub_transport *t = s->transports;
        while (t != NULL && hub_load_relaxed_32(&t->closed)) t = t->next;
        if (t != NULL) hub_transport_ref(t);
        (void)pthread_mutex_unlock(&s->lock);
        if (t == NULL) break;
        hub_transport_close(t);
        hub_transport_unref(t);
    }
    if (s->host != NULL) {
        hub_host_close(s);
    } else if (!s->attached && s->registered) {
        /* Claimed and never attached: give the id up; the doorbell's hang-up cancels it. */
        uint64_t mine = hub_state_make(s->epoch, HUB_PEER_ATTACHING);
        (void)hub_cas_acq_rel_64(&hub_session_peer(s, s->id)->state, &mine,
                                 hub_state_make(s->epoch, HUB_PEER_CANCELLED));
    }
}

/* ---- where things are --------------------------------------------------------------- */

hub_header_shm *hub_session_header(const hub_session *s) {
    return (hub_header_shm *)s->segment.base;
}
hub_signals_shm *hub_session_signals(const hub_session *s) {
    return (hub_signals_shm *)(s->segment.base + s->segment.geometry.signals_offset);
}
hub_peer_shm *hub_session_peer(const hub_session *s, uint32_t id) {
    return (hub_peer_shm *)(s->segment.base + s->segment.geometry.peers_offset) + id;
}
hub_lane_shm *hub_session_lane(const hub_session *s, uint32_t id) {
    const hub_geometry *g = &s->segment.geometry;
    return (hub_lane_shm *)(s->segment.base +
                            (id == 0 ? g->host_lane_offset : hub_block_offset(g, id)));
}
hub_ring_shm *hub_session_ring(const hub_session *s, uint32_t ring_number) {
    const hub_geometry *g = &s->segment.geometry;
    uint64_t within =
        ring_number & 1 ? hub_block_ring_down(g->ring_capacity) : (uint64_t)HUB_BLOCK_RING_UP;
    return (hub_ring_shm *)(s->segment.base + hub_block_offset(g, ring_number / 2) + within);
}

int hub_session_closed(const hub_session *s) { return hub_load_relaxed_32(&s->closed) != 0; }
int hub_session_forked(const hub_session *s) { return hub_load_relaxed_32(&s->forked) != 0; }
int hub_session_is_host(const hub_session *s) { return s->host != NULL; }
uint32_t hub_session_id(const hub_session *s) { return s->id; }
int hub_session_fd(const hub_session *s) { return s->segment.fd; }
const char *hub_session_path(const hub_session *s) { return s->segment.path; }
int hub_session_limited(const hub_session *s) { return s->segment.limited; }
void hub_session_config(const hub_session *s, hub_config *ret) {
    hub_layout_config(&s->segment.geometry, ret);
}
int64_t hub_session_trim(hub_session *s) {
    int rc = hub_session_check(s);
    return rc < 0 ? rc : (int64_t)hub_pool_trim(&s->pool, UINT64_MAX);
}

const char *hub_peer_state_name(uint32_t state) {
    static const char *const names[] = {"free",    "reserved",    "attaching", "active", "leaving",
                                        "left",    "hung_up",     "quarantined", "cancelled", "dead"};
    return state < sizeof names / sizeof *names ? names[state] : "unknown";
}

/* ---- waking ---------------------------------------------------------------------------- */

void hub_session_ring_bell(const hub_session *s) {
    int saved = errno;
    uint64_t one = 1;
    if (s->bell_fd >= 0) {
        ssize_t put = write(s->bell_fd, &one, sizeof one);
        (void)put;
    }
    errno = saved;
}

void hub_session_notify_locked(hub_session *s) {
    for (hub_transport *t = s->transports; t != NULL; t = t->next) hub_waiter_notify(&t->waiter);
}

void hub_session_notify(hub_session *s) {
    (void)pthread_mutex_lock(&s->lock);
    hub_session_notify_locked(s);
    (void)pthread_mutex_unlock(&s->lock);
}

void hub_session_pool_wait_begin(hub_session *s) {
    (void)pthread_mutex_lock(&s->lock);
    if (s->pool_waiters++ == 0)
        (void)hub_fetch_or_acq_rel_64(&s->pool.signals->pool_waiters, 1ULL << s->id);
    (void)pthread_mutex_unlock(&s->lock);
    hub_fence(); /* between C and D of alloc.h */
}

void hub_session_pool_wait_end(hub_session *s) {
    (void)pthread_mutex_lock(&s->lock);
    if (--s->pool_waiters == 0)
        (void)hub_fetch_and_acq_rel_64(&s->pool.signals->pool_waiters, ~(1ULL << s->id));
    (void)pthread_mutex_unlock(&s->lock);
}

void hub_session_check_left(hub_session *s) {
    if (hub_pool_owned(&s->pool, s->id, 1) > 0) return;
    uint64_t leaving = hub_state_make(s->epoch, HUB_PEER_LEAVING);
    if (hub_cas_acq_rel_64(&hub_session_peer(s, s->id)->state, &leaving,
                           hub_state_make(s->epoch, HUB_PEER_LEFT)))
        hub_session_ring_bell(s);
}

static __attribute__((noinline)) int freed_while_special(hub_session *s) {
    if (hub_load_acquire_32(&s->leaving)) hub_session_check_left(s);
    return 0;
}

static __attribute__((noinline)) int slot_free(hub_session *s, const hub_slot *slot) {
    if (hub_load_relaxed_32(&s->forked)) return HUB_EFORKED;
    int rc = hub_pool_free(&s->pool, slot->ref, slot->gen);
    /* Asked again, after the free and its fence: see close_peer. */
    if (hub_load_acquire_32(&s->special)) (void)freed_while_special(s);
    return rc;
}

int hub_slot_free(hub_session *s, const hub_slot *slot) {
    if (hub_load_relaxed_32(&s->special) || !hub_free_quick(&s->pool, slot->ref, slot->gen))
        return slot_free(s, slot);
    return hub_load_acquire_32(&s->special) ? freed_while_special(s) : 0;
}

uint64_t hub_slot_class_size(const hub_session *s, uint32_t ref) {
    return hub_pool_valid(&s->pool, ref) ? hub_pool_slot_size(&s->pool, ref) : 0;
}

int hub_slot_back(hub_session *s, const hub_slot *slot, uint64_t size) {
    int rc = hub_session_check(s);
    if (rc < 0) return rc;
    if (!hub_pool_is_mine(&s->pool, slot->ref, slot->gen)) return HUB_ESTALE;
    if (size > hub_pool_slot_size(&s->pool, slot->ref)) return HUB_ETOOLARGE;
    return hub_pool_back(&s->pool, slot->ref, size);
}
