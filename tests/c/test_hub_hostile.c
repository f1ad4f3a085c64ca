/* test_hub_hostile.c - a peer that writes what no peer may write, into its rings, the peer table,
 * the allocator's words, anywhere: found, quarantined, counted; the host goes on with the others.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session.h"
#include "stage.h"

typedef struct crime {
    int kind;
    gate done; /* it has been committed */
} crime;

static hub_desc_shm *next_desc(hub_session *s) {
    hub_ring_shm *up = hub_session_ring(s, hub_ring_up(s->id));
    uint64_t tail = hub_load_relaxed_64(&up->tail);
    return (hub_desc_shm *)((unsigned char *)(up + 1) +
                            (tail & (s->segment.geometry.ring_capacity - 1)) * HUB_CELL);
}

/* A descriptor by hand. */
static void publish(hub_session *s, uint32_t ref, uint32_t gen, uint64_t length,
                    uint32_t sequence_off) {
    hub_ring_shm *up = hub_session_ring(s, hub_ring_up(s->id));
    hub_desc_shm *d = next_desc(s);
    uint64_t tail = hub_load_relaxed_64(&up->tail);
    memset(d, 0, sizeof *d);
    d->message_id = 666;
    d->ref = ref;
    d->gen = gen;
    d->length = length;
    d->cells = 1;
    d->sequence = (uint32_t)tail + sequence_off;
    hub_store_release_64(&up->tail, tail + 1);
}

static int commit_crime(peer_side *me) {
    crime *c = me->argument;
    hub_session *s = me->session;
    hub_ring_shm *up = hub_session_ring(s, hub_ring_up(s->id));
    hub_ring_shm *down = hub_session_ring(s, hub_ring_down(s->id));
    hub_slot slot; /* it holds something; in the last case something large, hardly backed */
    CHECK_OK(hub_alloc(me->transport, c->kind == 11 ? 16 * KIB + 1 : 1000, HUB_NOW, &slot));
    uint64_t tail = hub_load_relaxed_64(&up->tail);
    switch (c->kind) {
    case 0: hub_store_release_64(&up->tail, tail + 100); break;
    case 1: hub_store_release_64(&up->tail, tail - 1); break;
    case 2: publish(s, HUB_REF_NONE, 0, 5, 1); break;
    case 3: publish(s, HUB_REF_NONE, 0, 241, 0); break;
    case 4: publish(s, HUB_REF_NONE, 0, 100, 0); break; /* longer than its one cell */
    /* Slots: forged, free, its own but not handed over, of a wrong generation. */
    case 5: publish(s, hub_ref_make(7, 0), 0, 5, 0); break;
    case 6: publish(s, hub_ref_make(0, 0x1FFFFFFF), 0, 5, 0); break;
    case 7: publish(s, slot.ref, slot.gen, 1000, 0); break;
    case 8: publish(s, slot.ref, slot.gen + 1, 1000, 0); break;
    default: /* handed over, longer than the slot, or than its backing */
        CHECK_OK(hub_pool_move(&s->pool, slot.ref, slot.gen, HUB_OWNED, s->id, HUB_RING,
                               hub_ring_up(s->id)));
        publish(s, slot.ref, slot.gen, c->kind == 9 ? 1025 : c->kind == 10 ? UINT64_MAX : MIB, 0);
    }
    hub_store_release_32(&down->closed, 0xFFFFFFFF); /* nothing that the host would believe */
    gate_open(&c->done);
    for (;;) (void)pause();
    return 0;
}

static void each_crime_is_found(void) {
    for (int kind = 0; kind <= 11; kind++) {
        hub_config config = config_tiny();
        hub_session *host = host_open(&config);
        peer p;
        crime c = {kind, {{0, 0}}};
        hub_frame frame;
        /* 7, 8, 11: what the slot's own words contradict may be a third one's doing. */
        bool its_own_doing = kind != 7 && kind != 8 && kind != 11;
        gate_init(&c.done);
        peer_start(host, &p, true, commit_crime, &c);
        gate_wait(&c.done);
        CHECK_RC(hub_recv(p.transport, &frame, HUB_NOW), HUB_EVIOLATION);
        hub_event event = wait_event(host, HUB_EVENT_VIOLATION, p.id);
        CHECK_EQ(event.pid, p.pid);
        CHECK(event.detail[0] != 0);
        hub_stat *stat = malloc(sizeof *stat);
        CHECK_OK(hub_session_stat(host, stat));
        CHECK_EQ(stat->violations, 1);
        CHECK_EQ(stat->deaths, 0);
        free(stat);
        if (its_own_doing) {
            hub_gone gone;
            hub_message m = message_of(1);
            CHECK_EQ(peer_state(host, p.id), HUB_PEER_QUARANTINED);
            CHECK_RC(hub_recv(p.transport, &frame, HUB_FOREVER), HUB_EPEERGONE);
            CHECK_RC(hub_send(p.transport, HUB_TO_DEFAULT, &m, "", 0, HUB_FOREVER), HUB_EPEERGONE);
            CHECK_EQ(hub_transport_gone(p.transport, &gone), 1);
            CHECK_EQ(gone.alive, 1);
            free(gone.ids);
        } else {
            /* The message is stepped over; the ring itself is sound. */
            CHECK_RC(hub_recv(p.transport, &frame, HUB_NOW), HUB_EAGAIN);
            CHECK_EQ(peer_state(host, p.id), HUB_PEER_ACTIVE);
        }
        CHECK_EQ(host_owned(host), 1); /* nothing is taken back while its process lives */
        peer_kill(host, &p);
        gate_fini(&c.done);
        host_close(host);
    }
}

