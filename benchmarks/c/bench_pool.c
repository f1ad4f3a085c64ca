/* bench_pool.c - see bench_pool.h */
#include "bench_pool.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void must(int code, const char *what)
{
    if (code >= 0)
        return;
    fprintf(stderr, "%s: error %d\n", what, code);
    _exit(1);
}

void bench_pool_make(struct bench *bench, struct bench_pool *pool, int second)
{
    hub_config config;
    hub_fault fault;
    char path[64];
    memset(pool, 0, sizeof *pool);
    hub_config_default(&config);
    must(hub_segment_create(&pool->segment, NULL, &config, &fault), "hub_segment_create");
    hub_pool_init(&pool->pool, &pool->segment, 0, &pool->lane);
    hub_pool_format(&pool->pool);
    must(hub_segment_publish(&pool->segment, &fault), "hub_segment_publish");
    if (!second)
        return;
    int flags = fcntl(pool->segment.fd, F_GETFD);
    if (flags < 0 || fcntl(pool->segment.fd, F_SETFD, flags & ~FD_CLOEXEC) < 0)
        bench_fail("fcntl");
    snprintf(path, sizeof path, "/proc/self/fd/%d", pool->segment.fd);
    const char *const extra[] = {path, NULL};
    bench_start_second(bench, extra);
}

void bench_pool_join(struct bench *bench, struct bench_pool *pool)
{
    hub_fault fault;
    memset(pool, 0, sizeof *pool);
    if (bench->extra[0] == NULL)
        bench_fail("arguments of the second process");
    must(hub_segment_open(&pool->segment, bench->extra[0], &fault), "hub_segment_open");
    hub_pool_init(&pool->pool, &pool->segment, 1, &pool->lane);
}

void bench_pool_close(struct bench_pool *pool)
{
    hub_segment_fini(&pool->segment);
}
