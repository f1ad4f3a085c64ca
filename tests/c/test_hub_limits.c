/* test_hub_limits.c - no descriptors left, pidfd_open refused: errors at every step, nothing
 * leaked, and all well again once there is room. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stage.h"

static void allow_descriptors(unsigned count) {
    struct rlimit limit;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = count;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* Try with room for 0, 1, 2 ... more descriptors until it works; each failure says so and leaves
 * nothing. Descriptors are numbered densely here, so that a count is a limit. */
static unsigned room_needed(int (*attempt)(void *), void *context, unsigned used) {
    for (unsigned room = 0;; room++) {
        CHECK_REL(room, <, 16);
        allow_descriptors(used + room);
        int rc = attempt(context);
        allow_descriptors(1024);
        if (rc == 0) return room;
        CHECK_RC(rc, -EMFILE);
        CHECK_EQ(open_descriptors(), used);
    }
}

typedef struct scene {
    hub_session *host;
    hub_link *link;
    hub_transport *transport;
    int peer_fd;
} scene;

static int create_host(void *context) {
    scene *s = context;
    hub_config config = config_tiny();
    hub_fault fault = {0, ""};
    int rc = hub_host_create(NULL, &config, &s->host, &fault);
    if (rc < 0) CHECK(fault.text[0] != 0);
    return rc;
}
static int add_peer(void *context) {
    scene *s = context;
    return hub_host_add_peer(s->host, "x", &s->link, &s->peer_fd);
}
static int open_transport(void *context) {
    scene *s = context;
    return hub_transport_open_host_peer(s->host, s->link, "x", &s->transport, NULL);
}

static int host_without_descriptors(void *unused) {
    (void)unused;
    scene s;
    CHECK_EQ(close_range(3, ~0U, 0), 0); /* whatever was inherited: now they are dense */
    unsigned used = open_descriptors();
    CHECK_REL(room_needed(create_host, &s, used), >, 2);
    CHECK_REL(room_needed(add_peer, &s, open_descriptors()), >, 0);
    CHECK_EQ(hub_link_peer_id(s.link), 1); /* the failures took no id */
    CHECK_REL(room_needed(open_transport, &s, open_descriptors()), >, 0);
    CHECK_OK(hub_host_remove_peer(s.host, 1));
    peer_wait_free(s.host, 1);
    hub_transport_unref(s.transport);
    hub_link_unref(s.link);
    host_close(s.host);
    CHECK_EQ(open_descriptors(), used);
    return 0;
}

/* Descriptors of a forked child have holes; fill them, so that a limit leaves no room. Returns how
 * many there are then, all below that number. */
static unsigned fill_holes(void) {
    for (;;) {
        int fd = dup(STDIN_FILENO);
        CHECK(fd >= 0);
        if ((unsigned)fd + 1 == open_descriptors()) return (unsigned)fd + 1;
    }
}

/* The peer's side: what fails before the host has answered can be tried again with more room. */
static int attach_without_descriptors(void *argument) {
    scene *s = argument;
    char path[64];
    hub_session *peer = NULL;
    hub_transport *t = NULL;
    int rc;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", hub_session_fd(s->host));
    CHECK_EQ(close_range((unsigned)s->peer_fd + 1, ~0U, 0), 0);
    unsigned used = fill_holes();
    allow_descriptors(used);
    CHECK_RC(hub_peer_open(path, hub_link_peer_id(s->link), &peer, NULL), -EMFILE);
    allow_descriptors(1024);
    CHECK_EQ(open_descriptors(), used);
    CHECK_OK(hub_peer_open(path, hub_link_peer_id(s->link), &peer, NULL));
    CHECK_OK(hub_peer_register(peer, NULL));
    used = fill_holes();
    allow_descriptors(used);
    hub_fault fault = {0, ""};
    rc = hub_transport_open_peer(peer, s->peer_fd, "x", soon(), &t, &fault);
    allow_descriptors(1024);
    CHECK_RC(rc, -EMFILE);
    CHECK(strstr(fault.text, "RLIMIT_NOFILE") != NULL);
    hub_session_close(peer);
    hub_session_unref(peer);
    return 0;
}

