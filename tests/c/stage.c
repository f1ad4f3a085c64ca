/* stage.c - see stage.h. */
#define _GNU_SOURCE
#include "stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

hub_config config_tiny(void) {
    hub_config config = config_of_one(1 * KIB, 8);
    config_add(&config, 16 * KIB, 4, 4);
    config_add(&config, 1 * MIB, 2, 2);
    config.max_peers = 6;
    config.ring_capacity = 16;
    return config;
}

hub_session *host_open(const hub_config *config) {
    hub_session *host;
    hub_fault fault = {0, ""};
    int rc = hub_host_create(NULL, config, &host, &fault);
    /* valgrind before 3.21 knows no pidfd_open. */
    if (rc == HUB_EUNSUPPORTED && test_emulated()) test_skip(fault.text);
    CHECK_OK_FAULT(rc, fault);
    return host;
}

void host_can_be(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_session_close(host);
    hub_session_unref(host);
}

typedef struct start {
    int hub_fd, doorbell_fd;
    uint32_t id;
    int (*body)(peer_side *);
    void *argument;
} start;

static int be_peer(void *argument) {
    start *s = argument;
    char path[64];
    hub_fault fault = {0, ""};
    peer_side side = {NULL, NULL, s->argument};
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", s->hub_fd);
    CHECK_OK_FAULT(hub_peer_open(path, s->id, &side.session, &fault), fault);
    CHECK_OK_FAULT(hub_peer_register(side.session, &fault), fault);
    CHECK_OK_FAULT(hub_transport_open_peer(side.session, s->doorbell_fd, "peer", soon(),
                                           &side.transport, &fault),
                   fault);
    int status = s->body(&side);
    if (side.transport != NULL) {
        hub_transport_close(side.transport);
        hub_transport_unref(side.transport);
    }
    if (side.session != NULL) {
        hub_session_close(side.session);
        hub_session_unref(side.session);
    }
    return status;
}

void peer_start(hub_session *host, peer *p, bool own_transport, int (*body)(peer_side *),
                void *argument) {
    int peer_fd;
    char name[HUB_NAME_MAX] = "tester";
    memset(p, 0, sizeof *p);
    CHECK_OK(hub_host_add_peer(host, name, &p->link, &peer_fd));
    p->id = hub_link_peer_id(p->link);
    if (own_transport)
        CHECK_OK(hub_transport_open_host_peer(host, p->link, name, &p->transport, NULL));
    start s = {hub_session_fd(host), peer_fd, p->id, body, argument};
    p->pid = child_start(be_peer, &s);
    hub_link_close_peer_fd(p->link);
}

uint32_t peer_state(hub_session *host, uint32_t id) {
    hub_stat *stat = malloc(sizeof *stat);
    uint32_t state = HUB_PEER_FREE;
    CHECK(stat != NULL);
    CHECK_OK(hub_session_stat(host, stat));
    for (uint32_t i = 0; i < stat->peer_count; i++)
        if (stat->peers[i].peer_id == id) state = stat->peers[i].state;
    free(stat);
    return state;
}

static void wait_state(hub_session *host, uint32_t id, uint32_t state) {
    int64_t deadline = soon();
    while (peer_state(host, id) != state) {
        if (hub_clock_ns() > deadline)
            FAIL("peer %u is %s and does not become %s", id,
                 hub_peer_state_name(peer_state(host, id)), hub_peer_state_name(state));
        test_pause();
    }
}

void peer_wait_active(hub_session *host, const peer *p) {
    wait_state(host, p->id, HUB_PEER_ACTIVE);
}
void peer_wait_free(hub_session *host, uint32_t id) { wait_state(host, id, HUB_PEER_FREE); }

void peer_drop(peer *p) {
    if (p->transport != NULL) {
        hub_transport_close(p->transport);
        hub_transport_unref(p->transport);
    }
    hub_link_unref(p->link);
    p->transport = NULL;
    p->link = NULL;
}

void peer_kill(hub_session *host, peer *p) {
    child_kill(p->pid);
    peer_wait_free(host, p->id);
    peer_drop(p);
}

