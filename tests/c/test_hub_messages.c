/* test_hub_messages.c - two processes: every payload size around the boundaries, both ways, copied
 * and moved, one by one and in runs; full rings; what travels beside the payload. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "stage.h"

static const uint64_t sizes[] = {0,    1,    15,   16,   17,   63,       64,           65,
                                 79,   80,   81,   128,  239,  240,      241,          255,
                                 1023, 1024, 1025, 4095, 4096, 4097,     16 * KIB - 1, 16 * KIB,
                                 16 * KIB + 1, 256 * KIB, 256 * KIB + 1, 1 * MIB, 4 * MIB,
                                 4 * MIB + 1, 16 * MIB, 16 * MIB + 1, 20 * MIB};
#define SIZES (sizeof sizes / sizeof *sizes)
#define LAST UINT64_MAX

/* Send back what comes: slots are moved on, inline payloads copied. Ends with message LAST. */
static int echo(peer_side *me) {
    hub_frame *frame = malloc(sizeof *frame);
    for (;;) {
        receive(me->transport, frame);
        CHECK_EQ(frame->peer_id, 0);
        check_pattern(me->session, frame);
        bool last = frame->message.message_id == LAST;
        if (frame->slot.data != NULL)
            CHECK_OK(hub_send_slot(me->transport, HUB_TO_DEFAULT, &frame->message, &frame->slot,
                                   frame->length, soon()));
        else
            CHECK_OK(hub_send(me->transport, 0, &frame->message, frame->inline_data, frame->length,
                              soon()));
        if (last) break;
    }
    free(frame);
    return 0;
}

static void round_trip(hub_session *host, peer *p, uint64_t length, uint64_t id) {
    hub_frame *frame = malloc(sizeof *frame);
    send_pattern(p->transport, length, id);
    receive(p->transport, frame);
    CHECK_EQ(frame->length, length);
    CHECK_EQ(frame->message.message_id, id);
    CHECK_EQ(frame->peer_id, p->id);
    CHECK_EQ(frame->slot.data == NULL, length <= HUB_INLINE_MAX);
    check_pattern(host, frame);
    frame_free(host, frame);
    free(frame);
}

static void every_size(void) {
    hub_config config;
    hub_config_default(&config);
    hub_session *host = host_open(&config);
    peer p;
    peer_start(host, &p, true, echo, NULL);
    for (uint64_t i = 0; i < SIZES; i++) round_trip(host, &p, sizes[i], i);
    test_random r = {8};
    for (uint64_t i = 0; i < test_rounds(2000); i++)
        round_trip(host, &p, random_below(&r, random_below(&r, 4) ? 300 : 40000), 1000 + i);
    round_trip(host, &p, 0, LAST);
    peer_join(host, &p);
    host_close(host);
}

static void fields_come_through(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    hub_frame frame;
    peer_start(host, &p, true, echo, NULL);
    for (int large = 0; large < 2; large++) {
        unsigned char bytes[1000];
        hub_message m = {LAST - 1, INT64_MIN + 5, 0xDEADBEEF, 65535, 65534};
        uint64_t length = large ? 1000 : 100;
        pattern_write(bytes, length, m.message_id);
        CHECK_OK(hub_send(p.transport, p.id, &m, bytes, length, soon()));
        receive(p.transport, &frame);
        CHECK(memcmp(&frame.message, &m, sizeof m) == 0);
        frame_free(host, &frame);
    }
    /* Automatic ids count per transport and direction. */
    uint64_t first = hub_transport_next_id(p.transport);
    CHECK_EQ(hub_transport_next_id(p.transport), first + 1);
    hub_message m = message_of(1);
    CHECK_RC(hub_send(p.transport, p.id + 1, &m, "", 0, HUB_NOW), HUB_ENOPEER);
    CHECK_RC(hub_send(p.transport, HUB_TO_DEFAULT, &m, NULL, 2 * MIB, HUB_NOW), HUB_ETOOLARGE);
    round_trip(host, &p, 1, LAST);
    peer_join(host, &p);
    host_close(host);
}

/* ---- a full ring ----------------------------------------------------------------------------- */

