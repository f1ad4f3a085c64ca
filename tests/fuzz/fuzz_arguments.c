/* fuzz_arguments.c - every function of hub.h with arguments that make no sense.
 *
 *   fuzz_arguments [--seconds N] [--seed S]
 *
 * Handles are real, but of the wrong role, closed, or of another hub; ids, sizes, lengths,
 * deadlines, descriptors, slots, paths and configurations are anything.  What hub.h promises to
 * refuse is refused with one of its codes, nothing waits longer than it was told, and the hub works
 * as before and is free of everything in the end. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cast.h"
#include "position.h"
#include "stage.h"

#define STEP_SECONDS 60u

static uint64_t calls, accepted;

static const uint64_t edges[] = {0,          1,          2,           7,          15,
                                 16,         17,         63,          64,         65,
                                 240,        241,        1024,        1025,       0xFFFF,
                                 0x10000,    65536 + 1,  0x1FFFFFFF,  0x7FFFFFFF, 0x80000000,
                                 0xFFFFFFFF, 1ULL << 40, 1ULL << 63, UINT64_MAX - 1, UINT64_MAX};

static uint64_t any(test_random *r) {
    if (random_below(r, 4) == 0) return random_next(r);
    return edges[random_below(r, sizeof edges / sizeof *edges)];
}

/* Not one that would wait: the past, now, a moment, what is no time at all. */
static int64_t any_deadline(test_random *r) {
    switch (random_below(r, 4)) {
    case 0: return HUB_NOW;
    case 1: return hub_clock_ns() + (int64_t)random_below(r, 2000000);
    case 2: return -(int64_t)random_below(r, 1000000);
    default: return (int64_t)random_below(r, 1000000);
    }
}

/* A result is one of our codes, or the system's. */
static int known(int rc, const char *what) {
    calls++;
    accepted += rc >= 0;
    if (rc < -4095 && strcmp(hub_strerror(rc), hub_strerror(-99999)) == 0)
        FAIL("%s: %d is no code", what, rc);
    return rc;
}
#define TRY(call) known((call), #call)

static hub_slot any_slot(test_random *r) {
    hub_slot slot = {NULL, any(r), (uint32_t)any(r), (uint32_t)any(r)};
    if (random_below(r, 2))
        slot.ref = hub_ref_make((uint32_t)random_below(r, 8), (uint32_t)random_below(r, 9));
    return slot;
}

static int any_fd(test_random *r, const cast *c) {
    switch (random_below(r, 6)) {
    case 0: return -1;
    case 1: return 100000;
    case 2: return (int)any(r);
    case 3: return hub_session_fd(c->host); /* a regular file */
    case 4: return 0;
    default: return hub_link_fd(c->sides[HONEST_B].link); /* the wrong end */
    }
}

/* ---- by themes ------------------------------------------------------------------------------- */

static void configurations(test_random *r) {
    hub_config config = cast_config();
    hub_session *session;
    hub_fault fault = {0, ""};
    uint32_t k = (uint32_t)random_below(r, 4);
    switch (random_below(r, 8)) {
    case 0: config.class_count = (uint32_t)any(r); break;
    case 1: config.max_peers = (uint32_t)any(r); break;
    case 2: config.ring_capacity = (uint32_t)any(r); break;
    case 3: config.max_bytes = any(r); break;
    case 4: config.spin_ns = (int64_t)any(r); break;
    case 5: config.classes[k].slot_size = any(r); break;
    case 6: config.classes[k].slots = (uint32_t)any(r); break;
    default: config.classes[k].max_slots = (uint32_t)any(r); break;
    }
    /* Valid ones of more than a gigabyte are another test's. */
    hub_geometry g;
    if (hub_layout_compute(&config, &g, NULL) == 0 && g.data_offset > (64ULL << 20)) return;
    if (TRY(hub_host_create(NULL, &config, &session, &fault)) == 0) {
        hub_session_close(session);
        hub_session_unref(session);
    } else {
        CHECK(fault.text[0] != 0);
    }
}

