/* tally.h - what host and victim said to each other, counted by the host, so that afterwards the
 * two rings' own counters can be asked whether anything was lost, doubled or made up.
 *
 * Used by one thread at a time. */
#ifndef TEST_TALLY_H
#define TEST_TALLY_H

#include "session.h"

#define TALLY_HOST_ID 1000u /* ids of the host's messages begin here, the victim's at 0 */

typedef struct tally {
    hub_session *host;
    uint32_t id;
    uint64_t up_tail, down_tail, down_head; /* where this life's rings began */
    uint64_t received;       /* the victim's own messages: 0, 1, ... */
    uint64_t received_cells; /* of these and of forwarded ones */
    uint64_t sent;
    bool gone;
} tally;

/* Before the victim lives, after its id was given out. */
void tally_begin(tally *t, hub_session *host, uint32_t id);
/* A frame from the victim: the next one, or one of ours come back; intact. Frees its slot. */
void tally_take(tally *t, const hub_frame *frame);
/* The next message to it: of a slot, or of one cell, or of five. 0, or why not. */
int tally_send(tally *t, hub_transport *transport, uint32_t to, int64_t deadline);
/* It is gone: what it never received are the last of those that were sent. Frees gone->ids. */
void tally_gone(tally *t, hub_gone *gone);
/* Afterwards: everything that its rings say was published was delivered, nothing else, once; and
 * what it took and what it did not is all that was sent. */
void tally_check(const tally *t);

#endif