/* The head of the ring that it reads: the host finds it when it sends. */
static int lie_about_reading(peer_side *me) {
    crime *c = me->argument;
    hub_ring_shm *down = hub_session_ring(me->session, hub_ring_down(me->session->id));
    hub_store_release_64(&down->head,
                         hub_load_relaxed_64(&down->head) + (c->kind ? 1 : 1ULL << 40));
    gate_open(&c->done);
    for (;;) (void)pause();
    return 0;
}

static void lying_head_is_found(void) {
    for (int kind = 0; kind < 2; kind++) {
        hub_config config = config_tiny();
        hub_session *host = host_open(&config);
        peer p;
        crime c = {kind, {{0, 0}}};
        hub_message m = message_of(1);
        gate_init(&c.done);
        peer_start(host, &p, true, lie_about_reading, &c);
        gate_wait(&c.done);
        CHECK_RC(hub_send(p.transport, HUB_TO_DEFAULT, &m, "", 0, soon()), HUB_EVIOLATION);
        CHECK_EQ(peer_state(host, p.id), HUB_PEER_QUARANTINED);
        CHECK_RC(hub_send(p.transport, HUB_TO_DEFAULT, &m, "", 0, soon()), HUB_EPEERGONE);
        peer_kill(host, &p);
        gate_fini(&c.done);
        host_close(host);
    }
}

/* Says that it has left, without having hung up, and goes on. */
static int pretend_to_leave(peer_side *me) {
    crime *c = me->argument;
    hub_session *s = me->session;
    hub_slot slot;
    CHECK_OK(hub_alloc(me->transport, 1000, HUB_NOW, &slot));
    hub_store_release_64(&hub_session_peer(s, s->id)->state,
                         hub_state_make(s->epoch, c->kind ? HUB_PEER_LEFT : HUB_PEER_LEAVING));
    hub_session_ring_bell(s);
    gate_open(&c->done);
    for (;;) (void)pause();
    return 0;
}

/* Not believed: its id would be another's while it writes into the rings, and anybody else could
 * have said it. */
static void who_says_left_and_stays_is_there(void) {
    for (int kind = 0; kind < 2; kind++) {
        hub_config config = config_tiny();
        hub_session *host = host_open(&config);
        peer p;
        crime c = {kind, {{0, 0}}};
        hub_frame frame;
        hub_message m = message_of(1);
        gate_init(&c.done);
        peer_start(host, &p, true, pretend_to_leave, &c);
        gate_wait(&c.done);
        CHECK_RC(hub_recv(p.transport, &frame, hub_clock_ns() + 200000000), HUB_ETIMEDOUT);
        CHECK_OK(hub_send(p.transport, HUB_TO_DEFAULT, &m, "", 0, HUB_NOW));
        CHECK_EQ(host_owned(host), 1); /* nothing is taken back while its process lives */
        peer_kill(host, &p);
        gate_fini(&c.done);
        host_close(host);
    }
}

/* In an all-peers transport the others go on. */
static int echo_one(peer_side *me) {
    hub_frame frame;
    receive(me->transport, &frame);
    send_bytes(me->transport, "", 0, frame.message.message_id);
    return hub_recv(me->transport, &frame, soon()) == HUB_EHOSTGONE ? 0 : 1;
}

