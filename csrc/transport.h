/* transport.h - send and receive = allocator + ring + doorbell, with waiting.
 *
 *   consumer (waits)               producer
 *   sleeping = 1       (A)         publish tail           (C)
 *   fence                          fence
 *   look at the ring   (B)         load sleeping          (D)
 *   sleep on the doorbell          if set, exchange 0; the winner rings
 * B sees C, or D sees A.  Waiters never clear `sleeping`; bytes of the doorbell
 * are drained only before arming.  Waiting for room is the same with `want` in
 * place of sleeping and `head` in place of tail. */
#ifndef HUB_TRANSPORT_H
#define HUB_TRANSPORT_H

#include "session.h"
#include "waiter.h"

typedef struct hub_spin {
    int64_t limit_ns; /* at most so long; 0 never */
    bool adaptive;
    hub_a32 misses; /* in a row */
    hub_a32 skipped;
    hub_a64 spins, hits;
} hub_spin;

struct hub_transport {
    hub_a32 refs;
    hub_a32 closed;
    hub_a32 interrupted; /* the next receive that would sleep returns instead */
    hub_session *session; /* counted */
    bool all;             /* host: every peer without a transport of its own */
    char name[HUB_NAME_MAX];
    hub_link *link; /* one peer (or the host); counted */
    hub_waiter waiter;
    hub_spin spin;      /* for a message */
    hub_spin room_spin; /* for room in a ring */
    hub_a64 next_id;
    hub_a64 waits;
    hub_a64 looked_at_host_ns;
    hub_a32 poll_waits; /* event loops waiting for a slot: armed in pool_waiters */
    /* all: */
    pthread_mutex_t lock;            /* links, retired; order: session, this, links' */
    pthread_mutex_t rx_lock;         /* one receiver at a time: pending, turn */
    hub_link *links[HUB_PEERS_MAX];  /* counted */
    hub_link *retired, **retired_end;
    hub_a32 retired_count;
    uint64_t pending; /* bit i: ring of peer i may have more */
    uint32_t turn;
    uint64_t past_sent, past_received, past_bytes_sent, past_bytes_received, past_rung;
    hub_transport *next; /* in the session's list; under its lock */
};

/* ---- for the service thread; the session's lock is held ---- */
/* An all-peers transport takes a link in (also before it is active: it may be sent to). */
void hub_transport_adopt(hub_transport *t, hub_link *link);
/* The peer is active: listen to its doorbell. */
void hub_transport_link_active(hub_transport *t, hub_link *link);
/* Everything about that link is in its place: tell who waits. */
void hub_transport_link_gone(hub_transport *t, hub_link *link);

/* ---- between the files of the transport ---- */
/* A call that was woken so often and found nothing returns HUB_EINTR: where every sleep ends at once
 * (a peer rings without end) no signal ever interrupts one, and the caller would not see its Ctrl-C. */
#define HUB_FUTILE_WAKES_MAX (1u << 13)
static inline int hub_transport_check(const hub_transport *t) {
    if (hub_load_relaxed_32(&t->session->forked)) return HUB_EFORKED;
    return hub_load_acquire_32(&t->closed) ? HUB_ECLOSED : 0;
}
/* Peer: a call that does not wait has found nothing, or no room. Who only makes such calls would
 * never hear of the host's end, which is seen where one sleeps: so it is looked for here, once in
 * some milliseconds. */
void hub_transport_look_at_host(hub_transport *t);
/* The link to send to; counted where the transport has several. */
int hub_transport_find(hub_transport *t, uint32_t to, hub_link **ret);
void hub_transport_found_done(hub_transport *t, hub_link *link);
/* Is there something to receive? A hint. */
bool hub_transport_nonempty(const hub_transport *t);
/* Spin until there seems to be: within the budget, max_ns at most (-1: the budget). `long_one`: it
 * is announced to the other processes, so that spinners never outnumber the cores. */
bool hub_spin_for_message(hub_transport *t, int64_t max_ns, bool long_one);
/* The same for a good part of a ring to become free; true when `cells` seem to be. */
bool hub_spin_for_room(hub_transport *t, hub_link *link, uint32_t cells, int64_t max_ns);
/* How long a wait with this deadline may spin: for max_ns. */
int64_t hub_spin_left(int64_t deadline);
bool hub_spin_until(hub_transport *t, hub_spin *spin, bool (*there)(const void *),
                    const void *context, int64_t max_ns, bool long_one);
void hub_spin_init(hub_spin *spin, int64_t configured_ns);

#endif
