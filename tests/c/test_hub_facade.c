/* test_hub_facade.c - what a C program sees of hub.h besides messages: defaults, statistics,
 * events, lifetimes of handles, names of codes; and that errno is nobody's business but the
 * caller's. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "stage.h"

static hub_stat *stat_of(hub_session *s) {
    hub_stat *stat = malloc(sizeof *stat);
    CHECK(stat != NULL);
    CHECK_OK(hub_session_stat(s, stat));
    return stat;
}

/* The default hub: the classes of the design with room to grow, and cheap while it is new. */
static void defaults(void) {
    static const uint64_t sizes[] = {1 * KIB, 16 * KIB, 256 * KIB, 4 * MIB,
                                     16 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB};
    static const uint32_t slots[] = {1024, 256, 32, 8, 4, 0, 0, 0};
    hub_config config, effective;
    hub_config_default(&config);
    CHECK_EQ(config.class_count, 8);
    CHECK_EQ(config.max_peers, 32);
    CHECK_EQ(config.ring_capacity, 256);
    CHECK_EQ(config.max_bytes, 0);
    CHECK(config.spin_ns == -1);
    for (int i = 0; i < 8; i++) {
        CHECK_EQ(config.classes[i].slot_size, sizes[i]);
        CHECK_EQ(config.classes[i].slots, slots[i]);
        CHECK_REL(config.classes[i].max_slots, >, slots[i]);
    }
    hub_session *host = host_open(&config);
    hub_session_config(host, &effective);
    CHECK_REL(effective.max_bytes, >, 0); /* a quarter of what there is */
    effective.max_bytes = 0;
    if (!hub_session_limited(host)) CHECK(memcmp(&effective, &config, sizeof config) == 0);
    hub_stat *stat = stat_of(host);
    CHECK_REL(stat->memory_bytes, <, 2 * MIB);
    CHECK_EQ(stat->class_count, effective.class_count);
    CHECK_EQ(stat->peer_count, 1); /* the host itself */
    CHECK_EQ(stat->peers[0].peer_id, 0);
    CHECK_EQ(strcmp(stat->peers[0].name, "host"), 0);
    free(stat);
    CHECK(hub_session_path(host) == NULL);
    CHECK_EQ(hub_session_is_host(host), 1);
    CHECK_EQ(hub_session_id(host), 0);
    CHECK_EQ(hub_session_closed(host), 0);
    host_close(host);
}

static void bad_configuration(void) {
    hub_config config = config_tiny();
    hub_session *host;
    hub_fault fault = {0, ""};
    unsigned before = open_descriptors();
    config.ring_capacity = 100;
    CHECK_RC(hub_host_create(NULL, &config, &host, &fault), HUB_EINVAL);
    CHECK(strstr(fault.text, "ring_capacity") != NULL);
    CHECK_RC(hub_host_create(NULL, &config, &host, NULL), HUB_EINVAL);
    CHECK_EQ(open_descriptors(), before);
}

/* ---- statistics ------------------------------------------------------------------------------ */

static int echo_three_and_hold(peer_side *me) {
    hub_frame frame;
    hub_slot slot;
    gate *gates = me->argument;
    for (int i = 0; i < 3; i++) {
        receive(me->transport, &frame);
        send_bytes(me->transport, frame_data(&frame), frame.length, frame.message.message_id);
        frame_free(me->session, &frame);
    }
    CHECK_OK(hub_alloc(me->transport, 1 * MIB, soon(), &slot));
    gate_open(&gates[0]);
    gate_wait(&gates[1]);
    CHECK_OK(hub_slot_free(me->session, &slot));
    return 0;
}

