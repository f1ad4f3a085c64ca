/* test_hub_death.c - SIGKILL: of the receiver, of the sender, of the host, while others wait for
 * them in every way there is. Nothing published is lost, nothing held is lost, nobody waits on. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "doorbell.h"
#include "stage.h"
#include "transport.h"

static int wait_to_be_killed(peer_side *me) {
    (void)me;
    for (;;) (void)pause();
    return 0;
}

/* ---- the host waits when its peer dies ------------------------------------------------------- */

typedef struct waiting {
    peer *p;
    int kind, rc;
} waiting;

static void *wait_for_the_dying(void *argument) {
    waiting *w = argument;
    hub_slot slot;
    hub_message m = message_of(1);
    hub_frame *frame = malloc(sizeof *frame);
    if (w->kind == 0) w->rc = hub_recv(w->p->transport, frame, HUB_FOREVER);
    if (w->kind == 1) {
        /* The dead one's slots come free, or nobody is left that they were for: it ends. */
        w->rc = hub_alloc(w->p->transport, 1 * MIB, HUB_FOREVER, &slot);
        if (w->rc == 0) w->rc = hub_slot_free(hub_link_session(w->p->link), &slot);
    }
    if (w->kind == 2) w->rc = hub_send(w->p->transport, HUB_TO_DEFAULT, &m, "", 0, HUB_FOREVER);
    free(frame);
    return NULL;
}

static int take_all_large(peer_side *me) {
    hub_slot slot;
    while (hub_alloc(me->transport, 1 * MIB, HUB_NOW, &slot) == 0) {}
    send_bytes(me->transport, NULL, 0, 1);
    return wait_to_be_killed(me);
}

static void host_waiting_in_each_way(void) {
    for (int kind = 0; kind < 3; kind++)
        for (int i = 0; i < 5; i++) {
            hub_config config = config_tiny();
            hub_session *host = host_open(&config);
            peer p;
            hub_frame frame;
            hub_message m = message_of(7);
            pthread_t thread;
            peer_start(host, &p, true, take_all_large, NULL);
            receive(p.transport, &frame);
            waiting w = {&p, kind, 1};
            while (kind == 2 && hub_send(p.transport, HUB_TO_DEFAULT, &m, "", 0, HUB_NOW) == 0) {}
            CHECK_EQ(pthread_create(&thread, NULL, wait_for_the_dying, &w), 0);
            if (kind == 0) wait_ring_asleep(host, 2 * p.id);
            if (kind == 1) wait_pool_waiter(host, 0);
            if (kind == 2) wait_ring_wanted(host, 2 * p.id + 1);
            child_kill(p.pid);
            CHECK_EQ(pthread_join(thread, NULL), 0);
            if (kind != 1 || w.rc != 0) CHECK_RC(w.rc, HUB_EPEERGONE);
            peer_wait_free(host, p.id);
            /* And from then on at once. */
            CHECK_RC(hub_recv(p.transport, &frame, HUB_FOREVER), HUB_EPEERGONE);
            CHECK_RC(hub_send(p.transport, HUB_TO_DEFAULT, &m, "", 0, HUB_FOREVER), HUB_EPEERGONE);
            hub_gone gone;
            CHECK_EQ(hub_transport_gone(p.transport, &gone), 1);
            CHECK_EQ(gone.clean, 0);
            CHECK_EQ(gone.alive, 0);
            CHECK_EQ(gone.never_attached, 0);
            CHECK_EQ(gone.pid, p.pid);
            CHECK_EQ(gone.undelivered, kind == 2 ? 16 : 0);
            free(gone.ids);
            hub_event event = wait_event(host, HUB_EVENT_DIED, p.id);
            CHECK_EQ(event.pid, p.pid);
            CHECK_EQ(event.epoch, gone.epoch);
            peer_drop(&p);
            host_close(host);
        }
}

/* ---- receiver dead: what it held, what it never received ------------------------------------- */

static int receive_some(peer_side *me) {
    unsigned *count = me->argument;
    hub_frame *frames = malloc(32 * sizeof *frames); /* held, never freed */
    for (unsigned i = 0; i < *count; i++) receive(me->transport, &frames[i]);
    send_bytes(me->transport, NULL, 0, 1);
    return wait_to_be_killed(me);
}

/* ---- a long end ------------------------------------------------------------------------------ */

/* A thread that outlives the first one: to the kernel's eyes the process is on its way out. */
static void *hang_up_when_it_is_ending(void *argument) {
    peer_side *me = argument;
    while (!hub_process_exiting((int32_t)getpid())) test_pause();
    CHECK_EQ(shutdown(me->transport->link->fd, SHUT_RDWR), 0);
    (void)wait_to_be_killed(me);
    return NULL;
}

