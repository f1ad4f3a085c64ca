/* host_roles.c - what the processes of host_scene.h do. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "doorbell.h"
#include "host_scene.h"
#include "oracle.h"

#define PUBLISHED 4u /* by the victim: 0, 1 inline, 2, 3 in slots */
#define UNREAD 3u    /* by the victim */

static void await(const hub_a32 *flag) {
    while (!hub_load_acquire_32(flag)) test_pause();
}

/* ---- peers ----------------------------------------------------------------------------------- */

typedef struct role_start {
    host_scene *s;
    enum host_role role;
    uint32_t id;
    int doorbell_fd;
} role_start;

/* The host's death, or its good-bye, ends every wait. */
static void until_host_is_gone(hub_transport *t) {
    hub_frame frame;
    int rc;
    do {
        rc = hub_recv(t, &frame, soon());
    } while (rc == 0 && frame.slot.data == NULL);
    CHECK_RC(rc, HUB_EHOSTGONE);
}

static void be_reader(peer_side *me, host_shared *shared) {
    hub_frame kept;
    receive(me->transport, &kept);
    hub_store_release_32(&shared->ready[READER], 1);
    until_host_is_gone(me->transport);
    check_pattern(me->session, &kept); /* what it holds stays readable */
}

static void be_allocator(peer_side *me, host_shared *shared) {
    hub_slot slot;
    await(&shared->go_on[ALLOCATOR]);
    int rc = hub_alloc(me->transport, 600 * KIB, soon(), &slot);
    if (rc == 0) {
        pattern_write(slot.data, 600 * KIB, 7);
        hub_store_release_32(&shared->served, 1);
    } else {
        CHECK_RC(rc, HUB_EHOSTGONE);
    }
    until_host_is_gone(me->transport);
    if (rc == 0) pattern_check(slot.data, 600 * KIB, 7);
}

static void be_writer(peer_side *me, host_shared *shared) {
    unsigned char bytes[200];
    for (uint64_t id = 0;; id++) {
        hub_message m = message_of(id);
        pattern_write(bytes, sizeof bytes, id);
        int rc = hub_send(me->transport, HUB_TO_DEFAULT, &m, bytes, sizeof bytes, soon());
        if (rc != 0) {
            CHECK_RC(rc, HUB_EHOSTGONE);
            return;
        }
        (void)hub_fetch_add_acq_rel_64(&shared->sent[WRITER], 1);
    }
}

static void be_worker(peer_side *me, host_shared *shared) {
    static const uint64_t sizes[] = {1000, 9000, 1000};
    hub_frame frame;
    await(&shared->go_on[WORKER]); /* its slots must not drive the others' into larger classes */
    for (uint64_t round = 0;; round++) {
        if (hub_load_acquire_32(&shared->rest)) {
            hub_store_release_32(&shared->resting, 1);
            while (hub_load_acquire_32(&shared->rest)) test_pause();
            hub_store_release_32(&shared->resting, 0);
        }
        hub_slot held[3];
        unsigned count = 0;
        for (unsigned i = 0; i < 3; i++) {
            int rc = hub_alloc(me->transport, sizes[i], HUB_NOW, &held[count]);
            if (rc == 0) pattern_write(held[count].data, 1000, round + count);
            count += rc == 0;
            if (rc != HUB_EEXHAUSTED && rc != HUB_EHOSTGONE) CHECK_OK(rc);
        }
        hub_message m = message_of(hub_load_acquire_64(&shared->sent[WORKER]));
        int rc = hub_send(me->transport, HUB_TO_DEFAULT, &m, "", 0, HUB_NOW);
        if (rc == 0) (void)hub_fetch_add_acq_rel_64(&shared->sent[WORKER], 1);
        for (unsigned i = 0; i < count; i++) {
            pattern_check(held[i].data, 1000, round + i);
            CHECK_OK(hub_slot_free(me->session, &held[i]));
        }
        (void)hub_fetch_add_acq_rel_64(&shared->rounds, 1);
        hub_store_release_32(&shared->ready[WORKER], 1);
        /* A moment's sleep, as a worker without work has it: there it is told of the host's end. */
        rc = hub_recv(me->transport, &frame, hub_clock_ns() + 200000);
        if (rc == HUB_EHOSTGONE) return;
        CHECK_RC(rc, HUB_ETIMEDOUT);
    }
}

