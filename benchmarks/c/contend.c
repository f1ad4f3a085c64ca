/* contend.c - two processes on two cores, each taking a slot and giving it back, at full speed.
 *
 *   treiber  one bare Treiber stack: both fight over its head
 *   pool     shmhub's allocator, 1 KiB: each has its cache
 * Nanoseconds a pair, of each side. */
#include <string.h>

#include "bench_hub.h"
#include "bench_pool.h"

static void run_treiber(struct bench_stack *stack, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        bench_stack_push(stack, bench_stack_pop(stack));
}

static void run_pool(hub_pool *pool, uint64_t count)
{
    hub_slot slot;
    for (uint64_t i = 0; i < count; i++) {
        bench_hub_must(hub_pool_alloc(pool, 1024, &slot), "hub_pool_alloc");
        bench_hub_must(hub_pool_free(pool, slot.ref, slot.gen), "hub_pool_free");
    }
}

/* The clock runs from the common start to the common end, so both were busy all the time. */
static void measure(struct bench *bench, hub_pool *pool)
{
    bench_meet(bench, 1);
    uint64_t begin = bench_now();
    if (pool != NULL)
        run_pool(pool, bench->count);
    else
        run_treiber(&bench->shared->stack, bench->count);
    bench_meet(bench, 2);
    if (!bench->second)
        bench_print(bench_now() - begin, bench->count);
}

static void with_pool(struct bench *bench)
{
    static struct bench_pool pool;
    if (bench->second)
        bench_pool_join(bench, &pool);
    else
        bench_pool_make(bench, &pool, 1);
    measure(bench, &pool.pool);
    bench_pool_close(&pool);
}

int main(int argc, char **argv)
{
    struct bench bench;
    bench_open(&bench, argc, argv);
    if (strcmp(bench.question, "pool") == 0) {
        with_pool(&bench);
    } else {
        if (!bench.second) {
            bench_stack_fill(&bench.shared->stack);
            bench_start_second(&bench, NULL);
        }
        measure(&bench, NULL);
    }
    if (!bench.second)
        bench_join(&bench);
    return 0;
}
