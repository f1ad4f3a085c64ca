/* layout.h - every struct that lives in shared memory (format version 1).
 *
 * Fixed-width integers, explicit padding, offsets from the start of the file,
 * never pointers.  Sizes and offsets are asserted below and checked against
 * docs/layout.md by a test.  Nothing here maps, allocates or waits.
 *
 *   header 256 | signals 192 | class table | peer table | host's lane
 *   | one block a peer: lane, ring up (to the host), ring down (from it)
 *   | slot meta, class by class | holders, class by class | slot data
 *
 * Who writes what: "host", "peer" (the one it belongs to), "any" (by CAS only). */
#ifndef HUB_LAYOUT_H
#define HUB_LAYOUT_H

#include <assert.h>
#include <stddef.h>

#include "atomic.h"
#include "hub.h"

#define HUB_PAGE 4096u /* unit of `backed`; a larger system page only rounds up */
#define HUB_CACHE_LINE 64u
#define HUB_CELL 64u
#define HUB_SLOTS_MAX 0xFFFFFEu /* per class; 0xFFFFFF is "none" */
#define HUB_INDEX_NONE 0xFFFFFFu
#define HUB_MAGIC 0x3142554D48530A1AULL /* 1A 0A "SHMUB1" */
#define HUB_RING_CAPACITY_MIN 8u
#define HUB_RING_CAPACITY_MAX 65536u

/* A test build starts every counter just before its wrap. */
#ifdef HUB_TEST_WRAP
#define HUB_START_64 (UINT64_MAX - 5)
#define HUB_START_EPOCH (UINT32_MAX - 2)
#define HUB_START_GEN (UINT32_MAX - 2)
#define HUB_START_TAG 0xFFFFFFFFFAULL
#else
#define HUB_START_64 0ULL
#define HUB_START_EPOCH 0u
#define HUB_START_GEN 0u
#define HUB_START_TAG 0ULL
#endif

/* ---- header: written once by the host, `magic` last ---------------------- */
typedef struct hub_header_shm {
    hub_a64 magic;
    uint16_t version_major;
    uint16_t version_minor;
    uint32_t header_size;
    uint64_t total_size;
    uint32_t class_count;
    uint32_t max_peers;
    uint32_t ring_capacity;
    int32_t host_pid; /* for people; nothing is decided by it */
    uint64_t max_bytes;
    int64_t spin_ns;
    uint64_t classes_offset;
    uint64_t signals_offset;
    uint64_t peers_offset;
    uint64_t host_lane_offset;
    uint64_t blocks_offset;
    uint64_t block_stride;
    uint64_t data_offset; /* all before it is metadata and goes into core dumps */
    uint64_t created_realtime_ns;
    hub_a32 host_closed; /* host: 1 = closed in good order */
    uint32_t reserved0;
    uint64_t reserved[16];
} hub_header_shm;

/* ---- signals: words that any process changes, a cache line each ---------- */
typedef struct hub_signals_shm {
    hub_a64 pool_waiters; /* any: bit i = peer i waits for a slot */
    uint8_t pad0[56];
    hub_a64 ready; /* peers set, host takes: bit i = ring up of peer i has something */
    uint8_t pad1[56];
    hub_a8 spinning[HUB_PEERS_MAX]; /* byte i: peer i spins; host clears a dead one's */
} hub_signals_shm;

/* ---- size class ---------------------------------------------------------- */
typedef struct hub_class_shm {
    uint64_t slot_size; /* constants: host, once */
    uint64_t slot_stride;
    uint64_t meta_offset;
    uint64_t holders_offset;
    uint64_t data_offset;
    uint32_t slots;
    uint32_t max_slots;
    uint8_t pad0[16];
    hub_a64 hot; /* any: { tag:40, index:24 }: free and backed */
    uint8_t pad1[56];
    hub_a64 cold; /* any: free and not backed */
    uint8_t pad2[56];
    hub_a32 in_service; /* any: slots whose bookkeeping exists; only grows */
    uint8_t pad3[60];
} hub_class_shm;

