/* test_hub_quiet.c - messages that wake nobody: they are there for who looks, who sleeps goes on
 * sleeping until hub_wake; both ways, and what cannot be sent so. */
#include "stage.h"

#define COUNT 3u
#define LAST UINT64_MAX

static void send_quietly(hub_transport *t, uint32_t to, uint64_t id) {
    unsigned char bytes[100];
    hub_message m = message_of(id);
    pattern_write(bytes, sizeof bytes, id);
    CHECK_OK(hub_send_quietly(t, to, &m, bytes, sizeof bytes));
}

/* Send back what comes, its ids in order; ends with LAST. */
static int echo(peer_side *me) {
    hub_frame frame;
    uint64_t next = 0;
    do {
        receive(me->transport, &frame);
        check_pattern(me->session, &frame);
        if (frame.message.message_id != LAST) CHECK_EQ(frame.message.message_id, next++);
        CHECK_OK(hub_send(me->transport, HUB_TO_DEFAULT, &frame.message, frame.inline_data,
                          frame.length, soon()));
    } while (frame.message.message_id != LAST);
    return 0;
}

static void expect_echoes(hub_session *host, hub_transport *t, uint64_t first, uint64_t count) {
    hub_frame frame;
    for (uint64_t id = first; id < first + count; id++) {
        receive(t, &frame);
        CHECK_EQ(frame.message.message_id, id);
        check_pattern(host, &frame);
    }
}

static void end_echo(hub_session *host, peer *p, hub_transport *t, uint32_t to) {
    hub_frame frame;
    hub_message m = message_of(LAST);
    unsigned char byte;
    pattern_write(&byte, 1, LAST);
    CHECK_OK(hub_send(t, to, &m, &byte, 1, soon()));
    receive(t, &frame);
    CHECK_EQ(frame.message.message_id, LAST);
    peer_join(host, p);
}

static hub_config never_spins(void) {
    hub_config config = config_tiny();
    config.spin_ns = 0;
    return config;
}

static hub_transport *open_all(hub_session *host) {
    hub_transport *t;
    hub_fault fault = {0, ""};
    CHECK_OK_FAULT(hub_transport_open_host(host, "all", &t, &fault), fault);
    return t;
}

static void close_all(hub_transport *t) {
    hub_transport_close(t);
    hub_transport_unref(t);
}

/* Looked at through the transport of one peer, and of all. */
static void a_sleeper_sleeps_until_it_is_woken(bool all) {
    hub_config config = never_spins();
    hub_session *host = host_open(&config);
    hub_transport *whole = all ? open_all(host) : NULL;
    hub_frame frame;
    peer p;
    peer_start(host, &p, !all, echo, NULL);
    hub_transport *t = all ? whole : p.transport;
    peer_wait_active(host, &p);
    for (uint64_t round = 0; round < test_rounds(50); round++) {
        wait_ring_asleep(host, hub_ring_down(p.id));
        uint64_t first = round * COUNT;
        for (uint64_t i = 0; i < COUNT; i++) send_quietly(t, p.id, first + i);
        CHECK_RC(hub_recv(t, &frame, hub_clock_ns() + 200000), HUB_ETIMEDOUT);
        wait_ring_asleep(host, hub_ring_down(p.id)); /* still: it returns at once */
        hub_wake(t, p.id);
        expect_echoes(host, t, first, COUNT);
    }
    end_echo(host, &p, t, p.id);
    if (all) close_all(whole);
    host_close(host);
}
static void one_peer_sleeps_until_it_is_woken(void) { a_sleeper_sleeps_until_it_is_woken(false); }
static void one_of_all_sleeps_until_it_is_woken(void) { a_sleeper_sleeps_until_it_is_woken(true); }

/* ... and any other send wakes it for both. */
static void a_usual_send_wakes_for_the_quiet_ones_too(void) {
    hub_config config = never_spins();
    hub_session *host = host_open(&config);
    peer p;
    peer_start(host, &p, true, echo, NULL);
    peer_wait_active(host, &p);
    wait_ring_asleep(host, hub_ring_down(p.id));
    send_quietly(p.transport, p.id, 0);
    send_pattern(p.transport, 50, 1);
    expect_echoes(host, p.transport, 0, 2);
    end_echo(host, &p, p.transport, p.id);
    host_close(host);
}

/* ---- from a peer to the host ---------------------------------------------------------------- */

