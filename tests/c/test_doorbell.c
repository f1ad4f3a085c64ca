/* test_doorbell.c - the doorbell's two ends, what is sent over them, and pidfds. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "doorbell.h"

static void pair(int ends[2]) { CHECK_OK(hub_doorbell_pair(ends)); }
static void close_both(int ends[2]) {
    CHECK_EQ(close(ends[0]), 0);
    CHECK_EQ(close(ends[1]), 0);
}

static void ring_wait_drain(void) {
    int ends[2];
    pair(ends);
    for (int i = 0; i < 2; i++) CHECK(fcntl(ends[i], F_GETFD) & FD_CLOEXEC);
    CHECK_EQ(hub_doorbell_drain(ends[0]), 0);
    CHECK_RC(hub_doorbell_wait(ends[0], HUB_NOW), 0);
    for (int i = 0; i < 5; i++) CHECK_OK(hub_doorbell_ring(ends[1]));
    CHECK_RC(hub_doorbell_wait(ends[0], HUB_NOW), 1);
    CHECK_RC(hub_doorbell_wait(ends[0], HUB_FOREVER), 1);
    CHECK_RC(hub_doorbell_wait(ends[1], HUB_NOW), 0); /* the other way is another matter */
    CHECK_EQ(hub_doorbell_drain(ends[0]), 5);
    CHECK_RC(hub_doorbell_wait(ends[0], HUB_NOW), 0);
    for (int i = 0; i < 260; i++) CHECK_OK(hub_doorbell_ring(ends[0]));
    CHECK_GE(hub_doorbell_drain(ends[1]), 257); /* more than is drained at once */
    CHECK_EQ(hub_doorbell_drain(ends[1]), 0);
    close_both(ends);
}

static void waits_until_the_deadline(void) {
    int ends[2];
    pair(ends);
    int64_t deadline = hub_clock_ns() + 30000000;
    CHECK_RC(hub_doorbell_wait(ends[0], deadline), 0);
    CHECK(hub_clock_ns() >= deadline);
    CHECK_RC(hub_doorbell_wait(ends[0], deadline), 0); /* past: at once */
    CHECK_EQ(hub_poll_timeout(HUB_FOREVER), -1);
    CHECK_EQ(hub_poll_timeout(HUB_NOW), 0);
    CHECK_EQ(hub_poll_timeout(0), 0);
    CHECK_EQ(hub_poll_timeout(hub_clock_ns() + 1), hub_poll_timeout(hub_clock_ns() + 1) > 0);
    CHECK_REL(hub_poll_timeout(hub_clock_ns() + 5000000000LL), >, 4000);
    CHECK_REL(hub_poll_timeout(HUB_FOREVER - 1), >, 100000000); /* far, and no overflow */
    close_both(ends);
}

/* A doorbell nobody answers fills up: that is a rung one, not an error and not a wait. */
static void full_is_rung(void) {
    int ends[2];
    pair(ends);
    for (int i = 0; i < 200000; i++) CHECK_OK(hub_doorbell_ring(ends[0]));
    CHECK_EQ(send(ends[0], "", 1, MSG_DONTWAIT), -1);
    CHECK_EQ(errno, EAGAIN);
    CHECK_REL(hub_doorbell_drain(ends[1]), >, 0);
    CHECK_OK(hub_doorbell_ring(ends[0]));
    close_both(ends);
}

static void hang_up_is_seen(void) {
    int ends[2];
    pair(ends);
    CHECK_EQ(hub_doorbell_peer_closed(ends[0]), 0);
    CHECK_OK(hub_doorbell_ring(ends[1]));
    CHECK_EQ(hub_doorbell_peer_closed(ends[0]), 0);
    CHECK_EQ(close(ends[1]), 0);
    CHECK_EQ(hub_doorbell_peer_closed(ends[0]), 1); /* even with a byte unread */
    CHECK_EQ(hub_doorbell_drain(ends[0]), 1);
    CHECK_EQ(hub_doorbell_peer_closed(ends[0]), 1);
    CHECK_RC(hub_doorbell_wait(ends[0], HUB_FOREVER), 1);
    CHECK_RC(hub_doorbell_ring(ends[0]), -EPIPE); /* and no SIGPIPE */
    CHECK_EQ(close(ends[0]), 0);
    CHECK_EQ(hub_doorbell_peer_closed(ends[0]), 1);
    CHECK_RC(hub_doorbell_ring(ends[0]), -EBADF);
    pair(ends);
    CHECK_EQ(shutdown(ends[1], SHUT_RDWR), 0);
    CHECK_EQ(hub_doorbell_peer_closed(ends[0]), 1);
    close_both(ends);
}