/* ---- slot: 16 bytes ------------------------------------------------------- */
/* ctl: gen:32 | spare:8 | unlinked:1 | state:7 | owner:16.  Zero is FREE and linked, so that the
 * never-written bookkeeping of a slot that has just come into service is right as it is. */
typedef struct hub_slot_shm {
    hub_a64 ctl;
    hub_a32 next;   /* free-list link; meaningful only on a stack */
    hub_a32 backed; /* pages that are reserved in memory */
} hub_slot_shm;

/* ---- peer ----------------------------------------------------------------- */
typedef struct hub_peer_shm {
    hub_a64 state; /* { epoch:32, hub_peer_state:32 }: host, and the peer for its own steps */
    hub_a32 pid;   /* host, from the kernel; for people */
    hub_a32 host_left; /* host: 1 = closed its transport in good order */
    char name[HUB_NAME_MAX];
    uint8_t reserved[16];
} hub_peer_shm;

/* ---- lane: what only one process writes ----------------------------------- */
typedef struct hub_lane_shm {
    hub_a64 sent;
    hub_a64 received;
    hub_a64 bytes_sent;
    hub_a64 bytes_received;
    hub_a64 rings_rung;
    hub_a64 waits;
    uint8_t pad[16];
    hub_a64 exhausted[HUB_CLASSES_MAX];
} hub_lane_shm;

/* ---- ring: 192 bytes, then `capacity` cells ------------------------------- */
typedef struct hub_ring_shm {
    hub_a64 tail; /* producer: cells published, never reset */
    uint8_t pad0[56];
    hub_a64 head; /* consumer: cells taken, never reset */
    uint8_t pad1[56];
    uint32_t capacity; /* host, once */
    hub_a32 closed;    /* host: nothing may be published any more */
    hub_a32 sleeping;  /* consumer sets, producer takes by exchange */
    hub_a32 want;      /* producer sets: cells it waits for; consumer takes by exchange */
    uint8_t pad2[48];
} hub_ring_shm;

/* ---- descriptor: one cell -------------------------------------------------- */
typedef struct hub_desc_shm {
    uint64_t message_id;
    int64_t deadline_ns;
    uint32_t flags;
    uint16_t channel;
    uint16_t method;
    uint32_t ref; /* class:3, index:29; HUB_REF_NONE: the payload is inline */
    uint32_t gen;
    uint64_t length;
    uint16_t cells; /* this one and those of an inline payload that follow */
    uint16_t reserved;
    uint32_t sequence; /* low half of the position it was written at */
    uint8_t bytes[16]; /* inline payload of up to 16 bytes, else zero */
} hub_desc_shm;

#define HUB_DESC_BYTES 16u
#define HUB_DESC_CELLS_MAX (1u + (HUB_INLINE_MAX + HUB_CELL - 1) / HUB_CELL)