/* Nothing is read before the host says so, outside the hub. */
static int read_when_told(peer_side *me) {
    gate *go = me->argument;
    hub_frame frame;
    gate_wait(go);
    for (uint64_t id = 0;; id++) {
        receive(me->transport, &frame);
        CHECK_EQ(frame.message.message_id == LAST || frame.message.message_id == id, 1);
        check_pattern(me->session, &frame);
        frame_free(me->session, &frame);
        if (frame.message.message_id == LAST) return 0;
    }
}

static void full_ring_waits(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    gate go;
    uint64_t id = 0;
    hub_message m = message_of(0);
    gate_init(&go);
    peer_start(host, &p, true, read_when_told, &go);
    /* Before it has attached, too: the ring is there since add_peer. */
    for (;; id++) {
        unsigned char byte = 0;
        m = message_of(id);
        pattern_write(&byte, 1, id);
        int rc = hub_send(p.transport, HUB_TO_DEFAULT, &m, &byte, 1, HUB_NOW);
        if (rc == HUB_ERINGFULL) break;
        CHECK_OK(rc);
    }
    CHECK_EQ(id, 16);
    int64_t deadline = hub_clock_ns() + 20000000;
    CHECK_RC(hub_send(p.transport, HUB_TO_DEFAULT, &m, "x", 1, deadline), HUB_ETIMEDOUT);
    CHECK(hub_clock_ns() >= deadline);
    /* A slot that does not get in stays the caller's. */
    hub_slot slot;
    CHECK_OK(hub_alloc(p.transport, 500, HUB_NOW, &slot));
    CHECK_RC(hub_send_slot(p.transport, HUB_TO_DEFAULT, &m, &slot, 500, HUB_NOW), HUB_ERINGFULL);
    CHECK_RC(hub_send_slot(p.transport, HUB_TO_DEFAULT, &m, &slot, 500, hub_clock_ns() + 1000000),
             HUB_ETIMEDOUT);
    CHECK_OK(hub_slot_free(host, &slot));
    gate_open(&go);
    /* From now on waiting helps; each of these finds it full again and again. */
    for (; id < test_rounds(5000); id++)
        send_pattern(p.transport, id % 7 == 0 ? 300 : id % (HUB_INLINE_MAX + 1), id);
    send_pattern(p.transport, 240, LAST);
    peer_join(host, &p);
    gate_fini(&go);
    host_close(host);
}

/* ---- runs ------------------------------------------------------------------------------------ */

static int send_in_runs(peer_side *me) {
    unsigned rounds = *(unsigned *)me->argument;
    test_random r = {66};
    uint64_t id = 0;
    for (unsigned i = 0; i < rounds; i++) {
        hub_message messages[40];
        hub_buffer buffers[40];
        unsigned char *bytes[40];
        size_t count = 1 + random_below(&r, 40), sent = 0;
        for (size_t n = 0; n < count; n++) {
            messages[n] = message_of(id);
            buffers[n].length =
                random_below(&r, 5) ? random_below(&r, 241) : random_below(&r, 2000);
            bytes[n] = malloc(buffers[n].length + 1);
            pattern_write(bytes[n], buffers[n].length, id++);
            buffers[n].data = bytes[n];
        }
        CHECK_OK(
            hub_send_many(me->transport, HUB_TO_DEFAULT, messages, buffers, count, soon(), &sent));
        CHECK_EQ(sent, count);
        for (size_t n = 0; n < count; n++) free(bytes[n]);
    }
    send_pattern(me->transport, 5, LAST);
    return 0;
}

static void runs_both_sides(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    unsigned rounds = test_rounds(1000);
    hub_frame *frames = malloc(64 * sizeof *frames);
    test_random r = {67};
    uint64_t next = 0;
    bool more = true;
    CHECK(frames != NULL);
    peer_start(host, &p, true, send_in_runs, &rounds);
    while (more) {
        size_t most = 1 + random_below(&r, 64);
        receive(p.transport, &frames[0]);
        int got = 1;
        if (most > 1) {
            int rc = hub_recv_many(p.transport, frames + 1, most - 1);
            CHECK(rc > 0 || rc == HUB_EAGAIN || rc == HUB_EPEERGONE);
            if (rc > 0) got += rc;
        }
        for (int i = 0; i < got; i++) {
            check_pattern(host, &frames[i]);
            frame_free(host, &frames[i]);
            if (frames[i].message.message_id == LAST)
                more = false;
            else
                CHECK_EQ(frames[i].message.message_id, next++);
        }
    }
    CHECK_RC(hub_recv(p.transport, &frames[0], soon()), HUB_EPEERGONE);
    free(frames);
    peer_join(host, &p);
    host_close(host);
}

