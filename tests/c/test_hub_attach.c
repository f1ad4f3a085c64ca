/* test_hub_attach.c - joining and leaving: claims, refusals, deaths at each step, orderly ends told
 * apart from deaths, ids used again and again. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "doorbell.h"
#include "stage.h"

static char hub_name[64];

static const char *path_of(hub_session *host) {
    (void)snprintf(hub_name, sizeof hub_name, "/proc/self/fd/%d", hub_session_fd(host));
    return hub_name;
}

static hub_session *open_as(hub_session *host, uint32_t id) {
    hub_session *s;
    hub_fault fault = {0, ""};
    CHECK_OK_FAULT(hub_peer_open(path_of(host), id, &s, &fault), fault);
    return s;
}

static void session_drop(hub_session *s) {
    hub_session_close(s);
    hub_session_unref(s);
}

/* ---- claims ---------------------------------------------------------------------------------- */

static void wrong_ids(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config), *s;
    hub_fault fault = {0, ""};
    static const uint32_t bad[] = {0, 6, 63, 64, UINT32_MAX};
    for (unsigned i = 0; i < 5; i++) {
        CHECK_RC(hub_peer_open(path_of(host), bad[i], &s, &fault), HUB_EINVAL);
        CHECK(strstr(fault.text, "peer id") != NULL);
    }
    s = open_as(host, 3); /* in range, never added */
    CHECK_RC(hub_peer_register(s, &fault), HUB_ENOPEER);
    CHECK(strstr(fault.text, "add_peer") != NULL);
    hub_transport *t;
    CHECK_RC(hub_transport_open_peer(s, 0, "x", HUB_NOW, &t, &fault), HUB_ENOTATTACHED);
    session_drop(s);
    CHECK_RC(hub_host_remove_peer(host, 0), HUB_ENOPEER);
    CHECK_RC(hub_host_remove_peer(host, 6), HUB_ENOPEER);
    host_close(host);
}

static void second_claimant_loses(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_link *link;
    int peer_fd;
    hub_fault fault = {0, ""};
    CHECK_OK(hub_host_add_peer(host, "one", &link, &peer_fd));
    hub_session *first = open_as(host, 1), *second = open_as(host, 1);
    CHECK_OK(hub_peer_register(first, &fault));
    CHECK_OK(hub_peer_register(first, &fault)); /* again by the same: no harm */
    CHECK_RC(hub_peer_register(second, &fault), HUB_ESTATE);
    CHECK(strstr(fault.text, "taken") != NULL);
    /* The loser, who has no right to it, tries all the same. */
    hub_transport *t;
    CHECK_RC(hub_transport_open_peer(second, peer_fd, "x", HUB_NOW, &t, &fault), HUB_ENOTATTACHED);
    session_drop(second);
    CHECK_EQ(peer_state(host, 1), HUB_PEER_ATTACHING);
    session_drop(first); /* gives it up */
    hub_link_close_peer_fd(link);
    peer_wait_free(host, 1);
    hub_link_unref(link);
    host_close(host);
}

static void claims_race(void) {
    /* Many processes claim one id: one gets it. */
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    for (unsigned round = 0; round < test_rounds(40); round++) {
        hub_link *link;
        int peer_fd, winners = 0;
        CHECK_OK(hub_host_add_peer(host, "raced", &link, &peer_fd));
        uint32_t id = hub_link_peer_id(link);
        hub_session *claimants[4];
        for (int i = 0; i < 4; i++) claimants[i] = open_as(host, id);
        for (int i = 0; i < 4; i++) winners += hub_peer_register(claimants[i], NULL) == 0;
        CHECK_EQ(winners, 1);
        for (int i = 0; i < 4; i++) session_drop(claimants[i]);
        hub_link_close_peer_fd(link);
        peer_wait_free(host, id);
        hub_link_unref(link);
    }
    host_close(host);
}