static void statistics(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    gate gates[2];
    hub_frame frame;
    hub_slot slot;
    static const uint64_t lengths[] = {10, 1000, 16000};
    gate_init(&gates[0]);
    gate_init(&gates[1]);
    peer_start(host, &p, true, echo_three_and_hold, gates);
    for (uint64_t i = 0; i < 3; i++) {
        send_pattern(p.transport, lengths[i], i);
        receive(p.transport, &frame);
        check_pattern(host, &frame);
        frame_free(host, &frame);
    }
    gate_wait(&gates[0]);
    CHECK_OK(hub_alloc(p.transport, 1 * MIB, HUB_NOW, &slot));
    CHECK_RC(hub_alloc(p.transport, 1 * MIB, HUB_NOW, &frame.slot), HUB_EEXHAUSTED);
    hub_stat *stat = stat_of(host);
    CHECK_EQ(stat->peer_count, 2);
    const hub_peer_stat *host_stat = &stat->peers[0], *peer_stat = &stat->peers[1];
    CHECK_EQ(peer_stat->peer_id, p.id);
    CHECK_EQ(peer_stat->pid, p.pid);
    CHECK_EQ(peer_stat->state, HUB_PEER_ACTIVE);
    CHECK_EQ(peer_stat->epoch, hub_link_epoch(p.link));
    CHECK_EQ(strcmp(peer_stat->name, "tester"), 0);
    CHECK_EQ(peer_stat->sent, 3);
    CHECK_EQ(peer_stat->received, 3);
    CHECK_EQ(peer_stat->bytes_sent, 17010);
    CHECK_EQ(peer_stat->bytes_received, 17010);
    CHECK_EQ(peer_stat->owned, 1);
    CHECK_EQ(host_stat->sent, 3);
    CHECK_EQ(host_stat->bytes_received, 17010);
    CHECK_EQ(host_stat->owned, 1);
    CHECK_EQ(stat->classes[2].owned, 2);
    CHECK_EQ(stat->classes[2].free, 0);
    CHECK_GE(stat->classes[2].exhausted, 1);
    CHECK_GE(stat->classes[0].high_water, 1);
    CHECK_EQ(stat->classes[0].free, 8);
    uint64_t memory = stat->memory_bytes;
    free(stat);
    CHECK_OK(hub_slot_free(host, &slot));
    gate_open(&gates[1]);
    peer_join(host, &p);
    /* Nothing is in use: what the slots took is given back when asked. */
    CHECK_GE(hub_session_trim(host), 2 * MIB);
    stat = stat_of(host);
    CHECK_LE(stat->memory_bytes, memory - 2 * MIB);
    CHECK_EQ(stat->detaches, 1);
    free(stat);
    CHECK_EQ(hub_session_trim(host), 0);
    gate_fini(&gates[0]);
    gate_fini(&gates[1]);
    host_close(host);
}

/* ---- slots ----------------------------------------------------------------------------------- */

static void slots_by_hand(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_transport *t;
    hub_slot slot;
    CHECK_OK(hub_transport_open_host(host, "all", &t, NULL));
    CHECK_OK(hub_alloc(t, 20000, HUB_NOW, &slot));
    CHECK_EQ(slot.capacity, 1 * MIB);
    CHECK_EQ(hub_slot_class_size(host, slot.ref), 1 * MIB);
    CHECK_EQ(hub_slot_class_size(host, HUB_REF_NONE), 0);
    pattern_write(slot.data, 20000, 1);
    CHECK_OK(hub_slot_back(host, &slot, 1 * MIB)); /* resize */
    pattern_check(slot.data, 20000, 1);
    memset(slot.data, 2, 1 * MIB);
    CHECK_RC(hub_slot_back(host, &slot, 1 * MIB + 1), HUB_ETOOLARGE);
    CHECK_OK(hub_slot_free(host, &slot));
    CHECK_RC(hub_slot_free(host, &slot), HUB_ESTALE);
    CHECK_RC(hub_alloc(t, 1 * MIB + 1, HUB_FOREVER, &slot), HUB_ETOOLARGE);
    hub_transport_unref(t);
    host_close(host);
}

/* ---- events ---------------------------------------------------------------------------------- */

/* Of more than 256 unread ones the newest are kept. */
static void events_overflow(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_event event;
    uint32_t last_epoch[6] = {0};
    unsigned count = 0;
    for (int i = 0; i < 300; i++) {
        hub_link *link;
        int peer_fd;
        CHECK_OK(hub_host_add_peer(host, "x", &link, &peer_fd));
        last_epoch[hub_link_peer_id(link)] = hub_link_epoch(link);
        CHECK_OK(hub_host_remove_peer(host, hub_link_peer_id(link)));
        peer_wait_free(host, hub_link_peer_id(link));
        hub_link_unref(link);
    }
    hub_event newest = {0};
    while (hub_host_next_event(host, &event)) {
        CHECK_EQ(event.kind, HUB_EVENT_CANCELLED);
        CHECK(event.detail[0] != 0);
        newest = event;
        count++;
    }
    CHECK_EQ(count, 256);
    CHECK_EQ(newest.epoch, last_epoch[newest.peer_id]);
    host_close(host);
}

