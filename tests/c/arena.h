/* arena.h - a hub's memory with pools on it, without sessions: what the tests of the lower layers
 * stand on.  Several pools on one arena play several processes, or are used by them after a fork.
 */
#ifndef TEST_ARENA_H
#define TEST_ARENA_H

#include "alloc_internal.h"

#define KIB 1024ULL
#define MIB (1024 * KIB)

typedef struct arena {
    hub_segment segment;
    hub_pool host; /* peer 0 */
    hub_config config;
} arena;

/* The five classes of the design; with `growth` room to grow and three jumbo classes. */
hub_config config_of_the_table(bool growth);
/* One class, no room to grow. */
hub_config config_of_one(uint64_t slot_size, uint32_t slots);
/* Add a class (ascending). */
void config_add(hub_config *config, uint64_t slot_size, uint32_t slots, uint32_t max_slots);

void arena_open(arena *a, const hub_config *config);
void arena_open_at(arena *a, const char *path, const hub_config *config);
void arena_close(arena *a);
/* A pool of another peer on the same memory. */
void arena_pool(arena *a, hub_pool *pool, uint32_t peer);

/* Slots of all classes in service must be FREE, on at most one stack each, and linked if on one. */
void arena_check_all_free(arena *a);
/* The stacks are sound: in range, no slot twice, every one linked. Nobody else may be at work.
 * Returns how many slots of the class lie on them. */
uint32_t arena_check_stacks(arena *a, uint32_t class_index);
hub_class_stat arena_count(arena *a, uint32_t class_index);

/* Allocate from `pool` until nothing of this class is left: slots taken (into ret, at most `most`).
 */
uint32_t arena_take_all(hub_pool *pool, uint64_t size, uint32_t class_index, hub_slot *ret,
                        uint32_t most);

/* Fill with a pattern that tells owner and offset, and look whether it is still there. */
void pattern_write(unsigned char *data, uint64_t length, uint64_t seed);
void pattern_check(const unsigned char *data, uint64_t length, uint64_t seed);

#endif
