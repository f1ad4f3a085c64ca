/* step.h - run a child, or a thread of one, instruction by instruction up to a chosen point, to
 * stop or kill it exactly there.
 *
 * A point is either an instruction, or (for long operations) an event: an instruction that changed
 * the hub's metadata, or a system call.  Between two events nothing changes that anybody else can
 * see, so "after event n" is also "before event n + 1", and a store that leaves its word as it was
 * is no event.  Unaware of hubs, but for the descriptor whose first bytes it compares. */
#ifndef TEST_STEP_H
#define TEST_STEP_H

#include <stdbool.h>
#include <sys/types.h>

#include "atomic.h"

/* Shared with the child: it says where it is. */
typedef struct stepped {
    hub_a32 over;    /* the operation is through */
    hub_a32 refused; /* ptrace is not allowed here */
    hub_a32 let_go;  /* nobody steps it any more: it goes on by itself after the operation */
    int rc;          /* what the operation returned; valid once it is over */
} stepped;

/* Child: from here on the parent decides how far it gets. */
void step_begin(stepped *s);
/* Child: the operation is over. */
void step_end(stepped *s, int rc);

typedef enum step_state {
    STEP_STANDS, /* stopped at the point asked for */
    STEP_OVER,   /* stopped after the operation */
    STEP_SLEEPS  /* in a system call that waits */
} step_state;

typedef struct stepper {
    pid_t pid;      /* a child that calls step_begin, or a thread that was seized */
    stepped *where; /* NULL: a seized thread; its operation ends with its sleep */
    /* It sleeps, and is to go on: wake it, true; or leave it, false. NULL: nobody needs to. */
    bool (*asleep)(void *context);
    void *context;
    int watched; /* descriptor of the hub whose metadata is compared; -1: none */
    uint64_t watched_bytes;
    /* Asked when there is none yet, after each system call: it may have been made. */
    int (*find_watched)(void *context, uint64_t *ret_bytes);
    bool begun;
    /* made so far */
    unsigned steps;
    unsigned events;
    unsigned char *before, *after;
} stepper;

/* Go on until `steps` instructions were made and `events` events have happened in all, whichever
 * comes first. Where it sleeps is a point of its own: one more instruction. */
step_state step_until(stepper *s, unsigned steps, unsigned events);
/* Free what it allocated; the child is the caller's. */
void step_fini(stepper *s);

/* First of all in a main that steps what fills private memory: start again with a C library that
 * does not use string instructions for it, each byte of which is a step. */
void step_without_strings(char **argv);

/* Stop a thread of another process. */
void step_seize(pid_t thread);
/* Let a child or a seized thread go on by itself. */
void step_let_go(const stepper *s, step_state state);
/* A seized thread whose process was killed: it must be reaped before its process can be. */
void step_reap(pid_t thread);

/* How far apart the points lie: SHMHUB_STRIDE, 1 for all of them (also SHMHUB_FULL=1); else so that
 * an operation of that many instructions takes seconds. The seed (where to begin) is printed. */
unsigned step_stride(unsigned length);
/* The same for one of that many events: a few of them at least. */
unsigned step_event_stride(unsigned length);
uint64_t step_seed(void);
/* For test_begin. */
unsigned step_seconds(void);

#endif
