/* test_hub_stop.c - SIGSTOP of either side, longer than any timeout, then SIGCONT: a stopped
 * process is not a dead one, and nothing that was sent before, meanwhile or after is lost. */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stage.h"

#define LAST UINT64_MAX

/* The time is what is tested here, not an event: longer than the grace of a hang-up, than spins,
 * than the timeouts below. */
static void let_time_pass(void) { (void)poll(NULL, 0, 400); }

static int stopped(pid_t pid) {
    char path[64], line[512];
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    CHECK(file != NULL && fgets(line, sizeof line, file) != NULL);
    (void)fclose(file);
    return strncmp(strrchr(line, ')'), ") T", 3) == 0;
}

static void stop(pid_t pid) {
    CHECK_EQ(kill(pid, SIGSTOP), 0);
    while (!stopped(pid)) test_pause();
}

static int echo(peer_side *me) {
    hub_frame frame;
    for (;;) {
        receive(me->transport, &frame);
        check_pattern(me->session, &frame);
        uint64_t id = frame.message.message_id;
        int rc;
        do {
            if (frame.slot.data != NULL)
                rc = hub_send_slot(me->transport, 0, &frame.message, &frame.slot, frame.length,
                                   soon());
            else
                rc = hub_send(me->transport, 0, &frame.message, frame.inline_data, frame.length,
                              soon());
        } while (rc == HUB_EINTR); /* SIGCONT ends a sleep; nothing was done */
        CHECK_OK(rc);
        if (id == LAST) return 0;
    }
}

/* Stopped at random moments of a stream; the host goes on until it has to wait, and times out. */
static void stopped_peer_loses_nothing(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    hub_frame frame;
    test_random r = {5};
    uint64_t sent = 0, got = 0;
    peer_start(host, &p, true, echo, NULL);
    for (int round = 0; round < 5; round++) {
        uint64_t until = sent + random_below(&r, 200);
        for (bool is_stopped = false;;) {
            unsigned char bytes[900];
            uint64_t length = random_below(&r, 900);
            hub_message m = message_of(sent);
            pattern_write(bytes, length, sent);
            int rc = hub_send(p.transport, HUB_TO_DEFAULT, &m, bytes, length, HUB_NOW);
            if (rc == 0) sent++;
            else CHECK(rc == HUB_ERINGFULL || rc == HUB_EEXHAUSTED);
            bool stuck = rc < 0;
            rc = hub_recv(p.transport, &frame, HUB_NOW);
            if (rc == 0) {
                CHECK_EQ(frame.message.message_id, got++);
                check_pattern(host, &frame);
                frame_free(host, &frame);
            } else {
                CHECK_RC(rc, HUB_EAGAIN);
                if (is_stopped && stuck) break;
            }
            if (sent >= until && !is_stopped) {
                stop(p.pid);
                is_stopped = true;
            }
        }
        hub_message m = message_of(sent);
        int64_t deadline = hub_clock_ns() + 100000000;
        int rc = hub_recv(p.transport, &frame, deadline);
        CHECK_RC(rc, HUB_ETIMEDOUT);
        rc = hub_send(p.transport, HUB_TO_DEFAULT, &m, "", 0, hub_clock_ns() + 50000000);
        if (rc == 0) sent++; /* inline ones need no slot */
        else CHECK_RC(rc, HUB_ETIMEDOUT);
        let_time_pass();
        CHECK_EQ(peer_state(host, p.id), HUB_PEER_ACTIVE);
        CHECK_EQ(kill(p.pid, SIGCONT), 0);
        while (got < sent) {
            receive(p.transport, &frame);
            CHECK_EQ(frame.message.message_id, got++);
            check_pattern(host, &frame);
            frame_free(host, &frame);
        }
    }
    send_pattern(p.transport, 3, LAST);
    receive(p.transport, &frame);
    peer_join(host, &p);
    hub_event event;
    while (hub_host_next_event(host, &event))
        CHECK(event.kind == HUB_EVENT_ATTACHED || event.kind == HUB_EVENT_LEFT);
    host_close(host);
}

/* The same for a host: its peer waits, times out, waits again, and is not told of any end. */
static int ask_patiently(peer_side *me) {
    gate *gates = me->argument;
    hub_frame frame;
    for (uint64_t id = 0; id < 3; id++) {
        gate_open(&gates[0]); /* the host is about to be stopped */
        gate_wait(&gates[1]); /* it is */
        send_pattern(me->transport, id * 300, id);
        CHECK_RC(hub_recv(me->transport, &frame, hub_clock_ns() + 100000000), HUB_ETIMEDOUT);
        let_time_pass();
        gate_open(&gates[0]); /* let it go on */
        receive(me->transport, &frame);
        CHECK_EQ(frame.message.message_id, id);
        check_pattern(me->session, &frame);
        frame_free(me->session, &frame);
    }
    send_pattern(me->transport, 3, LAST);
    receive(me->transport, &frame);
    return 0;
}

static int be_host(void *argument) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    hub_frame frame;
    peer_start(host, &p, true, ask_patiently, argument);
    for (;;) {
        receive(p.transport, &frame);
        send_pattern(p.transport, frame.length, frame.message.message_id);
        frame_free(host, &frame);
        if (frame.message.message_id == LAST) break;
    }
    peer_join(host, &p);
    host_close(host);
    return 0;
}

static void stopped_host_loses_nothing(void) {
    gate gates[2];
    gate_init(&gates[0]);
    gate_init(&gates[1]);
    pid_t pid = child_start(be_host, gates);
    for (int round = 0; round < 3; round++) {
        gate_wait(&gates[0]);
        stop(pid);
        gate_open(&gates[1]);
        gate_wait(&gates[0]);
        CHECK_EQ(kill(pid, SIGCONT), 0);
    }
    child_ok(pid);
    gate_fini(&gates[0]);
    gate_fini(&gates[1]);
}

/* Stopped and then killed: that is a death like any other. */
static void stopped_and_killed(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    hub_frame frame;
    hub_gone gone;
    peer_start(host, &p, true, echo, NULL);
    peer_wait_active(host, &p);
    stop(p.pid);
    send_pattern(p.transport, 1000, 1);
    child_kill(p.pid);
    CHECK_RC(hub_recv(p.transport, &frame, soon()), HUB_EPEERGONE);
    CHECK_EQ(hub_transport_gone(p.transport, &gone), 1);
    CHECK_EQ(gone.undelivered, 1);
    free(gone.ids);
    peer_wait_free(host, p.id);
    peer_drop(&p);
    host_close(host);
}

int main(void) {
    test_begin(90);
    RUN(stopped_peer_loses_nothing);
    RUN(stopped_host_loses_nothing);
    RUN(stopped_and_killed);
    return test_end();
}
