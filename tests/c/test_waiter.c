/* test_waiter.c - leader and followers, timeouts, signals, and the event loop's descriptor. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"
#include "hub.h"
#include "waiter.h"

#define MS 1000000LL

static hub_a32 ready_seen; /* bits: tags that on_ready was called for */

static void on_ready(void *context, uint64_t tag, uint32_t events) {
    int fd = *(int *)context;
    uint64_t value;
    CHECK(events & EPOLLIN);
    if (fd >= 0) {
        ssize_t got = read(fd, &value, sizeof value);
        (void)got;
    }
    (void)hub_fetch_or_acq_rel_32(&ready_seen, 1u << tag);
}

static int readable(int fd) {
    struct pollfd one = {fd, POLLIN, 0};
    return poll(&one, 1, 0) > 0;
}

typedef struct sleeper {
    hub_waiter *waiter;
    int64_t deadline;
    int rc;
    pthread_t thread;
    hub_a32 *truth; /* sleeps until this is not 0 */
    hub_a32 asleep; /* has read the generation and looked */
} sleeper;

static void *sleep_until_true(void *argument) {
    sleeper *s = argument;
    for (;;) {
        uint32_t seen = hub_waiter_generation(s->waiter);
        if (hub_load_acquire_32(s->truth) != 0) {
            s->rc = 0;
            return NULL;
        }
        hub_store_release_32(&s->asleep, 1);
        int rc = hub_waiter_wait(s->waiter, seen, s->deadline);
        if (rc < 0) {
            s->rc = rc;
            return NULL;
        }
    }
}

static void sleepers_start(sleeper *all, unsigned count, hub_waiter *w, hub_a32 *truth,
                           int64_t deadline) {
    for (unsigned i = 0; i < count; i++) {
        memset(&all[i], 0, sizeof all[i]);
        all[i].waiter = w;
        all[i].truth = truth;
        all[i].deadline = deadline;
        CHECK_EQ(pthread_create(&all[i].thread, NULL, sleep_until_true, &all[i]), 0);
    }
}

static void wait_until_asleep(sleeper *all, unsigned count, hub_waiter *w) {
    for (unsigned i = 0; i < count; i++)
        while (!hub_load_acquire_32(&all[i].asleep)) test_pause();
    while (!hub_load_acquire_32(&w->leading) || hub_load_acquire_32(&w->followers) < count - 1)
        test_pause();
}

static void notify_wakes_leader_and_followers(void) {
    hub_waiter w;
    int none = -1;
    hub_a32 truth = {0};
    sleeper all[4];
    CHECK_OK(hub_waiter_init(&w, on_ready, &none));
    sleepers_start(all, 4, &w, &truth, HUB_FOREVER);
    wait_until_asleep(all, 4, &w);
    hub_store_release_32(&truth, 1);
    hub_waiter_notify(&w);
    for (unsigned i = 0; i < 4; i++) {
        CHECK_EQ(pthread_join(all[i].thread, NULL), 0);
        CHECK_OK(all[i].rc);
    }
    CHECK_EQ(hub_load_relaxed_32(&w.leading), 0);
    CHECK_EQ(hub_load_relaxed_32(&w.followers), 0);
    hub_waiter_fini(&w);
}

/* A descriptor wakes the leader; what it makes true must reach the followers as well. */
static void descriptor_wakes_all(void) {
    hub_waiter w;
    hub_a32 truth = {0};
    sleeper all[3];
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t one = 1;
    CHECK(fd >= 0);
    CHECK_OK(hub_waiter_init(&w, on_ready, &fd));
    CHECK_OK(hub_waiter_add(&w, fd, EPOLLIN, 3));
    hub_store_relaxed_32(&ready_seen, 0);
    sleepers_start(all, 3, &w, &truth, HUB_FOREVER);
    wait_until_asleep(all, 3, &w);
    hub_store_release_32(&truth, 1);
    CHECK_EQ(write(fd, &one, sizeof one), sizeof one);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(pthread_join(all[i].thread, NULL), 0);
        CHECK_OK(all[i].rc);
    }
    CHECK_EQ(hub_load_relaxed_32(&ready_seen), 1u << 3);
    hub_waiter_remove(&w, fd);
    hub_waiter_fini(&w);
    CHECK_EQ(close(fd), 0);
}

/* Leader and follower alike: not before the deadline, and then with HUB_ETIMEDOUT. */
static void each_times_out(void) {
    hub_waiter w;
    int none = -1;
    hub_a32 never = {0};
    sleeper all[3];
    int64_t deadline = hub_clock_ns() + 50 * MS;
    CHECK_OK(hub_waiter_init(&w, on_ready, &none));
    sleepers_start(all, 3, &w, &never, deadline);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(pthread_join(all[i].thread, NULL), 0);
        CHECK_RC(all[i].rc, HUB_ETIMEDOUT);
    }
    CHECK(hub_clock_ns() >= deadline);
    hub_waiter_fini(&w);
}

