/* wait.h - waiting without the GIL, and with an eye on signals.
 *
 * A signal that comes while the core sleeps ends the sleep: HUB_EINTR.  One that
 * comes a moment earlier, while the core still spins, does not, and a Ctrl-C would
 * wait for the next message.  So the first sleeps of a wait are short; after each
 * one the handlers run.  There are three of them and then one without an end: an
 * idle hub stays idle. */
#ifndef HUB_PYTHON_WAIT_H
#define HUB_PYTHON_WAIT_H

#include "state.h"

typedef struct bnd_wait {
    int64_t deadline; /* of the whole wait */
    int64_t until;    /* of this sleep */
    unsigned sleeps;
} bnd_wait;

static inline bnd_wait bnd_wait_begin(int64_t deadline)
{
    return (bnd_wait){deadline, deadline, 0};
}

/* The deadline of the next sleep. Does not need the GIL. */
static inline int64_t bnd_wait_next(bnd_wait *wait)
{
    static const int64_t lengths_ns[] = {20000000, 200000000, 2000000000};
    wait->until = wait->deadline;
    if (wait->sleeps < sizeof lengths_ns / sizeof *lengths_ns) {
        int64_t until = hub_clock_ns() + lengths_ns[wait->sleeps++];
        if (until < wait->deadline)
            wait->until = until;
    }
    return wait->until;
}

/* After a sleep that ended with `rc`: sleep again? No: rc counts, or a signal handler
 * has raised. */
static inline bool bnd_wait_again(const bnd_wait *wait, int rc)
{
    if (rc != HUB_EINTR && !(rc == HUB_ETIMEDOUT && wait->until < wait->deadline))
        return false;
    return PyErr_CheckSignals() == 0;
}

#endif