#define HUB_AT(type, field, offset) \
    static_assert(offsetof(type, field) == (offset), #type "." #field)
static_assert(sizeof(hub_header_shm) == 256, "header");
static_assert(sizeof(hub_signals_shm) == 192, "signals");
static_assert(sizeof(hub_class_shm) == 256, "class");
static_assert(sizeof(hub_slot_shm) == 16, "slot");
static_assert(sizeof(hub_peer_shm) == 64, "peer");
static_assert(sizeof(hub_lane_shm) == 128, "lane");
static_assert(sizeof(hub_ring_shm) == 192, "ring");
static_assert(sizeof(hub_desc_shm) == 64, "descriptor");
HUB_AT(hub_header_shm, magic, 0);
HUB_AT(hub_header_shm, version_major, 8);
HUB_AT(hub_header_shm, version_minor, 10);
HUB_AT(hub_header_shm, header_size, 12);
HUB_AT(hub_header_shm, total_size, 16);
HUB_AT(hub_header_shm, class_count, 24);
HUB_AT(hub_header_shm, max_peers, 28);
HUB_AT(hub_header_shm, ring_capacity, 32);
HUB_AT(hub_header_shm, host_pid, 36);
HUB_AT(hub_header_shm, max_bytes, 40);
HUB_AT(hub_header_shm, spin_ns, 48);
HUB_AT(hub_header_shm, classes_offset, 56);
HUB_AT(hub_header_shm, signals_offset, 64);
HUB_AT(hub_header_shm, peers_offset, 72);
HUB_AT(hub_header_shm, host_lane_offset, 80);
HUB_AT(hub_header_shm, blocks_offset, 88);
HUB_AT(hub_header_shm, block_stride, 96);
HUB_AT(hub_header_shm, data_offset, 104);
HUB_AT(hub_header_shm, created_realtime_ns, 112);
HUB_AT(hub_header_shm, host_closed, 120);
HUB_AT(hub_header_shm, reserved0, 124);
HUB_AT(hub_header_shm, reserved, 128);
HUB_AT(hub_signals_shm, pool_waiters, 0);
HUB_AT(hub_signals_shm, ready, 64);
HUB_AT(hub_signals_shm, spinning, 128);
HUB_AT(hub_class_shm, slot_size, 0);
HUB_AT(hub_class_shm, slot_stride, 8);
HUB_AT(hub_class_shm, meta_offset, 16);
HUB_AT(hub_class_shm, holders_offset, 24);
HUB_AT(hub_class_shm, data_offset, 32);
HUB_AT(hub_class_shm, slots, 40);
HUB_AT(hub_class_shm, max_slots, 44);
HUB_AT(hub_class_shm, hot, 64);
HUB_AT(hub_class_shm, cold, 128);
HUB_AT(hub_class_shm, in_service, 192);
HUB_AT(hub_slot_shm, ctl, 0);
HUB_AT(hub_slot_shm, next, 8);
HUB_AT(hub_slot_shm, backed, 12);
HUB_AT(hub_peer_shm, state, 0);
HUB_AT(hub_peer_shm, pid, 8);
HUB_AT(hub_peer_shm, host_left, 12);
HUB_AT(hub_peer_shm, name, 16);
HUB_AT(hub_peer_shm, reserved, 48);
HUB_AT(hub_lane_shm, sent, 0);
HUB_AT(hub_lane_shm, received, 8);
HUB_AT(hub_lane_shm, bytes_sent, 16);
HUB_AT(hub_lane_shm, bytes_received, 24);
HUB_AT(hub_lane_shm, rings_rung, 32);
HUB_AT(hub_lane_shm, waits, 40);
HUB_AT(hub_lane_shm, exhausted, 64);
HUB_AT(hub_ring_shm, tail, 0);
HUB_AT(hub_ring_shm, head, 64);
HUB_AT(hub_ring_shm, capacity, 128);
HUB_AT(hub_ring_shm, closed, 132);
HUB_AT(hub_ring_shm, sleeping, 136);
HUB_AT(hub_ring_shm, want, 140);
HUB_AT(hub_desc_shm, message_id, 0);
HUB_AT(hub_desc_shm, deadline_ns, 8);
HUB_AT(hub_desc_shm, flags, 16);
HUB_AT(hub_desc_shm, channel, 20);
HUB_AT(hub_desc_shm, method, 22);
HUB_AT(hub_desc_shm, ref, 24);
HUB_AT(hub_desc_shm, gen, 28);
HUB_AT(hub_desc_shm, length, 32);
HUB_AT(hub_desc_shm, cells, 40);
HUB_AT(hub_desc_shm, reserved, 42);
HUB_AT(hub_desc_shm, sequence, 44);
HUB_AT(hub_desc_shm, bytes, 48);
#undef HUB_AT

/* ---- slot references and ctl ----------------------------------------------- */
static inline uint32_t hub_ref_make(uint32_t class_index, uint32_t index) {
    return (class_index << 29) | index;
}
static inline uint32_t hub_ref_class(uint32_t ref) { return ref >> 29; }
static inline uint32_t hub_ref_index(uint32_t ref) { return ref & 0x1FFFFFFFu; }

enum hub_slot_state { HUB_FREE = 0, HUB_OWNED = 1, HUB_RING = 2, HUB_SHARED = 3 };
#define HUB_CTL_UNLINKED (1ULL << 23)

static inline uint64_t hub_ctl_make(uint32_t gen, uint32_t state, uint32_t owner) {
    return ((uint64_t)gen << 32) | ((uint64_t)state << 16) | owner;
}
static inline uint32_t hub_ctl_gen(uint64_t ctl) { return (uint32_t)(ctl >> 32); }
static inline uint32_t hub_ctl_state(uint64_t ctl) { return (uint32_t)(ctl >> 16) & 0x7Fu; }
static inline uint32_t hub_ctl_owner(uint64_t ctl) { return (uint32_t)ctl & 0xFFFFu; }
static inline bool hub_ctl_linked(uint64_t ctl) { return (ctl & HUB_CTL_UNLINKED) == 0; }
/* Same slot, other state and owner; generation and linked bit stay. */
static inline uint64_t hub_ctl_moved(uint64_t ctl, uint32_t state, uint32_t owner) {
    return (ctl & (0xFFFFFFFF00000000ULL | HUB_CTL_UNLINKED)) | ((uint64_t)state << 16) | owner;
}

/* Stack head: { tag:40, index:24 }. */
static inline uint64_t hub_head_make(uint64_t tag, uint32_t index) { return (tag << 24) | index; }
static inline uint64_t hub_head_tag(uint64_t head) { return head >> 24; }
static inline uint32_t hub_head_index(uint64_t head) { return (uint32_t)head & 0xFFFFFFu; }

/* Ring numbers as owners: 2*peer to the host, 2*peer+1 from it. */
static inline uint32_t hub_ring_up(uint32_t peer) { return 2 * peer; }
static inline uint32_t hub_ring_down(uint32_t peer) { return 2 * peer + 1; }

static inline uint64_t hub_state_make(uint32_t epoch, uint32_t state) {
    return ((uint64_t)epoch << 32) | state;
}
static inline uint32_t hub_state_epoch(uint64_t word) { return (uint32_t)(word >> 32); }
static inline uint32_t hub_state_of(uint64_t word) { return (uint32_t)word; }

/* ---- geometry: where everything lies; process-local, and sent in the handshake ---- */
typedef struct hub_class_geometry {
    uint64_t slot_size;
    uint64_t slot_stride;
    uint64_t meta_offset;
    uint64_t holders_offset;
    uint64_t data_offset;
    uint32_t slots;
    uint32_t max_slots;
} hub_class_geometry;

typedef struct hub_geometry {
    uint32_t class_count;
    uint32_t max_peers;
    uint32_t ring_capacity;
    uint32_t reserved;
    uint64_t max_bytes;
    int64_t spin_ns;
    uint64_t classes_offset;
    uint64_t signals_offset;
    uint64_t peers_offset;
    uint64_t host_lane_offset;
    uint64_t blocks_offset;
    uint64_t block_stride;
    uint64_t data_offset;
    uint64_t total_size;
    hub_class_geometry classes[HUB_CLASSES_MAX];
} hub_geometry;

/* Offsets within a peer's block. */
#define HUB_BLOCK_RING_UP 128u
static inline uint64_t hub_ring_bytes(uint32_t capacity) {
    return sizeof(hub_ring_shm) + (uint64_t)capacity * HUB_CELL;
}
static inline uint64_t hub_block_ring_down(uint32_t capacity) {
    return HUB_BLOCK_RING_UP + hub_ring_bytes(capacity);
}
static inline uint64_t hub_block_offset(const hub_geometry *g, uint32_t peer) {
    return g->blocks_offset + (uint64_t)(peer - 1) * g->block_stride;
}

/* Check every field and lay the hub out. HUB_EINVAL with a sentence, or 0. */
int hub_layout_compute(const hub_config *config, hub_geometry *ret, hub_fault *fault);
/* Fill a header and class table (all but magic) of a zeroed mapping. */
void hub_layout_write(unsigned char *base, const hub_geometry *geometry, int32_t host_pid,
                      uint64_t realtime_ns);
/* Publish: the magic goes last, with release; partner: hub_layout_read. */
void hub_layout_publish(unsigned char *base);
/* Read a header once, check it whole (by computing the layout anew), say what is wrong. */
int hub_layout_read(const unsigned char *base, uint64_t file_size, hub_geometry *ret,
                    hub_fault *fault);
void hub_layout_config(const hub_geometry *geometry, hub_config *ret);

#endif
