/* check.h - what every C test shares: checks that print what they saw, a watchdog, child processes.
 *
 * A test program is one main that runs its cases and returns test_end().  A failed check ends the
 * program with 1 (its children are killed first), test_skip ends it with 77 and says why.  A check
 * that fails in a child ends the child with 1, which its parent's child_ok turns into a failure. */
#ifndef TEST_CHECK_H
#define TEST_CHECK_H

#include <stdint.h>
#include <sys/types.h>

#include "error.h"

/* Part of every time limit: a virtual machine that is moved stands still while its clocks go on,
 * and some schedulers let a process starve for minutes. */
#define TEST_STANDSTILL 180u

/* Start the watchdog: after `seconds`, and what a standstill takes, the program fails instead of
 * hanging. */
void test_begin(unsigned seconds);
/* The watchdog again, from now on: for programs of many short runs. */
void test_again(unsigned seconds);
int test_end(void);
_Noreturn void test_skip(const char *reason);

_Noreturn void check_failed(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define FAIL(...) check_failed(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition)                                   \
    do {                                                   \
        if (!(condition)) FAIL("not true: %s", #condition); \
    } while (0)

void check_unsigned(const char *file, int line, const char *text, unsigned long long seen,
                    const char *relation, unsigned long long wanted, int holds);

/* Numbers: both sides are evaluated once and printed. */
#define CHECK_REL(seen, relation, wanted)                                                         \
    do {                                                                                          \
        uint64_t check_a = (uint64_t)(seen), check_b = (uint64_t)(wanted);                        \
        check_unsigned(__FILE__, __LINE__, #seen, check_a, #relation " " #wanted, check_b,        \
                       check_a relation check_b);                                                 \
    } while (0)
#define CHECK_EQ(seen, wanted) CHECK_REL(seen, ==, wanted)
#define CHECK_LE(seen, wanted) CHECK_REL(seen, <=, wanted)
#define CHECK_GE(seen, wanted) CHECK_REL(seen, >=, wanted)
/* Return codes: printed with their names. */
#define CHECK_RC(call, wanted)                                                                  \
    do {                                                                                        \
        int check_rc = (call), check_wanted = (wanted);                                         \
        if (check_rc != check_wanted)                                                           \
            FAIL("%s: %d (%s), wanted %d (%s)", #call, check_rc, hub_strerror(check_rc),        \
                 check_wanted, hub_strerror(check_wanted));                                     \
    } while (0)
#define CHECK_OK(call) CHECK_RC(call, 0)
/* 0, and with a sentence where there is a hub_fault. */
#define CHECK_OK_FAULT(call, fault)                                                      \
    do {                                                                                 \
        int check_rc = (call);                                                           \
        if (check_rc != 0)                                                               \
            FAIL("%s: %d (%s): %s", #call, check_rc, hub_strerror(check_rc), (fault).text); \
    } while (0)

#define RUN(test)                 \
    do {                          \
        test_say("  %s", #test);  \
        test();                   \
    } while (0)
void test_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* What a failure, or the watchdog, is to print beside it; empty: nothing more. */
void test_doing(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- children -------------------------------------------------------------------------------- */
/* Run body(argument) in a forked child that dies with us; its result is the exit status. */
pid_t child_start(int (*body)(void *), void *argument);
/* Wait for it and demand exit status 0. */
void child_ok(pid_t pid);
/* Wait for it: the status of waitpid. */
int child_wait(pid_t pid);
/* SIGKILL and reap. */
void child_kill(pid_t pid);
/* Run body in a child of its own, to its end. */
void child_run(int (*body)(void *), void *argument);

/* ---- helpers --------------------------------------------------------------------------------- */
typedef struct test_random {
    uint64_t state;
} test_random;
uint64_t random_next(test_random *r);
/* 0 .. below-1 */
uint64_t random_below(test_random *r, uint64_t below);

/* Memory shared with children that are forked later; zeroed. */
void *shared_memory(size_t bytes);
void shared_memory_free(void *at, size_t bytes);
/* A bounded pause that gives the core away: only where another process's or thread's state is
 * looked at again and again until it is as wanted; the watchdog bounds the whole. */
void test_pause(void);
/* Is this a build with a sanitizer (whose shadow memory needs terabytes of address space)? */
int test_sanitized(void);
/* Is this run by qemu or valgrind, which do not give all that a kernel gives (.ci/c-tests says so)?
 * A case that needs what is missing says what that is with test_say and returns. */
int test_emulated(void);
/* How often a loop that takes long under a sanitizer, or emulated, shall run. */
unsigned test_rounds(unsigned rounds);

/* Does the process sleep in the kernel? Both for a whole process and for one thread of ours. */
int process_sleeps(pid_t pid);
/* Open descriptors of this process. */
unsigned open_descriptors(void);

/* An event from one process to another: open it once per wait. */
typedef struct gate {
    int ends[2];
} gate;
void gate_init(gate *g);
void gate_open(gate *g);
void gate_wait(gate *g);
void gate_fini(gate *g);

/* A folder that is removed however the test ends, with the files hub and other in it. Asked for
 * first by the main process. */
const char *temporary_folder(void);

#endif
