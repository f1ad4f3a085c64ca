/* hub.h - the facade: all that the Python binding and a C plugin include.
 *
 * One host process creates a hub, peers attach to it; a transport sends and
 * receives.  All functions may be called from any thread.  None of them logs,
 * aborts or changes errno.  Times are CLOCK_MONOTONIC nanoseconds; a deadline
 * of HUB_NOW tries once, HUB_FOREVER never gives up.  A waiting function that
 * returns HUB_EINTR has done nothing: look at your signals and call it again
 * (also when there is none: it was woken very often for nothing). */
#ifndef HUB_H
#define HUB_H

#include <stddef.h>
#include <stdint.h>

#include "error.h"

#define HUB_VERSION_MAJOR 1
#define HUB_VERSION_MINOR 0

#define HUB_CLASSES_MAX 8
#define HUB_PEERS_MAX 64
#define HUB_NAME_MAX 32
#define HUB_INLINE_MAX 240 /* longest payload that needs no slot, bytes */

#define HUB_NOW INT64_MIN
#define HUB_FOREVER INT64_MAX

#define HUB_TO_DEFAULT 0xFFFFu /* the only peer a transport has */
#define HUB_REF_NONE 0xFFFFFFFFu

typedef struct hub_session hub_session;     /* a hub as one process sees it */
typedef struct hub_link hub_link;           /* one life of one peer id */
typedef struct hub_transport hub_transport; /* sends and receives */

typedef struct hub_class_config {
    uint64_t slot_size; /* bytes */
    uint32_t slots;     /* in service from the start */
    uint32_t max_slots; /* may grow to */
} hub_class_config;

typedef struct hub_config {
    hub_class_config classes[HUB_CLASSES_MAX];
    uint32_t class_count;
    uint32_t max_peers;     /* ids 0 (the host) .. max_peers-1 */
    uint32_t ring_capacity; /* cells of 64 B, a power of two >= 8 */
    uint64_t max_bytes;     /* 0: a quarter of the RAM or of the cgroup's limit */
    int64_t spin_ns;        /* -1 adaptive, 0 never, else at most so long */
} hub_config;

/* A slot that the caller owns. Zero-initialised: none. */
typedef struct hub_slot {
    unsigned char *data;
    uint64_t capacity; /* bytes of the slot */
    uint32_t ref;      /* class:3, index:29 */
    uint32_t gen;
} hub_slot;

/* What travels beside the payload. */
typedef struct hub_message {
    uint64_t message_id;
    int64_t deadline_ns; /* advisory; 0 = none */
    uint32_t flags;
    uint16_t channel;
    uint16_t method;
} hub_message;

/* What a receive gives. slot.data is NULL when the payload lies in `inline_data`. */
typedef struct hub_frame {
    hub_message message;
    uint64_t length;  /* bytes of payload */
    uint16_t peer_id; /* who sent it (0: the host) */
    hub_slot slot;
    unsigned char inline_data[HUB_INLINE_MAX];
} hub_frame;

typedef struct hub_buffer {
    const void *data;
    size_t length;
} hub_buffer;

/* ---- configuration, life of a hub ------------------------------------- */
HUB_API void hub_config_default(hub_config *config);

/* Create a hub and start its service thread. path NULL: an anonymous memfd. */
HUB_API int hub_host_create(const char *path, const hub_config *config, hub_session **ret,
                            hub_fault *fault);
/* Map the hub at `path` as peer `peer_id`; touches nothing of it. */
HUB_API int hub_peer_open(const char *path, uint32_t peer_id, hub_session **ret, hub_fault *fault);
/* Claim the id: RESERVED -> ATTACHING. */
HUB_API int hub_peer_register(hub_session *session, hub_fault *fault);

/* Close: host: peers are told, service thread ends, a named file is unlinked.
 * The memory stays mapped until the last reference (slots, frames) is gone. Idempotent. */
HUB_API void hub_session_close(hub_session *session);
HUB_API hub_session *hub_session_ref(hub_session *session);
HUB_API void hub_session_unref(hub_session *session);
/* The same for an object that holds a slot; how many do: hub_host_fsck is told. */
HUB_API hub_session *hub_session_hold(hub_session *session);
HUB_API void hub_session_unhold(hub_session *session);
HUB_API uint32_t hub_session_held(const hub_session *session);

