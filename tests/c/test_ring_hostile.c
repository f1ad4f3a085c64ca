/* test_ring_hostile.c - a ring whose other side lies: every field of its words and descriptors, one
 * by one and at random.  Found, never believed, nothing read or written outside the ring (which
 * lies on the heap, exactly as long as it is, for the address sanitizer). */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "ring.h"

#define CAPACITY 16u
#define START (HUB_START_64 + 3)

typedef struct bench {
    hub_ring_shm *ring;
    hub_producer p;
    hub_consumer c;
    hub_entry entry;
    unsigned char *data; /* HUB_INLINE_MAX bytes on the heap */
} bench;

static void bench_open(bench *b) {
    void *at = NULL;
    CHECK_EQ(posix_memalign(&at, 64, hub_ring_bytes(CAPACITY)), 0);
    memset(at, 0, hub_ring_bytes(CAPACITY));
    b->ring = at;
    b->ring->capacity = CAPACITY;
    b->data = malloc(HUB_INLINE_MAX);
    CHECK(b->data != NULL);
    hub_store_relaxed_64(&b->ring->tail, START);
    hub_store_relaxed_64(&b->ring->head, START);
    hub_producer_init(&b->p, b->ring, CAPACITY, START);
    hub_consumer_init(&b->c, b->ring, CAPACITY, START);
}

static void bench_close(bench *b) {
    free(b->data);
    free(b->ring);
}

static void send_one(bench *b, uint64_t length) {
    static const unsigned char zeros[HUB_INLINE_MAX];
    hub_message m = {42, 0, 0, 0, 0};
    CHECK_OK(hub_ring_room(&b->p, hub_ring_cells(length)));
    hub_ring_stage(&b->p, &m, HUB_REF_NONE, 0, zeros, length);
    hub_ring_publish(&b->p);
}

static hub_desc_shm *first_desc(bench *b) {
    return (hub_desc_shm *)(b->c.cells + (b->c.head & (CAPACITY - 1)) * HUB_CELL);
}

static int next(bench *b) { return hub_ring_next(&b->c, &b->entry, b->data); }

/* ---- the words ------------------------------------------------------------------------------- */

static void lying_tail(void) {
    static const uint64_t lies[] = {CAPACITY + 1, CAPACITY + 100, 1ULL << 32,
                                    1ULL << 63,   UINT64_MAX,     UINT64_MAX - 5};
    for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++) {
        bench b;
        bench_open(&b);
        hub_store_relaxed_64(&b.ring->tail,
                             START + lies[i]); /* too far ahead, or behind the head */
        CHECK_RC(next(&b), HUB_EVIOLATION);
        CHECK_EQ(b.entry.cells, 0); /* nothing can be skipped */
        CHECK_EQ(hub_ring_free_cells(&b.c), 0);
        CHECK_RC(next(&b), HUB_EVIOLATION); /* and again, not silently accepted */
        /* The truth again: what was really sent is found. */
        hub_store_relaxed_64(&b.ring->tail, START);
        CHECK_RC(next(&b), HUB_EAGAIN);
        send_one(&b, 5);
        CHECK_OK(next(&b));
        bench_close(&b);
    }
}

/* More announced than written: the cells say that they are from another time. */
static void announced_but_not_written(void) {
    bench b;
    bench_open(&b);
    hub_store_relaxed_64(&b.ring->tail, START + 1);
    CHECK_RC(next(&b), HUB_EVIOLATION);
    bench_close(&b);
    /* A round later the stale descriptor is sound in all but its sequence. */
    bench_open(&b);
    for (unsigned i = 0; i < CAPACITY; i++) {
        send_one(&b, 3);
        CHECK_OK(next(&b));
        hub_ring_step(&b.c, 1);
        hub_ring_commit(&b.c);
    }
    hub_store_relaxed_64(&b.ring->tail, START + CAPACITY + 1);
    CHECK_RC(next(&b), HUB_EVIOLATION);
    bench_close(&b);
}

static void lying_head(void) {
    static const uint64_t lies[] = {1,          2,          CAPACITY,
                                    1ULL << 40, 1ULL << 63, UINT64_MAX - CAPACITY - 5};
    for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++) {
        bench b;
        bench_open(&b);
        /* Ahead of what was ever written, or further behind than the ring is long. */
        hub_store_relaxed_64(&b.ring->head, START + lies[i]);
        CHECK_RC(hub_ring_room(&b.p, 1), HUB_EVIOLATION);
        CHECK_RC(hub_ring_room(&b.p, 1), HUB_EVIOLATION);
        hub_store_relaxed_64(&b.ring->head, START);
        CHECK_OK(hub_ring_room(&b.p, CAPACITY));
        bench_close(&b);
    }
    /* A head that goes back within the ring only makes it look fuller. */
    bench b;
    bench_open(&b);
    hub_store_relaxed_64(&b.ring->head, START - 4);
    CHECK_OK(hub_ring_room(&b.p, CAPACITY - 4));
    CHECK_RC(hub_ring_room(&b.p, CAPACITY - 3), HUB_ERINGFULL);
    bench_close(&b);
}

/* The capacity in shared memory is for people: nobody follows it. */
static void lying_capacity(void) {
    bench b;
    bench_open(&b);
    b.ring->capacity = 0xFFFFFFFF;
    for (unsigned i = 0; i < 100; i++) {
        send_one(&b, 200);
        CHECK_OK(next(&b));
        hub_ring_step(&b.c, b.entry.cells);
        hub_ring_commit(&b.c);
    }
    bench_close(&b);
}

/* ---- the descriptor -------------------------------------------------------------------------- */

