/* test_host_every_store.c - the host killed before and after every store to the hub's metadata and
 * every system call of create, add_peer, reclaim, trim and close: who waits in a peer is told,
 * nothing stays, the next host takes the name.  And stopped there while peers work, then let go on:
 * nothing is lost.
 *
 * A sample; SHMHUB_STRIDE=1 for every point. */
#include "check.h"
#include "host_scene.h"

static int add_peer(host_scene *s) {
    int peer_fd;
    return hub_host_add_peer(s->host, "late", &s->late, &peer_fd);
}
static int trim(host_scene *s) { return hub_session_trim(s->host) > 0 ? 0 : HUB_EINVAL; }
static int close_it(host_scene *s) {
    hub_session_close(s->host);
    return 0;
}
static const host_operation operations[] = {
    {"create", .creates = true},
    {"create-anonymous", .creates = true, .anonymous = true},
    {"create-over-stale", .creates = true, .stale = true},
    {"add-peer", .operate = add_peer},
    {"host-trim", .operate = trim},
    {"reclaim", .reclaims = true},
    {"close", .tells = true, .operate = close_it},
};

int main(int argc, char **argv) {
    static host_scene s;
    (void)argc;
    step_without_strings(argv);
    test_begin(step_seconds());
    if (test_sanitized()) test_skip("a sanitizer's start of a thread is a million instructions");
    (void)step_seed();
    host_scene_open(&s);
    unsigned before = open_descriptors();
    for (unsigned i = 0; i < sizeof operations / sizeof *operations; i++)
        host_scene_prove(&s, &operations[i]);
    CHECK_EQ(open_descriptors(), before);
    host_scene_close(&s);
    return test_end();
}
