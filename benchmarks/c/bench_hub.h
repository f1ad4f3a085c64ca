/* bench_hub.h - a hub with one peer, for the questions that need one. Uses hub.h alone. */
#ifndef BENCH_HUB_H
#define BENCH_HUB_H

#include "bench.h"
#include "hub.h"

struct bench_hub {
    hub_session *session;
    hub_link *link;
    hub_transport *transport;
};

/* The host's half: makes the hub, starts the second process, waits until it is attached. */
void bench_hub_host(struct bench *bench, struct bench_hub *hub);
/* A host without peers: nothing is started. */
void bench_hub_alone(struct bench_hub *hub);
/* The peer's half, in the second process. */
void bench_hub_peer(struct bench *bench, struct bench_hub *hub);
void bench_hub_close(struct bench_hub *hub);
/* Ends the program with the core's own words when `code` is an error. */
void bench_hub_must(int code, const char *what);

#endif