HUB_API int hub_session_closed(const hub_session *session);
HUB_API int hub_session_forked(const hub_session *session);
HUB_API int hub_session_is_host(const hub_session *session);
HUB_API uint32_t hub_session_id(const hub_session *session);
HUB_API int hub_session_fd(const hub_session *session);
HUB_API const char *hub_session_path(const hub_session *session); /* NULL if anonymous */
HUB_API void hub_session_config(const hub_session *session, hub_config *ret); /* effective */
HUB_API int hub_session_limited(const hub_session *session); /* smaller: address space */
HUB_API int64_t hub_session_trim(hub_session *session);      /* bytes given back */

/* ---- the host's peers --------------------------------------------------- */
/* Reserve an id. *ret_link holds a reference that the caller drops. *ret_peer_fd is the peer's
 * end of the doorbell; it belongs to the link (hub_link_close_peer_fd). */
HUB_API int hub_host_add_peer(hub_session *session, const char *name, hub_link **ret_link,
                              int *ret_peer_fd);
/* Cancel a peer that has not attached. HUB_ESTATE if it is alive, 0 if it is gone already. */
HUB_API int hub_host_remove_peer(hub_session *session, uint32_t peer_id);

HUB_API hub_link *hub_link_ref(hub_link *link);
HUB_API void hub_link_unref(hub_link *link);
HUB_API uint32_t hub_link_peer_id(const hub_link *link);
HUB_API uint32_t hub_link_epoch(const hub_link *link);
HUB_API int hub_link_fd(const hub_link *link); /* host's end; -1 when closed */
HUB_API hub_session *hub_link_session(const hub_link *link);
HUB_API void hub_link_close_peer_fd(hub_link *link);
/* Watch a started process (pidfd is duplicated): its end cancels an attach that never came. */
HUB_API int hub_link_watch(hub_link *link, int pidfd);

enum hub_peer_state {
    HUB_PEER_FREE = 0,
    HUB_PEER_RESERVED = 1,   /* id given out, nobody claimed it */
    HUB_PEER_ATTACHING = 2,  /* claimed, the host has not answered */
    HUB_PEER_ACTIVE = 3,
    HUB_PEER_LEAVING = 4,    /* closed in good order, still holds slots */
    HUB_PEER_LEFT = 5,       /* closed in good order, holds nothing */
    HUB_PEER_HUNG_UP = 6,    /* doorbell closed, process lives */
    HUB_PEER_QUARANTINED = 7,/* broke the protocol, process lives */
    HUB_PEER_CANCELLED = 8,  /* never attached; the id waits for its doorbell to hang up */
    HUB_PEER_DEAD = 9        /* process gone, being reclaimed */
};
HUB_API const char *hub_peer_state_name(uint32_t state);

enum hub_event_kind {
    HUB_EVENT_ATTACHED = 1,
    HUB_EVENT_LEFT,
    HUB_EVENT_DIED,
    HUB_EVENT_HUNG_UP,
    HUB_EVENT_VIOLATION,
    HUB_EVENT_CANCELLED
};
typedef struct hub_event {
    uint32_t kind;
    uint32_t peer_id;
    uint32_t epoch;
    int32_t pid;
    char detail[96];
} hub_event;
/* 1 and an event, or 0. Never waits. Events beyond 256 unread ones are dropped, oldest first. */
HUB_API int hub_host_next_event(hub_session *session, hub_event *ret);

/* ---- statistics --------------------------------------------------------- */
typedef struct hub_class_stat {
    uint64_t slot_size;
    uint32_t slots, max_slots; /* in service now / may grow to */
    uint32_t backed, free, owned, in_ring, shared;
    uint32_t high_water; /* slots ever used */
    uint64_t exhausted;  /* times nothing of this class was to be had */
} hub_class_stat;
typedef struct hub_peer_stat {
    uint32_t peer_id, state, epoch;
    int32_t pid;
    char name[HUB_NAME_MAX];
    uint32_t owned; /* slots */
    uint64_t sent, received, bytes_sent, bytes_received, rings_rung, waits;
} hub_peer_stat;
typedef struct hub_stat {
    uint32_t class_count, peer_count;
    hub_class_stat classes[HUB_CLASSES_MAX];
    hub_peer_stat peers[HUB_PEERS_MAX]; /* entries that are not FREE, the host's first */
    uint64_t memory_bytes;              /* what the kernel says the hub takes */
    uint64_t reclaimed;                 /* slots taken back from dead peers */
    uint64_t violations, deaths, detaches;
} hub_stat;
HUB_API int hub_session_stat(hub_session *session, hub_stat *ret);

