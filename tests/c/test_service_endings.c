/* test_service_endings.c - whom the service thread believes: a hello that is not as it should be, a
 * word that is another life's, a hang-up that may be the end or not, a violation of one that is not
 * there; and that each end is told once. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "doorbell.h"
#include "pair.h"
#include "reclaim.h"
#include "service.h"

static pair *_Atomic interrupted; /* whose service thread is stopped after its next event */
static void (*then)(pair *);

int epoll_wait(int poll_fd, struct epoll_event *events, int most, int timeout) {
    int count = (int)syscall(SYS_epoll_pwait, poll_fd, events, most, timeout, NULL, 8);
    pair *p = interrupted;
    if (p != NULL && count > 0 && p->host->host->poll_fd == poll_fd) {
        interrupted = NULL;
        then(p);
    }
    return count;
}

static void lock(const pair *p) { CHECK_EQ(pthread_mutex_lock(&p->host->lock), 0); }
static void unlock(const pair *p) { CHECK_EQ(pthread_mutex_unlock(&p->host->lock), 0); }

static void set_state(hub_session *host, hub_link *link, uint32_t state) {
    CHECK_EQ(pthread_mutex_lock(&host->lock), 0);
    link->state = state;
    CHECK_EQ(pthread_mutex_unlock(&host->lock), 0);
}

static void say(const pair *p, uint32_t epoch, uint32_t state) {
    hub_store_release_64(&hub_session_peer(p->host, p->id)->state, hub_state_make(epoch, state));
}

/* Events of that kind, of those that have come so far; the others are forgotten. */
static unsigned told(const pair *p, uint32_t kind) {
    hub_event event;
    unsigned count = 0;
    while (hub_host_next_event(p->host, &event) == 1) count += event.kind == kind;
    return count;
}

/* The service thread has been through whatever had happened. */
static void one_round(const pair *p) {
    for (unsigned n = 0; n < 2; n++) {
        hub_session_ring_bell(p->host);
        struct epoll_event bell;
        int fd = epoll_create1(EPOLL_CLOEXEC);
        memset(&bell, 0, sizeof bell);
        bell.events = EPOLLIN;
        CHECK_EQ(epoll_ctl(fd, EPOLL_CTL_ADD, p->host->bell_fd, &bell), 0);
        while ((int)syscall(SYS_epoll_pwait, fd, &bell, 1, 0, NULL, 8) > 0) test_pause();
        CHECK_EQ(close(fd), 0);
        lock(p); /* what it took the bell for is done when the lock is free */
        unlock(p);
    }
}

static void hang_up(const pair *p) {
    CHECK_EQ(shutdown(p->from_peer->link->fd, SHUT_WR), 0);
    for (bool seen = false; !seen; test_pause()) {
        lock(p);
        seen = p->link->hung_up;
        unlock(p);
    }
}

/* The peer's side of a pair whose host does not know it any more, or never did. */
static void drop_peer_side(pair *p) {
    hub_transport_unref(p->from_peer);
    hub_session_close(p->peer);
    hub_session_unref(p->peer);
}

static void drop_all(pair *p) {
    drop_peer_side(p);
    hub_transport_unref(p->from_host);
    hub_link_unref(p->link);
    hub_session_close(p->host);
    hub_session_unref(p->host);
}

/* ---- hello ------------------------------------------------------------------------------ */

enum wrong { NOTHING, MAGIC, VERSION, PEER_ID, NO_CREDENTIALS, NO_PIDFD, ANOTHERS_PIDFD };

