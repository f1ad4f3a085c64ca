/* cast.c - see cast.h. */
#define _GNU_SOURCE
#include "cast.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "stage.h"

#define LARGEST (70u * 1024)
#define WAIT_NS 20000000000LL

hub_config cast_config(void) {
    hub_config config = config_of_one(1 * KIB, 6);
    config.classes[0].max_slots = 8;
    config_add(&config, 16 * KIB, 3, 4);
    config_add(&config, 64 * KIB, 2, 2);
    config_add(&config, 256 * KIB, 0, 2);
    config.max_peers = 16;
    config.ring_capacity = 16;
    config.max_bytes = 1 * MIB + 200 * KIB;
    return config;
}

/* Only of those who are believed: of the others nothing is expected. */
static void queue_put(const cast *c, enum cast_role role, cast_queue *q, uint64_t id,
                      uint64_t length) {
    if (!c->trust.inline_exact[role]) return;
    CHECK(q->count < CAST_PENDING);
    q->items[(q->head + q->count++) % CAST_PENDING] = (cast_sent){id, length};
}

/* ---- coming and going ------------------------------------------------------------------------ */

static void attach(cast *c, enum cast_role role) {
    cast_side *side = &c->sides[role];
    hub_fault fault = {0, ""};
    char path[64];
    int fd;
    memset(side, 0, sizeof *side);
    CHECK_OK(hub_host_add_peer(c->host, "fuzz", &side->link, &fd));
    side->id = hub_link_peer_id(side->link);
    if (c->all == NULL)
        CHECK_OK(hub_transport_open_host_peer(c->host, side->link, "one", &side->host, NULL));
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", hub_session_fd(c->host));
    fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    CHECK(fd >= 0);
    CHECK_OK_FAULT(hub_peer_open(path, side->id, &side->session, &fault), fault);
    CHECK_OK_FAULT(hub_peer_register(side->session, &fault), fault);
    CHECK_OK_FAULT(hub_transport_open_peer(side->session, fd, "peer", hub_clock_ns() + WAIT_NS,
                                           &side->peer, &fault),
                   fault);
    if (role >= LIAR_A) c->liars[side->id] = true;
}

void cast_open(cast *c, bool all) {
    hub_config config = cast_config();
    memset(c, 0, sizeof *c);
    c->host = host_open(&config);
    c->next_id = 1;
    c->only_liars = true;
    if (all) CHECK_OK(hub_transport_open_host(c->host, "all", &c->all, NULL));
    for (int role = 0; role < ROLES; role++) attach(c, role);
    for (int role = 0; role < ROLES; role++)
        c->trust.inline_exact[role] = c->trust.slots_exact[role] = role < LIAR_A;
    c->trust.ready = true;
}

static void detach(cast_side *side) {
    if (side->link == NULL) return;
    hub_transport_close(side->peer);
    hub_transport_unref(side->peer);
    hub_session_close(side->session);
    hub_session_unref(side->session);
    if (side->host != NULL) {
        hub_transport_close(side->host);
        hub_transport_unref(side->host);
    }
    hub_link_unref(side->link);
    side->link = NULL;
}

void cast_replace(cast *c, enum cast_role role) {
    detach(&c->sides[role]);
    attach(c, role);
}

void cast_close(cast *c) {
    for (int role = 0; role < ROLES; role++) detach(&c->sides[role]);
    if (c->all != NULL) hub_transport_close(c->all);
    hub_transport_unref(c->all);
    hub_session_close(c->host);
    hub_session_unref(c->host);
}

hub_transport *cast_transport(cast *c, enum cast_role role) {
    return c->sides[role].host != NULL ? c->sides[role].host : c->all;
}

uint32_t cast_to(const cast *c, enum cast_role role) {
    return c->sides[role].host != NULL ? HUB_TO_DEFAULT : c->sides[role].id;
}

