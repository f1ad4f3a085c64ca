/* fields.c - see fields.h. */
#include "fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE_OF(type, member) sizeof(((type *)0)->member)
#define F(part, prefix, type, member, width, kind)                                     \
    {                                                                                  \
        part, prefix "." #member, offsetof(type, member), SIZE_OF(type, member), width, \
            kind                                                                       \
    }

#define H(member, width, kind) F(PART_HEADER, "header", hub_header_shm, member, width, kind)
#define S(member, width, kind) F(PART_SIGNALS, "signals", hub_signals_shm, member, width, kind)
#define C(member, width, kind) F(PART_CLASS, "class", hub_class_shm, member, width, kind)
#define M(member, width, kind) F(PART_SLOT, "slot", hub_slot_shm, member, width, kind)
#define P(member, width, kind) F(PART_PEER, "peer", hub_peer_shm, member, width, kind)
#define LANE(part, prefix)                                            \
    F(part, prefix, hub_lane_shm, sent, 8, KIND_RAW),                 \
        F(part, prefix, hub_lane_shm, received, 8, KIND_RAW),         \
        F(part, prefix, hub_lane_shm, bytes_sent, 8, KIND_RAW),       \
        F(part, prefix, hub_lane_shm, bytes_received, 8, KIND_RAW),   \
        F(part, prefix, hub_lane_shm, rings_rung, 8, KIND_RAW),       \
        F(part, prefix, hub_lane_shm, waits, 8, KIND_RAW),            \
        F(part, prefix, hub_lane_shm, pad, 8, KIND_PAD),              \
        F(part, prefix, hub_lane_shm, exhausted, 8, KIND_RAW)
#define RING(part, prefix)                                        \
    F(part, prefix, hub_ring_shm, tail, 8, KIND_POSITION),        \
        F(part, prefix, hub_ring_shm, pad0, 8, KIND_PAD),         \
        F(part, prefix, hub_ring_shm, head, 8, KIND_POSITION),    \
        F(part, prefix, hub_ring_shm, pad1, 8, KIND_PAD),         \
        F(part, prefix, hub_ring_shm, capacity, 4, KIND_COUNT),   \
        F(part, prefix, hub_ring_shm, closed, 4, KIND_FLAG),      \
        F(part, prefix, hub_ring_shm, sleeping, 4, KIND_FLAG),    \
        F(part, prefix, hub_ring_shm, want, 4, KIND_WANT),        \
        F(part, prefix, hub_ring_shm, pad2, 8, KIND_PAD)
#define CELL(part, prefix)                                           \
    F(part, prefix, hub_desc_shm, message_id, 8, KIND_RAW),          \
        F(part, prefix, hub_desc_shm, deadline_ns, 8, KIND_RAW),     \
        F(part, prefix, hub_desc_shm, flags, 4, KIND_RAW),           \
        F(part, prefix, hub_desc_shm, channel, 2, KIND_RAW),         \
        F(part, prefix, hub_desc_shm, method, 2, KIND_RAW),          \
        F(part, prefix, hub_desc_shm, ref, 4, KIND_REF),             \
        F(part, prefix, hub_desc_shm, gen, 4, KIND_COUNT),           \
        F(part, prefix, hub_desc_shm, length, 8, KIND_LENGTH),       \
        F(part, prefix, hub_desc_shm, cells, 2, KIND_CELLS),         \
        F(part, prefix, hub_desc_shm, reserved, 2, KIND_RAW),        \
        F(part, prefix, hub_desc_shm, sequence, 4, KIND_SEQUENCE),   \
        F(part, prefix, hub_desc_shm, bytes, 8, KIND_RAW)

