/* service.c - see service.h.
 *
 * What it may believe: the kernel (pidfds, hang-ups, credentials) for who is
 * there, and of shared memory only the peer's own steps: ATTACHING, and LEAVING
 * and LEFT of one that has hung up. */
#define _GNU_SOURCE
#include "service.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "doorbell.h"
#include "reclaim.h"
#include "transport.h"

#ifdef __linux__
#include <sys/epoll.h>
#include <sys/eventfd.h>

enum watch_kind { WATCH_BELL = 1, WATCH_DOORBELL, WATCH_PEER, WATCH_PROCESS };
#define EVENTS_AT_ONCE 64
#define RUNG_AT_ONCE 256
/* How long a peer whose doorbell hung up may take to be seen as ended, before it is called alive.
 * Only what is said depends on it: its slots are taken when the process is gone, never before. */
#define HANG_UP_GRACE_NS 200000000LL
/* The same for one that the kernel is ending: on a busy machine it closes what a process has open,
 * and says seconds later that it has ended. Not for ever: a process whose first thread alone has
 * ended looks the same. */
#define EXITING_GRACE_NS 30000000000LL

static uint64_t tag_make(uint32_t kind, const hub_link *link) {
    return ((uint64_t)kind << 56) | (link == NULL ? 0 : (uint64_t)link->id << 32 | link->epoch);
}

