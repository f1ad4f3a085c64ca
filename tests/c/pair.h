/* pair.h - a host and an attached peer in one process: what the one does can be looked at, word by
 * word, before the other does anything. */
#ifndef TEST_PAIR_H
#define TEST_PAIR_H

#include "session.h"
#include "stage.h"
#include "transport.h"

typedef struct pair {
    hub_session *host, *peer;
    hub_link *link; /* the host's */
    hub_transport *from_host, *from_peer;
    uint32_t id;
    bool all;
} pair;

/* With `all` the host has an all-peers transport, else one of that peer's own. */
void pair_open(pair *p, const hub_config *config, bool all);
/* The host has no transport yet; it opens one before pair_close. */
void pair_open_without(pair *p, const hub_config *config);
void pair_close(pair *p);
/* The peer leaves and its id is free; another comes. */
void pair_detach(pair *p);
void pair_attach(pair *p);

hub_ring_shm *pair_up(const pair *p); /* the peer sends */
hub_ring_shm *pair_down(const pair *p);
hub_lane_shm *pair_lane(const pair *p); /* the peer's */

#endif
