/* doorbell.c - see doorbell.h. */
#define _GNU_SOURCE
#include "doorbell.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DRAINS_AT_ONCE 64

int64_t hub_clock_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000LL + now.tv_nsec;
}

int hub_poll_timeout(int64_t deadline) {
    if (deadline == HUB_FOREVER) return -1;
    if (deadline == HUB_NOW) return 0;
    int64_t left = deadline - hub_clock_ns();
    if (left <= 0) return 0;
    left = (left + 999999) / 1000000;
    return left > 1000000000 ? 1000000000 : (int)left;
}

int hub_doorbell_pair(int ret_ends[2]) {
    int ends[2], saved = errno, on = 1, rc = 0;
#ifdef __linux__
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) rc = -errno;
    /* On the host's end from the start, so that no hello can arrive without credentials. */
    if (rc == 0 && setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0) {
        rc = -errno;
        (void)close(ends[0]);
        (void)close(ends[1]);
    }
#else
    (void)on;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0) rc = -errno;
    if (rc == 0) {
        (void)fcntl(ends[0], F_SETFD, FD_CLOEXEC);
        (void)fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    }
#endif
    errno = saved;
    if (rc == 0) memcpy(ret_ends, ends, sizeof ends);
    return rc;
}

int hub_doorbell_check(int fd, hub_fault *fault) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int saved = errno, rc = 0, type = 0;
    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0) {
        rc = hub_fault_set(fault, -errno, "doorbell fd %d: %s", fd,
                           errno == EBADF ? "the descriptor is closed (was it passed on to this "
                                            "process, e.g. with pass_fds?)"
                           : errno == ENOTSOCK ? "it is not a socket"
                                               : strerror(errno));
    } else if (address.ss_family != AF_UNIX) {
        rc = hub_fault_set(fault, HUB_EINVAL, "doorbell fd %d: it is a socket, but not an AF_UNIX one",
                           fd);
    } else {
        length = sizeof type;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type != SOCK_STREAM)
            rc = hub_fault_set(fault, HUB_EINVAL, "doorbell fd %d: it is not a stream socket", fd);
        length = sizeof address;
        if (rc == 0 && getpeername(fd, (struct sockaddr *)&address, &length) < 0)
            rc = hub_fault_set(fault, HUB_EINVAL,
                               "doorbell fd %d: it is not connected; give the descriptor that "
                               "add_peer returned", fd);
    }
    errno = saved;
    return rc;
}

int hub_doorbell_ring(int fd) {
    int saved = errno, rc = 0;
    if (send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN) rc = -errno;
    errno = saved;
    return rc; /* a full socket is a rung doorbell */
}

int hub_doorbell_drain(int fd) {
    char bytes[256];
    int saved = errno, total = 0;
    /* Bounded: who rings faster than we read wakes us again, but does not keep us here. */
    for (int n = 0; n < DRAINS_AT_ONCE; n++) {
        ssize_t got = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got > 0) total += (int)got;
        if (got < (ssize_t)sizeof bytes && !(got < 0 && errno == EINTR)) break;
    }
    errno = saved;
    return total;
}

int hub_doorbell_wait(int fd, int64_t deadline) {
    int saved = errno, rc;
    struct pollfd one = {fd, POLLIN, 0};
    rc = poll(&one, 1, hub_poll_timeout(deadline));
    if (rc < 0) rc = errno == EINTR ? HUB_EINTR : -errno;
    errno = saved;
    return rc;
}

int hub_doorbell_peer_closed(int fd) {
    char byte;
    int saved = errno;
    struct pollfd one = {fd, POLLIN
#ifdef POLLRDHUP
                                 | POLLRDHUP
#endif
                         , 0};
    int closed = 0;
    if (poll(&one, 1, 0) > 0) {
        closed = (one.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0;
#ifdef POLLRDHUP
        closed |= (one.revents & POLLRDHUP) != 0;
#endif
        if (!closed && (one.revents & POLLIN))
            closed = recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
    }
    errno = saved;
    return closed;
}

int hub_doorbell_send_message(int fd, const void *data, size_t length, const int *fds, int count) {
    union {
        char space[CMSG_SPACE(sizeof(int) * HUB_MESSAGE_FDS)];
        struct cmsghdr align;
    } control;
    struct iovec part = {(void *)(uintptr_t)data, length};
    struct msghdr message;
    int saved = errno, rc = 0;
    memset(&message, 0, sizeof message);
    memset(&control, 0, sizeof control);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (count > 0) {
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * (size_t)count);
    }
    ssize_t sent;
    do {
        sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0)
        rc = -errno;
    else if ((size_t)sent != length)
        rc = -EAGAIN;
    errno = saved;
    return rc;
}