static int watch(hub_session *s, int fd, uint32_t events, uint32_t kind, const hub_link *link) {
    int saved = errno;
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = events;
    event.data.u64 = tag_make(kind, link);
    int rc = epoll_ctl(s->host->poll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
    errno = saved;
    return rc;
}

static void unwatch(hub_session *s, int fd) {
    struct epoll_event unused;
    int saved = errno;
    if (fd >= 0) (void)epoll_ctl(s->host->poll_fd, EPOLL_CTL_DEL, fd, &unused);
    errno = saved;
}

int hub_service_watch_link(hub_session *s, hub_link *link) {
    return watch(s, link->fd, EPOLLIN | EPOLLRDHUP, WATCH_DOORBELL, link);
}
int hub_service_watch_process(hub_session *s, hub_link *link) {
    return watch(s, link->watch_fd, EPOLLIN, WATCH_PROCESS, link);
}

static void close_quietly(int *fd) {
    int saved = errno;
    if (*fd >= 0) (void)close(*fd);
    *fd = -1;
    errno = saved;
}

static void stop_watching(hub_session *s, hub_link *link) {
    unwatch(s, link->fd);
    if (link->pidfd >= 0) unwatch(s, link->pidfd);
    if (link->watch_fd >= 0) unwatch(s, link->watch_fd);
    close_quietly(&link->watch_fd);
}

/* ---- telling ----------------------------------------------------------------------- */

void hub_service_event(hub_session *s, uint32_t kind, const hub_link *link, const char *detail) {
    hub_host *host = s->host;
    if (host->event_count == HUB_EVENTS) { /* the oldest goes */
        host->event_head = (host->event_head + 1) % HUB_EVENTS;
        host->event_count--;
    }
    hub_event *event = &host->events[(host->event_head + host->event_count++) % HUB_EVENTS];
    memset(event, 0, sizeof *event);
    event->kind = kind;
    event->peer_id = link->id;
    event->epoch = link->epoch;
    event->pid = link->pid;
    (void)snprintf(event->detail, sizeof event->detail, "%s", detail == NULL ? "" : detail);
}

void hub_service_set_state(hub_session *s, hub_link *link, uint32_t state) {
    link->state = state;
    hub_store_release_64(&hub_session_peer(s, link->id)->state, hub_state_make(link->epoch, state));
}

static void tell_gone(hub_link *link) {
    hub_link_set_gone(link);
    if (link->transport != NULL) hub_transport_link_gone(link->transport, link);
}

/* Peers that wait for slots, the host's own waiters among them. */
static void relay_pool(hub_session *s) {
    uint64_t waiters = hub_load_acquire_64(&s->pool.signals->pool_waiters);
    if (waiters & 1) hub_session_notify_locked(s);
    for (uint32_t id = 1; id < s->segment.geometry.max_peers; id++)
        if ((waiters >> id & 1) && s->host->links[id] != NULL &&
            s->host->links[id]->state == HUB_PEER_ACTIVE)
            hub_link_ring(s->host->links[id]);
}

/* After a death: it may have happened between publish and ring, or between free and bell. */
static void wake_everyone(hub_session *s) {
    hub_session_notify_locked(s);
    relay_pool(s);
}

/* ---- endings ------------------------------------------------------------------------- */

/* The process is gone (or the id was never attached and can not be any more). */
static void finish(hub_session *s, hub_link *link, uint32_t event, const char *detail) {
    bool told = hub_link_gone(link);
    hub_link_ref(link); /* the table's reference goes in hub_reclaim_all */
    stop_watching(s, link);
    close_quietly(&link->pidfd);
    link->state = HUB_PEER_DEAD;
    hub_reclaim_all(s, link);
    if (!told) { /* what was told stays as it was told: it may be read at any time */
        link->alive = false;
        hub_service_event(s, event, link, detail);
        tell_gone(link);
    }
    if (link->transport != NULL) hub_transport_link_gone(link->transport, link);
    hub_link_close_fd(link);
    hub_link_close_peer_fd(link);
    hub_link_unref(link);
    wake_everyone(s);
}

static void peer_died(hub_session *s, hub_link *link) {
    bool told = hub_link_gone(link);
    if (!told) s->host->deaths++;
    finish(s, link, HUB_EVENT_DIED, told ? NULL : "process ended without detaching");
}

/* Closed in good order, and hung up. Its id stays taken until its last pinned frame is gone. */
static void peer_left(hub_session *s, hub_link *link, bool holds_nothing) {
    if (!hub_link_gone(link)) {
        link->state = HUB_PEER_LEAVING;
        link->clean = true;
        s->host->detaches++;
        hub_reclaim_rings(s, link, false);
        hub_service_event(s, HUB_EVENT_LEFT, link, "detached");
        if (!holds_nothing) tell_gone(link);
    }
    if (holds_nothing) {
        if (!hub_link_gone(link)) hub_link_set_gone(link);
        finish(s, link, HUB_EVENT_LEFT, NULL);
    }
}

static void hung_up_alive(hub_session *s, hub_link *link, uint32_t state, uint32_t event,
                          const char *detail) {
    hub_service_set_state(s, link, state);
    hub_reclaim_rings(s, link, true);
    hub_link_hang_up(link);
    unwatch(s, link->fd);
    link->alive = true;
    hub_service_event(s, event, link, detail);
    tell_gone(link);
    wake_everyone(s);
}

void hub_service_cancel(hub_session *s, hub_link *link, const char *why) {
    hub_service_set_state(s, link, HUB_PEER_CANCELLED);
    hub_link_close_peer_fd(link);
    hub_link_hang_up(link); /* a late claimant sees the end of its doorbell, not the next life */
    link->never_attached = true;
    hub_reclaim_rings(s, link, false);
    hub_service_event(s, HUB_EVENT_CANCELLED, link, why);
    tell_gone(link);
    /* Nobody else has a copy of the peer's end: the id is free at once. */
    if (hub_doorbell_peer_closed(link->fd)) finish(s, link, HUB_EVENT_CANCELLED, NULL);
}

void hub_service_violation(hub_session *s, hub_link *link, const char *what) {
    (void)pthread_mutex_lock(&s->lock);
    s->host->violations++;
    if (s->host->links[link->id] == link && link->state == HUB_PEER_ACTIVE) {
        char detail[96];
        (void)snprintf(detail, sizeof detail, "quarantined: %s", what);
        hung_up_alive(s, link, HUB_PEER_QUARANTINED, HUB_EVENT_VIOLATION, detail);
    } else if (s->host->links[link->id] == link &&
               (link->state == HUB_PEER_RESERVED || link->state == HUB_PEER_ATTACHING)) {
        /* Somebody else's doing; with rings like these it cannot attach any more. */
        hub_service_event(s, HUB_EVENT_VIOLATION, link, what);
        hub_service_cancel(s, link, "its rings were scribbled on before it attached");
    }
    (void)pthread_mutex_unlock(&s->lock);
}

void hub_service_report(hub_session *s, const hub_link *link, const char *what) {
    (void)pthread_mutex_lock(&s->lock);
    s->host->violations++;
    hub_service_event(s, HUB_EVENT_VIOLATION, link, what);
    (void)pthread_mutex_unlock(&s->lock);
}

/* ---- attach ------------------------------------------------------------------------------ */

/* The pidfd by which this peer's death will be known, or why it cannot be. */
static int identify(const hub_hello *hello, const hub_link *link, int offered, int32_t pid,
                    int *ret_pidfd, hub_fault *fault) {
    if (hello->magic != HUB_HELLO_MAGIC || hello->version != HUB_VERSION_MAJOR)
        return hub_fault_set(fault, HUB_EFORMAT,
                             "the first message on the doorbell is no hello of this version");
    if (hello->peer_id != link->id)
        return hub_fault_set(fault, HUB_ESTATE, "doorbell of peer %u used by one that opened the "
                             "hub as peer %u", link->id, hello->peer_id);
    if (pid <= 0)
        return hub_fault_set(fault, HUB_EUNSUPPORTED, "the kernel sent no credentials");
    int32_t named = offered >= 0 ? hub_pidfd_pid(offered) : 0;
    if (named == pid) {
        *ret_pidfd = offered;
        return 0;
    }
    if (named != 0)
        return hub_fault_set(fault, HUB_EVIOLATION, "process %d offered a descriptor that is not "
                             "its own pidfd (%d)", pid, named);
    /* It could not make one (pidfd_open refused there): try from here. It waits for our answer, so
     * the pid is still its own unless its end of the doorbell hangs up. */
    int made = hub_pidfd_open(pid);
    if (made < 0)
        return hub_fault_set(fault, HUB_EUNSUPPORTED,
                             "pidfd_open is refused on both sides (%s): without it a death could "
                             "not be told; needs Linux 5.3 and no seccomp filter against it",
                             strerror(-made));
    if (offered >= 0) (void)close(offered);
    *ret_pidfd = made;
    return 0;
}

static int answer(hub_session *s, hub_link *link, int status, const char *text) {
    hub_welcome welcome;
    memset(&welcome, 0, sizeof welcome);
    welcome.magic = HUB_WELCOME_MAGIC;
    welcome.version = HUB_VERSION_MAJOR;
    welcome.status = status;
    welcome.peer_id = link->id;
    welcome.epoch = link->epoch;
    welcome.host_pid = (int32_t)getpid();
    /* Where this life's rings began; raised only when it has ended. */
    welcome.up_tail = s->host->up_positions[link->id];
    welcome.down_head = s->host->down_positions[link->id];
    welcome.geometry = s->segment.geometry;
    (void)snprintf(welcome.text, sizeof welcome.text, "%.119s", text);
    int fds[HUB_MESSAGE_FDS] = {s->bell_fd, s->host->self_pidfd};
    return hub_doorbell_send_message(link->fd, &welcome, sizeof welcome, fds,
                                     status < 0 ? 0 : HUB_MESSAGE_FDS);
}

static void accept_peer(hub_session *s, hub_link *link, int pidfd, int32_t pid) {
    uint64_t claimed = hub_state_make(link->epoch, HUB_PEER_ATTACHING);
    if (!hub_cas_acq_rel_64(&hub_session_peer(s, link->id)->state, &claimed,
                            hub_state_make(link->epoch, HUB_PEER_ACTIVE))) {
        (void)answer(s, link, HUB_ESTATE, "this id was not registered: call register() first");
        (void)close(pidfd);
        hub_service_cancel(s, link, "hello without register");
        return;
    }
    link->state = HUB_PEER_ACTIVE;
    link->pid = pid;
    link->pidfd = pidfd;
    hub_store_relaxed_32(&hub_session_peer(s, link->id)->pid, (uint32_t)pid);
    if (watch(s, pidfd, EPOLLIN, WATCH_PEER, link) < 0 || answer(s, link, 0, "") < 0) {
        hung_up_alive(s, link, HUB_PEER_HUNG_UP, HUB_EVENT_HUNG_UP, "could not be answered");
        return;
    }
    hub_link_close_peer_fd(link);
    if (link->watch_fd >= 0) unwatch(s, link->watch_fd);
    close_quietly(&link->watch_fd);
    /* From here on whoever receives drains the doorbell; we look at its hang-up alone. */
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = EPOLLRDHUP;
    event.data.u64 = tag_make(WATCH_DOORBELL, link);
    (void)epoll_ctl(s->host->poll_fd, EPOLL_CTL_MOD, link->fd, &event);
    if (link->transport != NULL) hub_transport_link_active(link->transport, link);
    hub_service_event(s, HUB_EVENT_ATTACHED, link, "");
}

/* Bytes on the doorbell of one that has not attached; false: it hung up. */
static bool greet(hub_session *s, hub_link *link) {
    hub_hello hello;
    int fds[HUB_MESSAGE_FDS], pidfd = -1;
    int32_t pid;
    char first;
    hub_fault fault = {0, ""};
    /* Rung by hand before attaching; bounded, since it may ring faster than we read. */
    for (int n = 0; recv(link->fd, &first, 1, MSG_DONTWAIT | MSG_PEEK) == 1 && first == 0; n++) {
        if (n == RUNG_AT_ONCE) return true;
        (void)recv(link->fd, &first, 1, MSG_DONTWAIT);
    }
    int got = hub_doorbell_recv_message(link->fd, &hello, sizeof hello, fds, &pid);
    if (got == 0 || got == -ECONNRESET) return false;
    if (got < 0) return true;
    if (link->state == HUB_PEER_CANCELLED) {
        close_quietly(&fds[0]);
    } else if (got != (int)sizeof hello) {
        close_quietly(&fds[0]);
        (void)answer(s, link, HUB_EFORMAT, "the first message on the doorbell is no hello");
        s->host->violations++;
        hub_service_cancel(s, link, "garbage on the doorbell before attaching");
    } else if (identify(&hello, link, fds[0], pid, &pidfd, &fault) < 0) {
        close_quietly(&fds[0]);
        (void)answer(s, link, fault.code, fault.text);
        hub_service_cancel(s, link, fault.text);
    } else {
        accept_peer(s, link, pidfd, pid);
    }
    close_quietly(&fds[1]);
    return true;
}

/* ---- leaving ---------------------------------------------------------------------------------- */

/* What a peer says of itself anybody can write into its entry: LEAVING is believed of one whose
 * doorbell has hung up, LEFT of one that owns nothing besides, so that a lie costs nobody his slots,
 * and who says LEFT and goes on does not write into the id's next life. */
static uint32_t said_state(hub_session *s, const hub_link *link) {
    uint64_t state = hub_load_acquire_64(&hub_session_peer(s, link->id)->state);
    if (hub_state_epoch(state) != link->epoch) return HUB_PEER_ACTIVE;
    switch (hub_state_of(state)) {
    case HUB_PEER_LEFT:
        return hub_pool_owned(&s->pool, link->id, 1) == 0 ? HUB_PEER_LEFT : HUB_PEER_LEAVING;
    case HUB_PEER_LEAVING: return HUB_PEER_LEAVING;
    default: return HUB_PEER_ACTIVE;
    }
}

/* ---- what happens to a doorbell -------------------------------------------------------------- */

static void doorbell_hung_up(hub_session *s, hub_link *link) {
    switch (link->state) {
    case HUB_PEER_RESERVED:
    case HUB_PEER_ATTACHING:
        link->never_attached = true;
        finish(s, link, HUB_EVENT_CANCELLED, "the process ended before it attached");
        return;
    case HUB_PEER_CANCELLED:
        finish(s, link, HUB_EVENT_CANCELLED, NULL);
        return;
    default: break;
    }
    unwatch(s, link->fd);
    link->hung_up = true;
    uint32_t said = said_state(s, link);
    if (said != HUB_PEER_ACTIVE)
        peer_left(s, link, said == HUB_PEER_LEFT);
    else if (hub_pidfd_ended(link->pidfd))
        peer_died(s, link);
    else
        link->hung_up_at = hub_clock_ns(); /* once: it is not listened to any more */
}

static void on_doorbell(hub_session *s, hub_link *link, uint32_t events) {
    bool waits = link->state == HUB_PEER_RESERVED || link->state == HUB_PEER_ATTACHING ||
                 link->state == HUB_PEER_CANCELLED;
    /* Level-triggered: what is left after one message comes again. */
    if (waits && (events & EPOLLIN) && greet(s, link)) return;
    if (events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) doorbell_hung_up(s, link);
}

/* Peers say LEAVING and LEFT in their entry and ring. */
static void look_for_leavers(hub_session *s) {
    for (uint32_t id = 1; id < s->segment.geometry.max_peers; id++) {
        hub_link *link = s->host->links[id];
        if (link == NULL || !link->hung_up ||
            (link->state != HUB_PEER_ACTIVE && link->state != HUB_PEER_LEAVING))
            continue;
        uint32_t said = said_state(s, link);
        if (said != HUB_PEER_ACTIVE) peer_left(s, link, said == HUB_PEER_LEFT);
    }
}

/* Hung up, not ended, and the grace is over: say that it lives. Milliseconds to the next. */
static int look_at_hung_up(hub_session *s) {
    int64_t now = hub_clock_ns(), least = -1;
    for (uint32_t id = 1; id < s->segment.geometry.max_peers; id++) {
        hub_link *link = s->host->links[id];
        if (link == NULL || link->hung_up_at == 0 || link->state != HUB_PEER_ACTIVE) continue;
        int64_t left = link->hung_up_at + HANG_UP_GRACE_NS - now;
        if (left <= 0 && now - link->hung_up_at < EXITING_GRACE_NS &&
            hub_process_exiting(link->pid))
            left = HANG_UP_GRACE_NS;
        if (left <= 0)
            hung_up_alive(s, link, HUB_PEER_HUNG_UP, HUB_EVENT_HUNG_UP,
                          "closed its doorbell without detaching; its process lives");
        else if (least < 0 || left < least)
            least = left;
    }
    return least < 0 ? -1 : (int)(least / 1000000) + 1;
}

/* ---- the thread ---------------------------------------------------------------------------------- */

static void on_event(hub_session *s, const struct epoll_event *event) {
    uint32_t kind = (uint32_t)(event->data.u64 >> 56);
    uint32_t id = (uint32_t)(event->data.u64 >> 32) & 0xFFFFFFu;
    hub_link *link = s->host->links[id];
    if (link == NULL || link->epoch != (uint32_t)event->data.u64) return; /* an earlier life's */
    switch (kind) {
    case WATCH_DOORBELL: on_doorbell(s, link, event->events); break;
    case WATCH_PEER: peer_died(s, link); break;
    case WATCH_PROCESS:
        /* It never attached, or a child of it still may: our copy of the peer's end goes, and if
         * nobody else has one the doorbell hangs up by itself. */
        unwatch(s, link->watch_fd);
        close_quietly(&link->watch_fd);
        hub_link_close_peer_fd(link);
        break;
    default: break;
    }
}

static void *serve(void *argument) {
    hub_session *s = argument;
    struct epoll_event events[EVENTS_AT_ONCE];
    int timeout = -1;
    for (;;) {
        int count = epoll_wait(s->host->poll_fd, events, EVENTS_AT_ONCE, timeout);
        bool rung = false;
        for (int i = 0; i < count; i++)
            if (events[i].data.u64 >> 56 == WATCH_BELL) {
                uint64_t value;
                ssize_t got = read(s->bell_fd, &value, sizeof value);
                rung = got > 0;
            }
        (void)pthread_mutex_lock(&s->lock);
        if (s->host->stop) {
            (void)pthread_mutex_unlock(&s->lock);
            return NULL;
        }
        if (rung) look_for_leavers(s);
        for (int i = 0; i < count; i++)
            if (events[i].data.u64 >> 56 != WATCH_BELL) on_event(s, &events[i]);
        if (rung) relay_pool(s);
        timeout = look_at_hung_up(s);
        int next = hub_service_lookout(s);
        if (timeout < 0 || (next >= 0 && next < timeout)) timeout = next;
        (void)pthread_mutex_unlock(&s->lock);
    }
}

int hub_service_start(hub_session *s, hub_fault *fault) {
    hub_host *host = s->host;
    s->bell_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    host->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->bell_fd < 0 || host->poll_fd < 0)
        return hub_fault_set(fault, -errno, "creating a hub: eventfd or epoll: %s", strerror(errno));
    host->self_pidfd = hub_pidfd_open((int32_t)getpid());
    if (host->self_pidfd < 0) {
        int rc = host->self_pidfd;
        host->self_pidfd = -1;
        return hub_fault_set(fault, rc == -ENOSYS || rc == -EPERM ? HUB_EUNSUPPORTED : rc,
                             "creating a hub: pidfd_open: %s; needs Linux 5.3 and no seccomp filter "
                             "against it", strerror(-rc));
    }
    int rc = watch(s, s->bell_fd, EPOLLIN, WATCH_BELL, NULL);
    if (rc < 0) return hub_fault_set(fault, rc, "creating a hub: epoll: %s", strerror(-rc));
    /* Signals belong to the application's threads. */
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&host->thread, NULL, serve, s);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return hub_fault_set(fault, -rc, "creating a hub: starting its thread: %s", strerror(rc));
    host->thread_running = true;
    return 0;
}

