/* ring.c - see ring.h for the protocol. */
#include "ring.h"

#include <string.h>

#define CELLS_AHEAD 4u

void hub_producer_init(hub_producer *p, hub_ring_shm *ring, uint32_t capacity, uint64_t tail) {
    p->ring = ring;
    p->cells = (unsigned char *)(ring + 1);
    p->capacity = capacity;
    p->tail = tail;
    p->head = tail - capacity; /* as if full: the first send looks */
}

void hub_consumer_init(hub_consumer *c, hub_ring_shm *ring, uint32_t capacity, uint64_t head) {
    c->ring = ring;
    c->cells = (unsigned char *)(ring + 1);
    c->capacity = capacity;
    c->head = head;
    c->tail = head;
}

static unsigned char *cell_at(unsigned char *cells, uint32_t capacity, uint64_t position) {
    return cells + (position & (capacity - 1)) * HUB_CELL;
}

int hub_ring_room(hub_producer *p, uint32_t cells) {
    /* What was staged had room: tail is never more than the capacity ahead of the head seen last. */
    if (p->capacity - (p->tail - p->head) >= cells) return 0;
    uint64_t head = hub_load_acquire_64(&p->ring->head); /* A */
    uint64_t used = p->tail - head;
    if (used > p->capacity) return HUB_EVIOLATION;
    p->head = head;
    return p->capacity - used >= cells ? 0 : HUB_ERINGFULL;
}

void hub_ring_stage(hub_producer *p, const hub_message *message, uint32_t ref, uint32_t gen,
                    const void *data, uint64_t length) {
    hub_desc_shm *desc = (hub_desc_shm *)cell_at(p->cells, p->capacity, p->tail);
    uint32_t cells = ref == HUB_REF_NONE ? hub_ring_cells(length) : 1;
    /* The consumer has read these a lap ago: have them by the time they are written. */
    hub_prefetch_for_write(cell_at(p->cells, p->capacity, p->tail + CELLS_AHEAD));
    hub_prefetch_for_write(cell_at(p->cells, p->capacity, p->tail + CELLS_AHEAD + 1));
    desc->message_id = message->message_id;
    desc->deadline_ns = message->deadline_ns;
    desc->flags = message->flags;
    desc->channel = message->channel;
    desc->method = message->method;
    desc->ref = ref;
    desc->gen = gen;
    desc->length = length;
    desc->cells = (uint16_t)cells;
    desc->reserved = 0;
    desc->sequence = (uint32_t)p->tail;
    if (ref == HUB_REF_NONE && length > 0) {
        if (length <= HUB_DESC_BYTES) {
            memcpy(desc->bytes, data, length);
        } else {
            uint64_t at = (p->tail + 1) & (p->capacity - 1);
            uint64_t before_wrap = (p->capacity - at) * HUB_CELL;
            uint64_t first = length < before_wrap ? length : before_wrap;
            memcpy(p->cells + at * HUB_CELL, data, first);
            if (first < length)
                memcpy(p->cells, (const unsigned char *)data + first, length - first);
        }
    }
    p->tail += cells;
}

static void copy_inline(const hub_consumer *c, const hub_desc_shm *desc, unsigned char *out) {
    if (desc->length <= HUB_DESC_BYTES) {
        memcpy(out, desc->bytes, HUB_DESC_BYTES);
        return;
    }
    uint64_t at = (c->head + 1) & (c->capacity - 1);
    uint64_t before_wrap = (c->capacity - at) * HUB_CELL;
    uint64_t first = desc->length < before_wrap ? desc->length : before_wrap;
    memcpy(out, c->cells + at * HUB_CELL, first);
    if (first < desc->length) memcpy(out + first, c->cells, desc->length - first);
}

int hub_ring_next(hub_consumer *c, hub_entry *ret, unsigned char inline_data[HUB_INLINE_MAX]) {
    uint64_t available = c->tail - c->head;
    if (available == 0) {
        c->tail = hub_load_acquire_64(&c->ring->tail); /* C */
        available = c->tail - c->head;
        if (available == 0) return HUB_EAGAIN;
    }
    ret->cells = 0;
    ret->message.message_id = 0;
    if (available > c->capacity) {
        c->tail = c->head; /* look again next time */
        return HUB_EVIOLATION;
    }
    hub_desc_shm desc;
    hub_copy_once(&desc, cell_at(c->cells, c->capacity, c->head), sizeof desc);
    ret->message.message_id = desc.message_id;
    ret->message.deadline_ns = desc.deadline_ns;
    ret->message.flags = desc.flags;
    ret->message.channel = desc.channel;
    ret->message.method = desc.method;
    ret->length = desc.length;
    ret->ref = desc.ref;
    ret->gen = desc.gen;
    if (desc.sequence != (uint32_t)c->head || desc.cells > available) return HUB_EVIOLATION;
    if (desc.ref == HUB_REF_NONE) {
        if (desc.length > HUB_INLINE_MAX || desc.cells != hub_ring_cells(desc.length))
            return HUB_EVIOLATION;
        copy_inline(c, &desc, inline_data);
    } else if (desc.cells != 1) {
        return HUB_EVIOLATION;
    }
    ret->cells = desc.cells;
    return 0;
}

uint32_t hub_ring_free_cells(const hub_consumer *c) {
    uint64_t used = hub_load_relaxed_64(&c->ring->tail) - c->head;
    return used > c->capacity ? 0 : c->capacity - (uint32_t)used;
}