int hub_doorbell_recv_message(int fd, void *data, size_t length, int ret_fds[HUB_MESSAGE_FDS],
                              int32_t *ret_pid) {
    union {
        char space[CMSG_SPACE(sizeof(int) * 8) + CMSG_SPACE(64)];
        struct cmsghdr align;
    } control;
    struct iovec part = {data, length};
    struct msghdr message;
    int saved = errno;
    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.space;
    message.msg_controllen = sizeof control.space;
    int flags = MSG_DONTWAIT;
#ifdef MSG_CMSG_CLOEXEC
    flags |= MSG_CMSG_CLOEXEC;
#endif
    ssize_t got;
    do {
        got = recvmsg(fd, &message, flags);
    } while (got < 0 && errno == EINTR);
    int rc = got < 0 ? -errno : (int)got, taken = 0;
    for (int i = 0; i < HUB_MESSAGE_FDS; i++) ret_fds[i] = -1;
    *ret_pid = 0;
    if (got >= 0) {
        for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h != NULL; h = CMSG_NXTHDR(&message, h)) {
            if (h->cmsg_level != SOL_SOCKET) continue;
            if (h->cmsg_type == SCM_RIGHTS) {
                size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < count; i++) {
                    int one;
                    memcpy(&one, CMSG_DATA(h) + i * sizeof(int), sizeof one);
                    if (taken < HUB_MESSAGE_FDS)
                        ret_fds[taken++] = one;
                    else
                        (void)close(one);
                }
            }
#ifdef SCM_CREDENTIALS
            if (h->cmsg_type == SCM_CREDENTIALS) {
                struct ucred who;
                memcpy(&who, CMSG_DATA(h), sizeof who);
                *ret_pid = who.pid;
            }
#endif
        }
    }
    errno = saved;
    return rc;
}

int hub_pidfd_open(int32_t pid) {
#ifdef SYS_pidfd_open
    int saved = errno;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    int rc = fd < 0 ? -errno : fd;
    errno = saved;
    return rc;
#else
    (void)pid;
    return -ENOSYS;
#endif
}

int32_t hub_pidfd_pid(int pidfd) {
    char path[64], text[1024]; /* some ten lines, of which the pid is the fifth */
    int saved = errno;
    int32_t pid = 0;
    (void)snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (got >= 0) {
        text[got] = 0;
        const char *line = strstr(text, "\nPid:");
        pid = line != NULL ? (int32_t)strtol(line + 5, NULL, 10) : -EBADF;
    }
    if (fd >= 0) (void)close(fd);
    errno = saved;
    return pid;
}

bool hub_pidfd_ended(int pidfd) {
    int saved = errno;
    struct pollfd one = {pidfd, POLLIN, 0};
    bool ended = poll(&one, 1, 0) > 0 && (one.revents & (POLLIN | POLLHUP)) != 0;
    errno = saved;
    return ended;
}

/* In the flags of /proc/PID/stat: the kernel's PF_EXITING. */
#define EXITING 0x4u

bool hub_process_exiting(int32_t pid) {
    int saved = errno;
    char path[32], text[512];
    unsigned flags = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) (void)close(fd);
    errno = saved;
    if (got <= 0) return false;
    text[got] = 0;
    const char *name_end = strrchr(text, ')'); /* the name may hold anything */
    return name_end != NULL && sscanf(name_end + 1, " %*c %*d %*d %*d %*d %*d %u", &flags) == 1 &&
           (flags & EXITING) != 0;
}
