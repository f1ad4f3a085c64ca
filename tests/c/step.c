/* step.c - see step.h. */
#define _GNU_SOURCE
#include "step.h"

#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "hub.h"

/* ---- the child ----------------------------------------------------------------------------- */

void step_begin(stepped *s) {
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0) {
        hub_store_release_32(&s->refused, 1);
        _exit(0);
    }
    (void)raise(SIGSTOP);
}

void step_end(stepped *s, int rc) {
    s->rc = rc;
    hub_store_release_32(&s->over, 1);
    if (!hub_load_acquire_32(&s->let_go)) (void)raise(SIGSTOP);
}

/* ---- all that knows the processor ------------------------------------------------------------ */
/* On arm64 build with -march=armv8.1-a or later: a pair of exclusive load and store never gets
 * through when it is stepped. */

/* Is the next instruction a system call? */
static bool at_system_call(pid_t pid) {
#if defined(__x86_64__)
    struct user_regs_struct registers;
    const uint64_t mask = 0xFFFF, call = 0x050F; /* syscall */
#define PROGRAM_COUNTER registers.rip
#elif defined(__aarch64__)
    struct user_regs_struct registers;
    const uint64_t mask = 0xFFFFFFFF, call = 0xD4000001; /* svc #0 */
#define PROGRAM_COUNTER registers.pc
#else
#error "say here how a system call is recognised"
#endif
    struct iovec all = {&registers, sizeof registers};
    CHECK_EQ(ptrace(PTRACE_GETREGSET, pid, (void *)(uintptr_t)NT_PRSTATUS, &all), 0);
    uint64_t address = PROGRAM_COUNTER;
    errno = 0;
    uint64_t text = (uint64_t)ptrace(PTRACE_PEEKTEXT, pid, (void *)(uintptr_t)address, NULL);
    CHECK_EQ(errno, 0);
    return (text & mask) == call;
}

/* ---- one step -------------------------------------------------------------------------------- */

/* Has it stopped? `options` WNOHANG: or is it still running. */
static bool stands(pid_t pid, int options) {
    int status = 0;
    pid_t got;
    do {
        got = waitpid(pid, &status, options | __WALL);
    } while (got < 0 && errno == EINTR);
    if (got == 0) return false;
    CHECK_EQ(got, pid);
    if (!WIFSTOPPED(status)) FAIL("the child ended (status %#x) before its operation did", status);
    int signal_number = WSTOPSIG(status);
    if (signal_number != SIGTRAP && signal_number != SIGSTOP)
        FAIL("the child got signal %d in the middle of its operation", signal_number);
    return true;
}

/* After PTRACE_SINGLESTEP at a system call: true when it has stopped, false when it sleeps. */
static bool stands_or_sleeps(pid_t pid) {
    for (;;) {
        if (stands(pid, WNOHANG)) return true;
        if (process_sleeps(pid)) return false;
        (void)sched_yield();
    }
}

static void look(const stepper *s, unsigned char *into) {
    uint64_t at = 0;
    while (at < s->watched_bytes) {
        ssize_t got = pread(s->watched, into + at, s->watched_bytes - at, (off_t)at);
        CHECK(got > 0);
        at += (uint64_t)got;
    }
}

static void begin_to_watch(stepper *s) {
    if (s->watched < 0 || s->before != NULL) return;
    s->before = malloc(s->watched_bytes);
    s->after = malloc(s->watched_bytes);
    CHECK(s->before != NULL && s->after != NULL);
    look(s, s->before);
}

static bool has_stored(stepper *s) {
    if (s->watched < 0) return false;
    look(s, s->after);
    if (memcmp(s->before, s->after, s->watched_bytes) == 0) return false;
    unsigned char *now = s->after;
    s->after = s->before;
    s->before = now;
    return true;
}

static void not_allowed(void) {
    test_skip("ptrace is not allowed here (yama, seccomp, or a debugger in the way)");
}

/* The child stands in step_begin, or may not be traced and has ended. */
static void await_beginning(const stepper *s) {
    int status = 0;
    pid_t got;
    do {
        got = waitpid(s->pid, &status, __WALL);
    } while (got < 0 && errno == EINTR);
    if (hub_load_acquire_32(&s->where->refused)) not_allowed();
    if (got != s->pid || !WIFSTOPPED(status))
        FAIL("the child ended (status %#x) before its operation began", status);
}

static bool is_over(const stepper *s) {
    return s->where != NULL && hub_load_acquire_32(&s->where->over) != 0;
}

