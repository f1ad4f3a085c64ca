/* stage.h - a host here and peers in forked children, over hub.h alone.
 *
 * A peer is a function of its transport.  The child opens the hub by the descriptor it inherited,
 * registers and attaches, as a plugin does with its command line.  All waits in these tests are
 * bounded by SOON: what takes longer has been lost. */
#ifndef TEST_STAGE_H
#define TEST_STAGE_H

#include <stdbool.h>

#include "arena.h"
#include "check.h"
#include "hub.h"

typedef struct peer_side {
    hub_session *session;
    hub_transport *transport;
    void *argument;
} peer_side;

typedef struct peer {
    hub_link *link;
    hub_transport *transport; /* the host's; NULL: the test opens one, or has an all-peers one */
    pid_t pid;
    uint32_t id;
} peer;

/* A small hub, quick to exhaust: 8 slots of 1 KiB, 4 of 16 KiB, 2 of 1 MiB, rings of 16 cells. */
hub_config config_tiny(void);

hub_session *host_open(const hub_config *config);
/* Skips the whole program where no host can be (under an emulator that lacks a system call). */
void host_can_be(void);
/* add_peer, a transport if wanted, fork: body's result is the child's exit status. */
void peer_start(hub_session *host, peer *p, bool own_transport, int (*body)(peer_side *),
                void *argument);
/* Wait until it is ACTIVE. */
void peer_wait_active(hub_session *host, const peer *p);
uint32_t peer_state(hub_session *host, uint32_t id);
/* Wait until the id is free again: reclaimed to the end. */
void peer_wait_free(hub_session *host, uint32_t id);
/* SIGKILL, reap, wait until it is reclaimed, drop the transport and the link. */
void peer_kill(hub_session *host, peer *p);
/* It ends by itself with 0; then as above. */
void peer_join(hub_session *host, peer *p);
void peer_drop(peer *p);

/* All slots free again, every peer gone; then close. */
void host_close(hub_session *host);
void host_check_all_free(hub_session *host);
uint32_t host_owned(hub_session *host); /* slots owned, in rings or shared, over all classes */

int64_t soon(void);
/* The way people send: a message id, the rest zero. */
hub_message message_of(uint64_t id);
void send_bytes(hub_transport *t, const void *data, uint64_t length, uint64_t id);
/* Send `length` bytes of a pattern of `seed` = the message id; check one that was received. */
void send_pattern(hub_transport *t, uint64_t length, uint64_t id);
void check_pattern(hub_session *s, const hub_frame *frame);
/* Free the frame's slot, if any. */
void frame_free(hub_session *s, const hub_frame *frame);
const unsigned char *frame_data(const hub_frame *frame);
/* recv that must succeed. */
void receive(hub_transport *t, hub_frame *frame);

/* Wait for an event of this kind about this peer, others are passed over. */
hub_event wait_event(hub_session *host, uint32_t kind, uint32_t peer_id);
/* Is somebody armed: the reader of a ring, a writer waiting for room, a waiter for a slot?
 * Looked at through hub_inspect, as a tool would. ring: 2*id up, 2*id+1 down. */
void wait_ring_asleep(hub_session *host, uint32_t ring);
void wait_ring_wanted(hub_session *host, uint32_t ring);
void wait_pool_waiter(hub_session *host, uint32_t peer_id);

#endif
