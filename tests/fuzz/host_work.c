/* host_work.c - see host_work.h. */
#include "host_work.h"

#include <stdlib.h>
#include <string.h>

#include "stage.h"

#define MOMENT_NS 20000
#define HELD_MOST 32u

static uint64_t some_length(test_random *r) {
    static const uint64_t lengths[] = {0,   5,   16,   17,   64,   100,  240,
                                       241, 700, 1024, 1025, 9000, 40000};
    return lengths[random_below(r, sizeof lengths / sizeof *lengths)];
}

static enum cast_role some_role(test_random *r) { return (enum cast_role)random_below(r, ROLES); }

static void take(cast *c, test_random *r, enum cast_role role, int64_t deadline) {
    for (uint64_t n = 1 + random_below(r, 3); n > 0; n--)
        (void)cast_host_takes(c, role, deadline, random_below(r, 2) == 0);
}

static void fill(cast *c, test_random *r, enum cast_role role) {
    for (unsigned n = 0; n < 20; n++) {
        int64_t deadline = hub_clock_ns() + MOMENT_NS;
        if (cast_host_sends(c, role, random_below(r, 241), deadline) != 0) break;
    }
}

/* Until there is nothing: every class is popped, grown, scanned. */
static void drain(cast *c, test_random *r, uint64_t size) {
    hub_slot held[HELD_MOST];
    unsigned n = 0;
    int rc = 0;
    hub_transport *t = cast_transport(c, random_below(r, 2) ? HONEST_A : HONEST_B);
    while (n < HELD_MOST && (rc = hub_alloc(t, size, HUB_NOW, &held[n])) == 0) {
        CHECK_GE(held[n].capacity, size);
        held[n].data[0] = held[n].data[size - 1] = 1;
        n++;
    }
    cast_check_rc(rc, "the host allocates");
    while (n > 0) {
        rc = hub_slot_free(c->host, &held[--n]);
        cast_check_rc(rc, "the host frees");
    }
}

static void alloc_some(cast *c, test_random *r) {
    hub_slot slot;
    uint64_t size = 1 + some_length(r);
    int rc = hub_alloc(cast_transport(c, some_role(r)), size, HUB_NOW, &slot);
    cast_check_rc(rc, "the host allocates");
    if (rc < 0) return;
    slot.data[0] = slot.data[size - 1] = 2;
    if (random_below(r, 3) == 0) {
        rc = hub_slot_back(c->host, &slot, slot.capacity);
        cast_check_rc(rc, "the host backs a slot");
    }
    cast_check_rc(hub_slot_free(c->host, &slot), "the host frees");
}

static void look(cast *c, bool inspect) {
    if (inspect) {
        hub_inspection *seen = malloc(sizeof *seen);
        CHECK(seen != NULL);
        int rc = hub_inspect(hub_session_fd(c->host), seen, NULL);
        CHECK(rc == 0 || rc == HUB_EFORMAT);
        free(seen);
        return;
    }
    hub_stat *stat = malloc(sizeof *stat);
    CHECK(stat != NULL);
    CHECK_OK(hub_session_stat(c->host, stat));
    CHECK_LE(stat->peer_count, HUB_PEERS_MAX);
    for (uint32_t i = 0; i < stat->peer_count; i++)
        CHECK_EQ(stat->peers[i].name[HUB_NAME_MAX - 1], 0);
    free(stat);
}

static void said(void *context, const hub_fsck_finding *finding) {
    (void)context;
    CHECK(hub_fsck_name(finding->kind)[0] != 0);
    CHECK(memchr(finding->found, 0, sizeof finding->found) != NULL);
}

static void check(cast *c, bool repair) {
    hub_fsck_totals totals;
    CHECK_OK(hub_host_fsck(c->host, repair, HUB_FSCK_HELD_UNKNOWN, said, NULL, &totals));
    CHECK_EQ(totals.findings, totals.mended + totals.left);
}

