/* word.c - a round trip between two processes that spin.
 *
 *   word  a bare word each way: what the cache lines alone cost
 *   hub   64 bytes by hub_send and hub_recv, default spin: adaptive
 * Nanoseconds a round trip. */
#include <string.h>

#include "bench_hub.h"

#define PAYLOAD 64

static void wait_for(_Atomic uint64_t *word, uint64_t value)
{
    uint64_t left = BENCH_PATIENCE;
    while (atomic_load_explicit(word, memory_order_acquire) != value) {
        if (--left == 0)
            bench_fail("the other side does not answer");
        bench_relax();
    }
}

static void run_word(struct bench *bench, uint64_t from, uint64_t count)
{
    _Atomic uint64_t *there = &bench->shared->word, *back = &bench->shared->word_back;
    for (uint64_t i = from + 1; i <= from + count; i++) {
        if (bench->second) {
            wait_for(there, i);
            atomic_store_explicit(back, i, memory_order_release);
        } else {
            atomic_store_explicit(there, i, memory_order_release);
            wait_for(back, i);
        }
    }
}

static void send_one(struct bench_hub *hub, const unsigned char *payload)
{
    hub_message message = {.message_id = hub_transport_next_id(hub->transport)};
    bench_hub_must(hub_send(hub->transport, HUB_TO_DEFAULT, &message, payload, PAYLOAD,
                            HUB_FOREVER),
                   "hub_send");
}

static void run_hub(struct bench *bench, struct bench_hub *hub, uint64_t count)
{
    unsigned char payload[PAYLOAD] = {1};
    hub_frame frame;
    for (uint64_t i = 0; i < count; i++) {
        if (!bench->second)
            send_one(hub, payload);
        bench_hub_must(hub_recv(hub->transport, &frame, HUB_FOREVER), "hub_recv");
        if (bench->second)
            send_one(hub, frame.inline_data);
    }
}

static void run(struct bench *bench, struct bench_hub *hub, uint64_t from, uint64_t count)
{
    if (hub != NULL)
        run_hub(bench, hub, count);
    else
        run_word(bench, from, count);
}

static void measure(struct bench *bench, struct bench_hub *hub)
{
    uint64_t warm = bench->count / 10 + 1;
    bench_meet(bench, 1);
    run(bench, hub, 0, warm);
    uint64_t begin = bench_now();
    run(bench, hub, warm, bench->count);
    if (!bench->second)
        bench_print(bench_now() - begin, bench->count);
    bench_meet(bench, 2);
}

int main(int argc, char **argv)
{
    struct bench bench;
    struct bench_hub hub;
    bench_open(&bench, argc, argv);
    int with_hub = strcmp(bench.question, "hub") == 0;
    if (with_hub && bench.second)
        bench_hub_peer(&bench, &hub);
    else if (with_hub)
        bench_hub_host(&bench, &hub);
    else if (!bench.second)
        bench_start_second(&bench, NULL);
    measure(&bench, with_hub ? &hub : NULL);
    if (with_hub)
        bench_hub_close(&hub);
    if (!bench.second)
        bench_join(&bench);
    return 0;
}