/* ---- lifetimes ------------------------------------------------------------------------------- */

static int send_one(peer_side *me) {
    send_pattern(me->transport, 1 * MIB, 12);
    return 0;
}

/* A frame outlives its transport, its link and the close of the hub; the mapping goes with the last
 * reference. Closing and dropping in any order, twice where that is allowed. */
static void frames_outlive_everything(void) {
    for (int order = 0; order < 4; order++) {
        hub_config config = config_tiny();
        hub_session *host = host_open(&config), *kept;
        peer p;
        hub_frame frame;
        peer_start(host, &p, true, send_one, NULL);
        receive(p.transport, &frame);
        child_ok(p.pid);
        kept = hub_session_ref(host);
        if (order & 1) hub_session_close(host);
        hub_transport_close(p.transport);
        hub_transport_close(p.transport);
        CHECK_EQ(hub_transport_closed(p.transport), 1);
        hub_transport_unref(p.transport);
        if (order & 2) hub_link_unref(p.link);
        hub_session_close(host);
        hub_session_close(host);
        CHECK_EQ(hub_session_closed(host), 1);
        hub_session_unref(host);
        if (!(order & 2)) hub_link_unref(p.link);
        check_pattern(kept, &frame);
        CHECK_OK(hub_slot_free(kept, &frame.slot));
        CHECK_EQ(host_owned(kept), 0);
        hub_session_unref(kept);
    }
}

static void closed_means_closed(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_transport *t, *other;
    hub_link *link, *late;
    hub_frame frame;
    hub_slot slot;
    hub_message m = message_of(1);
    int peer_fd;
    CHECK_OK(hub_host_add_peer(host, "x", &link, &peer_fd));
    CHECK_OK(hub_transport_open_host_peer(host, link, "x", &t, NULL));
    hub_session_close(host);
    CHECK_RC(hub_recv(t, &frame, HUB_FOREVER), HUB_ECLOSED);
    CHECK_RC(hub_send(t, HUB_TO_DEFAULT, &m, "", 0, HUB_FOREVER), HUB_ECLOSED);
    CHECK_RC(hub_alloc(t, 1, HUB_FOREVER, &slot), HUB_ECLOSED);
    CHECK_EQ(hub_transport_fd(t), -1);
    CHECK_RC(hub_host_add_peer(host, "x", &late, &peer_fd), HUB_ECLOSED);
    CHECK_RC(hub_host_remove_peer(host, 1), HUB_ECLOSED);
    CHECK_RC(hub_link_watch(link, 0), HUB_ECLOSED);
    CHECK_RC(hub_transport_open_host(host, "x", &other, NULL), HUB_ECLOSED);
    CHECK_RC((int)hub_session_trim(host), HUB_ECLOSED);
    CHECK_EQ(hub_link_fd(link), -1);
    hub_link_close_peer_fd(link);
    hub_transport_unref(t);
    hub_link_unref(link);
    hub_session_unref(host);
    /* What is not there can be dropped. */
    hub_session_unref(NULL);
    hub_transport_unref(NULL);
    hub_link_unref(NULL);
}

/* ---- small things ---------------------------------------------------------------------------- */

