/* holder.c - a peer that holds slots, has sent a message, and does nothing until it is killed.
 *
 * `holder --slots=N --hub-path=... --peer-id=... --doorbell-fd=...`: attaches, takes N slots of
 * 1000 bytes, then sends one empty message, which says that it is ready. In C because a question
 * starts hundreds of it. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "hub.h"

#define SLOT_BYTES 1000

static const char *option(int argc, char **argv, const char *name) {
    size_t length = strlen(name);
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], name, length) == 0 && argv[i][length] == '=')
            return argv[i] + length + 1;
    fprintf(stderr, "holder: %s= is missing\n", name);
    exit(2);
}

static void must(int rc, const char *what) {
    if (rc == 0) return;
    fprintf(stderr, "holder: %s: %s\n", what, hub_strerror(rc));
    exit(1);
}

int main(int argc, char **argv) {
    hub_session *session;
    hub_transport *transport;
    hub_message message;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    uint32_t id = (uint32_t)atoi(option(argc, argv, "--peer-id"));
    must(hub_peer_open(option(argc, argv, "--hub-path"), id, &session, NULL), "open the hub");
    must(hub_peer_register(session, NULL), "register");
    must(hub_transport_open_peer(session, atoi(option(argc, argv, "--doorbell-fd")), "holder",
                                 HUB_FOREVER, &transport, NULL),
         "attach");
    for (int left = atoi(option(argc, argv, "--slots")); left > 0; left--) {
        hub_slot slot;
        must(hub_alloc(transport, SLOT_BYTES, HUB_NOW, &slot), "take a slot");
    }
    memset(&message, 0, sizeof message);
    must(hub_send(transport, HUB_TO_DEFAULT, &message, NULL, 0, HUB_FOREVER), "send");
    for (;;) (void)pause();
}