/* A run that stops short says how many went. */
static void run_cut_short(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    gate go;
    hub_message messages[20];
    hub_buffer buffers[20];
    unsigned char bytes[20];
    size_t sent = 99;
    gate_init(&go);
    peer_start(host, &p, true, read_when_told, &go);
    for (uint64_t i = 0; i < 20; i++) {
        messages[i] = message_of(i);
        pattern_write(&bytes[i], 1, i);
        buffers[i].data = &bytes[i];
        buffers[i].length = 1;
    }
    CHECK_RC(hub_send_many(p.transport, HUB_TO_DEFAULT, messages, buffers, 20, HUB_NOW, &sent),
             HUB_ERINGFULL);
    CHECK_EQ(sent, 16);
    CHECK_RC(hub_send_many(p.transport, HUB_TO_DEFAULT, messages + 16, buffers + 16, 4,
                           hub_clock_ns() + 5000000, &sent), HUB_ETIMEDOUT);
    CHECK_EQ(sent, 0);
    CHECK_OK(hub_send_many(p.transport, HUB_TO_DEFAULT, messages, buffers, 0, HUB_NOW, &sent));
    gate_open(&go);
    CHECK_OK(
        hub_send_many(p.transport, HUB_TO_DEFAULT, messages + 16, buffers + 16, 4, soon(), &sent));
    CHECK_EQ(sent, 4);
    send_pattern(p.transport, 0, LAST);
    peer_join(host, &p);
    gate_fini(&go);
    host_close(host);
}

/* Both directions at full speed at once, neither side waiting for the other's answers. */
static int pour(hub_transport *t, hub_session *s, unsigned total) {
    uint64_t sent = 0, got = 0;
    hub_frame frame;
    while (sent < total || got < total) {
        if (sent < total) {
            unsigned char bytes[600];
            uint64_t length = sent % 3 ? sent % 241 : 241 + sent % 359;
            hub_message m = message_of(sent);
            pattern_write(bytes, length, sent);
            int rc = hub_send(t, HUB_TO_DEFAULT, &m, bytes, length,
                              got < total ? HUB_NOW : soon());
            if (rc == 0) sent++;
            else CHECK(rc == HUB_ERINGFULL || rc == HUB_EEXHAUSTED);
        }
        if (got < total) {
            int rc = hub_recv(t, &frame, sent < total ? HUB_NOW : soon());
            if (rc == HUB_EAGAIN) continue;
            CHECK_OK(rc);
            CHECK_EQ(frame.message.message_id, got);
            check_pattern(s, &frame);
            frame_free(s, &frame);
            got++;
        }
    }
    return 0;
}
static int pour_back(peer_side *me) {
    return pour(me->transport, me->session, *(unsigned *)me->argument);
}

static void both_ways_at_once(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    unsigned total = test_rounds(20000);
    peer_start(host, &p, true, pour_back, &total);
    (void)pour(p.transport, host, total);
    peer_join(host, &p);
    host_close(host);
}

/* Without spinning every wait is a sleep; with a long spin hardly one is. Both must end. */
static void other_spins(void) {
    static const int64_t spins[] = {0, 1000, 100000000};
    for (unsigned i = 0; i < 3; i++) {
        hub_config config = config_tiny();
        config.spin_ns = spins[i];
        hub_session *host = host_open(&config);
        peer p;
        peer_start(host, &p, true, echo, NULL);
        for (uint64_t n = 0; n < test_rounds(2000); n++) round_trip(host, &p, n % 400, n);
        hub_transport_stat stat;
        hub_transport_stat_read(p.transport, &stat);
        CHECK_EQ(stat.sent, test_rounds(2000));
        CHECK_EQ(stat.received, stat.sent);
        CHECK_EQ(stat.bytes_sent, stat.bytes_received);
        if (spins[i] == 0) CHECK_EQ(stat.spins, 0);
        round_trip(host, &p, 0, LAST);
        peer_join(host, &p);
        host_close(host);
    }
}

int main(void) {
    test_begin(120);
    unsigned before = open_descriptors();
    RUN(every_size);
    RUN(fields_come_through);
    RUN(full_ring_waits);
    RUN(run_cut_short);
    RUN(runs_both_sides);
    RUN(both_ways_at_once);
    RUN(other_spins);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
