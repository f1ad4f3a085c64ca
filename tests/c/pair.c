/* pair.c - see pair.h. */
#define _GNU_SOURCE
#include "pair.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

void pair_open(pair *p, const hub_config *config, bool all) {
    hub_fault fault = {0, ""};
    memset(p, 0, sizeof *p);
    p->all = all;
    p->host = host_open(config);
    if (all) CHECK_OK_FAULT(hub_transport_open_host(p->host, "all", &p->from_host, &fault), fault);
    pair_attach(p);
}

void pair_open_without(pair *p, const hub_config *config) {
    memset(p, 0, sizeof *p);
    p->all = true; /* whoever opens one, it is not of that peer's own */
    p->host = host_open(config);
    pair_attach(p);
}

void pair_attach(pair *p) {
    hub_fault fault = {0, ""};
    char path[64];
    int peer_fd;
    CHECK_OK(hub_host_add_peer(p->host, "pair", &p->link, &peer_fd));
    p->id = hub_link_peer_id(p->link);
    if (!p->all)
        CHECK_OK_FAULT(
            hub_transport_open_host_peer(p->host, p->link, "one", &p->from_host, &fault), fault);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", hub_session_fd(p->host));
    CHECK_OK_FAULT(hub_peer_open(path, p->id, &p->peer, &fault), fault);
    CHECK_OK_FAULT(hub_peer_register(p->peer, &fault), fault);
    int own = dup(peer_fd); /* the host closes its copy once the peer has attached */
    CHECK(own >= 0);
    CHECK_OK_FAULT(
        hub_transport_open_peer(p->peer, own, "peer", soon(), &p->from_peer, &fault), fault);
    wait_event(p->host, HUB_EVENT_ATTACHED, p->id);
}

void pair_detach(pair *p) {
    hub_transport_close(p->from_peer);
    hub_transport_unref(p->from_peer);
    hub_session_close(p->peer);
    hub_session_unref(p->peer);
    peer_wait_free(p->host, p->id);
    if (!p->all) hub_transport_unref(p->from_host);
    hub_link_unref(p->link);
}

void pair_close(pair *p) {
    pair_detach(p);
    if (p->all) hub_transport_unref(p->from_host);
    host_close(p->host);
}

hub_ring_shm *pair_up(const pair *p) { return hub_session_ring(p->host, hub_ring_up(p->id)); }
hub_ring_shm *pair_down(const pair *p) { return hub_session_ring(p->host, hub_ring_down(p->id)); }
hub_lane_shm *pair_lane(const pair *p) { return hub_session_lane(p->host, p->id); }
