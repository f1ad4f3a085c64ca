/* tally.c - see tally.h. */
#include "tally.h"

#include <stdlib.h>

#include "check.h"
#include "stage.h"

static uint32_t cells_of(uint64_t length) {
    return length <= HUB_INLINE_MAX ? hub_ring_cells(length) : 1;
}
static uint64_t length_of(uint64_t number) {
    static const uint64_t lengths[] = {1000, 10, 200};
    return lengths[number % (sizeof lengths / sizeof *lengths)];
}

void tally_begin(tally *t, hub_session *host, uint32_t id) {
    t->host = host;
    t->id = id;
    t->up_tail = hub_load_acquire_64(&hub_session_ring(host, hub_ring_up(id))->tail);
    t->down_tail = hub_load_acquire_64(&hub_session_ring(host, hub_ring_down(id))->tail);
    t->down_head = hub_load_acquire_64(&hub_session_ring(host, hub_ring_down(id))->head);
    t->received = t->received_cells = t->sent = 0;
    t->gone = false;
}

void tally_take(tally *t, const hub_frame *frame) {
    uint64_t id = frame->message.message_id;
    CHECK(!t->gone);
    if (id < TALLY_HOST_ID) {
        CHECK_EQ(id, t->received);
        t->received++;
    } else {
        CHECK_LE(id, TALLY_HOST_ID + t->sent);
    }
    t->received_cells += cells_of(frame->length);
    check_pattern(t->host, frame);
    frame_free(t->host, frame);
}

int tally_send(tally *t, hub_transport *transport, uint32_t to, int64_t deadline) {
    unsigned char bytes[1000];
    uint64_t length = length_of(t->sent);
    hub_message m = message_of(TALLY_HOST_ID + t->sent);
    pattern_write(bytes, length, m.message_id);
    int rc = hub_send(transport, to, &m, bytes, length, deadline);
    if (rc == 0) t->sent++;
    return rc;
}

void tally_gone(tally *t, hub_gone *gone) {
    const hub_ring_shm *down = hub_session_ring(t->host, hub_ring_down(t->id));
    uint64_t cells = 0;
    t->gone = true;
    CHECK_LE(gone->undelivered, t->sent);
    for (size_t i = 0; i < gone->undelivered; i++) {
        uint64_t number = t->sent - gone->undelivered + i;
        CHECK_EQ(gone->ids[i], TALLY_HOST_ID + number);
        cells += cells_of(length_of(number));
    }
    free(gone->ids);
    /* Only those that it never took: its head says so. */
    CHECK_EQ(hub_load_acquire_64(&down->tail) - hub_load_acquire_64(&down->head), cells);
}

void tally_check(const tally *t) {
    const hub_ring_shm *up = hub_session_ring(t->host, hub_ring_up(t->id));
    const hub_ring_shm *down = hub_session_ring(t->host, hub_ring_down(t->id));
    uint64_t sent_cells = 0;
    for (uint64_t i = 0; i < t->sent; i++) sent_cells += cells_of(length_of(i));
    CHECK(t->gone);
    CHECK_EQ(t->received_cells, hub_load_acquire_64(&up->tail) - t->up_tail);
    CHECK_EQ(sent_cells, hub_load_acquire_64(&down->tail) - t->down_tail);
}
