/* test_hub_every_instruction.c - a peer killed at every instruction of send (inline, copied, moved,
 * forwarded, several), receive, arming, sleeping and waking, waiting for room: what it published
 * arrives once, in order and intact, nothing else does; what it never took is said to be so; who
 * waited for it is served or told.
 *
 * A sample, another one each time; SHMHUB_STRIDE=1 for every instruction. */
#include "check.h"
#include "scene.h"

/* ---- sending ------------------------------------------------------------------------------- */

static int send_of(victim *v, uint64_t length, int64_t deadline) {
    return hub_send(v->transport, HUB_TO_DEFAULT, &v->messages[0], v->bytes[0], length, deadline);
}
static int send_descriptor(victim *v) { return send_of(v, 16, HUB_NOW); }
static int send_inline(victim *v) { return send_of(v, 200, HUB_NOW); }
static int send_copied(victim *v) { return send_of(v, 1000, HUB_NOW); }
static void have_a_slot(victim *v) {
    CHECK_OK(hub_alloc(v->transport, 16 * KIB, soon(), &v->held[0]));
    pattern_write(v->held[0].data, 16 * KIB, 0);
}
static int send_moved(victim *v) {
    return hub_send_slot(v->transport, HUB_TO_DEFAULT, &v->messages[0], &v->held[0], 16 * KIB,
                         HUB_NOW);
}
static int forward(victim *v) {
    int rc = hub_recv(v->transport, &v->frame, HUB_NOW);
    if (rc != 0) return rc; /* in a crowd there may be none yet */
    if (v->frame.slot.data == NULL)
        return hub_send(v->transport, HUB_TO_DEFAULT, &v->frame.message, v->frame.inline_data,
                        v->frame.length, HUB_NOW);
    return hub_send_slot(v->transport, HUB_TO_DEFAULT, &v->frame.message, &v->frame.slot,
                         v->frame.length, HUB_NOW);
}
static void inline_and_slots(victim *v) {
    static const size_t lengths[] = {16, 200, 1000, 0, 104, 904};
    for (unsigned i = 0; i < 6; i++) v->buffers[i].length = lengths[i];
}
static int send_many(victim *v) {
    size_t sent;
    return hub_send_many(v->transport, HUB_TO_DEFAULT, v->messages, v->buffers, 6, HUB_NOW, &sent);
}
/* 15 of 16 cells are full, the next message wants 5. */
static void ring_full(victim *v) {
    static unsigned char bytes[200];
    for (unsigned i = 0; i < 3; i++) {
        hub_message m = message_of(i);
        pattern_write(bytes, sizeof bytes, i);
        if (hub_send(v->transport, HUB_TO_DEFAULT, &m, bytes, sizeof bytes, HUB_NOW) != 0) break;
        v->count++;
    }
    v->messages[0] = message_of(v->count);
    pattern_write(v->bytes[0], sizeof v->bytes[0], v->count);
    v->count = 0;
}
static int send_when_room(victim *v) { return send_of(v, 200, HUB_FOREVER); }
static void ring_full_and_a_slot(victim *v) {
    have_a_slot(v);
    ring_full(v);
    uint64_t id = v->messages[0].message_id;
    hub_message m = message_of(id);
    if (hub_send(v->transport, HUB_TO_DEFAULT, &m, v->bytes[0], 0, HUB_NOW) == 0) id++;
    v->messages[0] = message_of(id);
    pattern_write(v->held[0].data, 16 * KIB, id);
}
static int send_slot_when_room(victim *v) {
    return hub_send_slot(v->transport, HUB_TO_DEFAULT, &v->messages[0], &v->held[0], 16 * KIB,
                         HUB_FOREVER);
}

/* ---- receiving ----------------------------------------------------------------------------- */