static void refuse_descriptor(int fd, int wanted) {
    hub_fault fault = {0, ""};
    errno = 77;
    CHECK_RC(hub_doorbell_check(fd, &fault), wanted);
    CHECK_EQ(errno, 77);
    CHECK(strstr(fault.text, "doorbell fd") != NULL);
    CHECK_RC(hub_doorbell_check(fd, NULL), wanted);
}

static void what_is_no_doorbell(void) {
    int ends[2], pipes[2], null, other;
    pair(ends);
    CHECK_OK(hub_doorbell_check(ends[0], NULL));
    CHECK_OK(hub_doorbell_check(ends[1], NULL));
    CHECK_EQ(pipe(pipes), 0);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    refuse_descriptor(-1, -EBADF);
    refuse_descriptor(12345, -EBADF);
    refuse_descriptor(null, -ENOTSOCK);
    refuse_descriptor(pipes[0], -ENOTSOCK);
    other = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (other >= 0) {
        refuse_descriptor(other, HUB_EINVAL);
        CHECK_EQ(close(other), 0);
    }
    other = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    refuse_descriptor(other, HUB_EINVAL);
    CHECK_EQ(close(other), 0);
    other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); /* connected to nothing */
    refuse_descriptor(other, HUB_EINVAL);
    CHECK_EQ(close(other), 0);
    CHECK_EQ(close(null), 0);
    close_both(pipes);
    close_both(ends);
}

/* ---- messages with descriptors --------------------------------------------------------------- */

