/* test_hub_fork.c - forked children of a host and of a peer: every operation refused, nothing of
 * the parent's touched, and nobody kept alive by the descriptors that they inherited. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stage.h"
#include "transport.h"

typedef struct things {
    hub_session *session;
    hub_transport *transport;
    hub_link *link; /* of a host */
    hub_slot slot;
    hub_frame frame; /* with a slot, held */
    int doorbell_fd;
} things;

/* All of it, in the child; then the handles dropped, as finalisers would. */
static int try_everything(void *argument) {
    things *t = argument;
    hub_slot slot;
    hub_frame frame;
    hub_message m = message_of(1);
    hub_buffer buffer = {"", 0};
    hub_stat *stat = malloc(sizeof *stat);
    hub_event event;
    size_t sent = 0;
    CHECK_EQ(hub_session_forked(t->session), 1);
    /* A copy of the doorbell would hide the parent's end from the other side. */
    CHECK_EQ(fcntl(t->doorbell_fd, F_GETFD), -1);
    CHECK_EQ(errno, EBADF);
    CHECK_RC(hub_alloc(t->transport, 10, HUB_FOREVER, &slot), HUB_EFORKED);
    CHECK_RC(hub_slot_free(t->session, &t->slot), HUB_EFORKED);
    CHECK_RC(hub_slot_free(t->session, &t->frame.slot), HUB_EFORKED);
    CHECK_RC(hub_slot_back(t->session, &t->slot, 1024), HUB_EFORKED);
    CHECK_RC(hub_send(t->transport, HUB_TO_DEFAULT, &m, "", 0, HUB_FOREVER), HUB_EFORKED);
    CHECK_RC(hub_send_slot(t->transport, HUB_TO_DEFAULT, &m, &t->slot, 1, HUB_FOREVER),
             HUB_EFORKED);
    CHECK_RC(hub_send_many(t->transport, HUB_TO_DEFAULT, &m, &buffer, 1, HUB_FOREVER, &sent),
             HUB_EFORKED);
    CHECK_RC(hub_recv(t->transport, &frame, HUB_FOREVER), HUB_EFORKED);
    CHECK_RC(hub_recv_many(t->transport, &frame, 1), HUB_EFORKED);
    CHECK_RC(hub_poll_recv(t->transport, &frame, -1), HUB_EFORKED);
    CHECK_RC(hub_poll_arm(t->transport, HUB_TO_DEFAULT, HUB_POLL_ALLOC, 1), HUB_EFORKED);
    hub_poll_cancel(t->transport, HUB_POLL_ALLOC);
    hub_drain(t->transport);
    CHECK_EQ(hub_transport_fd(t->transport), -1);
    CHECK_RC((int)hub_session_trim(t->session), HUB_EFORKED);
    CHECK_RC(hub_session_stat(t->session, stat), HUB_EFORKED);
    CHECK_EQ(hub_host_next_event(t->session, &event), 0);
    if (t->link != NULL) {
        hub_link *link;
        int fd;
        CHECK_RC(hub_host_add_peer(t->session, "x", &link, &fd), HUB_EFORKED);
        CHECK_RC(hub_host_remove_peer(t->session, 1), HUB_EFORKED);
        CHECK_RC(hub_link_watch(t->link, 0), HUB_EFORKED);
        hub_link_close_peer_fd(t->link);
    } else {
        CHECK_RC(hub_peer_register(t->session, NULL), HUB_EFORKED);
    }
    /* Memory may still be read: it is the parent's, who may free it at any time. */
    pattern_check(t->frame.slot.data, t->frame.length, t->frame.message.message_id);
    hub_transport_close(t->transport);
    hub_session_close(t->session);
    hub_transport_unref(t->transport);
    hub_link_unref(t->link);
    hub_session_unref(t->session);
    free(stat);
    return 0;
}

/* ---- of a host ------------------------------------------------------------------------------- */

static int echo(peer_side *me) {
    hub_frame frame;
    for (;;) {
        int rc = hub_recv(me->transport, &frame, soon());
        if (rc == HUB_EHOSTGONE) return 0;
        CHECK_OK(rc);
        CHECK_OK(frame.slot.data != NULL ? hub_send_slot(me->transport, 0, &frame.message,
                                                         &frame.slot, frame.length, soon())
                                         : hub_send(me->transport, 0, &frame.message,
                                                    frame.inline_data, frame.length, soon()));
    }
}

static void children_of_a_host(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    things t;
    peer_start(host, &p, true, echo, NULL);
    send_pattern(p.transport, 1000, 1);
    receive(p.transport, &t.frame);
    CHECK_OK(hub_alloc(p.transport, 1000, HUB_NOW, &t.slot));
    t.session = host;
    t.transport = p.transport;
    t.link = p.link;
    t.doorbell_fd = p.transport->link->fd;
    for (int i = 0; i < 3; i++) child_run(try_everything, &t);
    /* Here all goes on. */
    check_pattern(host, &t.frame);
    CHECK_EQ(host_owned(host), 2);
    frame_free(host, &t.frame);
    CHECK_OK(hub_slot_free(host, &t.slot));
    send_pattern(p.transport, 500, 2);
    receive(p.transport, &t.frame);
    frame_free(host, &t.frame);
    CHECK_EQ(peer_state(host, p.id), HUB_PEER_ACTIVE);
    hub_transport_close(p.transport);
    peer_join(host, &p);
    host_close(host);
}