static int receive_one(victim *v) { return hub_recv(v->transport, &v->frame, HUB_NOW); }
static void take_the_first(victim *v) { /* it has a slot, the next one has none */
    if (hub_recv(v->transport, &v->frame, HUB_NOW) == 0 && v->frame.slot.data != NULL)
        CHECK_OK(hub_slot_free(v->session, &v->frame.slot));
}
static int receive_and_free(victim *v) {
    int rc = hub_recv(v->transport, &v->frame, HUB_NOW);
    if (rc == 0 && v->frame.slot.data != NULL) rc = hub_slot_free(v->session, &v->frame.slot);
    return rc;
}
static int receive_many(victim *v) {
    static hub_frame frames[4];
    int rc = hub_recv_many(v->transport, frames, 4);
    return rc > 0 ? 0 : rc;
}
static int receive_waiting(victim *v) { return hub_recv(v->transport, &v->frame, HUB_FOREVER); }

/* ---- arming, for event loops --------------------------------------------------------------- */

static int arm(victim *v) {
    int rc = hub_poll_recv(v->transport, &v->frame, 0);
    (void)hub_poll_arm(v->transport, HUB_TO_DEFAULT, HUB_POLL_ALLOC, 10);
    (void)hub_poll_arm(v->transport, HUB_TO_DEFAULT, HUB_POLL_SEND, 10);
    return rc;
}
static void armed(victim *v) { (void)arm(v); }
static int cancel(victim *v) {
    hub_poll_cancel(v->transport, HUB_POLL_ALLOC);
    hub_poll_cancel(v->transport, HUB_POLL_SEND);
    hub_drain(v->transport);
    return 0;
}

static const operation operations[] = {
    {"send-descriptor", world_as_it_is, 0, prepare_nothing, send_descriptor, NULL, 0, 0},
    {"send-inline", world_as_it_is, 0, prepare_nothing, send_inline, NULL, 0, 0},
    {"send-inline-awaited", world_as_it_is, 0, prepare_nothing, send_inline, NULL, 0,
     SCENE_RECEIVER},
    {"send-copied", world_as_it_is, 0, prepare_nothing, send_copied, NULL, 0, 0},
    {"send-slot", world_as_it_is, 0, have_a_slot, send_moved, NULL, 0, 0},
    {"send-slot-awaited", world_as_it_is, 0, have_a_slot, send_moved, NULL, 0, SCENE_RECEIVER},
    {"send-forwarded", world_as_it_is, 1, prepare_nothing, forward, NULL, 0, 0},
    {"send-many", world_as_it_is, 0, inline_and_slots, send_many, NULL, 0, 0},
    {"send-waits-for-room", world_as_it_is, 0, ring_full, send_when_room, asleep_until_room, 0, 0},
    {"send-slot-waits-for-room", world_as_it_is, 0, ring_full_and_a_slot, send_slot_when_room,
     asleep_until_room, 0, 0},
    {"receive-slot", world_as_it_is, 1, prepare_nothing, receive_one, NULL, 0, 0},
    {"receive-inline", world_as_it_is, 3, take_the_first, receive_one, NULL, 0, 0},
    {"receive-and-free", world_as_it_is, 1, prepare_nothing, receive_and_free, NULL, 0, 0},
    {"receive-many", world_as_it_is, 4, prepare_nothing, receive_many, NULL, 0, 0},
    {"receive-nothing", world_as_it_is, 0, prepare_nothing, receive_one, NULL, HUB_EAGAIN, 0},
    {"receive-wakes-sender", world_as_it_is, 0, prepare_nothing, receive_many, NULL, 0,
     SCENE_SENDER},
    {"receive-sleeps-wakes", world_as_it_is, 0, prepare_nothing, receive_waiting, asleep_until_told,
     0, 0},
    {"arm", world_as_it_is, 0, prepare_nothing, arm, NULL, HUB_EAGAIN, 0},
    {"disarm", world_as_it_is, 0, armed, cancel, NULL, 0, 0},
};

int main(void) {
    static scene s;
    test_begin(step_seconds());
    unsigned before = open_descriptors();
    scene_open(&s);
    for (unsigned i = 0; i < sizeof operations / sizeof *operations; i++)
        scene_prove(&s, &operations[i]);
    scene_close(&s);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
