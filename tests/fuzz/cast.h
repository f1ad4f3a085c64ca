/* cast.h - a host and its peers in one process: two honest ones and two liars, on transports of
 * their own or all on the all-peers transport.
 *
 * The peers are real (their sessions, mappings and doorbells are their own), the host's service
 * thread runs; only their processes are one, so that a driver can do each step in turn.  What was
 * sent is remembered, so that what arrives can be checked to the last byte. */
#ifndef FUZZ_CAST_H
#define FUZZ_CAST_H

#include "check.h"
#include "transport.h"

enum cast_role { HONEST_A, HONEST_B, LIAR_A, LIAR_B, ROLES };

#define CAST_PENDING 64u

typedef struct cast_sent {
    uint64_t id, length;
} cast_sent;

/* Messages on their way in one direction. */
typedef struct cast_queue {
    cast_sent items[CAST_PENDING];
    unsigned head, count;
} cast_queue;

typedef struct cast_side {
    hub_link *link;
    hub_session *session;  /* the peer's */
    hub_transport *peer;   /* the peer's end */
    hub_transport *host;   /* the host's end; NULL: the all-peers transport is */
    cast_queue up, down;
    uint32_t id;
    bool lost; /* quarantined or gone: not worth another word */
} cast_side;

/* How much of what was sent must arrive, given what has been lied about so far. */
typedef struct cast_trust {
    bool inline_exact[ROLES]; /* small messages arrive, in order, right */
    bool slots_exact[ROLES];  /* large ones, too */
    bool ready;               /* the all-peers transport sees them at once */
} cast_trust;

typedef struct cast {
    hub_session *host;
    hub_transport *all; /* NULL: each has its own */
    cast_side sides[ROLES];
    cast_trust trust;
    uint64_t next_id;
    uint64_t checked;    /* honest messages found right */
    uint64_t violations; /* events, about anybody */
    bool liars[HUB_PEERS_MAX]; /* ids that a liar has or had */
    bool only_liars; /* nobody but them may be accused, or lost */
} cast;

/* The smallest hub in which everything can happen. */
hub_config cast_config(void);
void cast_open(cast *c, bool all);
void cast_close(cast *c);
/* The liar's id goes on in another life, or it gets another id. */
void cast_replace(cast *c, enum cast_role role);

hub_transport *cast_transport(cast *c, enum cast_role role);
uint32_t cast_to(const cast *c, enum cast_role role);

/* What the core may answer, whatever lies in shared memory. */
void cast_check_rc(int rc, const char *what);

/* A peer sends what fits now; a peer takes what is there. */
void cast_peer_sends(cast *c, enum cast_role role, uint64_t length);
void cast_peer_takes(cast *c, enum cast_role role);
/* The host sends; deadline HUB_NOW or a moment. */
int cast_host_sends(cast *c, enum cast_role role, uint64_t length, int64_t deadline);
/* A frame that the host has received is checked, and its slot freed, or sent on. */
void cast_host_got(cast *c, hub_frame *frame, bool forward);
/* The host receives from one, or from all who have no transport of their own. */
int cast_host_takes(cast *c, enum cast_role role, int64_t deadline, bool forward);
/* Read what happened; accusations must name a liar. */
void cast_events(cast *c);

#endif
