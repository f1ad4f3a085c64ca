/* test_hub_named.c - a hub with a path, from its creation to its remains: attached by name, looked
 * at from outside, its host killed, its place taken by the next while an old peer lives on. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "stage.h"

static char hub_path[128];

static hub_session *open_named(void) {
    hub_config config = config_tiny();
    hub_session *host;
    hub_fault fault = {0, ""};
    CHECK_OK_FAULT(hub_host_create(hub_path, &config, &host, &fault), fault);
    return host;
}

static int live(void) {
    hub_inspection *look = malloc(sizeof *look);
    hub_fault fault = {0, ""};
    int fd = open(hub_path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_OK_FAULT(hub_inspect(fd, look, &fault), fault);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(look->config.class_count, 3);
    CHECK_REL(look->stat.memory_bytes, >, 0);
    int is_live = look->live;
    free(look);
    return is_live;
}

typedef struct named_peer {
    uint32_t id;
    int doorbell_fd;
} named_peer;

static int attach_by_name(void *argument) {
    named_peer *n = argument;
    hub_session *s;
    hub_transport *t;
    hub_frame frame;
    hub_fault fault = {0, ""};
    CHECK_OK_FAULT(hub_peer_open(hub_path, n->id, &s, &fault), fault);
    CHECK(strcmp(hub_session_path(s), hub_path) == 0);
    CHECK_OK_FAULT(hub_peer_register(s, &fault), fault);
    CHECK_OK_FAULT(hub_transport_open_peer(s, n->doorbell_fd, "named", soon(), &t, &fault), fault);
    receive(t, &frame);
    check_pattern(s, &frame);
    CHECK_OK(hub_send_slot(t, 0, &frame.message, &frame.slot, frame.length, soon()));
    hub_transport_unref(t);
    hub_session_close(s);
    hub_session_unref(s);
    return 0;
}

static void from_creation_to_close(void) {
    hub_session *host = open_named(), *second;
    hub_fault fault = {0, ""};
    hub_config config = config_tiny();
    hub_link *link;
    hub_transport *t;
    hub_frame frame;
    named_peer n;
    CHECK(strcmp(hub_session_path(host), hub_path) == 0);
    CHECK_EQ(live(), 1);
    unsigned before = open_descriptors();
    CHECK_RC(hub_host_create(hub_path, &config, &second, &fault), HUB_EEXISTS);
    CHECK(strstr(fault.text, hub_path) != NULL);
    CHECK_EQ(open_descriptors(), before);
    CHECK_RC(hub_unlink_if_stale(hub_path, &fault), 0);
    CHECK_OK(hub_host_add_peer(host, "named", &link, &n.doorbell_fd));
    CHECK_OK(hub_transport_open_host_peer(host, link, "named", &t, NULL));
    n.id = hub_link_peer_id(link);
    pid_t pid = child_start(attach_by_name, &n);
    hub_link_close_peer_fd(link);
    send_pattern(t, 16 * KIB, 3);
    receive(t, &frame);
    check_pattern(host, &frame);
    frame_free(host, &frame);
    child_ok(pid);
    peer_wait_free(host, n.id);
    hub_transport_unref(t);
    hub_link_unref(link);
    host_close(host);
    CHECK(access(hub_path, F_OK) < 0);
    CHECK_RC(hub_unlink_if_stale(hub_path, &fault), -ENOENT);
    CHECK_RC(hub_peer_open(hub_path, 1, &second, &fault), -ENOENT);
}

/* ---- the host is killed ---------------------------------------------------------------------- */

typedef struct remains {
    gate attached, go_on, through;
} remains;

/* It outlives its host and works on with what it holds of a hub that is nobody's any more. */
static int live_on(peer_side *me) {
    remains *r = me->argument;
    hub_frame frame, other;
    hub_slot slot;
    (void)prctl(PR_SET_PDEATHSIG, 0);
    (void)alarm(60);
    receive(me->transport, &frame);
    gate_open(&r->attached);
    CHECK_RC(hub_recv(me->transport, &other, HUB_FOREVER), HUB_EHOSTGONE);
    gate_wait(&r->go_on);
    check_pattern(me->session, &frame); /* though another hub has its name now */
    CHECK_OK(hub_slot_free(me->session, &frame.slot));
    CHECK_RC(hub_alloc(me->transport, 10, HUB_NOW, &slot), HUB_EHOSTGONE);
    hub_transport_close(me->transport);
    hub_session_close(me->session);
    gate_open(&r->through);
    return 0;
}

static int host_until_killed(void *argument) {
    remains *r = argument;
    hub_session *host = open_named();
    peer p;
    peer_start(host, &p, true, live_on, r);
    send_pattern(p.transport, 1 * MIB, 8);
    gate_wait(&r->attached);
    CHECK_EQ(kill(getpid(), SIGKILL), 0);
    return 1;
}

static void stale_hub_is_replaced_under_an_old_peer(void) {
    remains r;
    gate_init(&r.attached);
    gate_init(&r.go_on);
    gate_init(&r.through);
    (void)child_wait(child_start(host_until_killed, &r));
    CHECK_EQ(access(hub_path, F_OK), 0);
    CHECK_EQ(live(), 0); /* though a process has it mapped */
    hub_session *host = open_named();
    CHECK_EQ(live(), 1);
    peer p;
    hub_frame frame;
    named_peer n;
    CHECK_OK(hub_host_add_peer(host, "new", &p.link, &n.doorbell_fd));
    CHECK_OK(hub_transport_open_host_peer(host, p.link, "new", &p.transport, NULL));
    p.id = n.id = hub_link_peer_id(p.link);
    p.pid = child_start(attach_by_name, &n);
    hub_link_close_peer_fd(p.link);
    gate_open(&r.go_on);
    gate_wait(&r.through);
    send_pattern(p.transport, 1000, 5);
    receive(p.transport, &frame);
    check_pattern(host, &frame);
    frame_free(host, &frame);
    peer_join(host, &p);
    host_close(host);
    CHECK(access(hub_path, F_OK) < 0);
    /* And one that nobody replaces is removed by whoever is asked to. */
    (void)child_wait(child_start(host_until_killed, &r));
    CHECK_RC(hub_unlink_if_stale(hub_path, NULL), 1);
    gate_open(&r.go_on);
    gate_wait(&r.through);
    gate_fini(&r.attached);
    gate_fini(&r.go_on);
    gate_fini(&r.through);
}

/* Not a hub at all: an error for whoever opens it, and for whoever looks. */
static void no_hub(void) {
    hub_session *s;
    hub_inspection *look = malloc(sizeof *look);
    hub_fault fault = {0, ""};
    int fd = open(hub_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    unsigned before = open_descriptors();
    for (size_t length = 0; length < 5000; length += 499) {
        char *bytes = calloc(1, length + 1);
        memset(bytes, 0x5A, length);
        CHECK_EQ(pwrite(fd, bytes, length, 0), length);
        free(bytes);
        CHECK_RC(hub_peer_open(hub_path, 1, &s, &fault), HUB_EFORMAT);
        CHECK_RC(hub_inspect(fd, look, &fault), HUB_EFORMAT);
        CHECK_EQ(open_descriptors(), before);
    }
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(unlink(hub_path), 0);
    CHECK(hub_inspect(-1, look, &fault) < 0);
    free(look);
}

int main(void) {
    test_begin(90);
    host_can_be();
    (void)snprintf(hub_path, sizeof hub_path, "%s/hub", temporary_folder());
    unsigned before = open_descriptors();
    RUN(from_creation_to_close);
    RUN(stale_hub_is_replaced_under_an_old_peer);
    RUN(no_hub);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
