/* session.h - a hub as one process sees it: the mapping, the pool, who we are,
 * who is attached.  Host and peer share the struct; `host` holds what only the
 * host has.
 *
 * The mapping and the bell live until the last reference is gone: a slot that a
 * view pins may be freed after everything was closed. */
#ifndef HUB_SESSION_H
#define HUB_SESSION_H

#include "link.h"

#define HUB_EVENTS 256u

typedef struct hub_host {
    hub_link *links[HUB_PEERS_MAX]; /* counted; index = id; NULL: free */
    uint32_t epochs[HUB_PEERS_MAX];
    uint64_t up_positions[HUB_PEERS_MAX]; /* where the next life's rings go on */
    uint64_t down_positions[HUB_PEERS_MAX];
    uint32_t last_id;
    hub_transport *all; /* the all-peers transport, if any; not counted */
    hub_event events[HUB_EVENTS];
    uint32_t event_head, event_count;
    uint64_t reclaimed, violations, deaths, detaches;
    hub_a32 queued; /* slots in the queues of the dead, whoever has their links */
    uint64_t past_sent, past_received; /* of links that are gone */
    pthread_t thread;
    bool thread_running;
    bool stop;
    int64_t looked_out_at; /* service_lookout.c */
    int poll_fd;    /* the service thread's epoll */
    int self_pidfd; /* handed to peers */
} hub_host;

struct hub_session {
    hub_a64 refs; /* { objects that hold a slot:32, references:32 } */
    hub_a32 closed;
    hub_a32 forked;
    hub_a32 special; /* 1 once any of forked, host_gone, leaving is: the usual path asks one word */
    uint32_t id; /* 0: host */
    hub_segment segment;
    hub_pool pool;
    pthread_mutex_t lock; /* everything below, and host's fields */
    hub_transport *transports; /* linked through next; not counted */
    uint32_t pool_waiters;     /* local threads and loops waiting for a slot */
    int bell_fd;               /* rings the host's service thread */
    hub_host *host;
    /* peer */
    bool registered, hello_sent, attached;
    uint32_t epoch;
    int host_pidfd;
    hub_a32 host_gone;
    hub_a32 host_clean;
    hub_a32 leaving; /* transport closed: the last slot freed says LEFT */
    hub_session *next_registered, *previous_registered;
};

hub_session *hub_session_new(void);
void hub_session_init_pool(hub_session *session);
/* Make it known to the fork handlers; call when its descriptors are in place. */
void hub_session_register(hub_session *session);

/* 0, or HUB_EFORKED / HUB_ECLOSED. */
static inline int hub_session_check(const hub_session *session) {
    if (hub_load_relaxed_32(&session->forked)) return HUB_EFORKED;
    return hub_load_relaxed_32(&session->closed) ? HUB_ECLOSED : 0;
}

hub_header_shm *hub_session_header(const hub_session *session);
hub_signals_shm *hub_session_signals(const hub_session *session);
hub_peer_shm *hub_session_peer(const hub_session *session, uint32_t id);
hub_lane_shm *hub_session_lane(const hub_session *session, uint32_t id);
hub_ring_shm *hub_session_ring(const hub_session *session, uint32_t ring_number);

/* Ring the service thread's bell. */
void hub_session_ring_bell(const hub_session *session);
/* Wake every local waiter of every transport. Takes the lock; _locked: it is held. */
void hub_session_notify(hub_session *session);
void hub_session_notify_locked(hub_session *session);
/* The first local waiter for a slot sets our bit in pool_waiters, the last clears it. */
void hub_session_pool_wait_begin(hub_session *session);
void hub_session_pool_wait_end(hub_session *session);
/* Peer, after its transport was closed: say LEFT if no slot is held any more. */
void hub_session_check_left(hub_session *session);

#endif
