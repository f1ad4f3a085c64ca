/* bench_hub.c - see bench_hub.h */
#include "bench_hub.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define ATTACH_NS 10000000000ll

void bench_hub_must(int code, const char *what)
{
    if (code >= 0)
        return;
    fprintf(stderr, "%s: error %d\n", what, code);
    _exit(1);
}

static void make_host(struct bench_hub *hub)
{
    hub_config config;
    hub_fault fault;
    memset(hub, 0, sizeof *hub);
    hub_config_default(&config);
    bench_hub_must(hub_host_create(NULL, &config, &hub->session, &fault), "hub_host_create");
}

void bench_hub_alone(struct bench_hub *hub)
{
    hub_fault fault;
    make_host(hub);
    bench_hub_must(hub_transport_open_host(hub->session, "bench", &hub->transport, &fault),
                   "hub_transport_open_host");
}

/* The core's descriptors are close-on-exec; what the second process needs is made to stay. */
static int inherited(int fd)
{
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0 || fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC) < 0)
        bench_fail("fcntl");
    return fd;
}

void bench_hub_host(struct bench *bench, struct bench_hub *hub)
{
    hub_fault fault;
    char path[64], id[12], doorbell[12];
    int peer_fd;
    make_host(hub);
    bench_hub_must(hub_host_add_peer(hub->session, "bench", &hub->link, &peer_fd),
                   "hub_host_add_peer");
    snprintf(path, sizeof path, "/proc/self/fd/%d", inherited(hub_session_fd(hub->session)));
    snprintf(id, sizeof id, "%u", hub_link_peer_id(hub->link));
    snprintf(doorbell, sizeof doorbell, "%d", inherited(peer_fd));
    const char *const extra[] = {path, id, doorbell, NULL};
    bench_start_second(bench, extra);
    hub_link_close_peer_fd(hub->link);
    bench_hub_must(hub_transport_open_host_peer(hub->session, hub->link, "bench", &hub->transport,
                                                &fault),
                   "hub_transport_open_host_peer");
}

void bench_hub_peer(struct bench *bench, struct bench_hub *hub)
{
    hub_fault fault;
    memset(hub, 0, sizeof *hub);
    if (bench->extra[2] == NULL)
        bench_fail("arguments of the second process");
    uint32_t id = (uint32_t)strtoul(bench->extra[1], NULL, 10);
    bench_hub_must(hub_peer_open(bench->extra[0], id, &hub->session, &fault), "hub_peer_open");
    bench_hub_must(hub_peer_register(hub->session, &fault), "hub_peer_register");
    bench_hub_must(hub_transport_open_peer(hub->session, atoi(bench->extra[2]), "bench",
                                           hub_clock_ns() + ATTACH_NS, &hub->transport, &fault),
                   "hub_transport_open_peer");
}

void bench_hub_close(struct bench_hub *hub)
{
    hub_transport_close(hub->transport);
    hub_transport_unref(hub->transport);
    if (hub->link != NULL)
        hub_link_unref(hub->link);
    hub_session_close(hub->session);
    hub_session_unref(hub->session);
}