static int end_slowly(peer_side *me) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, hang_up_when_it_is_ending, me), 0);
    pthread_exit(NULL);
}

/* On a busy machine seconds pass between a dying process's hang-up and its end: it is not called
 * alive meanwhile, since what it never received could not be told then. */
static void hung_up_long_before_the_end(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    hub_frame frame;
    hub_gone gone;
    peer_start(host, &p, true, end_slowly, NULL);
    peer_wait_active(host, &p);
    send_bytes(p.transport, "abc", 3, 55);
    CHECK_RC(hub_recv(p.transport, &frame, hub_clock_ns() + 1000000000), HUB_ETIMEDOUT);
    CHECK_EQ(kill(p.pid, SIGKILL), 0);
    CHECK_RC(hub_recv(p.transport, &frame, soon()), HUB_EPEERGONE);
    CHECK_EQ(hub_transport_gone(p.transport, &gone), 1);
    CHECK_EQ(gone.alive, 0);
    CHECK_EQ(gone.undelivered, 1);
    CHECK_EQ(gone.ids[0], 55);
    free(gone.ids);
    peer_kill(host, &p);
    host_close(host);
}

static void undelivered_are_known(void) {
    for (unsigned received = 0; received <= 6; received += 2) {
        hub_config config = config_tiny();
        hub_session *host = host_open(&config);
        peer p;
        hub_frame frame;
        hub_gone gone;
        peer_start(host, &p, true, receive_some, &received);
        /* Inline, in cells, and in slots of every class. */
        static const uint64_t lengths[] = {0, 100, 1000, 16000, 200, 300, 1 * MIB, 17};
        for (uint64_t i = 0; i < 8; i++) send_pattern(p.transport, lengths[i], 1000 + i);
        receive(p.transport, &frame);
        child_kill(p.pid);
        CHECK_RC(hub_recv(p.transport, &frame, soon()), HUB_EPEERGONE);
        CHECK_EQ(hub_transport_gone(p.transport, &gone), 1);
        CHECK_EQ(gone.undelivered, 8 - received);
        for (size_t i = 0; i < gone.undelivered; i++) CHECK_EQ(gone.ids[i], 1000 + received + i);
        free(gone.ids);
        peer_wait_free(host, p.id);
        host_check_all_free(host); /* held and unread alike */
        hub_stat *stat = malloc(sizeof *stat);
        CHECK_OK(hub_session_stat(host, stat));
        CHECK_EQ(stat->deaths, 1);
        CHECK_EQ(stat->violations, 0);
        free(stat);
        peer_drop(&p);
        host_close(host);
    }
}

/* ---- sender dead: what it published arrives -------------------------------------------------- */

static int publish_and_die(peer_side *me) {
    hub_slot unsent;
    static const uint64_t lengths[] = {0, 16, 17, 240, 241, 1000, 16000, 1 * MIB};
    CHECK_OK(hub_alloc(me->transport, 1000, HUB_NOW, &unsent));
    for (uint64_t i = 0; i < 8; i++) send_pattern(me->transport, lengths[i], i);
    CHECK_EQ(kill(getpid(), SIGKILL), 0);
    return 1;
}

static void published_is_delivered(void) {
    for (int before_end = 0; before_end < 2; before_end++) {
        hub_config config = config_tiny();
        hub_session *host = host_open(&config);
        peer p;
        hub_frame *frames = malloc(8 * sizeof *frames);
        peer_start(host, &p, true, publish_and_die, NULL);
        (void)child_wait(p.pid);
        if (before_end)
            peer_wait_free(host, p.id); /* reclaimed, its id free: still ours to receive */
        for (uint64_t i = 0; i < 8; i++) {
            receive(p.transport, &frames[i]);
            CHECK_EQ(frames[i].message.message_id, i);
        }
        CHECK_RC(hub_recv(p.transport, &frames[0], soon()), HUB_EPEERGONE);
        peer_wait_free(host, p.id);
        CHECK_EQ(host_owned(host), 4); /* the four frames in slots: ours, whatever became of it */
        for (int i = 1; i < 8; i++) {
            check_pattern(host, &frames[i]);
            frame_free(host, &frames[i]);
        }
        host_check_all_free(host);
        free(frames);
        peer_drop(&p);
        host_close(host);
    }
}

/* The unread messages of a life stay that life's, though its id lives on in another. */
static int send_my_number(peer_side *me) {
    uint64_t number = *(uint64_t *)me->argument;
    send_pattern(me->transport, 700, number);
    CHECK_EQ(kill(getpid(), SIGKILL), 0);
    return 1;
}