void peer_join(hub_session *host, peer *p) {
    child_ok(p->pid);
    peer_wait_free(host, p->id);
    peer_drop(p);
}

uint32_t host_owned(hub_session *host) {
    hub_stat *stat = malloc(sizeof *stat);
    uint32_t count = 0;
    CHECK(stat != NULL);
    CHECK_OK(hub_session_stat(host, stat));
    for (uint32_t k = 0; k < stat->class_count; k++)
        count += stat->classes[k].owned + stat->classes[k].in_ring + stat->classes[k].shared;
    free(stat);
    return count;
}

void host_check_all_free(hub_session *host) { CHECK_EQ(host_owned(host), 0); }

void host_close(hub_session *host) {
    host_check_all_free(host);
    hub_session_close(host);
    hub_session_unref(host);
}

int64_t soon(void) { return hub_clock_ns() + (60 + TEST_STANDSTILL) * 1000000000LL; }

hub_message message_of(uint64_t id) {
    hub_message m = {id, 0, 0, 0, 0};
    return m;
}

void send_bytes(hub_transport *t, const void *data, uint64_t length, uint64_t id) {
    hub_message m = message_of(id);
    int rc;
    do {
        rc = hub_send(t, HUB_TO_DEFAULT, &m, data, length, soon());
    } while (rc == HUB_EINTR); /* a SIGCONT, say: nothing was done, again */
    CHECK_OK(rc);
}

void send_pattern(hub_transport *t, uint64_t length, uint64_t id) {
    unsigned char *bytes = malloc(length + 1);
    CHECK(bytes != NULL);
    pattern_write(bytes, length, id);
    send_bytes(t, bytes, length, id);
    free(bytes);
}

const unsigned char *frame_data(const hub_frame *frame) {
    return frame->slot.data != NULL ? frame->slot.data : frame->inline_data;
}

void check_pattern(hub_session *s, const hub_frame *frame) {
    (void)s;
    pattern_check(frame_data(frame), frame->length, frame->message.message_id);
}

void frame_free(hub_session *s, const hub_frame *frame) {
    if (frame->slot.data != NULL) CHECK_OK(hub_slot_free(s, &frame->slot));
}

void receive(hub_transport *t, hub_frame *frame) {
    int rc;
    do {
        rc = hub_recv(t, frame, soon());
    } while (rc == HUB_EINTR);
    CHECK_OK(rc);
}

hub_event wait_event(hub_session *host, uint32_t kind, uint32_t peer_id) {
    hub_event event;
    int64_t deadline = soon();
    for (;;) {
        while (hub_host_next_event(host, &event))
            if (event.kind == kind && event.peer_id == peer_id) return event;
        if (hub_clock_ns() > deadline) FAIL("no event %u about peer %u", kind, peer_id);
        test_pause();
    }
}

static hub_inspection *inspected(hub_session *host) {
    hub_inspection *look = malloc(sizeof *look);
    CHECK(look != NULL);
    CHECK_OK(hub_inspect(hub_session_fd(host), look, NULL));
    return look;
}

enum armed { SLEEPING, WANT, WAITERS };
static void wait_armed(hub_session *host, enum armed what, uint32_t number) {
    int64_t deadline = soon();
    for (;;) {
        hub_inspection *look = inspected(host);
        uint64_t found = what == SLEEPING ? look->rings[number].sleeping
                         : what == WANT   ? look->rings[number].want
                                          : look->waiters >> number & 1;
        free(look);
        if (found != 0) return;
        if (hub_clock_ns() > deadline) FAIL("nobody is armed (%d, %u)", (int)what, number);
        test_pause();
    }
}
void wait_ring_asleep(hub_session *host, uint32_t ring) { wait_armed(host, SLEEPING, ring); }
void wait_ring_wanted(hub_session *host, uint32_t ring) { wait_armed(host, WANT, ring); }
void wait_pool_waiter(hub_session *host, uint32_t peer_id) { wait_armed(host, WAITERS, peer_id); }