static void pass_descriptors(void) {
    for (int count = 0; count <= HUB_MESSAGE_FDS; count++) {
        int ends[2], pipes[2], got[HUB_MESSAGE_FDS];
        int32_t pid = -5;
        char text[64];
        pair(ends);
        CHECK_EQ(pipe(pipes), 0);
        unsigned before = open_descriptors();
        CHECK_OK(hub_doorbell_send_message(ends[1], "hello", 6, pipes, count));
        CHECK_EQ(hub_doorbell_recv_message(ends[0], text, sizeof text, got, &pid), 6);
        CHECK_EQ(strcmp(text, "hello"), 0);
        CHECK_EQ(pid, getpid()); /* by the kernel, on the host's end */
        CHECK_EQ(open_descriptors(), before + (unsigned)count);
        for (int i = 0; i < HUB_MESSAGE_FDS; i++) {
            CHECK_EQ(got[i] >= 0, i < count);
            if (got[i] >= 0) CHECK(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
        }
        if (count == 2) { /* they are what was sent */
            CHECK_EQ(write(got[1], "x", 1), 1);
            CHECK_EQ(read(pipes[0], text, 1), 1);
        }
        for (int i = 0; i < count; i++) CHECK_EQ(close(got[i]), 0);
        /* Towards the peer, without credentials. */
        CHECK_OK(hub_doorbell_send_message(ends[0], "back", 5, pipes, count));
        CHECK_EQ(hub_doorbell_recv_message(ends[1], text, sizeof text, got, &pid), 5);
        for (int i = 0; i < count; i++) CHECK_EQ(close(got[i]), 0);
        CHECK_RC(hub_doorbell_recv_message(ends[0], text, sizeof text, got, &pid), -EAGAIN);
        CHECK_EQ(got[0], -1);
        CHECK_EQ(close(ends[1]), 0);
        CHECK_EQ(hub_doorbell_recv_message(ends[0], text, sizeof text, got, &pid), 0);
        CHECK_RC(hub_doorbell_send_message(ends[0], "x", 1, pipes, count), -EPIPE);
        CHECK_EQ(close(ends[0]), 0);
        close_both(pipes);
    }
}

/* A stranger sends more descriptors than there is room for: none may stay open here. */
static void too_many_descriptors(void) {
    if (test_emulated()) {
        test_say("    not here: the emulator receives them, and loses those that we did not ask for");
        return;
    }
    for (int count = 3; count <= 200; count += count < 12 ? 1 : 47) {
        int ends[2], many[200], got[HUB_MESSAGE_FDS];
        int32_t pid;
        char space[CMSG_SPACE(sizeof many)], byte = 'x';
        pair(ends);
        for (int i = 0; i < count; i++) many[i] = ends[1];
        struct iovec part = {&byte, 1};
        struct msghdr message;
        memset(&message, 0, sizeof message);
        memset(space, 0, sizeof space);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = space;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
        memcpy(CMSG_DATA(header), many, sizeof(int) * (size_t)count);
        unsigned before = open_descriptors();
        CHECK_EQ(sendmsg(ends[1], &message, 0), 1);
        CHECK_EQ(hub_doorbell_recv_message(ends[0], &byte, 1, got, &pid), 1);
        for (int i = 0; i < HUB_MESSAGE_FDS; i++)
            if (got[i] >= 0) CHECK_EQ(close(got[i]), 0);
        CHECK_EQ(open_descriptors(), before);
        close_both(ends);
    }
}

/* ---- who a process is ------------------------------------------------------------------------ */

static int until_told(void *argument) {
    gate_wait(argument);
    return 0;
}

static void pidfds(void) {
    gate g;
    gate_init(&g);
    pid_t pid = child_start(until_told, &g);
    int fd = hub_pidfd_open(pid);
    if (fd == -ENOSYS) test_skip("the kernel has no pidfd_open");
    CHECK(fd >= 0);
    CHECK_EQ(hub_pidfd_pid(fd), pid);
    CHECK(!hub_pidfd_ended(fd));
    gate_open(&g);
    struct pollfd end = {fd, POLLIN, 0};
    CHECK_EQ(poll(&end, 1, 20000), 1);
    CHECK(hub_pidfd_ended(fd)); /* also while nobody has waited for it */
    child_ok(pid);
    CHECK(hub_pidfd_ended(fd));
    CHECK_EQ(close(fd), 0);
    CHECK_RC(hub_pidfd_open(pid), -ESRCH);
    fd = hub_pidfd_open(getpid());
    CHECK_EQ(hub_pidfd_pid(fd), getpid());
    CHECK_EQ(close(fd), 0);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(hub_pidfd_pid(null) < 0); /* says that it is none */
    CHECK_EQ(close(null), 0);
    gate_fini(&g);
}

static void nothing(int signal_number) { (void)signal_number; }

static void *wait_on_it(void *argument) {
    int *fd_and_rc = argument;
    fd_and_rc[1] = hub_doorbell_wait(fd_and_rc[0], HUB_FOREVER);
    return NULL;
}

static void signal_interrupts(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = nothing;
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    int ends[2];
    pthread_t thread;
    pair(ends);
    int fd_and_rc[2] = {ends[0], 0};
    CHECK_EQ(pthread_create(&thread, NULL, wait_on_it, fd_and_rc), 0);
    while (pthread_tryjoin_np(thread, NULL) == EBUSY) {
        CHECK_EQ(pthread_kill(thread, SIGUSR1), 0);
        test_pause();
    }
    CHECK_RC(fd_and_rc[1], HUB_EINTR);
    close_both(ends);
}

static void errno_is_kept(void) {
    int ends[2], got[HUB_MESSAGE_FDS];
    int32_t pid;
    char byte;
    errno = 4321;
    pair(ends);
    (void)hub_doorbell_ring(ends[0]);
    (void)hub_doorbell_ring(-1);
    (void)hub_doorbell_drain(ends[1]);
    (void)hub_doorbell_wait(-1, HUB_NOW);
    (void)hub_doorbell_peer_closed(ends[1]);
    (void)hub_doorbell_send_message(-1, "", 1, NULL, 0);
    (void)hub_doorbell_recv_message(ends[0], &byte, 1, got, &pid);
    (void)hub_pidfd_open(-1);
    (void)hub_pidfd_pid(-1);
    (void)hub_pidfd_ended(-1);
    CHECK_EQ(errno, 4321);
    close_both(ends);
}

int main(void) {
    test_begin(60);
    unsigned before = open_descriptors();
    RUN(ring_wait_drain);
    RUN(waits_until_the_deadline);
    RUN(full_is_rung);
    RUN(hang_up_is_seen);
    RUN(what_is_no_doorbell);
    RUN(pass_descriptors);
    RUN(too_many_descriptors);
    RUN(signal_interrupts);
    RUN(errno_is_kept);
    RUN(pidfds);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