static void be_victim(peer_side *me, host_shared *shared) {
    hub_slot slot;
    static const uint64_t lengths[PUBLISHED] = {10, 200, 1000, 9000};
    for (unsigned i = 0; i < PUBLISHED; i++) send_pattern(me->transport, lengths[i], i);
    for (unsigned i = 0; i < 4; i++) CHECK_OK(hub_alloc(me->transport, 1000, HUB_NOW, &slot));
    for (unsigned i = 0; i < 2; i++) CHECK_OK(hub_alloc(me->transport, 9000, HUB_NOW, &slot));
    CHECK_OK(hub_alloc(me->transport, 600 * KIB, HUB_NOW, &slot));
    hub_store_release_32(&shared->ready[VICTIM], 1);
    for (;;) test_pause(); /* until it is killed */
}

static int be_role(void *argument) {
    role_start *start = argument;
    host_shared *shared = start->s->shared;
    peer_side me = {NULL, NULL, NULL};
    hub_fault fault = {0, ""};
    CHECK_OK_FAULT(hub_peer_open(start->s->path, start->id, &me.session, &fault), fault);
    CHECK_OK_FAULT(hub_peer_register(me.session, &fault), fault);
    CHECK_OK_FAULT(hub_transport_open_peer(me.session, start->doorbell_fd, "role", soon(),
                                           &me.transport, &fault),
                   fault);
    switch (start->role) {
    case READER: be_reader(&me, shared); break;
    case ALLOCATOR: be_allocator(&me, shared); break;
    case WRITER: be_writer(&me, shared); break;
    case WORKER: be_worker(&me, shared); break;
    default: be_victim(&me, shared); break;
    }
    hub_transport_close(me.transport);
    hub_transport_unref(me.transport);
    hub_session_close(me.session);
    hub_session_unref(me.session);
    return 0;
}

pid_t host_start_role(host_scene *s, enum host_role role, uint32_t id, int doorbell_fd) {
    role_start start = {s, role, id, doorbell_fd};
    return child_start(be_role, &start);
}

/* ---- doorbells on their way ------------------------------------------------------------------ */

typedef struct parcel {
    uint32_t role, id;
} parcel;

static void send_doorbell(host_scene *s, enum host_role role, int peer_fd) {
    parcel p = {role, hub_link_peer_id(s->links[role])};
    CHECK_EQ(hub_doorbell_send_message(s->channel[1], &p, sizeof p, &peer_fd, 1), 0);
}

int host_take_doorbell(host_scene *s, enum host_role *ret_role, uint32_t *ret_id) {
    parcel p;
    int fds[HUB_MESSAGE_FDS], rc;
    int32_t pid;
    CHECK_EQ(hub_doorbell_wait(s->channel[0], soon()), 1);
    rc = hub_doorbell_recv_message(s->channel[0], &p, sizeof p, fds, &pid);
    if (rc != (int)sizeof p) FAIL("the host ended before its peers could be started (%d)", rc);
    *ret_role = (enum host_role)p.role;
    *ret_id = p.id;
    return fds[0];
}

/* ---- the host -------------------------------------------------------------------------------- */

static void add(host_scene *s, enum host_role role) {
    int peer_fd;
    CHECK_OK(hub_host_add_peer(s->host, "role", &s->links[role], &peer_fd));
    CHECK_OK(hub_transport_open_host_peer(s->host, s->links[role], "role", &s->transports[role],
                                          NULL));
    send_doorbell(s, role, peer_fd);
    hub_link_close_peer_fd(s->links[role]);
}

