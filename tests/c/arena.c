/* arena.c - see arena.h. */
#include "arena.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

void config_add(hub_config *config, uint64_t slot_size, uint32_t slots, uint32_t max_slots) {
    CHECK(config->class_count < HUB_CLASSES_MAX);
    hub_class_config *c = &config->classes[config->class_count++];
    c->slot_size = slot_size;
    c->slots = slots;
    c->max_slots = max_slots;
}

static hub_config config_without_classes(void) {
    hub_config config;
    memset(&config, 0, sizeof config);
    config.max_peers = 32;
    config.ring_capacity = 256;
    config.max_bytes = 2048 * MIB; /* above all that these tests use, below the machine's memory */
    config.spin_ns = -1;
    return config;
}

hub_config config_of_the_table(bool growth) {
    static const struct { uint64_t size; uint32_t slots; } table[] = {
        {1 * KIB, 1024}, {16 * KIB, 256}, {256 * KIB, 32}, {4 * MIB, 8}, {16 * MIB, 4}};
    hub_config config = config_without_classes();
    for (unsigned i = 0; i < 5; i++)
        config_add(&config, table[i].size, table[i].slots,
                   growth ? 4 * table[i].slots : table[i].slots);
    if (growth) {
        config_add(&config, 64 * MIB, 0, 16);
        config_add(&config, 256 * MIB, 0, 8);
        config_add(&config, 1024 * MIB, 0, 2);
    }
    return config;
}

hub_config config_of_one(uint64_t slot_size, uint32_t slots) {
    hub_config config = config_without_classes();
    config_add(&config, slot_size, slots, slots);
    return config;
}

void arena_open_at(arena *a, const char *path, const hub_config *config) {
    hub_fault fault = {0, ""};
    a->config = *config;
    CHECK_OK_FAULT(hub_segment_create(&a->segment, path, config, &fault), fault);
    arena_pool(a, &a->host, 0);
    hub_pool_format(&a->host);
    CHECK_OK_FAULT(hub_segment_publish(&a->segment, &fault), fault);
}

void arena_open(arena *a, const hub_config *config) { arena_open_at(a, NULL, config); }

void arena_close(arena *a) {
    hub_pool_fini(&a->host);
    hub_segment_fini(&a->segment);
}

void arena_pool(arena *a, hub_pool *pool, uint32_t peer) {
    const hub_geometry *g = &a->segment.geometry;
    uint64_t lane = g->host_lane_offset;
    if (peer > 0) {
        lane = hub_block_offset(g, peer);
        CHECK_OK(hub_segment_back(&a->segment, lane, g->block_stride));
        hub_peer_shm *entry = (hub_peer_shm *)(a->segment.base + g->peers_offset) + peer;
        hub_store_release_64(&entry->state, hub_state_make(1, HUB_PEER_ACTIVE));
    }
    hub_pool_init(pool, &a->segment, peer, (hub_lane_shm *)(a->segment.base + lane));
}

static uint32_t check_stack(const hub_pool_class *c, const hub_a64 *head, unsigned char *seen) {
    uint32_t limit = hub_in_service(c), count = 0;
    uint32_t index = hub_head_index(hub_load_acquire_64(head));
    while (index != HUB_INDEX_NONE) {
        CHECK_REL(index, <, limit);
        if (seen[index]) FAIL("slot %u is on the stacks twice", index);
        seen[index] = 1;
        if (!hub_ctl_linked(hub_load_relaxed_64(&c->meta[index].ctl)))
            FAIL("slot %u is on a stack and says that it is not linked", index);
        count++;
        index = hub_load_relaxed_32(&c->meta[index].next);
    }
    return count;
}

uint32_t arena_check_stacks(arena *a, uint32_t class_index) {
    const hub_pool_class *c = &a->host.classes[class_index];
    unsigned char *seen = calloc(1, (size_t)c->max_slots);
    CHECK(seen != NULL);
    uint32_t count = check_stack(c, &c->shared->hot, seen);
    count += check_stack(c, &c->shared->cold, seen);
    free(seen);
    return count;
}

hub_class_stat arena_count(arena *a, uint32_t class_index) {
    static hub_stat stat; /* large; tests of one arena are single-threaded where they count */
    uint32_t owned[HUB_PEERS_MAX];
    hub_pool_count(&a->segment.geometry, a->segment.base, &stat, owned);
    return stat.classes[class_index];
}

void arena_check_all_free(arena *a) {
    for (uint32_t k = 0; k < a->segment.geometry.class_count; k++) {
        hub_class_stat s = arena_count(a, k);
        if (s.free != s.slots || s.owned + s.in_ring + s.shared != 0)
            FAIL("class %u: %u of %u slots free, %u owned, %u in a ring, %u shared", k, s.free,
                 s.slots, s.owned, s.in_ring, s.shared);
        (void)arena_check_stacks(a, k);
    }
}

uint32_t arena_take_all(hub_pool *pool, uint64_t size, uint32_t class_index, hub_slot *ret,
                        uint32_t most) {
    uint32_t count = 0;
    for (;;) {
        hub_slot slot;
        int rc = hub_pool_alloc(pool, size, &slot);
        if (rc == HUB_EEXHAUSTED) return count;
        CHECK_OK(rc);
        if (hub_ref_class(slot.ref) != class_index) { /* spilled into the next one */
            CHECK_OK(hub_pool_free(pool, slot.ref, slot.gen));
            return count;
        }
        CHECK_REL(count, <, most);
        for (uint32_t i = 0; i < count; i++)
            if (ret[i].ref == slot.ref) FAIL("slot %#x was given out twice", slot.ref);
        ret[count++] = slot;
    }
}

static uint64_t pattern_word(uint64_t seed, uint64_t i) {
    return (seed + i) * 0x9E3779B97F4A7C15ULL;
}

void pattern_write(unsigned char *data, uint64_t length, uint64_t seed) {
    uint64_t i = 0;
    for (; i + 8 <= length; i += 8) {
        uint64_t word = pattern_word(seed, i);
        memcpy(data + i, &word, 8);
    }
    for (; i < length; i++) data[i] = (unsigned char)pattern_word(seed, i);
}

void pattern_check(const unsigned char *data, uint64_t length, uint64_t seed) {
    uint64_t i = 0;
    for (; i + 8 <= length; i += 8) {
        uint64_t word, wanted = pattern_word(seed, i);
        memcpy(&word, data + i, 8);
        if (word != wanted)
            FAIL("payload of %llu bytes differs at %llu", (unsigned long long)length,
                 (unsigned long long)i);
    }
    for (; i < length; i++)
        if (data[i] != (unsigned char)pattern_word(seed, i))
            FAIL("payload of %llu bytes differs at %llu", (unsigned long long)length,
                 (unsigned long long)i);
}
