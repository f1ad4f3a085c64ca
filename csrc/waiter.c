/* waiter.c - see waiter.h. Linux: epoll, eventfd, futex. */
#define _GNU_SOURCE
#include "waiter.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "doorbell.h"

#define WAKE_TAG UINT64_MAX
#define EVENTS_AT_ONCE 32

#ifdef __linux__
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

static int epoll_add(int poll_fd, int fd, uint32_t events, uint64_t tag) {
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = events;
    event.data.u64 = tag;
    return epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int hub_waiter_init(hub_waiter *w, void (*on_ready)(void *, uint64_t, uint32_t), void *context) {
    int saved = errno, rc = 0;
    memset(w, 0, sizeof *w);
    w->on_ready = on_ready;
    w->context = context;
    w->poll_fd = w->loop_fd = w->wait_fd = w->wake_fd = -1;
    if ((w->poll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0 ||
        (w->wait_fd = epoll_create1(EPOLL_CLOEXEC)) < 0 ||
        (w->loop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0 ||
        (w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        rc = -errno;
    if (rc == 0) rc = epoll_add(w->wait_fd, w->wake_fd, EPOLLIN, WAKE_TAG);
    if (rc == 0) rc = epoll_add(w->poll_fd, w->wait_fd, EPOLLIN, 0);
    if (rc == 0) rc = epoll_add(w->poll_fd, w->loop_fd, EPOLLIN, WAKE_TAG);
    if (rc == 0)
        (void)pthread_mutex_init(&w->lock, NULL);
    else
        hub_waiter_close_fds(w);
    errno = saved;
    return rc;
}

void hub_waiter_close_fds(hub_waiter *w) {
    int *all[] = {&w->poll_fd, &w->loop_fd, &w->wait_fd, &w->wake_fd};
    int saved = errno;
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
        if (*all[i] >= 0) (void)close(*all[i]);
        *all[i] = -1;
    }
    errno = saved;
}

void hub_waiter_fini(hub_waiter *w) {
    if (w->poll_fd < 0) return;
    hub_waiter_close_fds(w);
    (void)pthread_mutex_destroy(&w->lock);
}

int hub_waiter_add(hub_waiter *w, int fd, uint32_t events, uint64_t tag) {
    int saved = errno;
    int rc = epoll_add(w->wait_fd, fd, events, tag);
    errno = saved;
    return rc;
}

void hub_waiter_remove(hub_waiter *w, int fd) {
    int saved = errno;
    struct epoll_event unused;
    if (w->wait_fd >= 0 && fd >= 0) (void)epoll_ctl(w->wait_fd, EPOLL_CTL_DEL, fd, &unused);
    errno = saved;
}

/* Make an eventfd readable, with one write however many ask for it. */
static void event_set(int fd, hub_a32 *is_set) {
    if (hub_exchange_acq_rel_32(is_set, 1) == 0) {
        uint64_t one = 1;
        ssize_t put = write(fd, &one, sizeof one);
        (void)put;
    }
}

/* The flag goes after the read: a set between the two writes nothing and is covered by this very
 * drain, whose caller looks again. (The other way round its write is read here while the flag
 * stays 1, and no later set writes any more.) Acquire, by exchange: what that set tells of is
 * seen. */
static void event_clear(int fd, hub_a32 *is_set) {
    uint64_t value;
    ssize_t got = read(fd, &value, sizeof value);
    (void)got;
    (void)hub_exchange_acq_rel_32(is_set, 0);
}

static int futex_wait(hub_a32 *word, uint32_t seen, int64_t deadline) {
    struct timespec until, *limit = NULL;
    if (deadline < 0) return HUB_ETIMEDOUT; /* HUB_NOW: no time that the kernel would take */
    if (deadline != HUB_FOREVER) {
        until.tv_sec = deadline / 1000000000LL;
        until.tv_nsec = (long)(deadline % 1000000000LL);
        limit = &until;
    }
    /* BITSET: the time is absolute, on the monotonic clock. */
    if (syscall(SYS_futex, &word->value, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, seen, limit, NULL,
                FUTEX_BITSET_MATCH_ANY) < 0) {
        if (errno == ETIMEDOUT) return HUB_ETIMEDOUT;
        if (errno == EINTR) return HUB_EINTR;
    }
    return 0;
}

static void futex_wake_all(hub_a32 *word) {
    (void)syscall(SYS_futex, &word->value, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

static void take_events(hub_waiter *w, const struct epoll_event *events, int count) {
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == WAKE_TAG) {
            event_clear(w->wake_fd, &w->woken);
        } else {
            w->on_ready(w->context, events[i].data.u64, events[i].events);
        }
    }
}

/* Raise the generation (B) and wake the followers; with `loop`, the event loop too. */
static void wake_local(hub_waiter *w, bool loop) {
    (void)hub_fetch_add_acq_rel_32(&w->generation, 1);
    hub_fence_after_rmw();
    if (hub_load_relaxed_32(&w->followers) > 0) futex_wake_all(&w->generation);
    if (loop && hub_load_relaxed_32(&w->fd_used)) hub_waiter_signal(w);
}

static int lead(hub_waiter *w, int64_t deadline) {
    struct epoll_event events[EVENTS_AT_ONCE];
    int count = epoll_wait(w->wait_fd, events, EVENTS_AT_ONCE, hub_poll_timeout(deadline));
    int rc = count > 0 ? 0 : count == 0 ? HUB_ETIMEDOUT : errno == EINTR ? HUB_EINTR : -errno;
    if (count > 0) take_events(w, events, count);
    (void)pthread_mutex_lock(&w->lock);
    hub_store_relaxed_32(&w->leading, 0);
    /* Also when nothing came: somebody else must lead now. Under the lock, or the next one leads
     * on the old generation, for what we have drained already. */
    wake_local(w, count > 0);
    (void)pthread_mutex_unlock(&w->lock);
    return rc;
}

static int follow(hub_waiter *w, uint32_t seen, int64_t deadline) {
    /* followers went up under the lock, before the leader's fence and its look at it */
    int rc = futex_wait(&w->generation, seen, deadline); /* C */
    (void)hub_fetch_add_acq_rel_32(&w->followers, UINT32_MAX);
    return rc;
}

int hub_waiter_wait(hub_waiter *w, uint32_t seen, int64_t deadline) {
    int saved = errno, rc = 0;
    (void)pthread_mutex_lock(&w->lock);
    if (hub_load_acquire_32(&w->generation) != seen) {
        (void)pthread_mutex_unlock(&w->lock);
    } else if (hub_load_relaxed_32(&w->leading)) {
        (void)hub_fetch_add_acq_rel_32(&w->followers, 1);
        (void)pthread_mutex_unlock(&w->lock);
        rc = follow(w, seen, deadline);
    } else {
        hub_store_relaxed_32(&w->leading, 1);
        (void)pthread_mutex_unlock(&w->lock);
        /* Between here and epoll a notify sets wake_fd, so it is not slept through. */
        rc = lead(w, deadline);
    }
    /* The deadline alone decides, or who rings faster than we drain would keep a caller for ever:
     * its every sleep ends at once, with something. */
    if ((rc == 0 || rc == HUB_ETIMEDOUT) && deadline != HUB_FOREVER)
        rc = hub_clock_ns() < deadline ? 0 : HUB_ETIMEDOUT;
    errno = saved;
    return rc;
}

void hub_waiter_signal(hub_waiter *w) {
    int saved = errno;
    event_set(w->loop_fd, &w->signalled);
    errno = saved;
}

/* Raise the generation and wake leader, followers and (with `loop`) the event loop. */
static void wake_all(hub_waiter *w, bool loop) {
    (void)pthread_mutex_lock(&w->lock); /* so that a waiter is either before its look or leading */
    wake_local(w, loop);
    bool leading = hub_load_relaxed_32(&w->leading) != 0;
    (void)pthread_mutex_unlock(&w->lock);
    if (leading) event_set(w->wake_fd, &w->woken);
}

void hub_waiter_notify(hub_waiter *w) {
    int saved = errno;
    wake_all(w, true);
    errno = saved;
}

/* Was there anything? What is readable decides, not the flag: a signaller may be between its flag
 * and its write, and what it writes must be taken by a later drain. */
static bool drain(hub_waiter *w) {
    struct epoll_event which[2], events[EVENTS_AT_ONCE];
    int ready = epoll_wait(w->poll_fd, which, 2, 0), count = 0;
    for (int i = 0; i < ready; i++) {
        if (which[i].data.u64 == WAKE_TAG)
            event_clear(w->loop_fd, &w->signalled);
        else
            count = epoll_wait(w->wait_fd, events, EVENTS_AT_ONCE, 0);
    }
    if (count > 0) {
        take_events(w, events, count);
        wake_all(w, false);
    }
    return ready > 0;
}

/* After the drain: a task armed after it set its flag, and what was drained was sent after that. */
static bool loop_waits(hub_waiter *w) {
    return hub_load_acquire_32(&w->loop_waits_recv) || hub_load_acquire_32(&w->loop_waits_send) ||
           hub_load_acquire_32(&w->loop_waits_alloc);
}

void hub_waiter_drain(hub_waiter *w) {
    int saved = errno;
    if (drain(w) && loop_waits(w)) hub_waiter_signal(w);
    errno = saved;
}

void hub_waiter_drain_loop(hub_waiter *w) {
    int saved = errno;
    (void)drain(w);
    errno = saved;
}

#else

int hub_waiter_init(hub_waiter *w, void (*on_ready)(void *, uint64_t, uint32_t), void *context) {
    (void)on_ready, (void)context;
    memset(w, 0, sizeof *w);
    w->poll_fd = w->loop_fd = w->wait_fd = w->wake_fd = -1;
    return HUB_EUNSUPPORTED;
}
void hub_waiter_fini(hub_waiter *w) { (void)w; }
void hub_waiter_close_fds(hub_waiter *w) { (void)w; }
int hub_waiter_add(hub_waiter *w, int fd, uint32_t events, uint64_t tag) {
    (void)w, (void)fd, (void)events, (void)tag;
    return HUB_EUNSUPPORTED;
}
void hub_waiter_remove(hub_waiter *w, int fd) { (void)w, (void)fd; }
int hub_waiter_wait(hub_waiter *w, uint32_t seen, int64_t deadline) {
    (void)w, (void)seen, (void)deadline;
    return HUB_EUNSUPPORTED;
}
void hub_waiter_notify(hub_waiter *w) { (void)w; }
void hub_waiter_signal(hub_waiter *w) { (void)w; }
void hub_waiter_drain(hub_waiter *w) { (void)w; }
void hub_waiter_drain_loop(hub_waiter *w) { (void)w; }

#endif