static void paths(test_random *r) {
    static const char *const names[] = {"",      "/",         "/nowhere/at/all", "/dev/null",
                                        "/dev/zero", "/proc/self/fd/0", "/proc/self/fd/99999",
                                        "/proc/self/exe", "."};
    const char *path = names[random_below(r, sizeof names / sizeof *names)];
    hub_session *session;
    hub_fault fault = {0, ""};
    hub_config config = cast_config();
    if (TRY(hub_peer_open(path, (uint32_t)any(r), &session, &fault)) == 0)
        FAIL("'%s' was opened as a hub", path);
    CHECK(fault.text[0] != 0);
    CHECK(TRY(hub_unlink_if_stale(path, &fault)) < 0);
    fault.text[0] = 0;
    CHECK(TRY(hub_host_create(path, &config, &session, &fault)) < 0);
    CHECK(fault.text[0] != 0);
    hub_fsck_totals totals;
    CHECK(TRY(hub_fsck_repair(path, NULL, NULL, &totals, &fault)) < 0);
}

static void descriptors(cast *c, test_random *r) {
    static hub_inspection look;
    hub_fault fault = {0, ""};
    hub_fsck_totals totals;
    int fd = any_fd(r, c);
    bool hub = fd == hub_session_fd(c->host);
    CHECK(TRY(hub_inspect(fd, &look, &fault)) < 0 || hub);
    CHECK(TRY(hub_fsck(fd, NULL, NULL, &totals, &fault)) < 0 || hub);
    (void)TRY(hub_fsck_dump(fd, (uint32_t)any(r), NULL, NULL, &totals, &fault));
    (void)TRY(hub_doorbell_check(fd, &fault));
    (void)TRY(hub_doorbell_peer_closed(fd));
    (void)TRY(hub_doorbell_wait(fd, HUB_NOW));
    if (fd != 0) (void)TRY(hub_doorbell_drain(fd));
    if (!hub && fd != 0) (void)TRY(hub_doorbell_ring(fd));
    hub_link *link;
    int peer_fd;
    if (TRY(hub_host_add_peer(c->host, "watched", &link, &peer_fd)) == 0) {
        c->liars[hub_link_peer_id(link)] = true;
        /* What is no pidfd may be watched all the same: it only ever cancels. */
        (void)TRY(hub_link_watch(link, fd));
        CHECK(TRY(hub_host_remove_peer(c->host, hub_link_peer_id(link))) == 0 ||
              peer_state(c->host, hub_link_peer_id(link)) == HUB_PEER_FREE);
        hub_link_unref(link);
    }
}

/* A host's functions of a peer, a peer's of a host, another hub's link. */
static void roles(cast *c, test_random *r, hub_session *other) {
    hub_session *peer = c->sides[HONEST_A].session;
    hub_link *link = c->sides[HONEST_A].link, *ret_link;
    hub_transport *t;
    hub_fault fault = {0, ""};
    hub_event event;
    hub_fsck_totals totals;
    int fd;
    CHECK_RC(TRY(hub_host_add_peer(peer, "no", &ret_link, &fd)), HUB_EINVAL);
    CHECK_RC(TRY(hub_host_remove_peer(peer, 1)), HUB_ENOPEER);
    CHECK_EQ(TRY(hub_host_next_event(peer, &event)), 0);
    CHECK_RC(TRY(hub_host_fsck(peer, 1, 0, NULL, NULL, &totals)), HUB_EINVAL);
    CHECK_RC(TRY(hub_transport_open_host(peer, "no", &t, &fault)), HUB_EINVAL);
    CHECK_RC(TRY(hub_transport_open_host_peer(peer, link, "no", &t, &fault)), HUB_EINVAL);
    CHECK_RC(TRY(hub_transport_open_host_peer(other, link, "no", &t, &fault)), HUB_EINVAL);
    CHECK_RC(TRY(hub_transport_open_host_peer(c->host, link, "no", &t, &fault)), HUB_EBUSY);
    CHECK_RC(TRY(hub_peer_register(c->host, &fault)), HUB_EINVAL);
    CHECK_RC(TRY(hub_transport_open_peer(c->host, 0, "no", HUB_NOW, &t, &fault)), HUB_EINVAL);
    int bad_fd = any_fd(r, c);
    CHECK_RC(TRY(hub_transport_open_peer(peer, bad_fd, "no", HUB_NOW, &t, &fault)), HUB_EBUSY);
    uint32_t id = (uint32_t)any(r);
    int rc = TRY(hub_host_remove_peer(c->host, id));
    CHECK(rc == HUB_ENOPEER || rc == HUB_ESTATE || (rc == 0 && id > 4 && id < 16));
}