/* What the host answers to a hello that is wrong in one way. */
static int greeted(enum wrong wrong) {
    hub_config config = config_tiny();
    pair p;
    int fd, fds[HUB_MESSAGE_FDS], off = 0;
    int32_t pid;
    hub_fault fault = {0, ""};
    hub_welcome welcome;
    char path[64];
    memset(&p, 0, sizeof p);
    p.host = host_open(&config);
    CHECK_OK(hub_host_add_peer(p.host, "says hello", &p.link, &fd));
    p.id = hub_link_peer_id(p.link);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", hub_session_fd(p.host));
    CHECK_OK_FAULT(hub_peer_open(path, p.id, &p.peer, &fault), fault);
    CHECK_OK_FAULT(hub_peer_register(p.peer, &fault), fault);
    if (wrong == NO_CREDENTIALS)
        CHECK_EQ(setsockopt(p.link->fd, SOL_SOCKET, SO_PASSCRED, &off, sizeof off), 0);
    hub_hello hello = {wrong == MAGIC ? 1 : HUB_HELLO_MAGIC,
                       wrong == VERSION ? HUB_VERSION_MAJOR + 1 : HUB_VERSION_MAJOR,
                       wrong == PEER_ID ? p.id + 1 : p.id, 0};
    pid_t other = fork();
    CHECK_GE(other, 0);
    if (other == 0)
        for (;;) (void)pause();
    int pidfd = hub_pidfd_open(wrong == ANOTHERS_PIDFD ? other : getpid());
    CHECK_GE(pidfd, 0);
    int copy = dup(fd);
    CHECK_OK(hub_doorbell_send_message(copy, &hello, sizeof hello, &pidfd, wrong != NO_PIDFD));
    CHECK_EQ(close(pidfd), 0);
    CHECK_EQ(hub_doorbell_wait(copy, soon()), 1);
    CHECK_EQ(hub_doorbell_recv_message(copy, &welcome, sizeof welcome, fds, &pid),
             (int)sizeof welcome);
    for (unsigned i = 0; i < HUB_MESSAGE_FDS; i++) {
        CHECK_EQ(fds[i] >= 0, welcome.status == 0); /* who is refused is given nothing */
        if (fds[i] >= 0) CHECK_EQ(close(fds[i]), 0);
    }
    CHECK_EQ(close(copy), 0);
    child_kill(other);
    hub_session_close(p.peer);
    hub_session_unref(p.peer);
    hub_link_unref(p.link);
    hub_session_close(p.host);
    hub_session_unref(p.host);
    return welcome.status;
}

static void a_wrong_hello_is_refused(void) {
    CHECK_EQ(greeted(NOTHING), 0);
    CHECK_EQ(greeted(NO_PIDFD), 0); /* one is made by the host */
    CHECK_EQ(greeted(MAGIC), HUB_EFORMAT);
    CHECK_EQ(greeted(VERSION), HUB_EFORMAT);
    CHECK_EQ(greeted(PEER_ID), HUB_ESTATE);
    CHECK_EQ(greeted(NO_CREDENTIALS), HUB_EUNSUPPORTED);
    CHECK_EQ(greeted(ANOTHERS_PIDFD), HUB_EVIOLATION);
}

/* ---- a hang-up --------------------------------------------------------------------------- */

/* It lives, and says nothing, or something of another life: then it has hung up, and is told so once,
 * whatever happens afterwards. */
static void hung_up_and_alive(void) {
    for (unsigned way = 0; way < 2; way++) {
        hub_config config = config_tiny();
        pair p;
        pair_open(&p, &config, false);
        if (way == 1) say(&p, p.link->epoch + 1, HUB_PEER_LEFT);
        hang_up(&p);
        one_round(&p);
        hub_event event;
        do {
            while (hub_host_next_event(p.host, &event) != 1) test_pause();
            CHECK(event.kind != HUB_EVENT_LEFT);
        } while (event.kind != HUB_EVENT_HUNG_UP);
        CHECK(p.link->alive && !p.link->clean);
        one_round(&p);
        one_round(&p);
        CHECK_EQ(told(&p, HUB_EVENT_HUNG_UP), 0);
        drop_all(&p);
    }
}

/* A process that is about to end is given time, and not for ever: one that hangs in its end, with its
 * pidfd silent, is told of. Ours has ended and is not waited for, which /proc shows the same way. */
static void exiting_for_too_long(void) {
    pid_t ending = fork();
    CHECK_GE(ending, 0);
    if (ending == 0) _exit(0);
    while (!hub_process_exiting(ending)) test_pause();
    for (unsigned round = 0; round < 100; round++) {
        hub_config config = config_tiny();
        pair p;
        pair_open(&p, &config, false);
        hang_up(&p);
        lock(&p);
        bool in_time = p.link->state == HUB_PEER_ACTIVE;
        p.link->pid = ending;
        p.link->hung_up_at -= 1000000000; /* longer ago than a living one is given */
        unlock(&p);
        if (!in_time) { /* we were too slow: the grace was over */
            drop_all(&p);
            continue;
        }
        one_round(&p);
        lock(&p);
        CHECK_EQ(p.link->state, HUB_PEER_ACTIVE);
        p.link->hung_up_at -= 30000000000;
        unlock(&p);
        one_round(&p);
        lock(&p);
        CHECK_EQ(p.link->state, HUB_PEER_HUNG_UP);
        unlock(&p);
        CHECK_EQ(told(&p, HUB_EVENT_HUNG_UP), 1);
        drop_all(&p);
        CHECK_EQ(waitpid(ending, NULL, 0), ending);
        return;
    }
    FAIL("the grace was over a hundred times");
}