static void every_code_has_a_name(void) {
    static const int codes[] = {
        HUB_EAGAIN, HUB_ERINGFULL, HUB_EEXHAUSTED, HUB_ETIMEDOUT, HUB_EINTR, HUB_EHOSTGONE,
        HUB_EPEERGONE, HUB_EVIOLATION, HUB_ECLOSED, HUB_EFORKED, HUB_ETOOLARGE, HUB_ESTALE,
        HUB_ESTATE, HUB_ELIMIT, HUB_ENOTATTACHED, HUB_EBUSY, HUB_ENOPEER, HUB_EINVAL, HUB_EFORMAT,
        HUB_EEXISTS, HUB_ENOSPC, HUB_EUNSUPPORTED};
    for (unsigned i = 0; i < sizeof codes / sizeof *codes; i++) {
        const char *name = hub_strerror(codes[i]);
        CHECK(strcmp(name, hub_strerror(-EIO)) != 0);
        for (unsigned j = 0; j < i; j++) CHECK(strcmp(name, hub_strerror(codes[j])) != 0);
    }
    CHECK(hub_strerror(0) != NULL && hub_strerror(-1) != NULL && hub_strerror(-99999) != NULL);
    for (uint32_t state = HUB_PEER_FREE; state <= HUB_PEER_DEAD; state++)
        for (uint32_t other = HUB_PEER_FREE; other < state; other++)
            CHECK(strcmp(hub_peer_state_name(state), hub_peer_state_name(other)) != 0);
    CHECK_EQ(strcmp(hub_peer_state_name(10), "unknown"), 0);
    CHECK_EQ(strcmp(hub_peer_state_name(UINT32_MAX), "unknown"), 0);
}

static int echo_one(peer_side *me) {
    hub_frame frame;
    errno = 777;
    receive(me->transport, &frame);
    CHECK_OK(hub_send_slot(me->transport, 0, &frame.message, &frame.slot, frame.length, soon()));
    CHECK_EQ(errno, 777);
    return 0;
}

/* Through everything that makes system calls. */
static void errno_is_kept(void) {
    hub_config config = config_tiny();
    hub_session *host, *none;
    hub_link *link;
    hub_transport *t;
    hub_inspection *look = malloc(sizeof *look);
    hub_frame frame;
    hub_slot slot;
    hub_event event;
    int peer_fd;
    peer p;
    errno = 777;
    CHECK_OK(hub_host_create(NULL, &config, &host, NULL));
    CHECK(hub_host_create("/nonexistent/hub", &config, &none, NULL) < 0);
    CHECK(hub_peer_open("/nonexistent/hub", 1, &none, NULL) < 0);
    CHECK(hub_unlink_if_stale("/nonexistent/hub", NULL) < 0);
    CHECK_OK(hub_host_add_peer(host, "x", &link, &peer_fd));
    CHECK_RC(hub_link_watch(link, -1), -EBADF);
    CHECK_OK(hub_transport_open_host_peer(host, link, "x", &t, NULL));
    CHECK_RC(hub_recv(t, &frame, HUB_NOW), HUB_EAGAIN);
    CHECK_RC(hub_recv(t, &frame, hub_clock_ns() + 1000000), HUB_ETIMEDOUT);
    CHECK_OK(hub_alloc(t, 1 * MIB, HUB_NOW, &slot));
    CHECK_OK(hub_slot_free(host, &slot));
    CHECK_GE(hub_session_trim(host), 1);
    (void)hub_transport_fd(t);
    hub_drain(t);
    CHECK_OK(hub_inspect(hub_session_fd(host), look, NULL));
    CHECK(hub_inspect(-1, look, NULL) < 0);
    CHECK_OK(hub_host_remove_peer(host, hub_link_peer_id(link)));
    hub_transport_close(t);
    hub_transport_unref(t);
    hub_link_unref(link);
    CHECK_EQ(errno, 777);
    peer_start(host, &p, true, echo_one, NULL);
    errno = 777;
    send_pattern(p.transport, 16 * KIB, 2);
    receive(p.transport, &frame);
    frame_free(host, &frame);
    (void)hub_host_next_event(host, &event);
    CHECK_RC(hub_recv(p.transport, &frame, soon()), HUB_EPEERGONE);
    CHECK_EQ(errno, 777);
    peer_join(host, &p);
    errno = 777;
    hub_session_close(host);
    hub_session_unref(host);
    CHECK_EQ(errno, 777);
    free(look);
}

int main(void) {
    test_begin(60);
    unsigned before = open_descriptors();
    RUN(defaults);
    RUN(bad_configuration);
    RUN(statistics);
    RUN(slots_by_hand);
    RUN(events_overflow);
    RUN(frames_outlive_everything);
    RUN(closed_means_closed);
    RUN(every_code_has_a_name);
    RUN(errno_is_kept);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