static void slots(cast *c, test_random *r, hub_transport *t, hub_session *s) {
    hub_slot slot, bad = any_slot(r);
    hub_message m = message_of(any(r));
    CHECK_RC(TRY(hub_slot_free(s, &bad)), HUB_ESTALE);
    CHECK_RC(TRY(hub_slot_back(s, &bad, any(r))), HUB_ESTALE);
    uint64_t size = hub_slot_class_size(s, bad.ref);
    CHECK(size == 0 || (size >= 1024 && size <= 256 * 1024));
    int rc = TRY(hub_send_slot(t, cast_to(c, HONEST_A), &m, &bad, any(r), any_deadline(r)));
    CHECK(rc == HUB_ESTALE || rc == HUB_ENOPEER || rc == HUB_ECLOSED);
    size = any(r);
    rc = TRY(hub_alloc(t, size, any_deadline(r), &slot));
    CHECK(rc == 0 || rc == HUB_ETOOLARGE || rc == HUB_EEXHAUSTED || rc == HUB_ETIMEDOUT);
    if (rc == 0) {
        uint64_t length = any(r);
        if (length > slot.capacity) {
            rc = TRY(hub_slot_back(s, &slot, length));
            CHECK(rc == HUB_ETOOLARGE);
            rc = TRY(hub_send_slot(t, HUB_TO_DEFAULT, &m, &slot, length, HUB_NOW));
            CHECK(rc == HUB_EINVAL || rc == HUB_ENOPEER);
        }
        CHECK_OK(TRY(hub_slot_free(s, &slot)));
        CHECK_RC(TRY(hub_slot_free(s, &slot)), HUB_ESTALE); /* twice */
        CHECK_RC(TRY(hub_slot_back(s, &slot, 1)), HUB_ESTALE);
    }
    (void)TRY((int)hub_session_held(s));
}

static void messages(cast *c, test_random *r, hub_transport *t) {
    static const unsigned char bytes[241];
    static hub_frame frames[4];
    hub_message m = message_of(0);
    hub_buffer none = {bytes, 0};
    hub_gone gone;
    size_t sent = 77;
    uint32_t to = (uint32_t)any(r);
    bool there = false; /* peers 1 to 4 are; a message to one is unexpected */
    for (int role = 0; role < ROLES; role++) there |= to == c->sides[role].id || to == 0;
    if (!there && (to != HUB_TO_DEFAULT || t == c->all)) {
        /* One that was given out and taken back, and that nobody has asked about yet, is gone. */
        int rc = TRY(hub_send(t, to, &m, bytes, random_below(r, 242), any_deadline(r)));
        CHECK(rc == HUB_ENOPEER || (rc == HUB_EPEERGONE && to > 4));
        rc = TRY(hub_send_many(t, to, &m, &none, 1, any_deadline(r), &sent));
        CHECK(rc == HUB_ENOPEER || (rc == HUB_EPEERGONE && to > 4));
        CHECK_EQ(sent, 0);
        rc = TRY(hub_poll_arm(t, to, HUB_POLL_SEND, any(r)));
        CHECK(rc == HUB_ENOPEER || (rc == HUB_EPEERGONE && to > 4));
    }
    CHECK_OK(TRY(hub_send_many(t, cast_to(c, HONEST_A), &m, &none, 0, any_deadline(r), &sent)));
    CHECK_EQ(sent, 0);
    CHECK_EQ(TRY(hub_recv_many(t, frames, 0)), 0);
    int rc = TRY(hub_recv(t, frames, any_deadline(r)));
    while (rc == HUB_EPEERGONE) { /* an id that was given out and taken back */
        CHECK_EQ(TRY(hub_transport_gone(t, &gone)), 1);
        CHECK_EQ(gone.never_attached, 1);
        rc = TRY(hub_recv(t, frames, any_deadline(r)));
    }
    CHECK(rc == HUB_EAGAIN || rc == HUB_ETIMEDOUT);
    CHECK_RC(TRY(hub_poll_recv(t, frames, (int64_t)random_below(r, 1000))), HUB_EAGAIN);
    (void)TRY(hub_spin_recv(t, frames, (int64_t)random_below(r, 1000)));
    CHECK_EQ(TRY(hub_transport_gone(t, &gone)), 0);
    hub_poll_cancel(t, (int)any(r));
    hub_drain(t);
}

static void names(test_random *r) {
    CHECK(hub_strerror((int)any(r)) != NULL);
    CHECK(hub_peer_state_name((uint32_t)any(r)) != NULL);
    CHECK(hub_fsck_name((uint32_t)any(r)) != NULL);
    CHECK(hub_fsck_meaning((uint32_t)any(r)) != NULL);
    hub_session_unref(NULL);
    hub_transport_unref(NULL);
    hub_link_unref(NULL);
}