/* The leader's time is up first: a follower with more time must take over and still be woken. */
static void follower_takes_over(void) {
    hub_waiter w;
    hub_a32 truth = {0}, never = {0};
    sleeper first, second;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t one = 1;
    CHECK(fd >= 0);
    CHECK_OK(hub_waiter_init(&w, on_ready, &fd));
    CHECK_OK(hub_waiter_add(&w, fd, EPOLLIN, 1));
    sleepers_start(&first, 1, &w, &never, hub_clock_ns() + 100 * MS);
    wait_until_asleep(&first, 1, &w);
    sleepers_start(&second, 1, &w, &truth, HUB_FOREVER);
    CHECK_EQ(pthread_join(first.thread, NULL), 0);
    CHECK_RC(first.rc, HUB_ETIMEDOUT);
    while (!hub_load_acquire_32(&w.leading)) test_pause();
    hub_store_release_32(&truth, 1);
    CHECK_EQ(write(fd, &one, sizeof one), sizeof one);
    CHECK_EQ(pthread_join(second.thread, NULL), 0);
    CHECK_OK(second.rc);
    hub_waiter_fini(&w);
    CHECK_EQ(close(fd), 0);
}

/* One try: at once, whether it would lead or follow. */
static void deadline_now(void) {
    hub_waiter w;
    int none = -1;
    hub_a32 truth = {0};
    sleeper other;
    CHECK_OK(hub_waiter_init(&w, on_ready, &none));
    CHECK_RC(hub_waiter_wait(&w, hub_waiter_generation(&w), HUB_NOW), HUB_ETIMEDOUT);
    sleepers_start(&other, 1, &w, &truth, HUB_FOREVER);
    wait_until_asleep(&other, 1, &w);
    CHECK_RC(hub_waiter_wait(&w, hub_waiter_generation(&w), HUB_NOW), HUB_ETIMEDOUT);
    CHECK_RC(hub_waiter_wait(&w, hub_waiter_generation(&w), hub_clock_ns() - MS), HUB_ETIMEDOUT);
    hub_store_release_32(&truth, 1);
    hub_waiter_notify(&w);
    CHECK_EQ(pthread_join(other.thread, NULL), 0);
    CHECK_OK(other.rc);
    hub_waiter_fini(&w);
}

/* Sleeping on an old generation does not sleep at all. */
static void old_generation_returns(void) {
    hub_waiter w;
    int none = -1;
    CHECK_OK(hub_waiter_init(&w, on_ready, &none));
    uint32_t seen = hub_waiter_generation(&w);
    hub_waiter_notify(&w);
    CHECK_OK(hub_waiter_wait(&w, seen, HUB_FOREVER));
    hub_waiter_fini(&w);
}

static void nothing(int signal_number) { (void)signal_number; }

static void *wait_once(void *argument) {
    sleeper *s = argument;
    s->rc = hub_waiter_wait(s->waiter, hub_waiter_generation(s->waiter), HUB_FOREVER);
    return NULL;
}

/* A signal ends the wait of the thread it went to, and leaves the others asleep and served. */
static void signal_interrupts(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = nothing;
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    hub_waiter w;
    int none = -1;
    sleeper leader, follower;
    memset(&leader, 0, sizeof leader);
    memset(&follower, 0, sizeof follower);
    leader.waiter = follower.waiter = &w;
    CHECK_OK(hub_waiter_init(&w, on_ready, &none));
    CHECK_EQ(pthread_create(&leader.thread, NULL, wait_once, &leader), 0);
    while (!hub_load_acquire_32(&w.leading)) test_pause();
    CHECK_EQ(pthread_create(&follower.thread, NULL, wait_once, &follower), 0);
    while (hub_load_acquire_32(&w.followers) == 0) test_pause();

    /* Again and again until it is over: a signal before the system call interrupts nothing. */
    while (pthread_tryjoin_np(follower.thread, NULL) == EBUSY) {
        CHECK_EQ(pthread_kill(follower.thread, SIGUSR1), 0);
        test_pause();
    }
    CHECK_RC(follower.rc, HUB_EINTR);
    CHECK_EQ(hub_load_relaxed_32(&w.followers), 0);
    CHECK_EQ(hub_load_relaxed_32(&w.leading), 1);
    while (pthread_tryjoin_np(leader.thread, NULL) == EBUSY) {
        CHECK_EQ(pthread_kill(leader.thread, SIGUSR1), 0);
        test_pause();
    }
    CHECK_RC(leader.rc, HUB_EINTR);
    CHECK_EQ(hub_load_relaxed_32(&w.leading), 0);
    hub_waiter_fini(&w);
}

