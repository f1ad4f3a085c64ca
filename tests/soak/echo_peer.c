/* echo_peer.c - a peer in C: sends back everything, the slot itself where there is one, and says on
 * the board how far it has come (board.py has the words).  Ends when it is told to, or with its
 * host.  Against hub.h alone, as a user's plugin would be. */
#define _GNU_SOURCE
#include <hub.h>

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define WORDS 16
#define RECORDS 128
#define ORDER_STOP 0
#define BRIEFLY 50000000 /* ns between two looks at the board, which wakes nobody */

enum { STATE, UP_ATTEMPTED, UP_PUBLISHED, RECEIVED, BEATS, BYTES_RECEIVED = 9 };
enum { ATTACHED = 1, LEFT = 3 };

typedef _Atomic uint64_t word;

static const char *option(int argc, char **argv, const char *name) {
    size_t length = strlen(name);
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=')
            return argv[i] + length + 1;
    fprintf(stderr, "echo_peer: %s= is missing\n", name);
    exit(2);
}

static int failed(const char *what, int code, const char *text) {
    fprintf(stderr, "echo_peer: %s: %d (%s) %s\n", what, code, hub_strerror(code), text);
    return 1;
}

static void put(word *record, int field, uint64_t value) {
    atomic_store_explicit(&record[field], value, memory_order_release);
}

/* For ever: the host always receives. A stop and continue interrupts waits. */
static int send_back(hub_transport *transport, const hub_frame *frame) {
    int rc;
    do {
        if (frame->slot.data != NULL)
            rc = hub_send_slot(transport, HUB_TO_DEFAULT, &frame->message, &frame->slot,
                               frame->length, HUB_FOREVER);
        else
            rc = hub_send(transport, HUB_TO_DEFAULT, &frame->message, frame->inline_data,
                          frame->length, HUB_FOREVER);
    } while (rc == HUB_EINTR);
    return rc;
}

static int serve(hub_transport *transport, word *board, word *record) {
    uint64_t received = 0, bytes = 0;
    for (;;) {
        hub_frame frame;
        int rc = hub_recv(transport, &frame, hub_clock_ns() + BRIEFLY);
        put(record, BEATS, atomic_load_explicit(&record[BEATS], memory_order_relaxed) + 1);
        if (rc == HUB_ETIMEDOUT || rc == HUB_EINTR) {
            if (atomic_load_explicit(&board[ORDER_STOP], memory_order_relaxed)) return 0;
            continue;
        }
        if (rc != 0) return failed("receive", rc, "");
        put(record, RECEIVED, ++received);
        put(record, BYTES_RECEIVED, bytes += frame.length);
        put(record, UP_ATTEMPTED, received);
        rc = send_back(transport, &frame);
        if (rc != 0) return failed("send back", rc, "");
        put(record, UP_PUBLISHED, received);
    }
}

int main(int argc, char **argv) {
    hub_session *session = NULL;
    hub_transport *transport = NULL;
    hub_fault fault = {0, ""};
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    word *board = mmap(NULL, RECORDS * WORDS * sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED,
                       atoi(option(argc, argv, "--board-fd")), 0);
    if (board == MAP_FAILED) return failed("map the board", 0, "");
    word *record = board + (size_t)WORDS * (size_t)atoi(option(argc, argv, "--record"));
    uint32_t id = (uint32_t)atoi(option(argc, argv, "--peer-id"));
    int rc = hub_peer_open(option(argc, argv, "--hub-path"), id, &session, &fault);
    if (rc == 0) rc = hub_peer_register(session, &fault);
    if (rc == 0)
        rc = hub_transport_open_peer(session, atoi(option(argc, argv, "--doorbell-fd")), "echo",
                                     HUB_FOREVER, &transport, &fault);
    if (rc != 0) return failed("attach", rc, fault.text);
    put(record, STATE, ATTACHED);
    rc = serve(transport, board, record);
    hub_transport_close(transport);
    put(record, STATE, LEFT);
    hub_transport_unref(transport);
    hub_session_close(session);
    hub_session_unref(session);
    return rc;
}