/* ---- of a peer ------------------------------------------------------------------------------- */

static int fork_in_peer(peer_side *me) {
    things t;
    receive(me->transport, &t.frame);
    CHECK_OK(hub_alloc(me->transport, 1000, HUB_NOW, &t.slot));
    t.session = me->session;
    t.transport = me->transport;
    t.link = NULL;
    t.doorbell_fd = me->transport->link->fd;
    child_run(try_everything, &t);
    check_pattern(me->session, &t.frame);
    CHECK_OK(hub_slot_free(me->session, &t.slot));
    CHECK_OK(
        hub_send_slot(me->transport, 0, &t.frame.message, &t.frame.slot, t.frame.length, soon()));
    return 0;
}

static void children_of_a_peer(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    hub_frame frame;
    peer_start(host, &p, true, fork_in_peer, NULL);
    send_pattern(p.transport, 16 * KIB, 9);
    receive(p.transport, &frame);
    check_pattern(host, &frame);
    frame_free(host, &frame);
    peer_join(host, &p);
    host_close(host);
}

/* The peer dies, its child lives on with copies of what the peer had: the host is told at once. */
static int linger(void *argument) {
    gate_wait(argument);
    return 0;
}

static int leave_a_child_behind(peer_side *me) {
    gate *gates = me->argument;
    pid_t pid = fork();
    if (pid == 0) {
        (void)alarm(60);
        (void)linger(&gates[1]);
        gate_open(&gates[0]);
        _exit(0);
    }
    send_bytes(me->transport, NULL, 0, 1);
    CHECK_EQ(kill(getpid(), SIGKILL), 0);
    return 1;
}

static void a_child_does_not_keep_its_parent_alive(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    gate gates[2];
    hub_frame frame;
    gate_init(&gates[0]);
    gate_init(&gates[1]);
    peer_start(host, &p, true, leave_a_child_behind, gates);
    receive(p.transport, &frame);
    CHECK_RC(hub_recv(p.transport, &frame, soon()), HUB_EPEERGONE);
    (void)child_wait(p.pid);
    peer_wait_free(host, p.id);
    gate_open(&gates[1]);
    gate_wait(&gates[0]);
    peer_drop(&p);
    gate_fini(&gates[0]);
    gate_fini(&gates[1]);
    host_close(host);
}

/* ---- while other threads are at work --------------------------------------------------------- */

typedef struct crowd {
    hub_transport *transport;
    hub_session *host;
    hub_a32 stop;
} crowd;

static void *allocate(void *argument) {
    crowd *c = argument;
    hub_slot slot;
    if (hub_alloc(c->transport, 1000, HUB_NOW, &slot) == 0) CHECK_OK(hub_slot_free(c->host, &slot));
    return NULL;
}

/* Threads that come and go, each in the allocator for the first time. */
static void *breed(void *argument) {
    crowd *c = argument;
    while (!hub_load_acquire_32(&c->stop)) {
        pthread_t one;
        CHECK_EQ(pthread_create(&one, NULL, allocate, c), 0);
        CHECK_EQ(pthread_join(one, NULL), 0);
    }
    return NULL;
}

static int allocate_as_peer(peer_side *me) {
    hub_slot slot;
    CHECK_OK(hub_alloc(me->transport, 1000, soon(), &slot));
    CHECK_OK(hub_slot_free(me->session, &slot));
    return 0;
}

/* A child that becomes a peer without exec (multiprocessing does that) must not inherit a lock
 * that some other thread of its parent held in the moment of the fork. */
static void forked_peers_of_a_busy_host(void) {
    hub_config config = config_of_one(1024, 200); /* enough for caches */
    config.max_peers = 8;
    hub_session *host = host_open(&config);
    crowd c;
    pthread_t breeders[3];
    memset(&c, 0, sizeof c);
    c.host = host;
    CHECK_OK(hub_transport_open_host(host, "all", &c.transport, NULL));
    for (int i = 0; i < 3; i++) CHECK_EQ(pthread_create(&breeders[i], NULL, breed, &c), 0);
    for (unsigned i = 0; i < test_rounds(150); i++) {
        peer p;
        peer_start(host, &p, false, allocate_as_peer, NULL);
        peer_join(host, &p);
    }
    hub_store_release_32(&c.stop, 1);
    for (int i = 0; i < 3; i++) CHECK_EQ(pthread_join(breeders[i], NULL), 0);
    hub_transport_close(c.transport);
    hub_transport_unref(c.transport);
    host_close(host);
}

int main(void) {
    test_begin(120);
    unsigned before = open_descriptors();
    RUN(children_of_a_host);
    RUN(children_of_a_peer);
    RUN(a_child_does_not_keep_its_parent_alive);
    RUN(forked_peers_of_a_busy_host);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