void cast_check_rc(int rc, const char *what) {
    switch (rc) {
    case 0:
    case HUB_EAGAIN:
    case HUB_ERINGFULL:
    case HUB_EEXHAUSTED:
    case HUB_ETIMEDOUT:
    case HUB_EPEERGONE:
    case HUB_EVIOLATION:
    case HUB_ESTALE:
    case HUB_ENOPEER: return;
    default: FAIL("%s: %d (%s)", what, rc, hub_strerror(rc));
    }
}

/* ---- messages -------------------------------------------------------------------------------- */

/* What the sender of a message wrote: its id, length and bytes follow from each other. */
static void check_frame(cast *c, const hub_frame *frame, cast_queue *queue, enum cast_role role) {
    bool in_slot = frame->slot.data != NULL;
    bool exact = in_slot ? c->trust.slots_exact[role] : c->trust.inline_exact[role];
    if (!c->trust.inline_exact[role]) return;
    /* Where slots are lied about, one of them may have been stepped over. */
    while (queue->count > 0) {
        cast_sent *next = &queue->items[queue->head];
        bool may_be_lost = next->length > HUB_INLINE_MAX && !c->trust.slots_exact[role];
        if (next->id == frame->message.message_id || !may_be_lost) break;
        queue->head = (queue->head + 1) % CAST_PENDING;
        queue->count--;
    }
    CHECK(queue->count > 0);
    cast_sent want = queue->items[queue->head];
    queue->head = (queue->head + 1) % CAST_PENDING;
    queue->count--;
    CHECK_EQ(frame->message.message_id, want.id);
    CHECK_EQ(frame->length, want.length);
    if (exact) {
        pattern_check(frame_data(frame), frame->length, want.id);
        c->checked++;
    }
}

/* Whatever it says, it lies within what can be read. */
static void check_bounds(const hub_session *s, const hub_frame *frame) {
    const hub_segment *segment = &s->segment;
    if (frame->slot.data == NULL) {
        CHECK_LE(frame->length, HUB_INLINE_MAX);
        return;
    }
    uint64_t at = (uint64_t)(frame->slot.data - segment->base);
    CHECK_GE(at, segment->geometry.data_offset);
    CHECK_LE(frame->length, frame->slot.capacity);
    CHECK_LE(at + frame->slot.capacity, segment->geometry.total_size);
    uint32_t k = hub_ref_class(frame->slot.ref);
    CHECK_REL(k, <, segment->geometry.class_count);
    CHECK_EQ(frame->slot.capacity, segment->geometry.classes[k].slot_size);
    CHECK_REL(hub_ref_index(frame->slot.ref), <, segment->geometry.classes[k].max_slots);
    if (frame->length == 0) return;
    volatile const unsigned char *bytes = frame->slot.data;
    (void)(bytes[0] + bytes[frame->length - 1]);
}

void cast_peer_sends(cast *c, enum cast_role role, uint64_t length) {
    static unsigned char bytes[LARGEST];
    cast_side *side = &c->sides[role];
    uint64_t id = c->next_id++;
    hub_message m = message_of(id);
    if (side->lost || side->up.count == CAST_PENDING || length > sizeof bytes) return;
    pattern_write(bytes, length, id);
    int rc = hub_send(side->peer, HUB_TO_DEFAULT, &m, bytes, length, HUB_NOW);
    if (rc == HUB_EHOSTGONE || rc == HUB_ECLOSED) CHECK(!c->trust.slots_exact[role]);
    else cast_check_rc(rc, "a peer sends");
    if (rc == 0) queue_put(c, role, &side->up, id, length);
}

void cast_peer_takes(cast *c, enum cast_role role) {
    cast_side *side = &c->sides[role];
    hub_frame frame;
    int rc = hub_recv(side->peer, &frame, HUB_NOW);
    if (rc == HUB_EVIOLATION) CHECK(!c->trust.slots_exact[role]);
    if (rc != 0) return;
    check_bounds(side->session, &frame);
    check_frame(c, &frame, &side->down, role);
    if (frame.slot.data != NULL) {
        rc = hub_slot_free(side->session, &frame.slot);
        CHECK(rc == 0 || !c->trust.slots_exact[role]);
    }
}