static void others_go_on(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_transport *t;
    peer bad, good;
    crime c = {2, {{0, 0}}};
    hub_frame frame;
    hub_gone gone;
    gate_init(&c.done);
    CHECK_OK(hub_transport_open_host(host, "all", &t, NULL));
    peer_start(host, &bad, false, commit_crime, &c);
    peer_start(host, &good, false, echo_one, NULL);
    gate_wait(&c.done);
    hub_message m = message_of(44);
    CHECK_OK(hub_send(t, good.id, &m, "", 0, soon()));
    bool violated = false, told = false, answered = false;
    while (!violated || !told || !answered) {
        int rc = hub_recv(t, &frame, soon());
        if (rc == HUB_EVIOLATION) {
            violated = true;
        } else if (rc == HUB_EPEERGONE) {
            CHECK_EQ(hub_transport_gone(t, &gone), 1);
            CHECK_EQ(gone.peer_id, bad.id);
            CHECK_EQ(gone.alive, 1);
            free(gone.ids);
            told = true;
        } else {
            CHECK_OK(rc);
            CHECK_EQ(frame.peer_id, good.id);
            answered = true;
        }
        /* The bad one set no ready bit: whoever looks at it does so on its own account. */
        (void)hub_fetch_or_acq_rel_64(&hub_session_signals(host)->ready, 1ULL << bad.id);
    }
    peer_kill(host, &bad);
    hub_transport_close(t);
    peer_join(host, &good);
    hub_transport_unref(t);
    gate_fini(&c.done);
    host_close(host);
}

/* ---- anything anywhere ----------------------------------------------------------------------- */

/* Random words of the metadata, for ever; not the payloads, which nobody believes anyway. */
static int scribble(peer_side *me) {
    hub_session *s = me->session;
    const hub_geometry *g = &s->segment.geometry;
    test_random r = {*(uint64_t *)me->argument};
    for (;;) {
        uint64_t at = random_below(&r, g->data_offset / 8) * 8;
        uint64_t own = hub_block_offset(g, s->id);
        if (random_below(&r, 2)) at = own + random_below(&r, g->block_stride / 8) * 8;
        uint64_t word = random_below(&r, 3) ? random_next(&r) : random_below(&r, 20);
        __atomic_store_n((uint64_t *)(void *)(s->segment.base + at), word, __ATOMIC_RELAXED);
        for (uint64_t n = random_below(&r, 500); n > 0; n--) hub_pause();
    }
    return 0;
}

static void host_survives_scribbling(void) {
    unsigned violations = 0;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        hub_config config = config_tiny();
        hub_session *host = host_open(&config);
        peer bad;
        hub_transport *t = NULL;
        hub_frame frames[4];
        test_random r = {seed};
        hub_stat *stat = malloc(sizeof *stat);
        hub_inspection *look = malloc(sizeof *look);
        bool all = seed % 2 == 0;
        if (all) CHECK_OK(hub_transport_open_host(host, "all", &t, NULL));
        peer_start(host, &bad, !all, scribble, &seed);
        if (!all) t = bad.transport;
        for (unsigned i = 0; i < test_rounds(20000); i++) {
            hub_slot slot;
            hub_message m = message_of(i);
            unsigned char bytes[300] = {0};
            int rc = hub_recv(t, &frames[0], HUB_NOW);
            if (rc == 0 && frames[0].slot.data != NULL) (void)hub_slot_free(host, &frames[0].slot);
            rc = hub_recv_many(t, frames, 4);
            for (int n = 0; n < rc; n++)
                if (frames[n].slot.data != NULL) (void)hub_slot_free(host, &frames[n].slot);
            rc = hub_send(t, bad.id, &m, bytes, random_below(&r, 300), HUB_NOW);
            CHECK(rc <= 0);
            rc = hub_alloc(t, random_below(&r, 20000), HUB_NOW, &slot);
            if (rc == 0) {
                slot.data[0] = 1;
                (void)hub_slot_free(host, &slot);
            }
            if (i % 100 == 0) {
                (void)hub_session_trim(host);
                CHECK_OK(hub_session_stat(host, stat));
                rc = hub_inspect(hub_session_fd(host), look, NULL);
                CHECK(rc == 0 || rc == HUB_EFORMAT);
            }
        }
        CHECK_OK(hub_session_stat(host, stat));
        violations += stat->violations > 0;
        (void)kill(bad.pid, SIGKILL);
        (void)child_wait(bad.pid);
        peer_wait_free(host, bad.id);
        peer_drop(&bad);
        hub_session_close(host);
        if (all) hub_transport_unref(t);
        hub_session_unref(host);
        free(stat);
        free(look);
    }
    CHECK_REL(violations, >, 0);
}

int main(void) {
    test_begin(150);
    RUN(each_crime_is_found);
    RUN(lying_head_is_found);
    RUN(who_says_left_and_stays_is_there);
    RUN(others_go_on);
    RUN(host_survives_scribbling);
    return test_end();
}
