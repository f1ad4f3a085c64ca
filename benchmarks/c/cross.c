/* cross.c - allocated here, freed there: one process takes slots, the other gives them back.
 *
 *   ring     references travel in a bare ring, nobody allocates: what the passing alone costs
 *   treiber  a bare Treiber stack; references travel in the same bare ring
 *   pool     shmhub's allocator, with the two transitions of a hand-over; the same bare ring
 *   hub      the whole message: hub_alloc, hub_send_slot, hub_recv, hub_slot_free
 * At full speed; nanoseconds a message. Messages are 1 KiB slots that nobody writes or reads. */
#include <string.h>

#include "bench_hub.h"
#include "bench_pool.h"

#define SLOT 1024
#define RING 1u /* any ring's number will do: nobody looks into it */

struct work {
    struct bench *bench;
    struct bench_pool *pool;
    struct bench_hub *hub;
};

static void run_ring(struct work *work, uint64_t count)
{
    struct bench_refs *refs = &work->bench->shared->refs;
    for (uint64_t i = 0; i < count; i++) {
        if (work->bench->second)
            (void)bench_refs_take(refs);
        else
            bench_refs_put(refs, i);
    }
}

static uint32_t must_pop(struct bench_stack *stack)
{
    uint64_t left = BENCH_PATIENCE;
    uint32_t index;
    while ((index = bench_stack_pop(stack)) == BENCH_NONE) {
        if (--left == 0)
            bench_fail("the stack stays empty");
        bench_relax();
    }
    return index;
}

static void run_treiber(struct work *work, uint64_t count)
{
    struct bench_shared *shared = work->bench->shared;
    for (uint64_t i = 0; i < count; i++) {
        if (work->bench->second)
            bench_stack_push(&shared->stack, (uint32_t)bench_refs_take(&shared->refs));
        else
            bench_refs_put(&shared->refs, must_pop(&shared->stack));
    }
}

static void run_pool(struct work *work, uint64_t count)
{
    struct bench_refs *refs = &work->bench->shared->refs;
    hub_pool *pool = &work->pool->pool;
    for (uint64_t i = 0; i < count; i++) {
        if (work->bench->second) {
            uint64_t packed = bench_refs_take(refs);
            uint32_t ref = (uint32_t)packed, gen = (uint32_t)(packed >> 32);
            bench_hub_must(hub_pool_move(pool, ref, gen, HUB_RING, RING, HUB_OWNED, 1), "receive");
            bench_hub_must(hub_pool_free(pool, ref, gen), "hub_pool_free");
        } else {
            hub_slot slot;
            bench_hub_must(hub_pool_alloc(pool, SLOT, &slot), "hub_pool_alloc");
            bench_hub_must(hub_pool_move(pool, slot.ref, slot.gen, HUB_OWNED, 0, HUB_RING, RING),
                           "send");
            bench_refs_put(refs, (uint64_t)slot.gen << 32 | slot.ref);
        }
    }
}

static void give(struct bench_hub *hub)
{
    hub_slot slot;
    hub_message message = {.message_id = hub_transport_next_id(hub->transport)};
    bench_hub_must(hub_alloc(hub->transport, SLOT, HUB_FOREVER, &slot), "hub_alloc");
    bench_hub_must(hub_send_slot(hub->transport, HUB_TO_DEFAULT, &message, &slot, SLOT,
                                 HUB_FOREVER),
                   "hub_send_slot");
}

static void take(struct bench_hub *hub)
{
    hub_frame frame;
    bench_hub_must(hub_recv(hub->transport, &frame, HUB_FOREVER), "hub_recv");
    bench_hub_must(hub_slot_free(hub->session, &frame.slot), "hub_slot_free");
}

static void run_hub(struct work *work, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (work->bench->second)
            take(work->hub);
        else
            give(work->hub);
    }
}

/* Over when the last message is freed. */
static void measure(struct work *work, void (*run)(struct work *, uint64_t))
{
    struct bench *bench = work->bench;
    bench_meet(bench, 1);
    run(work, bench->count / 10 + 1);
    bench_meet(bench, 2);
    uint64_t begin = bench_now();
    run(work, bench->count);
    bench_meet(bench, 3);
    if (!bench->second)
        bench_print(bench_now() - begin, bench->count);
}

static void with_hub(struct bench *bench)
{
    struct bench_hub hub;
    struct work work = {bench, NULL, &hub};
    if (bench->second)
        bench_hub_peer(bench, &hub);
    else
        bench_hub_host(bench, &hub);
    measure(&work, run_hub);
    bench_hub_close(&hub);
}

static void with_pool(struct bench *bench)
{
    static struct bench_pool pool;
    struct work work = {bench, &pool, NULL};
    if (bench->second)
        bench_pool_join(bench, &pool);
    else
        bench_pool_make(bench, &pool, 1);
    measure(&work, run_pool);
    bench_pool_close(&pool);
}

static void bare(struct bench *bench, void (*run)(struct work *, uint64_t))
{
    struct work work = {bench, NULL, NULL};
    if (!bench->second) {
        bench_stack_fill(&bench->shared->stack);
        bench_start_second(bench, NULL);
    }
    measure(&work, run);
}

int main(int argc, char **argv)
{
    struct bench bench;
    bench_open(&bench, argc, argv);
    if (strcmp(bench.question, "hub") == 0)
        with_hub(&bench);
    else if (strcmp(bench.question, "pool") == 0)
        with_pool(&bench);
    else if (strcmp(bench.question, "treiber") == 0)
        bare(&bench, run_treiber);
    else if (strcmp(bench.question, "ring") == 0)
        bare(&bench, run_ring);
    else
        bench_fail("no such question");
    if (!bench.second)
        bench_join(&bench);
    return 0;
}