static void all_ids_taken(void) {
    hub_config config = config_tiny(); /* ids 1..5 */
    hub_session *host = host_open(&config);
    hub_link *links[5], *none;
    int peer_fd;
    unsigned before = open_descriptors();
    for (int i = 0; i < 5; i++) CHECK_OK(hub_host_add_peer(host, "x", &links[i], &peer_fd));
    CHECK_RC(hub_host_add_peer(host, "x", &none, &peer_fd), HUB_ELIMIT);
    CHECK_OK(hub_host_remove_peer(host, hub_link_peer_id(links[2])));
    CHECK_OK(hub_host_remove_peer(host, hub_link_peer_id(links[2]))); /* gone already: 0 */
    peer_wait_free(host, hub_link_peer_id(links[2]));
    wait_event(host, HUB_EVENT_CANCELLED, hub_link_peer_id(links[2]));
    hub_link *again;
    CHECK_OK(hub_host_add_peer(host, "x", &again, &peer_fd));
    CHECK_EQ(hub_link_peer_id(again), hub_link_peer_id(links[2]));
    CHECK_EQ(hub_link_epoch(again), hub_link_epoch(links[2]) + 1);
    CHECK_OK(hub_host_remove_peer(host, hub_link_peer_id(again)));
    for (int i = 0; i < 5; i++) {
        (void)hub_host_remove_peer(host, hub_link_peer_id(links[i]));
        peer_wait_free(host, hub_link_peer_id(links[i]));
        hub_link_unref(links[i]);
    }
    hub_link_unref(again);
    CHECK_EQ(open_descriptors(), before);
    host_close(host);
}

/* ---- doorbells that are none, or another's --------------------------------------------------- */

static void wrong_doorbells(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_link *one, *two;
    int fd_one, fd_two;
    hub_transport *t;
    hub_fault fault = {0, ""};
    CHECK_OK(hub_host_add_peer(host, "one", &one, &fd_one));
    CHECK_OK(hub_host_add_peer(host, "two", &two, &fd_two));
    hub_session *s = open_as(host, 1);
    CHECK_OK(hub_peer_register(s, &fault));
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK_RC(hub_transport_open_peer(s, null, "x", soon(), &t, &fault), -ENOTSOCK);
    CHECK_RC(hub_transport_open_peer(s, 999, "x", soon(), &t, &fault), -EBADF);
    CHECK_EQ(close(null), 0);
    /* The other one's doorbell: the host sees who says what where. (A copy, as a child has: the
     * host closes its own.) */
    int copy = dup(fd_two);
    CHECK_RC(hub_transport_open_peer(s, copy, "x", soon(), &t, &fault), HUB_ESTATE);
    CHECK_EQ(close(copy), 0);
    CHECK(strstr(fault.text, "peer 2") != NULL);
    wait_event(host, HUB_EVENT_CANCELLED, 2);
    session_drop(s);
    hub_link_close_peer_fd(one);
    hub_link_close_peer_fd(two);
    peer_wait_free(host, 1);
    peer_wait_free(host, 2);
    hub_link_unref(one);
    hub_link_unref(two);
    host_close(host);
}

/* Garbage instead of a hello, of any length; descriptors that are no pidfd. */
static void garbage_on_the_doorbell(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    test_random r = {12};
    unsigned before = open_descriptors();
    for (unsigned i = 0; i < test_rounds(200); i++) {
        hub_link *link;
        int peer_fd;
        char bytes[64];
        CHECK_OK(hub_host_add_peer(host, "x", &link, &peer_fd));
        for (size_t n = 0; n < sizeof bytes; n++) bytes[n] = (char)(random_next(&r) | 1);
        size_t length = 1 + random_below(&r, sizeof bytes);
        hub_hello hello = {HUB_HELLO_MAGIC, HUB_VERSION_MAJOR, hub_link_peer_id(link), 0};
        if (i % 3 == 0) { /* well said, but with a descriptor that is not its own pidfd */
            memcpy(bytes, &hello, sizeof hello);
            length = sizeof hello;
        }
        int fds[2] = {hub_session_fd(host), peer_fd};
        CHECK_OK(
            hub_doorbell_send_message(peer_fd, bytes, length, fds, (int)(i % 3 == 0 ? 1 : i % 3)));
        wait_event(host, HUB_EVENT_CANCELLED, hub_link_peer_id(link));
        hub_link_close_peer_fd(link);
        peer_wait_free(host, hub_link_peer_id(link));
        hub_link_unref(link);
    }
    CHECK_EQ(open_descriptors(), before);
    host_close(host);
}

/* Rung by hand before anything: a doorbell is for ringing. */
static int attach_after_ringing(peer_side *me) {
    send_bytes(me->transport, NULL, 0, 3);
    return 0;
}

/* ---- deaths on the way ----------------------------------------------------------------------- */

typedef struct step {
    hub_session *host;
    uint32_t id;
    int peer_fd, at;
} step;

