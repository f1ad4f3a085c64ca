/* link.h - one life of one peer id: two rings, a doorbell, and what is left of
 * them after a death.  The same struct serves host and peer, with the rings
 * swapped; the fields marked "host" are zero in a peer.
 *
 * Locks (process-local; none is held while waiting):
 *   tx_lock  the sending ring, tx_*, undelivered
 *   rx_lock  the receiving ring, rx_*, queue
 *   fd_lock  fd and peer_fd
 * Order: session lock, transport lock, tx_lock or rx_lock, fd_lock.
 *
 * A link is bound to (id, epoch): host sends, receives and reclaims under its
 * locks and looks at `retired` there, so that none of them can touch the rings of
 * the id's next life. */
#ifndef HUB_LINK_H
#define HUB_LINK_H

#include <pthread.h>

#include "alloc.h"
#include "ring.h"

/* A message of the dead, kept for the host. */
typedef struct hub_queued {
    hub_entry entry;
    unsigned char inline_data[HUB_INLINE_MAX];
} hub_queued;

struct hub_link {
    hub_a32 refs;
    hub_session *session; /* counted */
    uint32_t id;
    uint32_t epoch;
    uint32_t out_ring, in_ring; /* ring numbers, as owners in ctl */
    char name[HUB_NAME_MAX];

    pthread_mutex_t tx_lock;
    hub_producer tx;
    bool tx_retired; /* nothing may be published any more */
    uint64_t sent, bytes_sent, tx_rung;
    hub_a32 wanted; /* 1: somebody here has waited for room; what the ring says may be lied away */
    uint64_t *undelivered; /* host: room for `capacity` ids, allocated with the link */
    uint32_t undelivered_count;

    pthread_mutex_t rx_lock;
    hub_consumer rx;
    bool rx_retired; /* the ring is no longer ours; what was in it is in the queue */
    uint64_t received, bytes_received, rx_rung;
    hub_queued *queue; /* host: room for `capacity` messages, allocated with the link */
    uint32_t queue_head, queue_count;

    pthread_mutex_t fd_lock;
    int fd;      /* our end of the doorbell, -1 when closed */
    int peer_fd; /* host: the copy of the peer's end that the child inherits */

    /* 1 once nothing more will come and all that the other side held is where it belongs.
     * Release in hub_link_set_gone, acquire in its readers: the flags below are written before. */
    hub_a32 gone;
    bool clean, alive, never_attached;

    /* host, under the session's lock */
    uint32_t state; /* hub_peer_state: the truth; the peer table only mirrors it */
    int32_t pid;
    int pidfd;
    int watch_fd;
    bool hung_up; /* the other end of the doorbell is closed */
    int64_t hung_up_at;
    bool retired;
    hub_transport *transport; /* not counted: it removes itself */
    hub_link *next_retired;   /* in an all-peers transport's list; under its lock */
};

/* A link over the rings of `id`, with counters as given; refs = 1. NULL: no memory. */
hub_link *hub_link_new(hub_session *session, uint32_t id, uint32_t epoch, const char *name,
                       uint64_t up_position, uint64_t down_position);

static inline bool hub_link_gone(const hub_link *link) {
    return hub_load_acquire_32(&link->gone) != 0;
}
void hub_link_set_gone(hub_link *link);

/* Wake the other side. */
void hub_link_ring(hub_link *link);
/* Take the bytes of the doorbell. */
void hub_link_drain(hub_link *link);
/* Tell the other side that we stop, keep our end to see it go. */
void hub_link_hang_up(hub_link *link);
void hub_link_close_fd(hub_link *link);

/* Forget a queued message: its slot is freed. */
void hub_link_drop_queue(hub_link *link);

#endif