static void bad_descriptors(void) {
    bench b;
#define REFUSED(length, change)                 \
    do {                                        \
        bench_open(&b);                         \
        send_one(&b, length);                   \
        hub_desc_shm *d = first_desc(&b);       \
        change;                                 \
        memset(b.data, 0xA5, HUB_INLINE_MAX);   \
        CHECK_RC(next(&b), HUB_EVIOLATION);     \
        CHECK_EQ(b.entry.cells, 0);             \
        CHECK_EQ(b.entry.message.message_id, 42); \
        CHECK_EQ(b.data[0], 0xA5);              \
        bench_close(&b);                        \
    } while (0)
    REFUSED(5, d->sequence++);
    REFUSED(5, d->sequence--);
    REFUSED(5, d->sequence ^= 0x80000000u);
    REFUSED(5, d->cells = 0);
    REFUSED(5, d->cells = 2);
    REFUSED(5, d->cells = 65535);
    REFUSED(100, d->cells = 1);
    REFUSED(100, d->cells = 2);
    REFUSED(100, d->cells = 4);
    REFUSED(240, d->cells = 6);
    REFUSED(5, d->length = 17);
    REFUSED(5, d->length = 240);
    REFUSED(5, d->length = 241);
    REFUSED(5, d->length = UINT64_MAX);
    REFUSED(240, d->length = 241);
    REFUSED(240, d->length = 16);
    REFUSED(240, d->length = 1ULL << 32);
    REFUSED(100, d->ref = 0); /* a slot's descriptor is one cell */
    REFUSED(240, d->ref = 0x7FFFFFFF);
#undef REFUSED
    /* An inline message that claims cells which are not published. */
    bench_open(&b);
    send_one(&b, 240);
    hub_store_relaxed_64(&b.ring->tail, START + 3);
    CHECK_RC(next(&b), HUB_EVIOLATION);
    bench_close(&b);
}

/* What it may say freely: it comes through as it is, and is judged above. */
static void free_fields_come_through(void) {
    bench b;
    bench_open(&b);
    send_one(&b, 5);
    hub_desc_shm *d = first_desc(&b);
    d->flags = 0xFFFFFFFF;
    d->deadline_ns = INT64_MIN;
    d->ref = 0xE0000000;
    d->gen = 99;
    d->length = UINT64_MAX; /* of a slot: compared with what is backed, by who knows slots */
    d->reserved = 0xFFFF;
    CHECK_OK(next(&b));
    CHECK_EQ(b.entry.length, UINT64_MAX);
    CHECK_EQ(b.entry.ref, 0xE0000000);
    CHECK_EQ(b.entry.gen, 99);
    CHECK_EQ(b.entry.cells, 1);
    bench_close(&b);
}

/* Any bytes at all: an outcome, and within what any message may be. */
static void random_scribbling(void) {
    test_random r = {31337};
    unsigned accepted = 0, refused = 0;
    bench b;
    bench_open(&b);
    for (unsigned i = 0; i < test_rounds(400000); i++) {
        if (i % 64 == 0) {
            bench_close(&b);
            bench_open(&b);
        }
        if (hub_ring_room(&b.p, 5) == 0) send_one(&b, random_below(&r, HUB_INLINE_MAX + 1));
        if (random_below(&r, 3) == 0) {
            unsigned char *bytes = (unsigned char *)b.ring;
            uint64_t at = random_below(&r, 2) ? random_below(&r, hub_ring_bytes(CAPACITY))
                                              : sizeof(hub_ring_shm) +
                                                    (b.c.head & (CAPACITY - 1)) * HUB_CELL + 24 +
                                                    random_below(&r, 24);
            bytes[at] = (unsigned char)random_next(&r);
        }
        if (random_below(&r, 50) == 0)
            hub_store_relaxed_64(random_below(&r, 2) ? &b.ring->tail : &b.ring->head,
                                 START + random_below(&r, 3 * CAPACITY) - CAPACITY);
        int rc = next(&b);
        if (rc == 0) {
            CHECK_GE(b.entry.cells, 1);
            CHECK_LE(b.entry.cells, HUB_DESC_CELLS_MAX);
            if (b.entry.ref == HUB_REF_NONE) CHECK_LE(b.entry.length, HUB_INLINE_MAX);
            hub_ring_step(&b.c, b.entry.cells);
            hub_ring_commit(&b.c);
            accepted++;
        } else {
            CHECK(rc == HUB_EAGAIN || rc == HUB_EVIOLATION);
            refused += rc == HUB_EVIOLATION;
        }
    }
    bench_close(&b);
    CHECK_GE(accepted, 1000);
    CHECK_GE(refused, 1000);
}

/* The other side's counter is read when there is nothing left of what it said last, and not before. */
static void not_looked_at_without_need(void) {
    bench b;
    bench_open(&b);
    for (unsigned i = 0; i < 2; i++) send_one(&b, 0);
    CHECK_OK(next(&b));
    hub_store_relaxed_64(&b.ring->head, START + 1000);
    hub_store_relaxed_64(&b.ring->tail, START + 1000);
    CHECK_OK(hub_ring_room(&b.p, CAPACITY - 2));
    hub_ring_step(&b.c, b.entry.cells);
    CHECK_OK(next(&b));
    hub_ring_step(&b.c, b.entry.cells);
    CHECK_RC(next(&b), HUB_EVIOLATION);
    CHECK_RC(hub_ring_room(&b.p, CAPACITY - 1), HUB_EVIOLATION);
    bench_close(&b);
}

int main(void) {
    test_begin(60);
    RUN(lying_tail);
    RUN(announced_but_not_written);
    RUN(lying_head);
    RUN(lying_capacity);
    RUN(bad_descriptors);
    RUN(free_fields_come_through);
    RUN(not_looked_at_without_need);
    RUN(random_scribbling);
    return test_end();
}