step_state step_until(stepper *s, unsigned steps, unsigned events) {
    bool counts = events != UINT32_MAX || s->watched >= 0 || s->find_watched != NULL;
    if (!s->begun && s->where != NULL) await_beginning(s);
    s->begun = true;
    begin_to_watch(s);
    while (s->steps < steps && s->events < events) {
        if (is_over(s)) return STEP_OVER;
        bool call = (counts || s->asleep != NULL) && at_system_call(s->pid);
        CHECK_EQ(ptrace(PTRACE_SINGLESTEP, s->pid, NULL, NULL), 0);
        s->steps++;
        if (s->steps % 1024 == 0) test_pause(); /* as in crowd.c: somebody else's turn */
        if (call && s->asleep != NULL) {
            if (!stands_or_sleeps(s->pid)) {
                if (s->steps == steps || !s->asleep(s->context)) return STEP_SLEEPS;
                CHECK(stands(s->pid, 0));
                s->steps++;
            }
        } else {
            CHECK(stands(s->pid, 0));
        }
        if (!counts) continue;
        if (call && s->watched < 0 && s->find_watched != NULL) {
            s->watched = s->find_watched(s->context, &s->watched_bytes);
            begin_to_watch(s);
        }
        /* Looked at in any case: a system call may change the metadata as well. */
        bool stored = has_stored(s);
        if (call || stored) s->events++;
    }
    return is_over(s) ? STEP_OVER : STEP_STANDS;
}

void step_fini(stepper *s) {
    free(s->before);
    free(s->after);
    s->before = s->after = NULL;
}

void step_without_strings(char **argv) {
    static const char tunables[] = "glibc.cpu.x86_rep_stosb_threshold=1000000000:"
                                   "glibc.cpu.x86_rep_movsb_threshold=1000000000";
    if (getenv("GLIBC_TUNABLES") != NULL) return; /* somebody's own, or done */
    CHECK_EQ(setenv("GLIBC_TUNABLES", tunables, 1), 0);
    (void)execv("/proc/self/exe", argv);
    FAIL("starting again: %s", strerror(errno));
}

void step_seize(pid_t thread) {
    if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) < 0)
        not_allowed();
    CHECK_EQ(ptrace(PTRACE_INTERRUPT, thread, NULL, NULL), 0);
    CHECK(stands(thread, 0));
}

void step_let_go(const stepper *s, step_state state) {
    if (state == STEP_SLEEPS) {
        CHECK_EQ(ptrace(PTRACE_INTERRUPT, s->pid, NULL, NULL), 0);
        CHECK(stands(s->pid, 0));
        /* The trap of the step that it slept in is still to come, and would end it. */
        CHECK_EQ(ptrace(PTRACE_SINGLESTEP, s->pid, NULL, NULL), 0);
        CHECK(stands(s->pid, 0));
    }
    if (s->where != NULL) hub_store_release_32(&s->where->let_go, 1);
    CHECK_EQ(ptrace(PTRACE_DETACH, s->pid, NULL, NULL), 0);
}

void step_reap(pid_t thread) {
    int status = 0;
    pid_t got;
    do {
        got = waitpid(thread, &status, __WALL);
    } while ((got < 0 && errno == EINTR) || (got == thread && WIFSTOPPED(status)));
    if (got < 0) CHECK_EQ(errno, ECHILD); /* the kernel has done it */
}

/* ---- how many -------------------------------------------------------------------------------- */

static unsigned asked_stride(void) {
    const char *full = getenv("SHMHUB_FULL"), *stride = getenv("SHMHUB_STRIDE");
    if (full != NULL && *full != 0 && *full != '0') return 1;
    long asked = stride != NULL ? strtol(stride, NULL, 10) : 0;
    return asked > 0 && asked < 1000000 ? (unsigned)asked : 0;
}

unsigned step_stride(unsigned length) {
    /* Steps made in all: half the length for each kill. */
    const unsigned budget = 10000;
    unsigned asked = asked_stride();
    if (asked > 0) return asked;
    unsigned kills = length > 0 ? 2 * budget / length : 1;
    unsigned least = test_sanitized() ? 4 : 8; /* each instruction is then ten */
    if (kills < least) kills = least;
    if (kills > 40) kills = 40;
    return length > kills ? length / kills : 1;
}

unsigned step_event_stride(unsigned length) {
    const unsigned asked = asked_stride(), few = test_sanitized() ? 3 : 5;
    if (asked == 1 || length < 10) return 1;
    return asked > 0 && asked < length / few ? asked : length / few;
}

uint64_t step_seed(void) {
    uint64_t seed = (uint64_t)hub_clock_ns();
    unsigned stride = asked_stride();
    if (stride > 0)
        test_say("  seed %llu, every point of %u", (unsigned long long)seed, stride);
    else
        test_say("  seed %llu, a sample", (unsigned long long)seed);
    return seed;
}

unsigned step_seconds(void) { return asked_stride() > 0 ? 7200 : 280; }