static int send_to_a_sleeping_host(peer_side *me) {
    gate *go = me->argument;
    gate_wait(go);
    for (uint64_t id = 0; id < COUNT; id++) send_quietly(me->transport, HUB_TO_DEFAULT, id);
    gate_open(&go[1]);
    gate_wait(&go[2]);
    hub_wake(me->transport, HUB_TO_DEFAULT);
    hub_frame frame;
    receive(me->transport, &frame);
    return 0;
}

static void a_host_finds_them_when_it_is_told(void) {
    hub_config config = never_spins();
    hub_session *host = host_open(&config);
    hub_transport *t = open_all(host);
    hub_frame frame;
    peer p;
    gate go[3];
    for (int i = 0; i < 3; i++) gate_init(&go[i]);
    peer_start(host, &p, false, send_to_a_sleeping_host, go);
    peer_wait_active(host, &p);
    CHECK_RC(hub_recv(t, &frame, HUB_NOW), HUB_EAGAIN); /* a new peer's ring is looked at once */
    gate_open(&go[0]);
    gate_wait(&go[1]);
    CHECK_RC(hub_recv(t, &frame, HUB_NOW), HUB_EAGAIN); /* not told which ring to look at */
    gate_open(&go[2]);
    expect_echoes(host, t, 0, COUNT);
    hub_message m = message_of(LAST);
    CHECK_OK(hub_send(t, p.id, &m, "", 0, soon()));
    peer_join(host, &p);
    close_all(t);
    for (int i = 0; i < 3; i++) gate_fini(&go[i]);
    host_close(host);
}

/* ---- what does not go ----------------------------------------------------------------------- */

static int sit_still(peer_side *me) {
    gate_wait(me->argument);
    return 0;
}

static void what_does_not_go_at_once_is_refused(void) {
    hub_config config = never_spins();
    hub_session *host = host_open(&config);
    peer p;
    gate never;
    unsigned char bytes[HUB_INLINE_MAX + 1] = {0};
    hub_message m = message_of(0);
    gate_init(&never);
    peer_start(host, &p, true, sit_still, &never);
    peer_wait_active(host, &p);
    hub_transport *t = p.transport;
    CHECK_RC(hub_send_quietly(t, p.id, &m, bytes, HUB_INLINE_MAX + 1), HUB_EINVAL);
    CHECK_RC(hub_send_quietly(t, p.id + 1, &m, bytes, 1), HUB_ENOPEER);
    hub_wake(t, p.id + 1); /* nobody */
    CHECK_OK(hub_send_quietly(t, p.id, &m, bytes, HUB_INLINE_MAX));
    int rc = 0;
    unsigned sent = 0;
    while (rc == 0 && sent <= config.ring_capacity) {
        rc = hub_send_quietly(t, p.id, &m, bytes, 0);
        sent += rc == 0;
    }
    CHECK_RC(rc, HUB_ERINGFULL);
    CHECK_EQ(sent, config.ring_capacity - 1 - (HUB_INLINE_MAX + 63) / 64);
    child_kill(p.pid);
    p.pid = 0;
    (void)wait_event(host, HUB_EVENT_DIED, p.id);
    peer_wait_free(host, p.id);
    CHECK_RC(hub_send_quietly(t, p.id, &m, bytes, 1), HUB_EPEERGONE);
    /* The id's next owner sleeps on the same ring: what is late for the last one is not for it. */
    peer next;
    for (;;) {
        peer_start(host, &next, true, echo, NULL);
        peer_wait_active(host, &next);
        if (next.id == p.id) break;
        end_echo(host, &next, next.transport, next.id);
    }
    wait_ring_asleep(host, hub_ring_down(next.id));
    hub_wake(t, p.id);
    wait_ring_asleep(host, hub_ring_down(next.id));
    end_echo(host, &next, next.transport, next.id);
    peer_drop(&p);
    gate_fini(&never);
    host_close(host);
}

int main(void) {
    test_begin(60);
    host_can_be();
    RUN(one_peer_sleeps_until_it_is_woken);
    RUN(one_of_all_sleeps_until_it_is_woken);
    RUN(a_usual_send_wakes_for_the_quiet_ones_too);
    RUN(a_host_finds_them_when_it_is_told);
    RUN(what_does_not_go_at_once_is_refused);
    return test_end();
}