static const fuzz_field table[] = {
    H(magic, 8, KIND_RAW),
    H(version_major, 2, KIND_COUNT),
    H(version_minor, 2, KIND_COUNT),
    H(header_size, 4, KIND_SIZE),
    H(total_size, 8, KIND_SIZE),
    H(class_count, 4, KIND_COUNT),
    H(max_peers, 4, KIND_COUNT),
    H(ring_capacity, 4, KIND_COUNT),
    H(host_pid, 4, KIND_RAW),
    H(max_bytes, 8, KIND_SIZE),
    H(spin_ns, 8, KIND_RAW),
    H(classes_offset, 8, KIND_SIZE),
    H(signals_offset, 8, KIND_SIZE),
    H(peers_offset, 8, KIND_SIZE),
    H(host_lane_offset, 8, KIND_SIZE),
    H(blocks_offset, 8, KIND_SIZE),
    H(block_stride, 8, KIND_SIZE),
    H(data_offset, 8, KIND_SIZE),
    H(created_realtime_ns, 8, KIND_RAW),
    H(host_closed, 4, KIND_FLAG),
    H(reserved0, 4, KIND_PAD),
    H(reserved, 8, KIND_PAD),
    S(pool_waiters, 8, KIND_BITS),
    S(pad0, 8, KIND_PAD),
    S(ready, 8, KIND_BITS),
    S(pad1, 8, KIND_PAD),
    S(spinning, 1, KIND_FLAG),
    C(slot_size, 8, KIND_SIZE),
    C(slot_stride, 8, KIND_SIZE),
    C(meta_offset, 8, KIND_SIZE),
    C(holders_offset, 8, KIND_SIZE),
    C(data_offset, 8, KIND_SIZE),
    C(slots, 4, KIND_COUNT),
    C(max_slots, 4, KIND_COUNT),
    C(pad0, 8, KIND_PAD),
    C(hot, 8, KIND_STACK),
    C(pad1, 8, KIND_PAD),
    C(cold, 8, KIND_STACK),
    C(pad2, 8, KIND_PAD),
    C(in_service, 4, KIND_COUNT),
    C(pad3, 4, KIND_PAD),
    M(ctl, 8, KIND_CTL),
    M(next, 4, KIND_INDEX),
    M(backed, 4, KIND_PAGES),
    {PART_HOLDERS, "holders", 0, 8, 8, KIND_BITS},
    P(state, 8, KIND_STATE),
    P(pid, 4, KIND_RAW),
    P(host_left, 4, KIND_FLAG),
    P(name, 1, KIND_RAW),
    P(reserved, 8, KIND_PAD),
    LANE(PART_HOST_LANE, "host_lane"),
    LANE(PART_LANE, "lane"),
    RING(PART_UP, "up"),
    CELL(PART_UP_CELL, "up_cell"),
    RING(PART_DOWN, "down"),
    CELL(PART_DOWN_CELL, "down_cell"),
};
_Static_assert(sizeof table / sizeof *table <= FIELDS_MAX, "FIELDS_MAX");

static const uint32_t part_sizes[PARTS] = {
    [PART_HEADER] = sizeof(hub_header_shm), [PART_SIGNALS] = sizeof(hub_signals_shm),
    [PART_CLASS] = sizeof(hub_class_shm),   [PART_SLOT] = sizeof(hub_slot_shm),
    [PART_HOLDERS] = sizeof(uint64_t),      [PART_PEER] = sizeof(hub_peer_shm),
    [PART_HOST_LANE] = sizeof(hub_lane_shm), [PART_LANE] = sizeof(hub_lane_shm),
    [PART_UP] = sizeof(hub_ring_shm),       [PART_UP_CELL] = sizeof(hub_desc_shm),
    [PART_DOWN] = sizeof(hub_ring_shm),     [PART_DOWN_CELL] = sizeof(hub_desc_shm),
};

const fuzz_field *fields_table(unsigned *ret_count) {
    *ret_count = sizeof table / sizeof *table;
    return table;
}

uint64_t fields_part_size(enum fuzz_part part) { return part_sizes[part]; }

static uint64_t all_slots(const hub_geometry *g) {
    uint64_t sum = 0;
    for (uint32_t k = 0; k < g->class_count; k++) sum += g->classes[k].max_slots;
    return sum;
}

uint64_t fields_places(const hub_geometry *g, enum fuzz_part part) {
    uint64_t peers = g->max_peers - 1;
    switch (part) {
    case PART_CLASS: return HUB_CLASSES_MAX;
    case PART_SLOT:
    case PART_HOLDERS: return all_slots(g);
    case PART_PEER: return g->max_peers;
    case PART_LANE:
    case PART_UP:
    case PART_DOWN: return peers;
    case PART_UP_CELL:
    case PART_DOWN_CELL: return peers * g->ring_capacity;
    default: return 1;
    }
}

static fuzz_place slot_place(const hub_geometry *g, enum fuzz_part part, uint64_t n) {
    uint32_t k = 0;
    while (n >= g->classes[k].max_slots) n -= g->classes[k++].max_slots;
    uint64_t first = part == PART_SLOT ? g->classes[k].meta_offset : g->classes[k].holders_offset;
    return (fuzz_place){first + n * part_sizes[part], k, (uint32_t)n};
}