static void peer_without_descriptors(void) {
    scene s;
    hub_gone gone;
    hub_frame frame;
    CHECK_OK(create_host(&s));
    CHECK_OK(add_peer(&s));
    CHECK_OK(open_transport(&s));
    pid_t pid = child_start(attach_without_descriptors, &s);
    hub_link_close_peer_fd(s.link);
    CHECK_RC(hub_recv(s.transport, &frame, soon()), HUB_EPEERGONE);
    CHECK_EQ(hub_transport_gone(s.transport, &gone), 1);
    free(gone.ids);
    child_ok(pid);
    peer_wait_free(s.host, 1);
    hub_transport_unref(s.transport);
    hub_link_unref(s.link);
    host_close(s.host);
}

/* ---- pidfd_open refused ---------------------------------------------------------------------- */

/* From here on pidfd_open fails with EPERM in this process, as some containers have it. */
static int refuse_pidfd_open(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return -1;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int create_refused(void *unused) {
    (void)unused;
    hub_config config = config_tiny();
    hub_session *host;
    hub_fault fault = {0, ""};
    if (refuse_pidfd_open() < 0) return 77;
    unsigned before = open_descriptors();
    CHECK_RC(hub_host_create(NULL, &config, &host, &fault), HUB_EUNSUPPORTED);
    CHECK(strstr(fault.text, "pidfd_open") != NULL);
    CHECK_EQ(open_descriptors(), before);
    return 0;
}

/* Refused in the peer only: the host makes the pidfd, from the credentials that the kernel sent; a
 * death is then noticed as always. */
static int attach_without_pidfd(void *argument) {
    scene *s = argument;
    char path[64];
    hub_session *peer;
    hub_transport *t;
    hub_fault fault = {0, ""};
    CHECK_EQ(refuse_pidfd_open(), 0);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", hub_session_fd(s->host));
    CHECK_OK(hub_peer_open(path, hub_link_peer_id(s->link), &peer, NULL));
    CHECK_OK(hub_peer_register(peer, NULL));
    CHECK_OK_FAULT(hub_transport_open_peer(peer, s->peer_fd, "x", soon(), &t, &fault), fault);
    send_pattern(t, 1000, 4);
    CHECK_EQ(kill(getpid(), SIGKILL), 0);
    return 1;
}

static void pidfd_open_refused(void) {
    int status = child_wait(child_start(create_refused, NULL));
    if (status == 77 << 8) test_skip("no seccomp here: pidfd_open cannot be refused");
    CHECK_EQ(status, 0);
    scene s;
    hub_frame frame;
    hub_gone gone;
    CHECK_OK(create_host(&s));
    CHECK_OK(add_peer(&s));
    CHECK_OK(open_transport(&s));
    pid_t pid = child_start(attach_without_pidfd, &s);
    hub_link_close_peer_fd(s.link);
    receive(s.transport, &frame);
    check_pattern(s.host, &frame);
    frame_free(s.host, &frame);
    CHECK_RC(hub_recv(s.transport, &frame, soon()), HUB_EPEERGONE);
    CHECK_EQ(hub_transport_gone(s.transport, &gone), 1);
    CHECK_EQ(gone.clean, 0);
    CHECK_EQ(gone.never_attached, 0);
    CHECK_EQ(gone.pid, pid);
    free(gone.ids);
    (void)child_wait(pid);
    peer_wait_free(s.host, 1);
    hub_transport_unref(s.transport);
    hub_link_unref(s.link);
    host_close(s.host);
}

int main(void) {
    test_begin(60);
    host_can_be();
    unsigned before = open_descriptors();
    test_say("  host_without_descriptors");
    child_run(host_without_descriptors, NULL);
    RUN(peer_without_descriptors);
    RUN(pidfd_open_refused);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