static void poll_as_a_loop(cast *c, test_random *r) {
    enum cast_role role = some_role(r);
    hub_transport *t = cast_transport(c, role);
    hub_frame frame;
    CHECK(hub_transport_fd(t) >= 0);
    int rc = hub_poll_recv(t, &frame, 0);
    cast_check_rc(rc, "a loop receives");
    if (rc == 0) cast_host_got(c, &frame, false);
    cast_check_rc(hub_poll_arm(t, cast_to(c, role), HUB_POLL_SEND, some_length(r)), "a loop arms");
    CHECK_OK(hub_poll_arm(t, 0, HUB_POLL_ALLOC, 100));
    alloc_some(c, r);
    hub_poll_cancel(t, HUB_POLL_SEND);
    hub_poll_cancel(t, HUB_POLL_ALLOC);
    hub_drain(t);
}

static void give_and_cancel(cast *c) {
    hub_link *link;
    int fd, rc = hub_host_add_peer(c->host, "never", &link, &fd);
    CHECK(rc == 0 || rc == HUB_ELIMIT);
    if (rc != 0) return;
    c->liars[hub_link_peer_id(link)] = true; /* what is said about it says nothing of the honest */
    CHECK_OK(hub_host_remove_peer(c->host, hub_link_peer_id(link)));
    hub_link_unref(link);
}

void host_step_do(cast *c, enum host_step step, test_random *r) {
    switch (step) {
    case STEP_TAKE_ONE: take(c, r, some_role(r), HUB_NOW); break;
    case STEP_TAKE_SHORT: take(c, r, some_role(r), hub_clock_ns() + MOMENT_NS); break;
    case STEP_TAKE_ALL:
        for (int role = 0; role < ROLES; role++) take(c, r, role, HUB_NOW);
        break;
    case STEP_SEND: (void)cast_host_sends(c, some_role(r), some_length(r), HUB_NOW); break;
    case STEP_FILL: fill(c, r, some_role(r)); break;
    case STEP_ALLOC: alloc_some(c, r); break;
    case STEP_DRAIN: drain(c, r, 1 + random_below(r, 2) * random_below(r, 70000)); break;
    case STEP_TRIM: CHECK(hub_session_trim(c->host) >= 0); break;
    case STEP_STAT: look(c, false); break;
    case STEP_INSPECT: look(c, true); break;
    case STEP_FSCK: check(c, random_below(r, 4) == 0); break;
    case STEP_BELL:
        hub_session_ring_bell(c->host);
        for (int i = 0; i < 200; i++) hub_pause();
        break;
    case STEP_POLL: poll_as_a_loop(c, r); break;
    case STEP_LEAVE: cast_replace(c, random_below(r, 2) ? LIAR_A : LIAR_B); break;
    case STEP_CANCEL: give_and_cancel(c); break;
    default: break;
    }
}

const enum host_step *host_steps_for(const fuzz_field *field) {
    static const enum host_step looking[] = {STEP_INSPECT, HOST_STEPS};
    static const enum host_step counting[] = {STEP_STAT, STEP_DRAIN, HOST_STEPS};
    static const enum host_step telling[] = {STEP_BELL, STEP_STAT, HOST_STEPS};
    static const enum host_step waiting[] = {STEP_ALLOC,      STEP_BELL, STEP_TAKE_ALL,
                                             STEP_TAKE_SHORT, STEP_POLL, HOST_STEPS};
    static const enum host_step allocating[] = {STEP_ALLOC, STEP_DRAIN, STEP_TRIM, HOST_STEPS};
    static const enum host_step slots[] = {STEP_DRAIN, STEP_TAKE_ONE, STEP_TRIM, HOST_STEPS};
    static const enum host_step taking[] = {STEP_TAKE_ONE, STEP_TAKE_ALL,   STEP_TAKE_ONE,
                                            STEP_TAKE_ALL, STEP_TAKE_SHORT, HOST_STEPS};
    static const enum host_step sending[] = {STEP_SEND, STEP_FILL, STEP_FILL, STEP_FILL,
                                             HOST_STEPS};
    static const enum host_step leaving[] = {STEP_LEAVE, STEP_LEAVE, HOST_STEPS};
    switch (field->part) {
    case PART_HEADER:
    case PART_HOLDERS: return looking;
    case PART_SIGNALS: return waiting;
    case PART_CLASS: return field->offset < offsetof(hub_class_shm, hot) ? looking : allocating;
    case PART_SLOT: return slots;
    case PART_PEER: return field->kind == KIND_STATE ? telling : counting;
    case PART_HOST_LANE:
    case PART_LANE: return counting;
    case PART_UP:
    case PART_UP_CELL: return taking;
    case PART_DOWN: return sending;
    default: return leaving;
    }
}