/* For an event loop: notify makes poll_fd readable, drain makes it silent again. */
static void event_loop_descriptor(void) {
    hub_waiter w;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    uint64_t one = 1;
    CHECK(fd >= 0);
    CHECK_OK(hub_waiter_init(&w, on_ready, &fd));
    CHECK_OK(hub_waiter_add(&w, fd, EPOLLIN, 5));
    hub_waiter_notify(&w);
    CHECK(!readable(w.poll_fd)); /* nobody has asked for the descriptor */
    hub_store_release_32(&w.fd_used, 1);
    for (int i = 0; i < 3; i++) {
        hub_waiter_notify(&w);
        hub_waiter_notify(&w);
        CHECK(readable(w.poll_fd));
        hub_waiter_drain(&w);
        CHECK(!readable(w.poll_fd));
    }
    hub_store_relaxed_32(&ready_seen, 0);
    CHECK_EQ(write(fd, &one, sizeof one), sizeof one);
    CHECK(readable(w.poll_fd));
    uint32_t seen = hub_waiter_generation(&w);
    hub_waiter_drain(&w);
    CHECK(!readable(w.poll_fd));
    CHECK_EQ(hub_load_relaxed_32(&ready_seen), 1u << 5);
    CHECK(hub_waiter_generation(&w) != seen); /* sleeping threads learn of it */
    hub_waiter_fini(&w);
    CHECK_EQ(close(fd), 0);
}

/* Thread and event loop on one waiter: what is signalled to the loop is left to the loop. A leader
 * that takes it, and passes it on, would be woken by itself for ever. */
static void signal_for_the_loop_lets_threads_sleep(void) {
    hub_waiter w;
    hub_a32 truth = {0};
    sleeper thread;
    uint64_t one = 1;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    CHECK(fd >= 0);
    CHECK_OK(hub_waiter_init(&w, on_ready, &fd));
    CHECK_OK(hub_waiter_add(&w, fd, EPOLLIN, 2));
    hub_store_release_32(&w.fd_used, 1);
    sleepers_start(&thread, 1, &w, &truth, HUB_FOREVER);
    wait_until_asleep(&thread, 1, &w);
    uint32_t before = hub_waiter_generation(&w);
    hub_store_relaxed_32(&ready_seen, 0);
    CHECK_EQ(write(fd, &one, sizeof one), sizeof one);
    while (hub_load_acquire_32(&ready_seen) == 0) test_pause();
    for (int looks = 0; looks < 200; looks++) test_pause();
    /* One for the bell; a few more would do no harm, thousands are a thread that never sleeps. */
    CHECK_LE(hub_waiter_generation(&w) - before, 4);
    CHECK(readable(w.poll_fd)); /* and the loop has not lost it */
    hub_waiter_drain(&w);
    CHECK(!readable(w.poll_fd));
    hub_store_release_32(&truth, 1);
    hub_waiter_notify(&w);
    CHECK_EQ(pthread_join(thread.thread, NULL), 0);
    CHECK_OK(thread.rc);
    hub_waiter_fini(&w);
    CHECK_EQ(close(fd), 0);
}

/* A signaller that is stopped between its flag and its write: the drain in between clears the flag,
 * the write comes late. The next drain must take it, or the loop would turn for ever. */
static void late_signal_is_drained(void) {
    hub_waiter w;
    int none = -1;
    uint64_t one = 1;
    CHECK_OK(hub_waiter_init(&w, on_ready, &none));
    for (int by_loop = 0; by_loop < 2; by_loop++) {
        CHECK_EQ(hub_exchange_acq_rel_32(&w.signalled, 1), 0);
        if (by_loop) hub_waiter_drain_loop(&w);
        else hub_waiter_drain(&w);
        CHECK_EQ(write(w.loop_fd, &one, sizeof one), sizeof one);
        CHECK(readable(w.poll_fd));
        if (by_loop) hub_waiter_drain_loop(&w);
        else hub_waiter_drain(&w);
        CHECK(!readable(w.poll_fd));
        hub_waiter_signal(&w); /* and the next one is not lost */
        CHECK(readable(w.poll_fd));
        hub_waiter_drain(&w);
        CHECK(!readable(w.poll_fd));
    }
    hub_waiter_fini(&w);
}

static void errno_is_kept(void) {
    hub_waiter w;
    int none = -1;
    errno = 1234;
    CHECK_OK(hub_waiter_init(&w, on_ready, &none));
    (void)hub_waiter_wait(&w, hub_waiter_generation(&w), HUB_NOW);
    hub_waiter_notify(&w);
    hub_waiter_signal(&w);
    hub_waiter_drain(&w);
    CHECK(hub_waiter_add(&w, -1, EPOLLIN, 1) == -EBADF);
    hub_waiter_remove(&w, -1);
    hub_waiter_fini(&w);
    hub_waiter_fini(&w);
    CHECK_EQ(errno, 1234);
}

int main(void) {
    test_begin(60);
    unsigned before = open_descriptors();
    RUN(notify_wakes_leader_and_followers);
    RUN(descriptor_wakes_all);
    RUN(each_times_out);
    RUN(follower_takes_over);
    RUN(deadline_now);
    RUN(old_generation_returns);
    RUN(signal_interrupts);
    RUN(event_loop_descriptor);
    RUN(signal_for_the_loop_lets_threads_sleep);
    RUN(late_signal_is_drained);
    RUN(errno_is_kept);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