static int receive_one(peer_side *me) {
    hub_frame frame;
    receive(me->transport, &frame);
    CHECK_EQ(frame.message.message_id, 4711); /* nothing of another life's came before */
    check_pattern(me->session, &frame);
    return 0;
}

static void unread_messages_of_several_lives(void) {
    hub_config config = config_tiny();
    config.max_peers = 2; /* one id for all */
    hub_session *host = host_open(&config);
    peer lives[5];
    hub_frame frame;
    for (uint64_t i = 0; i < 5; i++) {
        uint64_t number = 100 + i;
        peer_start(host, &lives[i], true, send_my_number, &number);
        CHECK_EQ(lives[i].id, 1);
        if (i > 0) CHECK_EQ(hub_link_epoch(lives[i].link), hub_link_epoch(lives[i - 1].link) + 1);
        (void)child_wait(lives[i].pid);
        peer_wait_free(host, 1);
    }
    /* Their transports do not reach the next life, neither with a slot nor without, and what they
     * could not send stays the caller's. */
    peer next;
    hub_slot slot;
    hub_message m = message_of(1);
    peer_start(host, &next, true, receive_one, NULL);
    CHECK_EQ(next.id, 1);
    peer_wait_active(host, &next);
    CHECK_OK(hub_alloc(next.transport, 500, HUB_NOW, &slot));
    for (uint64_t i = 0; i < 5; i++) {
        CHECK_RC(hub_send(lives[i].transport, HUB_TO_DEFAULT, &m, "", 0, HUB_NOW), HUB_EPEERGONE);
        CHECK_RC(hub_send_slot(lives[i].transport, HUB_TO_DEFAULT, &m, &slot, 500, HUB_NOW),
                 HUB_EPEERGONE);
    }
    CHECK_OK(hub_slot_free(host, &slot));
    send_pattern(next.transport, 20, 4711);
    peer_join(host, &next);
    for (uint64_t i = 5; i-- > 0;) {
        receive(lives[i].transport, &frame);
        CHECK_EQ(frame.message.message_id, 100 + i);
        check_pattern(host, &frame);
        frame_free(host, &frame);
        CHECK_RC(hub_recv(lives[i].transport, &frame, soon()), HUB_EPEERGONE);
        peer_drop(&lives[i]);
    }
    host_close(host);
}

/* Nobody ever reads them: dropped with the last handle on that life. */
static void unread_messages_are_freed_with_the_transport(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    peer_start(host, &p, true, publish_and_die, NULL);
    (void)child_wait(p.pid);
    peer_wait_free(host, p.id);
    CHECK_EQ(host_owned(host), 4);
    peer_drop(&p);
    host_close(host);
}

/* ---- between two steps, by hand -------------------------------------------------------------- */

/* Killed between free and bell: the slot is free, and nobody was told. */
static int free_silently_and_die(peer_side *me) {
    hub_slot slot;
    while (hub_alloc(me->transport, 1 * MIB, HUB_NOW, &slot) == 0) {}
    send_bytes(me->transport, NULL, 0, 1);
    gate_wait(me->argument);
    hub_pool *pool = &me->session->pool;
    for (uint32_t i = 0; i < 2; i++) {
        hub_a64 *word = &pool->classes[2].meta[i].ctl;
        uint64_t ctl = hub_load_acquire_64(word);
        CHECK_EQ(hub_ctl_owner(ctl), me->session->id);
        CHECK(hub_cas_acq_rel_64(word, &ctl,
                                 hub_ctl_make(hub_ctl_gen(ctl), HUB_FREE, 0) | HUB_CTL_UNLINKED));
    }
    CHECK_EQ(kill(getpid(), SIGKILL), 0);
    return 1;
}

static int take_a_large_one(peer_side *me) {
    hub_slot slot; /* for ever: a deadline's last try would find it, too */
    CHECK_OK(hub_alloc(me->transport, 1 * MIB, HUB_FOREVER, &slot));
    CHECK_OK(hub_slot_free(me->session, &slot));
    return 0;
}

