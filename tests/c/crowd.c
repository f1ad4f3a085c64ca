/* crowd.c - see crowd.h. */
#include "crowd.h"

#include <string.h>

#include "check.h"

#define SYNC 1u /* channel of a message that is always answered */

/* ---- the peer ------------------------------------------------------------------------------ */

static const uint64_t sizes[] = {1000, 9000, 200000};
#define SIZES (sizeof sizes / sizeof *sizes)

/* Answers that are there; with `until_sync`, until that one's comes. */
static void take_answers(peer_side *me, bool until_sync) {
    hub_frame frame;
    for (;;) {
        int rc = hub_recv(me->transport, &frame, until_sync ? soon() : HUB_NOW);
        if (rc == HUB_EAGAIN && !until_sync) return;
        CHECK_OK(rc);
        check_pattern(me->session, &frame);
        frame_free(me->session, &frame);
        if (frame.message.channel == SYNC) return;
    }
}

static void talk(peer_side *me, uint64_t id, uint64_t length, unsigned channel, int64_t deadline) {
    unsigned char bytes[1000];
    hub_message m = message_of(id);
    m.channel = (uint16_t)channel;
    pattern_write(bytes, length, id);
    int rc = hub_send(me->transport, HUB_TO_DEFAULT, &m, bytes, length, deadline);
    if (deadline != HUB_NOW || (rc != HUB_ERINGFULL && rc != HUB_EEXHAUSTED)) CHECK_OK(rc);
}

static void synchronise(peer_side *me, uint64_t id) {
    talk(me, id, 10, SYNC, soon());
    take_answers(me, true);
}

static void one_round(peer_side *me, uint64_t number) {
    hub_slot held[2 * SIZES];
    unsigned count = 0;
    for (unsigned i = 0; i < 2 * SIZES; i++) {
        hub_slot *slot = &held[count];
        int rc = hub_alloc(me->transport, sizes[i % SIZES], HUB_NOW, slot);
        if (rc == HUB_EEXHAUSTED) continue;
        CHECK_OK(rc);
        pattern_write(slot->data, 64, number + count);
        pattern_write(slot->data + sizes[i % SIZES] - 64, 64, number + count);
        count++;
    }
    talk(me, number, 200, 0, soon());
    talk(me, number, 1000, 0, HUB_NOW);
    for (unsigned i = 0; i < count; i++) {
        pattern_check(held[i].data, 64, number + i);
        CHECK_OK(hub_slot_free(me->session, &held[i]));
    }
    take_answers(me, false);
    if (number % 2 == 0) synchronise(me, number);
}

static int be_busy(peer_side *me) {
    crowd *c = me->argument;
    for (uint64_t number = 0;; number++) {
        one_round(me, number);
        (void)hub_fetch_add_acq_rel_64(&c->shared->rounds, 1);
        /* Two that wake each other without end are let starve all others by some kernels (6.18). */
        if (number % 4 == 0) test_pause();
        if (!hub_load_acquire_32(&c->shared->pause)) continue;
        synchronise(me, number);
        gate_open(&c->paused);
        gate_wait(&c->resumed);
        if (hub_load_acquire_32(&c->shared->end)) return 0;
    }
}

/* ---- the host's thread --------------------------------------------------------------------- */

static void answer(crowd *c, const hub_frame *frame) {
    bool sync = frame->message.channel == SYNC;
    int rc;
    check_pattern(c->host, frame);
    if (frame->slot.data != NULL) {
        rc = hub_send_slot(c->all, frame->peer_id, &frame->message, &frame->slot, frame->length,
                           HUB_NOW);
        if (rc != 0) frame_free(c->host, frame);
    } else {
        /* It waits for this one, and takes what is before it meanwhile. */
        rc = hub_send(c->all, frame->peer_id, &frame->message, frame->inline_data, frame->length,
                      sync ? soon() : HUB_NOW);
    }
    if (sync || rc != HUB_ERINGFULL) CHECK_OK(rc);
}

static void send_to_victim(crowd *c) {
    uint32_t id = hub_load_acquire_32(&c->victim);
    if (id == 0) return;
    int rc = tally_send(c->tally, c->all, id, HUB_NOW);
    if (rc != HUB_ERINGFULL && rc != HUB_EEXHAUSTED && rc != HUB_EPEERGONE && rc != HUB_ENOPEER)
        CHECK_OK(rc);
}

static void tell_gone(crowd *c) {
    hub_gone gone;
    while (hub_transport_gone(c->all, &gone)) {
        if (gone.peer_id != hub_load_acquire_32(&c->victim)) continue;
        tally_gone(c->tally, &gone);
        hub_store_release_32(&c->victim, 0);
        gate_open(&c->gone);
    }
}

static void *serve(void *argument) {
    crowd *c = argument;
    hub_frame frame;
    for (;;) {
        int rc = hub_recv(c->all, &frame, HUB_FOREVER);
        if (rc == HUB_ECLOSED) return NULL;
        if (rc == HUB_EPEERGONE) {
            tell_gone(c);
            continue;
        }
        CHECK_OK(rc);
        if (frame.peer_id == c->peer.id) {
            answer(c, &frame);
            send_to_victim(c);
        } else {
            CHECK_EQ(frame.peer_id, hub_load_acquire_32(&c->victim));
            tally_take(c->tally, &frame);
        }
    }
}

/* ---- both ---------------------------------------------------------------------------------- */

void crowd_start(crowd *c, hub_session *host) {
    memset(c, 0, sizeof *c);
    c->host = host;
    c->shared = shared_memory(sizeof *c->shared);
    gate_init(&c->paused);
    gate_init(&c->resumed);
    gate_init(&c->gone);
    CHECK_OK(hub_transport_open_host(host, "all", &c->all, NULL));
    peer_start(host, &c->peer, false, be_busy, c);
    CHECK_EQ(pthread_create(&c->thread, NULL, serve, c), 0);
    crowd_rounds(c, 1);
}

void crowd_stop(crowd *c) {
    crowd_pause(c);
    hub_store_release_32(&c->shared->end, 1);
    gate_open(&c->resumed);
    peer_join(c->host, &c->peer);
    hub_transport_close(c->all);
    CHECK_EQ(pthread_join(c->thread, NULL), 0);
    hub_transport_unref(c->all);
    gate_fini(&c->paused);
    gate_fini(&c->resumed);
    gate_fini(&c->gone);
    shared_memory_free(c->shared, sizeof *c->shared);
}

void crowd_victim(crowd *c, tally *t) {
    c->tally = t;
    hub_store_release_32(&c->victim, t->id);
}

void crowd_await_gone(crowd *c) { gate_wait(&c->gone); }

void crowd_rounds(crowd *c, uint64_t rounds) {
    uint64_t from = hub_load_acquire_64(&c->shared->rounds);
    while (hub_load_acquire_64(&c->shared->rounds) - from < rounds) test_pause();
}

void crowd_pause(crowd *c) {
    hub_store_release_32(&c->shared->pause, 1);
    gate_wait(&c->paused);
}

void crowd_resume(crowd *c) {
    hub_store_release_32(&c->shared->pause, 0);
    gate_open(&c->resumed);
}