void hub_service_stop(hub_session *s) {
    if (s->host == NULL || !s->host->thread_running) return;
    (void)pthread_mutex_lock(&s->lock);
    s->host->stop = true;
    (void)pthread_mutex_unlock(&s->lock);
    hub_session_ring_bell(s);
    (void)pthread_join(s->host->thread, NULL);
    s->host->thread_running = false;
}

#else

int hub_service_start(hub_session *s, hub_fault *fault) {
    (void)s;
    return hub_fault_set(fault, HUB_EUNSUPPORTED, "hosting a hub needs Linux (pidfd, epoll)");
}
void hub_service_stop(hub_session *s) { (void)s; }
int hub_service_watch_link(hub_session *s, hub_link *link) {
    (void)s, (void)link;
    return HUB_EUNSUPPORTED;
}
int hub_service_watch_process(hub_session *s, hub_link *link) {
    (void)s, (void)link;
    return HUB_EUNSUPPORTED;
}
void hub_service_event(hub_session *s, uint32_t kind, const hub_link *link, const char *detail) {
    (void)s, (void)kind, (void)link, (void)detail;
}
void hub_service_set_state(hub_session *s, hub_link *link, uint32_t state) {
    (void)s, (void)link, (void)state;
}
void hub_service_cancel(hub_session *s, hub_link *link, const char *why) {
    (void)s, (void)link, (void)why;
}
void hub_service_violation(hub_session *s, hub_link *link, const char *what) {
    (void)s, (void)link, (void)what;
}
void hub_service_report(hub_session *s, const hub_link *link, const char *what) {
    (void)s, (void)link, (void)what;
}

#endif