static void killed_between_free_and_bell(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer dying, waiter;
    gate go;
    hub_frame frame;
    hub_slot slot;
    hub_transport *all;
    pthread_t thread;
    gate_init(&go);
    peer_start(host, &dying, true, free_silently_and_die, &go);
    receive(dying.transport, &frame);
    CHECK_OK(hub_transport_open_host(host, "all", &all, NULL));
    peer_start(host, &waiter, false, take_a_large_one, NULL);
    wait_pool_waiter(host, waiter.id);
    peer all_peers = {waiter.link, all, 0, 0};
    waiting w = {&all_peers, 1, 1};
    CHECK_EQ(pthread_create(&thread, NULL, wait_for_the_dying, &w), 0);
    /* Asleep, not only about to look once more. */
    while (!hub_load_acquire_32(&all->waiter.leading)) test_pause();
    gate_open(&go);
    CHECK_EQ(pthread_join(thread, NULL), 0); /* HUB_FOREVER: the watchdog's, if it is not woken */
    CHECK_OK(w.rc);
    child_ok(waiter.pid);
    (void)child_wait(dying.pid);
    peer_wait_free(host, dying.id);
    peer_wait_free(host, waiter.id);
    CHECK_OK(hub_alloc(all, 1 * MIB, HUB_NOW, &slot));
    CHECK_OK(hub_slot_free(host, &slot));
    peer_drop(&dying);
    peer_drop(&waiter);
    hub_transport_unref(all);
    gate_fini(&go);
    host_close(host);
}

/* The host has closed the ring, the peer has not noticed: what it sends now is not published, and
 * stays its own. */
static int send_into_a_closed_ring(peer_side *me) {
    gate *gates = me->argument;
    hub_slot slot;
    hub_message m = message_of(6);
    CHECK_OK(hub_alloc(me->transport, 1000, HUB_NOW, &slot));
    gate_open(&gates[0]);
    gate_wait(&gates[1]);
    CHECK_RC(hub_send_slot(me->transport, 0, &m, &slot, 1000, HUB_NOW), HUB_EHOSTGONE);
    CHECK_OK(hub_slot_free(me->session, &slot));
    return 0;
}

static void published_after_the_ring_was_closed(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    gate gates[2];
    gate_init(&gates[0]);
    gate_init(&gates[1]);
    peer_start(host, &p, true, send_into_a_closed_ring, gates);
    gate_wait(&gates[0]);
    hub_transport_close(p.transport);
    gate_open(&gates[1]);
    peer_join(host, &p);
    gate_fini(&gates[0]);
    gate_fini(&gates[1]);
    host_close(host);
}

/* ---- kills at any moment of a stream in both directions -------------------------------------- */

static int stream_for_ever(peer_side *me) {
    uint64_t sent = 0;
    test_random r = {(uint64_t)getpid()};
    hub_frame frame;
    for (;;) {
        unsigned char bytes[20000];
        uint64_t length = random_below(&r, 4) ? random_below(&r, 300) : random_below(&r, 20000);
        hub_message m = message_of(sent);
        pattern_write(bytes, length, sent);
        int rc = hub_send(me->transport, HUB_TO_DEFAULT, &m, bytes, length, HUB_NOW);
        if (rc == 0) sent++;
        if (hub_recv(me->transport, &frame, HUB_NOW) == 0) {
            check_pattern(me->session, &frame);
            if (random_below(&r, 5))
                frame_free(me->session, &frame); /* the rest is leaked to death */
        }
    }
    return 0;
}

static void killed_while_streaming(void) {
    hub_config config = config_tiny();
    config.classes[0].slots = config.classes[0].max_slots = 64;
    config.classes[1].slots = config.classes[1].max_slots = 32;
    hub_session *host = host_open(&config);
    test_random r = {99};
    unsigned kills = test_rounds(150);
    for (unsigned n = 0; n < kills; n++) {
        peer p;
        hub_frame frame;
        uint64_t next = 0, sent = 0;
        peer_start(host, &p, true, stream_for_ever, NULL);
        uint64_t until = 1 + random_below(&r, 300);
        bool killed = false;
        int rc;
        while ((rc = hub_recv(p.transport, &frame, soon())) == 0) {
            CHECK_EQ(frame.message.message_id, next++); /* in order, once, intact */
            check_pattern(host, &frame);
            frame_free(host, &frame);
            unsigned char bytes[3000];
            uint64_t length = random_below(&r, 3000);
            hub_message m = message_of(sent);
            pattern_write(bytes, length, sent);
            if (hub_send(p.transport, HUB_TO_DEFAULT, &m, bytes, length, HUB_NOW) == 0) sent++;
            if (next >= until && !killed) {
                CHECK_EQ(kill(p.pid, SIGKILL), 0);
                killed = true;
            }
        }
        CHECK_RC(rc, HUB_EPEERGONE);
        (void)child_wait(p.pid);
        peer_wait_free(host, p.id);
        peer_drop(&p);
        host_check_all_free(host);
    }
    hub_stat *stat = malloc(sizeof *stat);
    CHECK_OK(hub_session_stat(host, stat));
    CHECK_EQ(stat->deaths, kills);
    CHECK_EQ(stat->violations, 0);
    free(stat);
    host_close(host);
}

