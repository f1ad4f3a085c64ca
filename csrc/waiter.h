/* waiter.h - sleeping in one process: several threads and an event loop wait for
 * the same descriptors.
 *
 * One thread (the leader) sleeps in epoll; the others sleep on a word of this
 * process.  Whatever wakes the leader wakes all: each looks again for itself,
 * and the next to sleep leads.  No thread waits for what another has drained:
 * who drains raises the generation, and a sleeper sleeps only on the generation
 * it read before it looked.
 *
 *   sleeper                         waker (in this process)
 *   g = generation        (A)       make it true
 *   arm, look again                 generation += 1      (B)
 *   sleep while == g      (C)       wake
 * C sees B's change, or A did and the look found what was made true.
 *
 * An event loop waits for an epoll descriptor of its own, around the leader's: what is meant for
 * the loop must not wake the leader, who would take it, pass it on, and be woken by it again.
 *
 * Several tasks of that loop wait for different things (a message, room, a slot), and one byte may
 * be meant for any of them.  So a task that looks does not drain: the loop does, when the
 * descriptor was readable, and then all its tasks look.  A drain by anybody else passes on what it
 * took while the loop waits for anything. */
#ifndef HUB_WAITER_H
#define HUB_WAITER_H

#include <pthread.h>

#include "atomic.h"
#include "error.h"

typedef struct hub_waiter {
    int poll_fd; /* epoll around wait_fd and loop_fd: an event loop waits for it */
    int loop_fd; /* eventfd: wakes the event loop */
    int wait_fd; /* epoll: the leader sleeps in it */
    int wake_fd; /* eventfd in wait_fd: wakes the leader */
    pthread_mutex_t lock;
    hub_a32 generation;
    hub_a32 followers;
    hub_a32 leading;  /* a thread is in epoll */
    hub_a32 fd_used;  /* somebody waits for poll_fd: notify makes it readable */
    hub_a32 signalled;/* loop_fd has been written since it was last drained */
    hub_a32 woken;    /* the same for wake_fd */
    hub_a32 loop_waits_recv, loop_waits_send, loop_waits_alloc; /* some task of the loop does */
    /* Called by who drains, for each ready descriptor (its tag, epoll events). */
    void (*on_ready)(void *context, uint64_t tag, uint32_t events);
    void *context;
} hub_waiter;

int hub_waiter_init(hub_waiter *w, void (*on_ready)(void *, uint64_t, uint32_t), void *context);
void hub_waiter_fini(hub_waiter *w);
/* Close the descriptors and nothing else: in a forked child the lock may be anybody's. */
void hub_waiter_close_fds(hub_waiter *w);

int hub_waiter_add(hub_waiter *w, int fd, uint32_t events, uint64_t tag);
void hub_waiter_remove(hub_waiter *w, int fd);

static inline uint32_t hub_waiter_generation(hub_waiter *w) {
    return hub_load_acquire_32(&w->generation); /* A */
}
/* Sleep until the generation is no longer `seen`: 0, HUB_EINTR; HUB_ETIMEDOUT once the deadline has
 * passed, whatever woke it, so that the caller looks a last time and gives up. */
int hub_waiter_wait(hub_waiter *w, uint32_t seen, int64_t deadline);
/* Wake every local sleeper, and the event loop if there is one. */
void hub_waiter_notify(hub_waiter *w);
/* Make poll_fd readable (once) for an event loop. */
void hub_waiter_signal(hub_waiter *w);
/* Take what is ready, without waiting. */
void hub_waiter_drain(hub_waiter *w);      /* before one look; what is the loop's is passed on */
void hub_waiter_drain_loop(hub_waiter *w); /* by the loop, all of whose tasks look afterwards */

#endif