/* Hung up first, and only then, before it is called alive, it says that it has left. */
static void left_after_the_hang_up(void) {
    for (unsigned round = 0; round < 100; round++) {
        hub_config config = config_tiny();
        pair p;
        pair_open(&p, &config, false);
        hang_up(&p);
        say(&p, p.link->epoch, HUB_PEER_LEFT);
        hub_session_ring_bell(p.host);
        uint32_t state;
        do {
            test_pause();
            lock(&p);
            state = p.link->state;
            unlock(&p);
        } while (state == HUB_PEER_ACTIVE);
        if (state == HUB_PEER_HUNG_UP) { /* we were too slow: the grace was over */
            drop_all(&p);
            continue;
        }
        peer_wait_free(p.host, p.id);
        CHECK(p.link->clean && hub_link_gone(p.link));
        CHECK_EQ(told(&p, HUB_EVENT_LEFT), 1);
        drop_all(&p);
        return;
    }
    FAIL("the grace was over a hundred times");
}

/* It has left and holds a slot: told once, gone when the slot is. */
static void told_once_that_it_has_left(void) {
    hub_config config = config_tiny();
    pair p;
    hub_slot held;
    pair_open(&p, &config, false);
    CHECK_OK(hub_alloc(p.from_peer, 100, HUB_NOW, &held));
    hub_transport_close(p.from_peer);
    wait_event(p.host, HUB_EVENT_LEFT, p.id);
    while (!hub_link_gone(p.link)) test_pause();
    uint64_t detaches = p.host->host->detaches;
    one_round(&p); /* it is looked at again, and still holds it */
    one_round(&p);
    CHECK_EQ(told(&p, HUB_EVENT_LEFT), 0);
    CHECK_OK(hub_slot_free(p.peer, &held));
    peer_wait_free(p.host, p.id);
    CHECK_EQ(told(&p, HUB_EVENT_LEFT), 0);
    CHECK_EQ(p.host->host->detaches, detaches);
    drop_all(&p);
}

/* ---- an event of an earlier life ------------------------------------------------------------ */

static hub_link *next_life;

static void another_life_begins(pair *p) {
    int fd;
    lock(p);
    hub_link_set_gone(p->link);
    hub_reclaim_all(p->host, p->link);
    p->link->state = HUB_PEER_DEAD;
    unlock(p);
    CHECK_OK(hub_host_add_peer(p->host, "next", &next_life, &fd));
}

static void a_hang_up_of_an_earlier_life(void) {
    hub_config config = config_tiny();
    config.max_peers = 2;
    pair p;
    pair_open(&p, &config, false);
    then = another_life_begins;
    interrupted = &p;
    CHECK_EQ(shutdown(p.from_peer->link->fd, SHUT_WR), 0);
    while (interrupted != NULL) test_pause();
    one_round(&p);
    lock(&p);
    CHECK(p.host->host->links[p.id] == next_life);
    CHECK_EQ(next_life->state, HUB_PEER_RESERVED);
    CHECK(!next_life->hung_up);
    hub_link_close_fd(p.link); /* or its hang-up would come again and again */
    unlock(&p);
    hub_link_unref(next_life);
    drop_all(&p);
}

/* ---- a violation ------------------------------------------------------------------------------ */

static void violation(const pair *p, hub_link *link) {
    uint64_t before = p->host->host->violations;
    (void)told(p, HUB_EVENT_VIOLATION);
    hub_service_violation(p->host, link, "tested");
    CHECK_EQ(p->host->host->violations, before + 1);
}

/* Of one that has not attached: its rings are not to be trusted, so it is cancelled; of one that is
 * not in the table: nothing happens to anybody. */
static void a_violation_of_one_that_is_not_there(void) {
    static const uint32_t coming[] = {HUB_PEER_RESERVED, HUB_PEER_ATTACHING};
    for (unsigned i = 0; i < 2; i++) {
        hub_config config = config_tiny();
        pair p;
        hub_link *reserved;
        int fd;
        pair_open(&p, &config, false);
        CHECK_OK(hub_host_add_peer(p.host, "coming", &reserved, &fd));
        uint32_t id = hub_link_peer_id(reserved);
        set_state(p.host, reserved, coming[i]);
        violation(&p, reserved);
        CHECK(reserved->never_attached && !reserved->alive);
        wait_event(p.host, HUB_EVENT_CANCELLED, id);
        peer_wait_free(p.host, id);
        set_state(p.host, reserved, coming[i]); /* as if it were */
        violation(&p, reserved);
        set_state(p.host, reserved, HUB_PEER_ACTIVE);
        violation(&p, reserved);
        CHECK_EQ(told(&p, HUB_EVENT_VIOLATION), 0);
        CHECK_EQ(peer_state(p.host, id), HUB_PEER_FREE);
        hub_link_unref(reserved);
        pair_close(&p);
    }
}