/* ---- the host dies --------------------------------------------------------------------------- */

typedef struct doomed {
    int kind;
    gate waiting;  /* the peer is about to wait */
    gate result;   /* it has seen the end, and all was as it should be */
    int hub_fd_of_host;
} doomed;

#define WAITING 3 /* kinds below: it sleeps; from here on it never does, it tries again */
#define KINDS 7

static int try_without_waiting(peer_side *me, int kind) {
    static hub_frame frame;
    hub_slot slot;
    hub_message m = message_of(2);
    switch (kind) {
    case 3: return hub_recv(me->transport, &frame, HUB_NOW);
    case 4: return hub_recv_many(me->transport, &frame, 1);
    case 5: return hub_alloc(me->transport, 1 * MIB, HUB_NOW, &slot);
    default: return hub_send(me->transport, 0, &m, "", 0, HUB_NOW);
    }
}

static int see_the_end(peer_side *me) {
    doomed *d = me->argument;
    hub_frame frame;
    hub_slot slot, kept;
    hub_message m = message_of(2);
    int rc = 0;
    (void)prctl(PR_SET_PDEATHSIG, 0); /* it must outlive its parent, the host; but not for ever */
    (void)alarm(60);
    receive(me->transport, &frame); /* a view that must outlive the host */
    CHECK_OK(hub_alloc(me->transport, 1000, HUB_NOW, &kept));
    if (d->kind == 1) while (hub_alloc(me->transport, 1 * MIB, HUB_NOW, &slot) == 0) {}
    if (d->kind == 2) while (hub_send(me->transport, 0, &m, "", 0, HUB_NOW) == 0) {}
    gate_open(&d->waiting);
    if (d->kind == 0) {
        hub_frame other;
        rc = hub_recv(me->transport, &other, HUB_FOREVER);
    }
    if (d->kind == 1) rc = hub_alloc(me->transport, 1 * MIB, HUB_FOREVER, &slot);
    if (d->kind == 2) rc = hub_send(me->transport, 0, &m, "", 0, HUB_FOREVER);
    while (d->kind >= WAITING && (rc = try_without_waiting(me, d->kind)) != HUB_EHOSTGONE) {
        CHECK(rc == 0 || rc == HUB_EAGAIN || rc == HUB_EEXHAUSTED || rc == HUB_ERINGFULL);
        test_pause();
    }
    CHECK_RC(rc, HUB_EHOSTGONE);
    CHECK_EQ(hub_transport_clean(me->transport), 0);
    check_pattern(me->session, &frame);
    CHECK_OK(hub_slot_free(me->session, &frame.slot));
    memset(kept.data, 1, 1000);
    CHECK_OK(hub_slot_free(me->session, &kept));
    CHECK_RC(hub_recv(me->transport, &frame, HUB_FOREVER), HUB_EHOSTGONE);
    gate_open(&d->result);
    return 0;
}

static int be_host(void *argument) {
    doomed *d = argument;
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    peer_start(host, &p, true, see_the_end, d);
    send_pattern(p.transport, 1000, 5);
    gate_wait(&d->waiting);
    if (d->kind == 0) wait_ring_asleep(host, 2 * p.id + 1);
    if (d->kind == 1) wait_pool_waiter(host, p.id);
    if (d->kind == 2) wait_ring_wanted(host, 2 * p.id);
    CHECK_EQ(kill(getpid(), SIGKILL), 0);
    return 1;
}

static void peers_see_the_host_die(void) {
    for (int kind = 0; kind < KINDS; kind++) {
        doomed d = {kind, {{0, 0}}, {{0, 0}}, -1};
        gate_init(&d.waiting);
        gate_init(&d.result);
        (void)child_wait(child_start(be_host, &d));
        gate_wait(&d.result);
        gate_fini(&d.waiting);
        gate_fini(&d.result);
    }
}

int main(void) {
    test_begin(150);
    unsigned before = open_descriptors();
    RUN(host_waiting_in_each_way);
    if (test_emulated())
        test_say("  hung_up_long_before_the_end: not here, the emulator does not end a first thread");
    else
        RUN(hung_up_long_before_the_end);
    RUN(undelivered_are_known);
    RUN(published_is_delivered);
    RUN(unread_messages_of_several_lives);
    RUN(unread_messages_are_freed_with_the_transport);
    RUN(killed_between_free_and_bell);
    RUN(published_after_the_ring_was_closed);
    RUN(killed_while_streaming);
    RUN(peers_see_the_host_die);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
