/* points.h - stop one's own thread at a chosen atomic operation and do something else there.
 *
 * In a build with HUB_INTERLEAVE (make test-c POINTS=1) every operation of atomic.h asks here first.
 * A test runs an operation again and again, each time with a rival's whole operation before another
 * of its atomics: all schedules with one preemption, without threads and without chance. */
#ifndef TEST_POINTS_H
#define TEST_POINTS_H

#include <stdbool.h>

/* Run `operation`, and `rival` before its n-th atomic operation (from 0). Was there an n-th? */
bool points_run(unsigned n, void (*operation)(void *), void (*rival)(void *), void *argument);

/* The program tests nothing without HUB_INTERLEAVE: skips then. Call after test_begin. */
void points_needed(void);

#endif