/* ---- transports --------------------------------------------------------- */
/* Host, one peer: bound to this life of the id. HUB_EBUSY if it has a transport. */
HUB_API int hub_transport_open_host_peer(hub_session *session, hub_link *link, const char *name,
                                         hub_transport **ret, hub_fault *fault);
/* Host, all peers without a transport of their own, later ones too. */
HUB_API int hub_transport_open_host(hub_session *session, const char *name, hub_transport **ret,
                                    hub_fault *fault);
/* Peer: shakes hands over the doorbell and waits for the host's answer. On success the transport
 * owns doorbell_fd (before, the caller does). After HUB_EINTR call again: it goes on where it was. */
HUB_API int hub_transport_open_peer(hub_session *session, int doorbell_fd, const char *name,
                                    int64_t deadline, hub_transport **ret, hub_fault *fault);
/* Close in good order; wakes every thread that waits in it (HUB_ECLOSED). Idempotent. */
HUB_API void hub_transport_close(hub_transport *transport);
HUB_API void hub_transport_unref(hub_transport *transport); /* closes at the last one */
HUB_API hub_transport *hub_transport_ref(hub_transport *transport);
HUB_API int hub_transport_closed(const hub_transport *transport);
HUB_API int hub_transport_fd(hub_transport *transport); /* readable: try again */
HUB_API hub_session *hub_transport_session(const hub_transport *transport);

/* Next automatic message id of this transport. */
HUB_API uint64_t hub_transport_next_id(hub_transport *transport);

/* Slots. hub_alloc: 0, HUB_EEXHAUSTED (HUB_NOW only), HUB_ETIMEDOUT, HUB_ETOOLARGE, HUB_ENOSPC,
 * HUB_EHOSTGONE, HUB_ECLOSED, HUB_EINTR; on the host's transport of one peer HUB_EPEERGONE when
 * none is free and that peer is gone. A waiting one needs the transport to be woken by. */
HUB_API int hub_alloc(hub_transport *transport, uint64_t size, int64_t deadline, hub_slot *ret);
/* For a message to that peer: the same, and HUB_EPEERGONE when it dies meanwhile. */
HUB_API int hub_alloc_to(hub_transport *transport, uint32_t to, uint64_t size, int64_t deadline,
                         hub_slot *ret);
HUB_API int hub_slot_free(hub_session *session, const hub_slot *slot);
HUB_API uint64_t hub_slot_class_size(const hub_session *session, uint32_t ref);
/* Back more of an owned slot than was asked for (resize): as hub_alloc with HUB_NOW; HUB_ESTALE if
 * it is not the caller's. */
HUB_API int hub_slot_back(hub_session *session, const hub_slot *slot, uint64_t size);

/* memcpy for payloads, quicker for those that no cache holds. The areas do not overlap. */
HUB_API void hub_copy(void *to, const void *from, size_t length);

/* Send. `to`: peer id for a host's all-peers transport, else HUB_TO_DEFAULT.
 * hub_send copies; hub_send_slot moves: on success the slot is no longer the caller's; on any
 * failure nothing was published and it still is. HUB_EINVAL: length is more than the slot was
 * allocated (or backed) for. */
HUB_API int hub_send(hub_transport *transport, uint32_t to, const hub_message *message,
                     const void *data, uint64_t length, int64_t deadline);
/* As hub_send with HUB_NOW of an inline payload, but whoever sleeps there goes on sleeping until
 * hub_wake, or the next send of another kind: for several messages that follow each other at once. */
HUB_API int hub_send_quietly(hub_transport *transport, uint32_t to, const hub_message *message,
                             const void *data, uint64_t length);
HUB_API void hub_wake(hub_transport *transport, uint32_t to);
HUB_API int hub_send_slot(hub_transport *transport, uint32_t to, const hub_message *message,
                          const hub_slot *slot, uint64_t length, int64_t deadline);
/* Which life of that id a send would reach now; 0: none. For who sends in several steps, between
 * which the id may get another owner. */
HUB_API uint32_t hub_transport_epoch(hub_transport *transport, uint32_t to);
/* Several in order; *ret_sent says how many were published, whatever is returned. messages[i]
 * belongs to buffers[i]. Publishes runs of inline payloads with one store. */
HUB_API int hub_send_many(hub_transport *transport, uint32_t to, const hub_message *messages,
                          const hub_buffer *buffers, size_t count, int64_t deadline,
                          size_t *ret_sent);

