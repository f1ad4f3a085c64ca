/* children.c - child processes of a test: none outlives it, whichever way it ends.
 *
 * They are remembered by pid and killed by pid; in addition the kernel kills each when its parent
 * dies.  A child forgets its parent's children: they are not its own to kill. */
#define _GNU_SOURCE
#include "children.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

#define CHILDREN_MAX 256

static volatile pid_t children[CHILDREN_MAX];
static pid_t owner; /* the process whose children these are */

static void remember(pid_t pid) {
    for (int i = 0; i < CHILDREN_MAX; i++)
        if (children[i] == 0) {
            children[i] = pid;
            return;
        }
    FAIL("more than %d children", CHILDREN_MAX);
}

static void forget(pid_t pid) {
    for (int i = 0; i < CHILDREN_MAX; i++)
        if (children[i] == pid) children[i] = 0;
}

int children_kill_all(void) {
    int killed = 0;
    if (owner != getpid()) return 0;
    for (int i = 0; i < CHILDREN_MAX; i++) {
        pid_t pid = children[i];
        if (pid == 0) continue;
        children[i] = 0;
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
        killed++;
    }
    return killed;
}

pid_t child_start(int (*body)(void *), void *argument) {
    if (owner != getpid()) {
        for (int i = 0; i < CHILDREN_MAX; i++) children[i] = 0;
        owner = getpid();
    }
    pid_t parent = getpid();
    (void)fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        for (int i = 0; i < CHILDREN_MAX; i++) children[i] = 0;
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        int status = body(argument);
        (void)fflush(stdout);
        _exit(status);
    }
    remember(pid);
    return pid;
}

int child_wait(pid_t pid) {
    int status = 0;
    pid_t got;
    do {
        got = waitpid(pid, &status, 0);
    } while (got < 0 && errno == EINTR);
    CHECK_EQ(got, pid);
    forget(pid);
    return status;
}

void child_ok(pid_t pid) {
    int status = child_wait(pid);
    if (WIFSIGNALED(status)) FAIL("child %d was ended by signal %d", (int)pid, WTERMSIG(status));
    if (WEXITSTATUS(status) != 0) FAIL("child %d: exit status %d", (int)pid, WEXITSTATUS(status));
}

void child_kill(pid_t pid) {
    (void)kill(pid, SIGKILL);
    (void)child_wait(pid);
}

void child_run(int (*body)(void *), void *argument) { child_ok(child_start(body, argument)); }
