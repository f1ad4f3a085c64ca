/* points.c - see points.h. */
#include "points.h"

#include <stddef.h>

#include "check.h"

void hub_interleave_point(const void *address, int is_write);

static _Thread_local struct {
    void (*rival)(void *);
    void *argument;
    unsigned left; /* operations until then */
    bool reached;
} plan;

void hub_interleave_point(const void *address, int is_write) {
    (void)address, (void)is_write;
    if (plan.rival == NULL || plan.left-- != 0) return;
    void (*rival)(void *) = plan.rival;
    plan.rival = NULL; /* its own operations are not stopped */
    plan.reached = true;
    rival(plan.argument);
}

bool points_run(unsigned n, void (*operation)(void *), void (*rival)(void *), void *argument) {
    plan.rival = rival;
    plan.argument = argument;
    plan.left = n;
    plan.reached = false;
    operation(argument);
    plan.rival = NULL;
    return plan.reached;
}

void points_needed(void) {
#ifndef HUB_INTERLEAVE
    test_skip("the core is built without HUB_INTERLEAVE: make test-c POINTS=1");
#endif
}