/* Receive. Fills *ret; a slot in it is the caller's. */
HUB_API int hub_recv(hub_transport *transport, hub_frame *ret, int64_t deadline);
/* As hub_recv without waiting, but spins within the adaptive budget (max_spin_ns at most, -1: the
 * budget) first and, if still empty, arms the descriptor of hub_transport_fd and looks again.
 * For event loops: see hub_drain. */
HUB_API int hub_poll_recv(hub_transport *transport, hub_frame *ret, int64_t max_spin_ns);
/* Let a hub_recv that sleeps, or else the next one that would, return HUB_EINTR: once. */
HUB_API void hub_transport_interrupt(hub_transport *transport);
/* Spin for at most max_spin_ns within the adaptive budget; does not arm. 0 / HUB_EAGAIN / errors. */
HUB_API int hub_spin_recv(hub_transport *transport, hub_frame *ret, int64_t max_spin_ns);
/* Up to `max` frames without waiting: number received (>= 1) or as hub_recv with HUB_NOW. */
HUB_API int hub_recv_many(hub_transport *transport, hub_frame *ret, size_t max);

/* For event loops: as the HUB_NOW forms, but a HUB_ERINGFULL or HUB_EEXHAUSTED leaves the waiter
 * armed: hub_transport_fd becomes readable when it is worth another try. Every armed call must be
 * ended by hub_poll_cancel, which makes the descriptor readable: others that wait for the same
 * arm again. The polls do not drain, since one byte may be meant for any task of a loop: when the
 * descriptor was readable the loop calls hub_drain and then lets every task look. */
enum hub_poll_kind { HUB_POLL_SEND = 1, HUB_POLL_ALLOC = 2 };
HUB_API int hub_poll_arm(hub_transport *transport, uint32_t to, int kind, uint64_t length);
HUB_API void hub_poll_cancel(hub_transport *transport, int kind);
HUB_API void hub_drain(hub_transport *transport);

/* Deaths that an all-peers transport has delivered everything of. recv returns HUB_EPEERGONE once
 * for each; this tells which (1, or 0 if none is left). For a one-peer transport: that peer. */
typedef struct hub_gone {
    uint32_t peer_id, epoch;
    int32_t pid;
    int clean;             /* left in good order */
    int alive;             /* hung up or quarantined, but its process lives */
    int never_attached;
    size_t undelivered;    /* message ids it never received */
    uint64_t *ids;         /* malloc'ed, the caller frees; NULL when none */
} hub_gone;
HUB_API int hub_transport_gone(hub_transport *transport, hub_gone *ret);
/* Peer side: did the host close in good order? */
HUB_API int hub_transport_clean(const hub_transport *transport);

typedef struct hub_transport_stat {
    uint64_t sent, received, bytes_sent, bytes_received, rings_rung, waits, spins, spin_hits;
} hub_transport_stat;
HUB_API void hub_transport_stat_read(hub_transport *transport, hub_transport_stat *ret);

/* ---- doorbell by hand ---------------------------------------------------- */
HUB_API int hub_doorbell_check(int fd, hub_fault *fault); /* is it a connected AF_UNIX socket? */
HUB_API int hub_doorbell_ring(int fd);
HUB_API int hub_doorbell_drain(int fd);                     /* bytes taken */
HUB_API int hub_doorbell_wait(int fd, int64_t deadline);    /* 1 rung, 0 time up, HUB_EINTR */
HUB_API int hub_doorbell_peer_closed(int fd);
HUB_API int64_t hub_clock_ns(void);

/* ---- remains ------------------------------------------------------------- */
/* A read-only look at a hub by descriptor: geometry and statistics; no peer is disturbed. */
typedef struct hub_inspection {
    hub_config config;
    hub_stat stat;
    uint64_t total_size, data_offset;
    int32_t host_pid;
    int live; /* named: its lock is held; anonymous: the host's process exists */
    struct { uint64_t head, tail; uint32_t capacity, closed, sleeping, want; } rings[2 * HUB_PEERS_MAX];
    uint64_t waiters, ready;
    /* where things lie, for tools and tests (docs/layout.md) */
    uint64_t classes_offset, peers_offset, signals_offset, blocks_offset, block_stride;
    uint64_t meta_offset[HUB_CLASSES_MAX], class_data_offset[HUB_CLASSES_MAX];
} hub_inspection;
HUB_API int hub_inspect(int fd, hub_inspection *ret, hub_fault *fault);