/* Removed, or left by its transport, at either step of its coming. */
static void one_that_is_coming_is_cancelled(void) {
    static const uint32_t coming[] = {HUB_PEER_RESERVED, HUB_PEER_ATTACHING};
    for (unsigned way = 0; way < 4; way++) {
        hub_config config = config_tiny();
        hub_fault fault = {0, ""};
        hub_transport *t;
        hub_link *link;
        int fd;
        hub_session *host = host_open(&config);
        CHECK_OK(hub_host_add_peer(host, "coming", &link, &fd));
        CHECK_OK_FAULT(hub_transport_open_host_peer(host, link, "one", &t, &fault), fault);
        uint32_t id = hub_link_peer_id(link);
        set_state(host, link, coming[way % 2]);
        if (way < 2) CHECK_OK(hub_host_remove_peer(host, id));
        hub_transport_close(t);
        wait_event(host, HUB_EVENT_CANCELLED, id);
        peer_wait_free(host, id);
        CHECK(link->never_attached);
        hub_transport_unref(t);
        hub_link_unref(link);
        CHECK_RC(hub_host_remove_peer(host, 0), HUB_ENOPEER);
        CHECK_RC(hub_host_remove_peer(host, config.max_peers), HUB_ENOPEER);
        CHECK_RC(hub_host_remove_peer(host, HUB_PEERS_MAX + 1), HUB_ENOPEER);
        host_close(host);
    }
}

/* It was told as hung up while its process lives; that the hub is closed later changes nothing. */
static void what_was_told_stays(void) {
    hub_config config = config_tiny();
    pair p;
    pair_open(&p, &config, false);
    violation(&p, p.link);
    CHECK(hub_link_gone(p.link) && p.link->alive);
    hub_link_ref(p.link);
    hub_session_close(p.host);
    CHECK(!p.link->clean);
    hub_link_unref(p.link);
    drop_all(&p);
}

/* Whoever has a copy of its end ends the doorbell: ours of that end is closed, too. */
static void ended_by_another_copy(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_link *link;
    int fd;
    CHECK_OK(hub_host_add_peer(host, "never comes", &link, &fd));
    CHECK_EQ(shutdown(fd, SHUT_WR), 0);
    peer_wait_free(host, hub_link_peer_id(link));
    CHECK_EQ(pthread_mutex_lock(&host->lock), 0);
    CHECK_EQ(link->peer_fd, -1);
    CHECK_EQ(pthread_mutex_unlock(&host->lock), 0);
    hub_link_unref(link);
    host_close(host);
}

/* ---- small things ------------------------------------------------------------------------------- */

static void nobody_active_nothing_to_look_at(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_link *link;
    int fd;
    CHECK_OK(hub_host_add_peer(host, "reserved", &link, &fd));
    hub_store_relaxed_32(&hub_service_lookout_off, 0); /* tests are without it */
    CHECK_EQ(pthread_mutex_lock(&host->lock), 0);
    CHECK_EQ(hub_service_lookout(host), -1); /* or the thread would wake for nothing */
    hub_store_relaxed_32(&hub_service_lookout_off, 1);
    CHECK_EQ(pthread_mutex_unlock(&host->lock), 0);
    hub_link_unref(link);
    hub_session_close(host);
    hub_session_unref(host);
}

/* The last reference closes what is open. */
static void a_link_takes_its_descriptors_with_it(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_link *link = hub_link_new(host, 3, 1, "alone", 0, 0);
    int ends[2];
    CHECK(link != NULL);
    CHECK_OK(hub_doorbell_pair(ends));
    link->fd = ends[0];
    link->peer_fd = ends[1];
    unsigned before = open_descriptors();
    hub_link_unref(link);
    CHECK_EQ(open_descriptors(), before - 2);
    host_close(host);
}

int main(void) {
    test_begin(120);
    host_can_be();
    RUN(a_wrong_hello_is_refused);
    RUN(hung_up_and_alive);
    RUN(exiting_for_too_long);
    RUN(left_after_the_hang_up);
    RUN(told_once_that_it_has_left);
    RUN(a_hang_up_of_an_earlier_life);
    RUN(a_violation_of_one_that_is_not_there);
    RUN(one_that_is_coming_is_cancelled);
    RUN(what_was_told_stays);
    RUN(ended_by_another_copy);
    RUN(nobody_active_nothing_to_look_at);
    RUN(a_link_takes_its_descriptors_with_it);
    return test_end();
}
