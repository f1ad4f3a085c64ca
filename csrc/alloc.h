/* alloc.h - the pool: size-classed slots on lock-free stacks that survive a kill
 * at any instruction.  Knows the layout and the segment; unaware of rings,
 * doorbells and of who waits (it calls `kick` when somebody does).
 *
 * Invariants
 *   - ctl alone decides who owns a slot.  Stacks and caches are hints.
 *   - linked (L): the slot may be on a stack or on its way there.  Only the CAS
 *     that turns L from 0 to 1 may link it, only who has popped it turns L back.
 *   - every transition is one CAS on ctl; alloc raises the generation.
 *   - backed never promises more pages than are reserved.
 *   - nobody reports "exhausted" without an unconditional scan of every class
 *     that fits.
 *
 *   freer                              waiter
 *   CAS ctl -> FREE          (A)       set bit in pool_waiters   (C)
 *   fence                              fence
 *   load pool_waiters        (B)       try to allocate           (D)
 * B reads C's bit or D finds A's slot. */
#ifndef HUB_ALLOC_H
#define HUB_ALLOC_H

#include "segment.h"

#define HUB_CACHE_SLOTS 64u           /* at most, in a class and lane */
#define HUB_CACHE_BYTES (256u * 1024) /* at most, in a class and lane; larger slots are not cached */
#define HUB_CACHE_LANES 4u
#define HUB_BELOW 1024u               /* slots of a class whose neighbour in a run is remembered */

struct hub_thread;

/* Slots this process freed and remembers: private memory, a hint and no more. A lane belongs to one
 * thread, which uses it without any atomic operation; threads beyond the lanes use the stacks. */
typedef struct hub_cache {
    hub_a64 owner; /* a struct hub_thread *, counted; 0: nobody's yet */
    uint32_t count;
    uint32_t items[HUB_CACHE_SLOTS];
} hub_cache;

typedef struct hub_pool_class {
    uint64_t slot_size;
    uint64_t slot_stride;
    uint64_t data_offset;
    uint32_t max_slots;
    uint32_t sub_page;    /* smaller than a page: never punched */
    uint32_t whole_pages; /* pages that any use backs; 0: as many as are asked for */
    unsigned char *data;
    hub_slot_shm *meta;
    hub_class_shm *shared;
    uint32_t cache_capacity; /* slots a lane remembers; 0: none */
    hub_cache caches[HUB_CACHE_LANES];
    hub_a32 below[HUB_BELOW]; /* which slot was above when this one was popped: see fetch_run */
} hub_pool_class;

typedef struct hub_pool {
    const hub_segment *segment;
    hub_signals_shm *signals;
    hub_lane_shm *lane;
    uint32_t me; /* peer id that owns what this process allocates */
    uint32_t class_count;
    uint64_t max_bytes;
    uint64_t largest; /* payload that can ever be had: class size and max_bytes decide */
    /* Called after a free when pool_waiters is not 0, with its value. */
    void (*kick)(void *context, uint64_t waiters);
    void *kick_context;
    hub_pool_class classes[HUB_CLASSES_MAX];
} hub_pool;

void hub_pool_init(hub_pool *pool, const hub_segment *segment, uint32_t me, hub_lane_shm *lane);
/* Host, once, before the hub is published: put every configured slot on its cold stack. */
void hub_pool_format(hub_pool *pool);

/* 0; HUB_EEXHAUSTED: none that fits is free, or max_bytes is reached; HUB_ETOOLARGE; HUB_ENOSPC. */
int hub_pool_alloc(hub_pool *pool, uint64_t size, hub_slot *ret);
/* Give back an owned slot. HUB_ESTALE if it is not ours. */
int hub_pool_free(hub_pool *pool, uint32_t ref, uint32_t gen);
/* Make an owned slot hold `size` bytes (<= slot size). As hub_pool_alloc. */
int hub_pool_back(hub_pool *pool, uint32_t ref, uint64_t size);
/* One transition, keeping generation and L: 0, or HUB_ESTALE when ctl says otherwise. */
int hub_pool_move(hub_pool *pool, uint32_t ref, uint32_t gen, uint32_t from_state,
                  uint32_t from_owner, uint32_t to_state, uint32_t to_owner);
/* Free a slot found in that state (undelivered messages). */
int hub_pool_discard(hub_pool *pool, uint32_t ref, uint32_t gen, uint32_t state, uint32_t owner);

/* Is it OWNED by this process, in that generation? */
bool hub_pool_is_mine(const hub_pool *pool, uint32_t ref, uint32_t gen);
/* Does the reference name a slot in service? */
bool hub_pool_valid(const hub_pool *pool, uint32_t ref);
unsigned char *hub_pool_data(const hub_pool *pool, uint32_t ref);
uint64_t hub_pool_slot_size(const hub_pool *pool, uint32_t ref);
/* Bytes of the slot that are reserved in memory. */
uint64_t hub_pool_backed(const hub_pool *pool, uint32_t ref);

/* Give memory of free slots back until `enough` bytes are: bytes given back. */
uint64_t hub_pool_trim(hub_pool *pool, uint64_t enough);
/* Put what the calling thread remembers back on the stacks. */
void hub_pool_flush(hub_pool *pool);
/* Nobody uses the pool any more. */
void hub_pool_fini(hub_pool *pool);
/* Take back all that peer `dead` owns and all in its two rings: slots taken back. */
uint64_t hub_pool_reclaim(hub_pool *pool, uint32_t dead);
/* Slots in OWNED(owner), counted; stops at `most`. */
uint32_t hub_pool_owned(const hub_pool *pool, uint32_t owner, uint32_t most);

/* Count by state: works on a live hub and on a copy of one. */
void hub_pool_count(const hub_geometry *geometry, const unsigned char *base, hub_stat *ret,
                    uint32_t owned_by[HUB_PEERS_MAX]);

/* Is anybody waiting? Called after every free; see the table above. */
static inline void hub_pool_kick(hub_pool *pool) {
    hub_fence_after_rmw(); /* the CAS of the free came before */
    uint64_t waiters = hub_load_relaxed_64(&pool->signals->pool_waiters); /* B */
    if (waiters != 0 && pool->kick != NULL) pool->kick(pool->kick_context, waiters);
}

#endif