static int die_at(void *argument) {
    step *p = argument;
    char path[64];
    hub_session *s;
    hub_transport *t;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", hub_session_fd(p->host));
    if (p->at == 0) _exit(0);
    CHECK_OK(hub_peer_open(path, p->id, &s, NULL));
    if (p->at == 1) _exit(0);
    CHECK_OK(hub_peer_register(s, NULL));
    if (p->at == 2) _exit(0);
    hub_hello hello = {HUB_HELLO_MAGIC, HUB_VERSION_MAJOR, p->id, 0};
    if (p->at == 3) { /* half a hello */
        CHECK_EQ(send(p->peer_fd, &hello, 7, 0), 7);
        _exit(0);
    }
    if (p->at == 4) { /* a whole one, and gone before the answer */
        int pidfd = hub_pidfd_open((int32_t)getpid());
        CHECK_OK(hub_doorbell_send_message(p->peer_fd, &hello, sizeof hello, &pidfd, 1));
        _exit(0);
    }
    CHECK_OK(hub_transport_open_peer(s, p->peer_fd, "x", soon(), &t, NULL));
    _exit(0); /* attached, nothing closed in order */
}

static void death_at_each_step(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    unsigned before = open_descriptors();
    for (unsigned round = 0; round < test_rounds(20); round++)
        for (int at = 0; at <= 5; at++) {
            hub_link *link;
            hub_transport *t;
            hub_frame frame;
            hub_gone gone;
            step p = {host, 0, -1, at};
            CHECK_OK(hub_host_add_peer(host, "x", &link, &p.peer_fd));
            p.id = hub_link_peer_id(link);
            CHECK_OK(hub_transport_open_host_peer(host, link, "x", &t, NULL));
            pid_t pid = child_start(die_at, &p);
            hub_link_close_peer_fd(link);
            CHECK_RC(hub_recv(t, &frame, soon()), HUB_EPEERGONE);
            CHECK_EQ(hub_transport_gone(t, &gone), 1);
            CHECK_EQ(gone.clean, 0);
            if (at != 4) CHECK_EQ(gone.never_attached, at < 5); /* 4: it may have been accepted */
            free(gone.ids);
            child_ok(pid);
            peer_wait_free(host, p.id);
            hub_transport_unref(t);
            hub_link_unref(link);
            CHECK_EQ(open_descriptors(), before);
        }
    host_close(host);
}

/* Nobody closed the host's copy of the peer's end: the pidfd that was given to watch tells. */
static int exit_when_told(void *argument) {
    gate_wait(argument);
    return 0;
}

static void start_that_never_attached(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    gate go;
    hub_link *link;
    int peer_fd;
    gate_init(&go);
    pid_t pid = child_start(exit_when_told, &go);
    CHECK_OK(hub_host_add_peer(host, "x", &link, &peer_fd));
    int pidfd = hub_pidfd_open(pid);
    CHECK_OK(hub_link_watch(link, pidfd));
    CHECK_EQ(close(pidfd), 0); /* it was duplicated */
    CHECK_RC(hub_link_watch(link, -1), -EBADF);
    gate_open(&go);
    child_ok(pid);
    peer_wait_free(host, 1);
    wait_event(host, HUB_EVENT_CANCELLED, 1);
    hub_link_unref(link);
    gate_fini(&go);
    host_close(host);
}

/* ---- removal, and latecomers ----------------------------------------------------------------- */

static int stay(peer_side *me) {
    hub_frame frame;
    return hub_recv(me->transport, &frame, HUB_FOREVER) == HUB_EHOSTGONE ? 0 : 1;
}

static void live_peers_are_not_removed(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    peer_start(host, &p, true, stay, NULL);
    peer_wait_active(host, &p);
    CHECK_RC(hub_host_remove_peer(host, p.id), HUB_ESTATE);
    CHECK_EQ(peer_state(host, p.id), HUB_PEER_ACTIVE);
    peer_kill(host, &p);
    CHECK_OK(hub_host_remove_peer(host, 1));
    host_close(host);
}

