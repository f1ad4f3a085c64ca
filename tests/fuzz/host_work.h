/* host_work.h - what a host does, step by step, while it is lied to. Each step ends by itself. */
#ifndef FUZZ_HOST_WORK_H
#define FUZZ_HOST_WORK_H

#include "cast.h"
#include "lies.h"

enum host_step {
    STEP_TAKE_ONE,
    STEP_TAKE_SHORT, /* with a moment of waiting: spins, arms */
    STEP_TAKE_ALL,
    STEP_SEND,
    STEP_FILL, /* rings, with a moment of waiting for room */
    STEP_ALLOC,
    STEP_DRAIN, /* classes, until exhausted */
    STEP_TRIM,
    STEP_STAT,
    STEP_INSPECT,
    STEP_FSCK, /* looks; now and then it repairs */
    STEP_BELL,  /* the service thread looks round */
    STEP_POLL,  /* as an event loop does */
    STEP_LEAVE, /* a liar leaves in good order; another life begins */
    STEP_CANCEL, /* an id is given out and taken back */
    HOST_STEPS
};

void host_step_do(cast *c, enum host_step step, test_random *r);
/* Steps that read such a word, likeliest first; HOST_STEPS ends the list. */
const enum host_step *host_steps_for(const fuzz_field *field);

#endif
