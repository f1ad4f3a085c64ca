/* bench_pool.h - the allocator alone: a segment and a pool, no session, ring or transport.
 * Uses the core's internal headers: these figures tell how much of a message is the allocator. */
#ifndef BENCH_POOL_H
#define BENCH_POOL_H

#include "alloc.h"
#include "bench.h"

struct bench_pool {
    hub_segment segment;
    hub_lane_shm lane; /* private: nobody reads these counters */
    hub_pool pool;
};

/* The first process's: makes the segment. With `second`, starts the other process, too. */
void bench_pool_make(struct bench *bench, struct bench_pool *pool, int second);
/* The second process's. */
void bench_pool_join(struct bench *bench, struct bench_pool *pool);
void bench_pool_close(struct bench_pool *pool);

#endif
