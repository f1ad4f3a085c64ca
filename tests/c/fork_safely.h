/* fork_safely.h - make fork() in a process with threads safe under ASan; see fork_safely.c. */
#ifndef TEST_FORK_SAFELY_H
#define TEST_FORK_SAFELY_H

void fork_safely(void); /* once, before the first fork; by test_begin */

#endif
