/* children.h - what check.c needs of children.c; tests use check.h. */
#ifndef TEST_CHILDREN_H
#define TEST_CHILDREN_H

/* SIGKILL and reap every child of this process that was not waited for: how many.
 * Safe in a signal handler. */
int children_kill_all(void);

#endif
