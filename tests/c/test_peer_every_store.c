/* test_peer_every_store.c - a peer killed before and after every store to the hub's metadata and
 * every system call of what takes long: register, attach, detach (holding nothing, or slots and
 * unread messages), the last slot freed after that, trim, backing.
 *
 * SHMHUB_STRIDE=1 for every one of them, else a sample. */
#include "check.h"
#include "scene.h"

static int do_register(victim *v) { return hub_peer_register(v->session, NULL); }
static int attach(victim *v) {
    int rc = hub_peer_register(v->session, NULL);
    if (rc == 0)
        rc = hub_transport_open_peer(v->session, v->doorbell_fd, "victim", HUB_FOREVER,
                                     &v->transport, NULL);
    return rc;
}
static int attach_and_leave(victim *v) {
    int rc = attach(v);
    hub_session_close(v->session);
    return rc;
}
static int register_and_leave(victim *v) {
    int rc = do_register(v);
    hub_session_close(v->session);
    return rc;
}
static int detach(victim *v) {
    hub_transport_close(v->transport);
    hub_transport_unref(v->transport);
    hub_session_close(v->session);
    hub_session_unref(v->session);
    return 0;
}
static void full_hands(victim *v) {
    hub_frame frame;
    for (unsigned i = 0; i < 3; i++)
        CHECK_OK(hub_send(v->transport, HUB_TO_DEFAULT, &v->messages[i], v->bytes[i], 104, soon()));
    if (hub_recv(v->transport, &frame, HUB_NOW) == 0) {
        v->held[v->count].data = frame.slot.data;
        v->held[v->count].ref = frame.slot.ref;
        v->held[v->count].gen = frame.slot.gen;
        v->count += frame.slot.data != NULL;
    }
    victim_take(v, 9000, 3);
}
static int detach_then_free(victim *v) {
    hub_transport_close(v->transport);
    while (v->count > 0) CHECK_OK(hub_slot_free(v->session, &v->held[--v->count]));
    hub_session_close(v->session);
    return 0;
}
static int trim(victim *v) { return hub_session_trim(v->session) >= 0 ? 0 : -1; }
static void some_held(victim *v) { victim_take(v, 9000, 2); }
static int back_large(victim *v) {
    int rc = hub_alloc(v->transport, 1 * MIB, HUB_NOW, &v->held[30]);
    if (rc == 0) rc = hub_alloc(v->transport, 1 * MIB, HUB_NOW, &v->held[31]);
    return rc;
}

static const operation operations[] = {
    {"register", world_as_it_is, 0, prepare_nothing, do_register, NULL, 0,
     SCENE_BY_EVENT | SCENE_UNATTACHED},
    {"register-leave", world_as_it_is, 2, prepare_nothing, register_and_leave, NULL, 0,
     SCENE_BY_EVENT | SCENE_UNATTACHED},
    {"attach", world_as_it_is, 2, prepare_nothing, attach, NULL, 0,
     SCENE_BY_EVENT | SCENE_UNATTACHED},
    {"attach-awaited", world_as_it_is, 0, prepare_nothing, attach, NULL, 0,
     SCENE_BY_EVENT | SCENE_UNATTACHED | SCENE_RECEIVER},
    {"attach-leave", world_as_it_is, 0, prepare_nothing, attach_and_leave, NULL, 0,
     SCENE_BY_EVENT | SCENE_UNATTACHED},
    {"detach", world_as_it_is, 2, prepare_nothing, detach, NULL, 0, SCENE_BY_EVENT},
    {"detach-awaited", world_as_it_is, 0, prepare_nothing, detach, NULL, 0,
     SCENE_BY_EVENT | SCENE_RECEIVER | SCENE_SENDER},
    {"detach-holding", world_as_it_is, 4, full_hands, detach, NULL, 0, SCENE_BY_EVENT},
    {"detach-then-free", world_as_it_is, 4, full_hands, detach_then_free, NULL, 0, SCENE_BY_EVENT},
    {"trim", world_as_it_is, 0, prepare_nothing, trim, NULL, 0, SCENE_BY_EVENT},
    {"trim-holding", world_as_it_is, 1, some_held, trim, NULL, 0, SCENE_BY_EVENT},
    {"back-large", world_cold, 0, prepare_nothing, back_large, NULL, 0, SCENE_BY_EVENT},
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
