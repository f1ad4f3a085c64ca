/* ring.h - bounded ring of 64-byte cells: one producer, one consumer.
 * Unaware of peers, of slots' states, of sleeping.  A message is a descriptor
 * cell and, for an inline payload of 17..240 bytes, the cells that follow it;
 * all of it is published by one store of `tail`, which counts cells.
 *
 *   producer               consumer
 *   load head      (A)     load tail      (C)
 *   fill cells             copy cells, once
 *   store tail     (B)     store head     (D)
 * B pairs with C (the cells are written), D pairs with A (they are read).
 * tail and head are 64-bit, go on through all lives of an id and may wrap: only
 * differences are used, the capacity is a power of two.
 *
 * Each side keeps its own counter privately and reads only the other's from
 * shared memory, so a scribbler can stall a ring but not lead its owner astray. */
#ifndef HUB_RING_H
#define HUB_RING_H

#include "layout.h"

typedef struct hub_producer {
    hub_ring_shm *ring;
    unsigned char *cells;
    uint32_t capacity;
    uint64_t tail;   /* next cell to write; ahead of the shared one while staging */
    uint64_t head;   /* the consumer's, when last looked at */
} hub_producer;

typedef struct hub_consumer {
    hub_ring_shm *ring;
    unsigned char *cells;
    uint32_t capacity;
    uint64_t head;
    uint64_t tail; /* the producer's, when last looked at */
} hub_consumer;

/* A message as it was found in a ring: a private, checked copy. */
typedef struct hub_entry {
    hub_message message;
    uint64_t length;
    uint32_t ref;
    uint32_t gen;
    uint32_t cells;
} hub_entry;

void hub_producer_init(hub_producer *p, hub_ring_shm *ring, uint32_t capacity, uint64_t tail);
void hub_consumer_init(hub_consumer *c, hub_ring_shm *ring, uint32_t capacity, uint64_t head);

static inline uint32_t hub_ring_cells(uint64_t inline_length) {
    return inline_length <= HUB_DESC_BYTES
               ? 1
               : 1 + (uint32_t)((inline_length + HUB_CELL - 1) / HUB_CELL);
}

/* 0: `cells` fit; HUB_ERINGFULL; HUB_EVIOLATION: head is where no consumer can be. */
int hub_ring_room(hub_producer *p, uint32_t cells);
/* Write a message after the staged ones; room must have been seen. ref HUB_REF_NONE: inline. */
void hub_ring_stage(hub_producer *p, const hub_message *message, uint32_t ref, uint32_t gen,
                    const void *data, uint64_t length);
/* Publish all that is staged, then a full fence (the caller looks at sleeping next). */
static inline void hub_ring_publish(hub_producer *p) {
    hub_store_release_then_fence_64(&p->ring->tail, p->tail); /* B */
}

/* Is there anything? One relaxed look for a spin loop; the next hub_ring_next acquires. */
static inline bool hub_ring_nonempty(const hub_consumer *c) {
    return hub_load_relaxed_64(&c->ring->tail) != c->head;
}
/* Copy the next message: 0; HUB_EAGAIN: empty; HUB_EVIOLATION (ret->message.message_id is set when
 * a descriptor could be read; cells = 0 when nothing can be skipped). */
int hub_ring_next(hub_consumer *c, hub_entry *ret, unsigned char inline_data[HUB_INLINE_MAX]);
/* Step over a message, privately. */
static inline void hub_ring_step(hub_consumer *c, uint32_t cells) { c->head += cells; }
/* Let the producer have the cells, then a full fence (the caller looks at want next). */
static inline void hub_ring_commit(hub_consumer *c) {
    hub_store_release_then_fence_64(&c->ring->head, c->head); /* D */
}
/* Cells free at the producer's side, as far as the consumer can see. */
uint32_t hub_ring_free_cells(const hub_consumer *c);

#endif