/* A late grandchild with the doorbell of a cancelled life must not get into the next one. */
static void latecomer_is_locked_out(void) {
    hub_config config = config_tiny();
    config.max_peers = 2;
    hub_session *host = host_open(&config);
    hub_link *old, *none;
    int old_fd, fd;
    hub_transport *t;
    CHECK_OK(hub_host_add_peer(host, "old", &old, &old_fd));
    int kept = dup(old_fd); /* inherited by a process that is slow to start */
    CHECK(kept >= 0);
    CHECK_OK(hub_host_remove_peer(host, 1));
    CHECK_RC(hub_host_add_peer(host, "new", &none, &fd), HUB_ELIMIT); /* while it may still come */
    hub_session *late = open_as(host, 1);
    hub_fault fault = {0, ""};
    int rc = hub_peer_register(late, &fault);
    if (rc == 0) rc = hub_transport_open_peer(late, kept, "late", soon(), &t, &fault);
    CHECK(rc == HUB_ESTATE || rc == HUB_EHOSTGONE || rc == HUB_ENOPEER);
    session_drop(late);
    CHECK_EQ(close(kept), 0);
    peer_wait_free(host, 1);
    peer p;
    peer_start(host, &p, true, stay, NULL);
    peer_wait_active(host, &p);
    peer_kill(host, &p);
    hub_link_unref(old);
    host_close(host);
}

/* ---- leaving in good order ------------------------------------------------------------------- */

static int leave_at_once(peer_side *me) {
    send_pattern(me->transport, 1000, 5);
    return 0;
}

static int leave_when_told(peer_side *me) {
    gate_wait(me->argument);
    return leave_at_once(me);
}

static void clean_detach(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    gate go;
    hub_frame frame;
    hub_gone gone;
    gate_init(&go);
    peer_start(host, &p, true, leave_when_told, &go);
    send_pattern(p.transport, 100, 1); /* never read */
    gate_open(&go);
    receive(p.transport, &frame);
    check_pattern(host, &frame);
    frame_free(host, &frame);
    CHECK_RC(hub_recv(p.transport, &frame, soon()), HUB_EPEERGONE);
    CHECK_EQ(hub_transport_gone(p.transport, &gone), 1);
    CHECK_EQ(gone.clean, 1);
    CHECK_EQ(gone.alive, 0);
    CHECK_EQ(gone.undelivered, 1);
    CHECK_EQ(gone.ids[0], 1);
    free(gone.ids);
    gate_fini(&go);
    wait_event(host, HUB_EVENT_LEFT, p.id);
    peer_join(host, &p);
    hub_stat *stat = malloc(sizeof *stat);
    CHECK_OK(hub_session_stat(host, stat));
    CHECK_EQ(stat->detaches, 1);
    CHECK_EQ(stat->deaths, 0);
    free(stat);
    host_close(host);
}

/* A frame that is still held keeps the id, until it is freed by a process that has closed all. */
static int leave_holding(peer_side *me) {
    gate *gates = me->argument;
    hub_frame frame;
    receive(me->transport, &frame);
    hub_transport_close(me->transport);
    hub_session_close(me->session);
    gate_open(&gates[0]);
    gate_wait(&gates[1]);
    check_pattern(me->session, &frame); /* still there, whatever the host did meanwhile */
    CHECK_OK(hub_slot_free(me->session, &frame.slot));
    gate_open(&gates[0]);
    gate_wait(&gates[1]);
    return 0;
}

static void pinned_frames_keep_the_id(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    gate gates[2];
    hub_frame frame;
    gate_init(&gates[0]);
    gate_init(&gates[1]);
    peer_start(host, &p, true, leave_holding, gates);
    send_pattern(p.transport, 1 * MIB, 77);
    gate_wait(&gates[0]);
    CHECK_RC(hub_recv(p.transport, &frame, soon()), HUB_EPEERGONE); /* at once: it has left */
    CHECK_EQ(peer_state(host, p.id), HUB_PEER_LEAVING);
    CHECK_EQ(host_owned(host), 1);
    gate_open(&gates[1]);
    gate_wait(&gates[0]);
    peer_wait_free(host, p.id); /* while the process lives */
    gate_open(&gates[1]);
    peer_join(host, &p);
    gate_fini(&gates[0]);
    gate_fini(&gates[1]);
    host_close(host);
}

/* Left, holding, and killed: what it held comes back. */
static int leave_holding_and_die(peer_side *me) {
    hub_frame frame;
    receive(me->transport, &frame);
    hub_transport_close(me->transport);
    gate_open(me->argument);
    for (;;) (void)pause();
    return 0;
}

static void killed_while_leaving(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    gate left;
    gate_init(&left);
    peer_start(host, &p, true, leave_holding_and_die, &left);
    send_pattern(p.transport, 16 * KIB, 3);
    gate_wait(&left);
    CHECK_EQ(host_owned(host), 1);
    peer_kill(host, &p);
    gate_fini(&left);
    host_close(host);
}