/* Everybody does what he is there for; all that waits is asleep. */
static void gather(host_scene *s) {
    for (unsigned role = 0; role < ROLES; role++) {
        if (role == VICTIM && !s->op->reclaims) continue;
        add(s, (enum host_role)role);
    }
    send_pattern(s->transports[READER], 1000, 1);
    if (s->op->reclaims) {
        for (unsigned i = 0; i < UNREAD; i++)
            send_pattern(s->transports[VICTIM], i == 1 ? 100 : 1000, 100 + i);
        await(&s->shared->ready[VICTIM]);
    }
    /* What is left of the largest. */
    while (hub_pool_alloc(&s->host->pool, 600 * KIB, &s->kept[s->kept_count]) == 0) s->kept_count++;
    CHECK_EQ(s->kept_count, s->op->reclaims ? 1 : 2);
    hub_store_release_32(&s->shared->go_on[ALLOCATOR], 1);
    hub_store_release_32(&s->shared->go_on[WORKER], 1);
    await(&s->shared->ready[READER]);
    await(&s->shared->ready[WORKER]);
    wait_ring_asleep(s->host, hub_ring_down(hub_link_peer_id(s->links[READER])));
    wait_ring_wanted(s->host, hub_ring_up(hub_link_peer_id(s->links[WRITER])));
    wait_pool_waiter(s->host, hub_link_peer_id(s->links[ALLOCATOR]));
}

/* All that a dead peer published, in order, then the news. */
static void settle(host_scene *s, enum host_role role, uint64_t published, uint64_t undelivered) {
    hub_frame frame;
    hub_gone gone;
    uint64_t next = 0;
    int rc;
    while ((rc = hub_recv(s->transports[role], &frame, soon())) == 0) {
        CHECK_EQ(frame.message.message_id, next++);
        if (frame.length > 0) check_pattern(s->host, &frame);
        frame_free(s->host, &frame);
    }
    CHECK_RC(rc, HUB_EPEERGONE);
    CHECK_GE(next, published);
    CHECK_LE(next, published + 1); /* it may have died between publishing and counting */
    CHECK_EQ(hub_transport_gone(s->transports[role], &gone), 1);
    CHECK_EQ(gone.undelivered, undelivered);
    for (size_t i = 0; i < gone.undelivered; i++) CHECK_EQ(gone.ids[i], 100 + i);
    free(gone.ids);
    peer_wait_free(s->host, hub_link_peer_id(s->links[role]));
}

static void let_go_of(host_scene *s, enum host_role role) {
    hub_transport_close(s->transports[role]);
    hub_transport_unref(s->transports[role]);
    hub_link_unref(s->links[role]);
}

/* The peers were killed by the test: all of theirs must come back. */
static void settle_all(host_scene *s) {
    if (s->op->reclaims) settle(s, VICTIM, PUBLISHED, UNREAD);
    gate_wait(&s->finish);
    for (unsigned role = 0; role < VICTIM; role++)
        settle(s, (enum host_role)role, hub_load_acquire_64(&s->shared->sent[role]), 0);
    if (s->late != NULL) {
        uint32_t id = hub_link_peer_id(s->late);
        CHECK_OK(hub_host_remove_peer(s->host, id));
        peer_wait_free(s->host, id);
        hub_link_unref(s->late);
    }
    (void)oracle(s->host, true);
    for (unsigned role = 0; role < ROLES; role++)
        if (s->transports[role] != NULL) let_go_of(s, (enum host_role)role);
    host_close(s->host);
}

int host_be(void *argument) {
    host_scene *s = argument;
    hub_config config = host_config();
    hub_fault fault = {0, ""};
    const char *path = s->op->anonymous ? NULL : s->path;
    if (s->op->creates) {
        step_begin(&s->shared->where);
        int rc = hub_host_create(path, &config, &s->host, NULL);
        step_end(&s->shared->where, rc);
        return 0;
    }
    CHECK_OK_FAULT(hub_host_create(path, &config, &s->host, &fault), fault);
    oracle_refill(s->host);
    gather(s);
    if (s->op->reclaims) {
        hub_store_release_32(&s->shared->gathered, 1);
        gate_wait(&s->finish); /* the service thread does it meanwhile */
    } else {
        step_begin(&s->shared->where);
        int rc = s->op->operate(s);
        step_end(&s->shared->where, rc);
        CHECK_OK(rc);
        if (s->op->tells) return 0;
    }
    while (s->kept_count > 0) CHECK_OK(hub_slot_free(s->host, &s->kept[--s->kept_count]));
    settle_all(s);
    return 0;
}