static fuzz_place block_place(const hub_geometry *g, enum fuzz_part part, uint64_t n) {
    bool cells = part == PART_UP_CELL || part == PART_DOWN_CELL;
    uint32_t peer = 1 + (uint32_t)(cells ? n / g->ring_capacity : n);
    uint64_t block = hub_block_offset(g, peer);
    uint64_t up = block + HUB_BLOCK_RING_UP, down = block + hub_block_ring_down(g->ring_capacity);
    uint64_t cell = cells ? n % g->ring_capacity : 0;
    switch (part) {
    case PART_UP: return (fuzz_place){up, peer, 0};
    case PART_DOWN: return (fuzz_place){down, peer, 0};
    case PART_UP_CELL:
        return (fuzz_place){up + sizeof(hub_ring_shm) + cell * HUB_CELL, peer, (uint32_t)cell};
    case PART_DOWN_CELL:
        return (fuzz_place){down + sizeof(hub_ring_shm) + cell * HUB_CELL, peer, (uint32_t)cell};
    default: return (fuzz_place){block, peer, 0};
    }
}

fuzz_place fields_place(const hub_geometry *g, enum fuzz_part part, uint64_t n) {
    switch (part) {
    case PART_HEADER: return (fuzz_place){0, 0, 0};
    case PART_SIGNALS: return (fuzz_place){g->signals_offset, 0, 0};
    case PART_CLASS:
        return (fuzz_place){g->classes_offset + n * sizeof(hub_class_shm), (uint32_t)n, 0};
    case PART_SLOT:
    case PART_HOLDERS: return slot_place(g, part, n);
    case PART_PEER:
        return (fuzz_place){g->peers_offset + n * sizeof(hub_peer_shm), (uint32_t)n, 0};
    case PART_HOST_LANE: return (fuzz_place){g->host_lane_offset, 0, 0};
    default: return block_place(g, part, n);
    }
}

/* ---- is it all of it? ------------------------------------------------------------------------ */

static char problem[160];

static const char *check_struct(enum fuzz_part part) {
    unsigned char seen[256];
    memset(seen, 0, sizeof seen);
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
        const fuzz_field *f = &table[i];
        if (f->part != part) continue;
        if (f->size % f->width != 0 || f->offset % f->width != 0 ||
            f->offset + f->size > part_sizes[part]) {
            (void)snprintf(problem, sizeof problem, "%s does not consist of words of %u bytes",
                           f->name, f->width);
            return problem;
        }
        for (uint32_t b = 0; b < f->size; b++) seen[f->offset + b]++;
    }
    for (uint32_t b = 0; b < part_sizes[part]; b++)
        if (seen[b] != 1) {
            (void)snprintf(problem, sizeof problem, "byte %u of part %d is in %u fields", b,
                           (int)part, seen[b]);
            return problem;
        }
    return NULL;
}

/* What lies between the end of a region and the next page or line is never anything. */
static bool is_gap(const hub_geometry *g, uint64_t at) {
    uint64_t page = at / HUB_PAGE * HUB_PAGE;
    if (at >= g->host_lane_offset + sizeof(hub_lane_shm) && at < g->blocks_offset) return true;
    if (at >= g->peers_offset + g->max_peers * sizeof(hub_peer_shm) && at < g->host_lane_offset)
        return true;
    for (uint32_t p = 1; p < g->max_peers; p++) {
        uint64_t block = hub_block_offset(g, p);
        uint64_t end =
            block + hub_block_ring_down(g->ring_capacity) + hub_ring_bytes(g->ring_capacity);
        if (at >= end && at < block + g->block_stride) return true;
    }
    for (uint32_t k = 0; k < g->class_count; k++) {
        uint64_t n = g->classes[k].max_slots;
        uint64_t meta = g->classes[k].meta_offset + n * sizeof(hub_slot_shm);
        uint64_t holders = g->classes[k].holders_offset + n * sizeof(uint64_t);
        if ((at >= meta && page < meta) || (at >= holders && page < holders)) return true;
    }
    return false;
}

const char *fields_check(const hub_geometry *g) {
    for (int part = 0; part < PARTS; part++) {
        const char *wrong = check_struct(part);
        if (wrong != NULL) return wrong;
    }
    unsigned char *seen = calloc(1, g->data_offset);
    if (seen == NULL) return "no memory";
    for (int part = 0; part < PARTS; part++)
        for (uint64_t n = 0; n < fields_places(g, part); n++) {
            uint64_t at = fields_place(g, part, n).at;
            for (uint64_t b = 0; b < part_sizes[part]; b++) seen[at + b]++;
        }
    const char *wrong = NULL;
    for (uint64_t at = 0; at < g->data_offset && wrong == NULL; at++)
        if (seen[at] > 1 || (seen[at] == 0) != is_gap(g, at)) {
            (void)snprintf(problem, sizeof problem, "byte %llu of the metadata is in %u structs%s",
                           (unsigned long long)at, seen[at], is_gap(g, at) ? ", but a gap" : "");
            wrong = problem;
        }
    free(seen);
    return wrong;
}