/* ---- fsck ----------------------------------------------------------------- */
/* Walks everything in shared memory that somebody believes, says what no honest process writes, and
 * repairs it: see docs/protocol.md for what is looked at and why repairing a live hub is sound. */
enum hub_fsck_kind {
    HUB_FSCK_HEADER = 1,  /* a constant of the header or the class table */
    HUB_FSCK_PEER,        /* an entry of the peer table */
    HUB_FSCK_SIGNAL,      /* pool_waiters, ready, spinning */
    HUB_FSCK_RING,        /* counters, constants, flags of a ring */
    HUB_FSCK_IN_SERVICE,  /* how many slots a class has in service */
    HUB_FSCK_STATE,       /* ctl: a state that there is not, or spare bits */
    HUB_FSCK_OWNER,       /* ctl: held by an id or a ring that nobody has */
    HUB_FSCK_STRAY,       /* ctl: the host's, which holds no such slot */
    HUB_FSCK_BACKED,      /* more pages than the slot has */
    HUB_FSCK_OUT_OF_RANGE,/* a stack leads to a slot that there is not */
    HUB_FSCK_CIRCLE,      /* a stack leads back to one of its slots */
    HUB_FSCK_TWICE,       /* a slot is on both stacks */
    HUB_FSCK_NOT_LINKED,  /* a slot on a stack says that it is on none */
    HUB_FSCK_KINDS
};
/* "circle"; what it means, in half a sentence. Never NULL. */
HUB_API const char *hub_fsck_name(uint32_t kind);
HUB_API const char *hub_fsck_meaning(uint32_t kind);

typedef struct hub_fsck_finding {
    uint32_t kind;
    int32_t class_index, index; /* the slot; -1: not about one */
    int32_t peer_id;            /* -1: not about one */
    int mended;
    char found[100];
} hub_fsck_finding;

typedef struct hub_fsck_totals {
    uint64_t slots;    /* looked at */
    uint64_t findings; /* mended + left */
    uint64_t mended;
    uint64_t left;     /* that are there still: what lives holds it, or it was changed again */
    /* Nothing is wrong with these. */
    uint64_t off_list;   /* free slots on no stack, which scans find: a process died there */
    uint64_t remembered; /* free slots that a process remembers, or did when it died */
    uint64_t misplaced;  /* on the hot stack and not backed, or the other way round */
    uint64_t unjudged;   /* stacks that changed too fast to be judged */
    uint64_t reclaimed;  /* slots of the dead, of a hub without a host */
    uint64_t bytes;      /* of memory given back by repairing */
    int live;            /* others were, or may have been, at work meanwhile */
} hub_fsck_totals;

/* Called once for each finding, never with a NULL. */
typedef void (*hub_fsck_report)(void *context, const hub_fsck_finding *finding);

#define HUB_FSCK_HELD_UNKNOWN UINT32_MAX
/* In the host, of its own hub. `held`: slots that this process holds, if the caller knows that and
 * that no other thread is in a call on this hub; then a slot that only seems to be the host's is
 * found. 0 of them and no peer alive: the stacks are made anew. 0, HUB_EFORKED, HUB_ECLOSED,
 * HUB_EINVAL (not a host), -errno. */
HUB_API int hub_host_fsck(hub_session *session, int repair, uint32_t held, hub_fsck_report report,
                          void *context, hub_fsck_totals *ret);
/* From outside, read only, by descriptor: live or not. HUB_EFORMAT: no hub, or its header is
 * broken. */
HUB_API int hub_fsck(int fd, hub_fsck_report report, void *context, hub_fsck_totals *ret,
                     hub_fault *fault);
/* The remains of a named hub, repaired under its lock. HUB_EEXISTS: its host lives. If no process
 * has it open any more everything is freed. */
HUB_API int hub_fsck_repair(const char *path, hub_fsck_report report, void *context,
                            hub_fsck_totals *ret, hub_fault *fault);
/* The number `which` (from 0) of the hubs that the process of an ELF core dump had mapped: 0, or 1
 * when there is no such number. HUB_EFORMAT: not a core dump, or the hub in it is broken. */
HUB_API int hub_fsck_dump(int fd, uint32_t which, hub_fsck_report report, void *context,
                          hub_fsck_totals *ret, hub_fault *fault);
/* Remove a named hub whose host is dead: 1 removed, 0 live, < 0 not a hub or an error. */
HUB_API int hub_unlink_if_stale(const char *path, hub_fault *fault);

#endif
