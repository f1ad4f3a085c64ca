/* cover_ring.c - libFuzzer: any bytes in the rings of a peer that is gone.
 *
 * The input is counters and cells, laid over what the peer and the host had really sent; the host
 * takes over what was published and lists what was not received (reclaim.c), as it does when a peer
 * dies or is quarantined.  Each message that it keeps lies within its slot.
 * FUZZ_SEEDS=folder writes the first inputs there: true rings. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "reclaim.h"
#include "seeds.h"
#include "transport.h"

#define CAPACITY 8u
#define DEMAND(condition) \
    do {                  \
        if (!(condition)) abort(); \
    } while (0)

typedef struct input {
    uint8_t tail_ahead, head_behind; /* of the ring up, of the ring down: from true counters */
    uint8_t mask;                    /* which cells are laid over: else they stay */
    uint8_t slots;                   /* messages in slots that were really sent */
    hub_desc_shm up[CAPACITY], down[CAPACITY];
} input;

static hub_session *host;

static void make_host(void) {
    hub_config config;
    memset(&config, 0, sizeof config);
    config.class_count = 2;
    config.classes[0] = (hub_class_config){1024, 16, 16};
    config.classes[1] = (hub_class_config){16384, 4, 4};
    config.max_peers = 3;
    config.ring_capacity = CAPACITY;
    DEMAND(hub_host_create(NULL, &config, &host, NULL) == 0);
}

/* A life of id 1 whose rings nobody else looks at: it is never attached. */
static hub_link *begin_life(void) {
    hub_link *link = hub_link_new(host, 1, 1, "gone", 100, 200);
    DEMAND(link != NULL);
    hub_ring_shm *up = hub_session_ring(host, hub_ring_up(1));
    hub_ring_shm *down = hub_session_ring(host, hub_ring_down(1));
    memset(up, 0, hub_ring_bytes(CAPACITY));
    memset(down, 0, hub_ring_bytes(CAPACITY));
    up->tail.value = up->head.value = 100;
    down->tail.value = down->head.value = 200;
    return link;
}

/* What was really sent, either way: slots in the rings, and inline messages. */
static void send_some(hub_link *link, unsigned slots) {
    hub_producer peer;
    hub_message m = {7, 0, 0, 0, 0};
    hub_slot slot;
    static const unsigned char bytes[HUB_INLINE_MAX];
    hub_producer_init(&peer, link->rx.ring, CAPACITY, 100);
    for (unsigned i = 0; i < 4; i++) {
        hub_producer *p = i % 2 ? &peer : &link->tx;
        uint32_t ring = i % 2 ? link->in_ring : link->out_ring;
        if (!(slots >> i & 1)) {
            if (hub_ring_room(p, 2) == 0) hub_ring_stage(p, &m, HUB_REF_NONE, 0, bytes, 20 * i);
        } else if (hub_ring_room(p, 1) == 0 &&
                   hub_pool_alloc(&host->pool, 1 + i * 900, &slot) == 0) {
            int rc = hub_pool_move(&host->pool, slot.ref, slot.gen, HUB_OWNED, 0, HUB_RING, ring);
            DEMAND(rc == 0);
            hub_ring_stage(p, &m, slot.ref, slot.gen, NULL, 1 + i * 900);
        }
        hub_ring_publish(p);
    }
}

static void demand_sound(const hub_link *link) {
    DEMAND(link->queue_count <= CAPACITY && link->undelivered_count <= CAPACITY);
    for (uint32_t i = 0; i < link->queue_count; i++) {
        const hub_entry *entry = &link->queue[link->queue_head + i].entry;
        if (entry->ref == HUB_REF_NONE) {
            DEMAND(entry->length <= HUB_INLINE_MAX);
            continue;
        }
        DEMAND(hub_pool_valid(&host->pool, entry->ref));
        DEMAND(entry->length <= hub_pool_backed(&host->pool, entry->ref));
        DEMAND(hub_pool_is_mine(&host->pool, entry->ref, entry->gen));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in;
    memset(&in, 0, sizeof in);
    memcpy(&in, data, size < sizeof in ? size : sizeof in);
    hub_link *link = begin_life();
    send_some(link, in.slots);
    hub_desc_shm *up = (hub_desc_shm *)(link->rx.ring + 1);
    hub_desc_shm *down = (hub_desc_shm *)(link->tx.ring + 1);
    for (unsigned i = 0; i < CAPACITY; i++) {
        if (!(in.mask >> i & 1)) continue;
        up[i] = in.up[i];
        down[i] = in.down[i];
    }
    link->rx.ring->tail.value += in.tail_ahead;
    link->tx.ring->head.value -= in.head_behind;
    (void)pthread_mutex_lock(&host->lock);
    hub_reclaim_rings(host, link, false);
    (void)pthread_mutex_unlock(&host->lock);
    demand_sound(link);
    hub_link_drop_queue(link);
    /* What nobody believed is still in its ring, and comes back with the rest of the dead. */
    (void)hub_pool_reclaim(&host->pool, 1);
    hub_stat stat;
    DEMAND(hub_session_stat(host, &stat) == 0);
    for (uint32_t k = 0; k < stat.class_count; k++)
        DEMAND(stat.classes[k].free == stat.classes[k].slots);
    hub_link_unref(link);
    return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *folder = getenv("FUZZ_SEEDS");
    (void)argc, (void)argv;
    if (folder != NULL) {
        for (unsigned n = 0; n < 16; n++) {
            input in;
            memset(&in, 0, sizeof in);
            in.slots = (uint8_t)n;
            in.mask = (uint8_t)(n * 17);
            for (unsigned i = 0; i < CAPACITY; i++) {
                in.up[i] = (hub_desc_shm){.ref = n % 2 ? i : HUB_REF_NONE, .gen = 1, .length = n,
                                          .cells = 1, .sequence = 100 + i};
                in.down[i] = in.up[i];
                in.down[i].sequence = 200 + i;
            }
            seeds_write(folder, n, &in, sizeof in);
        }
        exit(0);
    }
    make_host();
    return 0;
}