/* Everything of a session and a transport that were closed. */
static void after_the_end(test_random *r) {
    static hub_frame frame;
    hub_config config = cast_config();
    hub_session *host = host_open(&config);
    hub_transport *t, *other;
    hub_link *link;
    hub_message m = message_of(1);
    hub_slot slot, none = any_slot(r);
    hub_fsck_totals totals;
    int fd;
    CHECK_OK(hub_host_add_peer(host, "gone", &link, &fd));
    CHECK_OK(hub_transport_open_host_peer(host, link, "gone", &t, NULL));
    CHECK_OK(hub_alloc(t, 100, HUB_NOW, &slot));
    hub_session_close(host);
    hub_session_close(host);
    hub_transport_close(t);
    CHECK_RC(TRY(hub_send(t, HUB_TO_DEFAULT, &m, "", 0, HUB_FOREVER)), HUB_ECLOSED);
    CHECK_RC(TRY(hub_send_slot(t, HUB_TO_DEFAULT, &m, &slot, 1, HUB_FOREVER)), HUB_ECLOSED);
    CHECK_RC(TRY(hub_recv(t, &frame, HUB_FOREVER)), HUB_ECLOSED);
    CHECK_RC(TRY(hub_alloc(t, 1, HUB_FOREVER, &none)), HUB_ECLOSED);
    CHECK_RC(TRY(hub_poll_arm(t, HUB_TO_DEFAULT, HUB_POLL_ALLOC, 1)), HUB_ECLOSED);
    CHECK_RC(TRY(hub_transport_open_host(host, "late", &other, NULL)), HUB_ECLOSED);
    CHECK_RC(TRY(hub_host_add_peer(host, "late", &link, &fd)), HUB_ECLOSED);
    CHECK_RC(TRY(hub_host_remove_peer(host, 1)), HUB_ECLOSED);
    CHECK_RC(TRY(hub_link_watch(link, 0)), HUB_ECLOSED);
    CHECK_RC(TRY(hub_host_fsck(host, 0, 0, NULL, NULL, &totals)), HUB_ECLOSED);
    CHECK_RC(TRY(hub_session_trim(host) < 0 ? HUB_ECLOSED : 0), HUB_ECLOSED);
    CHECK_EQ(TRY(hub_transport_fd(t)) < 0, 1);
    hub_drain(t);
    hub_poll_cancel(t, HUB_POLL_ALLOC);
    CHECK_OK(TRY(hub_slot_free(host, &slot))); /* a pinned frame may outlive all */
    hub_transport_unref(t);
    hub_link_unref(link);
    hub_session_unref(host);
}

int main(int argc, char **argv) {
    uint64_t seed = 1, seconds = 10;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) FAIL("%s: no option, or it wants a number", argv[i]);
        uint64_t value = strtoull(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--seconds") == 0) seconds = value;
        else if (strcmp(argv[i], "--seed") == 0) seed = value;
        else FAIL("unknown option %s", argv[i]);
    }
    test_begin(STEP_SECONDS);
    position_begin(STEP_SECONDS);
    test_random r = {seed};
    int64_t end = hub_clock_ns() + (int64_t)seconds * 1000000000;
    for (uint64_t n = 0; n == 0 || hub_clock_ns() < end; n++) {
        cast c;
        hub_config config = cast_config();
        hub_session *other = host_open(&config);
        cast_open(&c, random_below(&r, 2));
        for (unsigned i = 0; i < 40; i++) {
            position_note("fuzz_arguments --seed %llu: hub %llu, call %llu",
                          (unsigned long long)seed, (unsigned long long)n,
                          (unsigned long long)calls);
            enum cast_role role = (enum cast_role)random_below(&r, ROLES);
            switch (random_below(&r, 9)) {
            case 0: configurations(&r); break;
            case 1: paths(&r); break;
            case 2: descriptors(&c, &r); break;
            case 3: roles(&c, &r, other); break;
            case 4: slots(&c, &r, cast_transport(&c, role), c.host); break;
            case 5: slots(&c, &r, c.sides[role].peer, c.sides[role].session); break;
            case 6: messages(&c, &r, cast_transport(&c, role)); break;
            case 7: names(&r); break;
            default: after_the_end(&r); break;
            }
            cast_events(&c);
        }
        host_check_all_free(c.host);
        cast_close(&c);
        host_close(other);
    }
    (void)alarm(0);
    (void)printf("%llu calls, %llu of them made sense; every hub free at its end\n",
                 (unsigned long long)calls, (unsigned long long)accepted);
    return test_end();
}