int cast_host_sends(cast *c, enum cast_role role, uint64_t length, int64_t deadline) {
    static unsigned char bytes[LARGEST];
    cast_side *side = &c->sides[role];
    uint64_t id = c->next_id++;
    hub_message m = message_of(id);
    if (side->down.count == CAST_PENDING || length > sizeof bytes) return HUB_ERINGFULL;
    pattern_write(bytes, length, id);
    int rc = hub_send(cast_transport(c, role), cast_to(c, role), &m, bytes, length, deadline);
    cast_check_rc(rc, "the host sends");
    if (rc == 0) queue_put(c, role, &side->down, id, length);
    return rc;
}

static enum cast_role role_of(const cast *c, uint32_t id) {
    for (int role = 0; role < ROLES; role++)
        if (c->sides[role].id == id) return role;
    return ROLES; /* an earlier life */
}

void cast_host_got(cast *c, hub_frame *frame, bool forward) {
    enum cast_role role = role_of(c, frame->peer_id);
    check_bounds(c->host, frame);
    if (role < ROLES) check_frame(c, frame, &c->sides[role].up, role);
    if (frame->slot.data == NULL) return;
    enum cast_role to = role == HONEST_A ? HONEST_B : HONEST_A;
    cast_side *other = &c->sides[to];
    int rc = HUB_ERINGFULL;
    /* As it is to the other honest one: it checks the pattern of its first sender. */
    if (forward && role < LIAR_A && other->down.count < CAST_PENDING) {
        rc = hub_send_slot(cast_transport(c, to), cast_to(c, to), &frame->message, &frame->slot,
                           frame->length, HUB_NOW);
        /* EINVAL: less of it is backed, now that somebody lies about that. */
        if (rc != HUB_EINVAL || c->trust.slots_exact[role]) cast_check_rc(rc, "the host sends on");
        if (rc == 0) queue_put(c, to, &other->down, frame->message.message_id, frame->length);
    }
    if (rc == 0) return;
    rc = hub_slot_free(c->host, &frame->slot);
    CHECK(rc == 0 || (rc == HUB_ESTALE && !c->trust.slots_exact[HONEST_A]));
}

int cast_host_takes(cast *c, enum cast_role role, int64_t deadline, bool forward) {
    hub_frame frames[3];
    hub_gone gone;
    hub_transport *t = cast_transport(c, role);
    int rc = deadline == HUB_NOW && t == c->all ? hub_recv_many(t, frames, 3)
                                                : hub_recv(t, frames, deadline);
    int count = rc > 0 ? rc : rc == 0;
    if (rc <= 0) cast_check_rc(rc, "the host receives");
    for (int i = 0; i < count; i++) cast_host_got(c, &frames[i], forward);
    if (rc == HUB_EPEERGONE) {
        if (hub_transport_gone(t, &gone)) {
            CHECK(c->liars[gone.peer_id] || !c->only_liars);
            free(gone.ids);
        }
        if (t != c->all) c->sides[role].lost = true;
    }
    return rc;
}

void cast_events(cast *c) {
    hub_event event;
    while (hub_host_next_event(c->host, &event)) {
        if (event.kind == HUB_EVENT_ATTACHED) continue;
        if (event.kind == HUB_EVENT_VIOLATION) {
            c->violations++;
            CHECK(event.detail[0] != 0);
        }
        if (c->only_liars && !c->liars[event.peer_id])
            FAIL("event %u (%s) about peer %u, which never lied", event.kind, event.detail,
                 event.peer_id);
        for (int role = LIAR_A; role < ROLES; role++)
            if (c->sides[role].id == event.peer_id && c->sides[role].link->state != HUB_PEER_ACTIVE)
                c->sides[role].lost = true;
    }
}