/* The host's side closes first: the peer learns that it was in good order. */
static int see_clean_end(peer_side *me) {
    hub_frame frame;
    CHECK_RC(hub_recv(me->transport, &frame, soon()), HUB_EHOSTGONE);
    CHECK_EQ(hub_transport_clean(me->transport), 1);
    return 0;
}

static void host_side_closes(void) {
    for (int whole = 0; whole < 2; whole++) {
        hub_config config = config_tiny();
        hub_session *host = host_open(&config);
        peer p;
        peer_start(host, &p, true, see_clean_end, NULL);
        peer_wait_active(host, &p);
        if (whole) {
            hub_session_close(host);
            child_ok(p.pid);
            peer_drop(&p);
            hub_session_unref(host);
        } else {
            hub_transport_close(p.transport);
            peer_join(host, &p);
            host_close(host);
        }
    }
}

/* A peer closes its doorbell and lives: it keeps what it holds until its process ends. */
static int hang_up_and_live(peer_side *me) {
    hub_slot slot;
    gate *gates = me->argument;
    CHECK_OK(hub_alloc(me->transport, 1000, HUB_NOW, &slot));
    /* Its transport is not closed, its sockets are: a bug of a program, or malice. */
    for (int fd = 3; fd < 64; fd++)
        if (hub_doorbell_check(fd, NULL) == 0) (void)close(fd);
    gate_open(&gates[0]);
    gate_wait(&gates[1]);
    _exit(0);
}

static void hung_up_but_alive(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    gate gates[2];
    hub_frame frame;
    hub_gone gone;
    gate_init(&gates[0]);
    gate_init(&gates[1]);
    peer_start(host, &p, true, hang_up_and_live, gates);
    gate_wait(&gates[0]);
    CHECK_RC(hub_recv(p.transport, &frame, soon()), HUB_EPEERGONE);
    CHECK_EQ(hub_transport_gone(p.transport, &gone), 1);
    CHECK_EQ(gone.alive, 1);
    CHECK_EQ(gone.clean, 0);
    free(gone.ids);
    CHECK_EQ(peer_state(host, p.id), HUB_PEER_HUNG_UP);
    wait_event(host, HUB_EVENT_HUNG_UP, p.id);
    CHECK_EQ(host_owned(host), 1);
    gate_open(&gates[1]);
    child_ok(p.pid);
    peer_wait_free(host, p.id);
    peer_drop(&p);
    gate_fini(&gates[0]);
    gate_fini(&gates[1]);
    host_close(host);
}

/* ---- again and again ------------------------------------------------------------------------- */

static void ids_are_used_again(void) {
    hub_config config = config_tiny();
    config.max_peers = 3;
    hub_session *host = host_open(&config);
    unsigned before = open_descriptors(), rounds = test_rounds(200);
    uint32_t epochs[3] = {0, 0, 0};
    for (unsigned i = 0; i < rounds; i++) {
        peer p;
        hub_frame frame;
        peer_start(host, &p, true, i % 2 ? leave_at_once : attach_after_ringing, NULL);
        if (i >= 2) CHECK_EQ(hub_link_epoch(p.link), epochs[p.id] + 1);
        epochs[p.id] = hub_link_epoch(p.link);
        receive(p.transport, &frame);
        frame_free(host, &frame);
        if (i % 3 == 0) {
            (void)kill(p.pid, SIGKILL);
            (void)child_wait(p.pid);
        } else {
            child_ok(p.pid);
        }
        CHECK_RC(hub_recv(p.transport, &frame, soon()), HUB_EPEERGONE);
        peer_wait_free(host, p.id);
        peer_drop(&p);
        CHECK_EQ(open_descriptors(), before);
        host_check_all_free(host);
    }
    host_close(host);
}

int main(void) {
    test_begin(150);
    unsigned before = open_descriptors();
    RUN(wrong_ids);
    RUN(second_claimant_loses);
    RUN(claims_race);
    RUN(all_ids_taken);
    RUN(wrong_doorbells);
    RUN(garbage_on_the_doorbell);
    RUN(death_at_each_step);
    RUN(start_that_never_attached);
    RUN(live_peers_are_not_removed);
    RUN(latecomer_is_locked_out);
    RUN(clean_detach);
    RUN(pinned_frames_keep_the_id);
    RUN(killed_while_leaving);
    RUN(host_side_closes);
    RUN(hung_up_but_alive);
    RUN(ids_are_used_again);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
