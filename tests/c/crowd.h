/* crowd.h - the others, at work on the same lists and rings while a victim is stopped or killed: a
 * peer that takes, fills, checks and gives back slots of every class and talks all the time, and
 * the host's thread that answers it, receives from the victim and sends to it. */
#ifndef TEST_CROWD_H
#define TEST_CROWD_H

#include <pthread.h>

#include "stage.h"
#include "tally.h"

typedef struct crowd_shared {
    hub_a32 pause, end;
    hub_a64 rounds; /* whole ones of the peer, each with an answer of the host at least */
} crowd_shared;

typedef struct crowd {
    hub_session *host;
    hub_transport *all; /* the host's only transport */
    peer peer;
    crowd_shared *shared;
    gate paused, resumed;
    pthread_t thread;
    hub_a32 victim; /* id, 0: none; the thread has the tally from when it is set until `gone` */
    tally *tally;
    gate gone;
} crowd;

void crowd_start(crowd *c, hub_session *host);
void crowd_stop(crowd *c);
/* The thread receives from this peer and sends to it, until it is gone and all of it is told. */
void crowd_victim(crowd *c, tally *t);
void crowd_await_gone(crowd *c);
/* Wait until the others have got on by so many rounds. */
void crowd_rounds(crowd *c, uint64_t rounds);
/* The peer holds nothing, nothing is on its way; until crowd_resume. */
void crowd_pause(crowd *c);
void crowd_resume(crowd *c);

#endif
