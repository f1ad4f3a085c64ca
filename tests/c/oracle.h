/* oracle.h - is every slot of a hub in exactly one place, and can every one of them be had?
 *
 * Looks at the memory itself, not at what the hub says about it: its own walk over `ctl`, stacks,
 * signals; then fsck must find nothing.  Nobody else may be at work meanwhile. */
#ifndef TEST_ORACLE_H
#define TEST_ORACLE_H

#include "session.h"

/* Everybody is gone or holds nothing: every slot FREE, on one stack at most, linked if on one, no
 * stack with a circle or an index that is none; nobody's waiter, ready or spinning bit is left but
 * those of peers that live. */
void oracle_all_free(hub_session *host);
/* Take every slot of every class to the last, each once, its memory really there and nobody else's;
 * give all back. Afterwards all are backed. */
void oracle_refill(hub_session *host);
/* Put slots that are FREE and on no stack back on one: how many. The dead leave some (only a scan
 * finds them), and the next run is to find the stacks as the first one did. */
unsigned oracle_relink(hub_session *host);
/* All free; with `relink`, linked again; refilled; all free. How many were linked again. */
unsigned oracle(hub_session *host, bool relink);

/* Leave every slot FREE and linked on no stack, as if owners had died one after the other between
 * pop and claim: only a scan finds them. */
void oracle_orphan_all(hub_session *host);

#endif
