/* pairs.c - alloc and free in turn, by one thread that is alone.
 *
 *   cas      two uncontended 64-bit compare-and-swaps: the least that a lock-free pair can cost
 *   treiber  a bare Treiber stack: pop, push
 *   pool     shmhub's allocator alone, 1 KiB
 *   hub      hub_alloc of 1 KiB, hub_slot_free
 *   hub16m   the same of 16 MiB, which no cache holds */
#include <string.h>

#include "bench_hub.h"
#include "bench_pool.h"

static void run_cas(struct bench *bench, uint64_t count)
{
    _Atomic uint64_t *word = &bench->shared->word;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t expected = 0;
        atomic_compare_exchange_strong_explicit(word, &expected, 1, memory_order_acq_rel,
                                                memory_order_acquire);
        expected = 1;
        atomic_compare_exchange_strong_explicit(word, &expected, 0, memory_order_acq_rel,
                                                memory_order_acquire);
    }
}

static void run_treiber(struct bench *bench, uint64_t count)
{
    struct bench_stack *stack = &bench->shared->stack;
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

static void run_hub(struct bench_hub *hub, uint64_t count, uint64_t size)
{
    hub_slot slot;
    for (uint64_t i = 0; i < count; i++) {
        bench_hub_must(hub_alloc(hub->transport, size, HUB_NOW, &slot), "hub_alloc");
        bench_hub_must(hub_slot_free(hub->session, &slot), "hub_slot_free");
    }
}

static void measure_bare(struct bench *bench, void (*run)(struct bench *, uint64_t))
{
    run(bench, bench->count / 10 + 1);
    uint64_t begin = bench_now();
    run(bench, bench->count);
    bench_print(bench_now() - begin, bench->count);
}

static void measure_hub(struct bench *bench, uint64_t size)
{
    struct bench_hub hub;
    bench_hub_alone(&hub);
    run_hub(&hub, bench->count / 10 + 1, size);
    uint64_t begin = bench_now();
    run_hub(&hub, bench->count, size);
    bench_print(bench_now() - begin, bench->count);
    bench_hub_close(&hub);
}

static void measure_pool(struct bench *bench)
{
    static struct bench_pool pool;
    bench_pool_make(bench, &pool, 0);
    run_pool(&pool.pool, bench->count / 10 + 1);
    uint64_t begin = bench_now();
    run_pool(&pool.pool, bench->count);
    bench_print(bench_now() - begin, bench->count);
    bench_pool_close(&pool);
}

int main(int argc, char **argv)
{
    struct bench bench;
    bench_open(&bench, argc, argv);
    bench_stack_fill(&bench.shared->stack);
    if (strcmp(bench.question, "cas") == 0)
        measure_bare(&bench, run_cas);
    else if (strcmp(bench.question, "treiber") == 0)
        measure_bare(&bench, run_treiber);
    else if (strcmp(bench.question, "pool") == 0)
        measure_pool(&bench);
    else if (strcmp(bench.question, "hub") == 0)
        measure_hub(&bench, 1024);
    else if (strcmp(bench.question, "hub16m") == 0)
        measure_hub(&bench, 16u << 20);
    else
        bench_fail("no such question");
    return 0;
}
