/* test_ring_model.c - a ring against a plain queue: random sends and receives, every inline length,
 * counters that start anywhere and wrap, messages staged and published in runs. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "ring.h"

typedef struct message {
    hub_message fields;
    uint64_t length;
    uint32_t ref, gen, cells;
    unsigned char data[HUB_INLINE_MAX];
} message;

/* A ring in memory that is exactly as large as it should be, so that a sanitizer sees its ends. */
static hub_ring_shm *ring_new(uint32_t capacity, uint64_t start) {
    void *at = NULL;
    CHECK_EQ(posix_memalign(&at, 64, hub_ring_bytes(capacity)), 0);
    memset(at, 0xEE, hub_ring_bytes(capacity));
    hub_ring_shm *ring = at;
    memset(ring, 0, sizeof *ring);
    ring->capacity = capacity;
    hub_store_relaxed_64(&ring->tail, start);
    hub_store_relaxed_64(&ring->head, start);
    return ring;
}

static message message_random(test_random *r) {
    message m;
    memset(&m, 0, sizeof m);
    m.fields.message_id = random_next(r);
    m.fields.deadline_ns = (int64_t)random_next(r);
    m.fields.flags = (uint32_t)random_next(r);
    m.fields.channel = (uint16_t)random_next(r);
    m.fields.method = (uint16_t)random_next(r);
    if (random_below(r, 3) == 0) {
        m.ref = (uint32_t)random_next(r) & 0x7FFFFFFF;
        m.gen = (uint32_t)random_next(r);
        m.length = random_next(r);
        m.cells = 1;
    } else {
        m.ref = HUB_REF_NONE;
        m.length = random_below(r, HUB_INLINE_MAX + 1);
        for (uint64_t i = 0; i < m.length; i++) m.data[i] = (unsigned char)random_next(r);
        m.cells = m.length <= 16 ? 1 : 1 + ((uint32_t)m.length + 63) / 64;
        CHECK_EQ(hub_ring_cells(m.length), m.cells);
    }
    return m;
}

static void stage(hub_producer *p, const message *m) {
    bool empty = m->ref != HUB_REF_NONE || m->length == 0; /* NULL is nothing to copy from */
    hub_ring_stage(p, &m->fields, m->ref, m->gen, empty ? NULL : m->data, m->length);
}

static void expect(const hub_entry *got, const unsigned char *data, const message *m) {
    CHECK_EQ(got->message.message_id, m->fields.message_id);
    CHECK_EQ(got->message.deadline_ns, m->fields.deadline_ns);
    CHECK_EQ(got->message.flags, m->fields.flags);
    CHECK_EQ(got->message.channel, m->fields.channel);
    CHECK_EQ(got->message.method, m->fields.method);
    CHECK_EQ(got->length, m->length);
    CHECK_EQ(got->ref, m->ref);
    CHECK_EQ(got->cells, m->cells);
    if (m->ref == HUB_REF_NONE)
        CHECK(memcmp(data, m->data, m->length) == 0);
    else
        CHECK_EQ(got->gen, m->gen);
}

/* ---- the model ------------------------------------------------------------------------------- */

typedef struct model {
    message *queue; /* published and not committed, oldest first */
    uint32_t published, staged, taken; /* taken: read by the consumer, not committed */
    uint32_t cells_used, cells_taken;  /* cells between head and tail; of those, stepped over */
} model;

static void against_the_model(uint32_t capacity, uint64_t start, uint64_t seed, unsigned steps) {
    hub_ring_shm *ring = ring_new(capacity, start);
    hub_producer p;
    hub_consumer c;
    test_random r = {seed};
    model m;
    memset(&m, 0, sizeof m);
    m.queue = calloc(capacity + 1, sizeof *m.queue);
    CHECK(m.queue != NULL);
    hub_producer_init(&p, ring, capacity, start);
    hub_consumer_init(&c, ring, capacity, start);
    unsigned refused = 0, empty = 0;
    for (unsigned i = 0; i < steps; i++) {
        /* In turns the producer and the consumer is the busier one: full and empty both come. */
        bool filling = i / (8 * capacity) % 2 == 0;
        uint64_t action = random_below(&r, 10);
        if (action < (filling ? 5u : 2u)) { /* stage one, if it fits */
            message one = message_random(&r);
            int rc = hub_ring_room(&p, one.cells);
            if (capacity - m.cells_used >= one.cells) {
                CHECK_OK(rc);
                stage(&p, &one);
                m.queue[m.published + m.staged++] = one;
                m.cells_used += one.cells;
            } else {
                CHECK_RC(rc, HUB_ERINGFULL);
                refused++;
            }
        } else if (action < (filling ? 7u : 3u)) {
            hub_ring_publish(&p);
            m.published += m.staged;
            m.staged = 0;
            CHECK_EQ(hub_load_relaxed_64(&ring->tail), p.tail);
        } else if (action < (filling ? 9u : 8u)) { /* take one */
            unsigned char data[HUB_INLINE_MAX];
            hub_entry entry;
            CHECK_EQ(hub_ring_nonempty(&c), m.published > m.taken);
            int rc = hub_ring_next(&c, &entry, data);
            if (m.published == m.taken) {
                CHECK_RC(rc, HUB_EAGAIN);
                empty++;
            } else {
                CHECK_OK(rc);
                expect(&entry, data, &m.queue[m.taken]);
                /* Looking twice changes nothing. */
                CHECK_OK(hub_ring_next(&c, &entry, data));
                expect(&entry, data, &m.queue[m.taken]);
                hub_ring_step(&c, entry.cells);
                m.taken++;
                m.cells_taken += entry.cells;
            }
        } else { /* let the producer have what was taken */
            uint32_t staged_cells = (uint32_t)(p.tail - hub_load_relaxed_64(&ring->tail));
            hub_ring_commit(&c);
            m.cells_used -= m.cells_taken;
            CHECK_EQ(hub_ring_free_cells(&c), capacity - (m.cells_used - staged_cells));
            memmove(m.queue, m.queue + m.taken,
                    (m.published + m.staged - m.taken) * sizeof *m.queue);
            m.published -= m.taken;
            m.taken = m.cells_taken = 0;
        }
    }
    CHECK_REL(refused, >, 0);
    CHECK_REL(empty, >, 0);
    free(m.queue);
    free(ring);
}

static void random_against_model(void) {
    static const uint32_t capacities[] = {8, 16, 256};
    unsigned steps = test_rounds(60000);
    for (unsigned i = 0; i < 3; i++) {
        uint32_t n = capacities[i];
        against_the_model(n, 0, 10 + i, steps);
        against_the_model(n, HUB_START_64, 20 + i, steps);
        against_the_model(n, UINT64_MAX - 3 * n, 30 + i, steps); /* wraps in the middle */
        against_the_model(n, UINT32_MAX - 2 * n, 40 + i, steps); /* the sequence's 32 bits wrap */
        against_the_model(n, 12345, 50 + i, steps);
    }
}

/* Each length at each place in the ring, the wrapping ones among them. */
static void every_inline_length_everywhere(void) {
    for (uint32_t place = 0; place < 8; place++) {
        for (uint64_t length = 0; length <= HUB_INLINE_MAX; length++) {
            hub_ring_shm *ring = ring_new(8, UINT64_MAX - place);
            hub_producer p;
            hub_consumer c;
            hub_entry entry;
            message m;
            unsigned char data[HUB_INLINE_MAX];
            memset(&m, 0, sizeof m);
            m.ref = HUB_REF_NONE;
            m.length = length;
            m.cells = hub_ring_cells(length);
            for (uint64_t i = 0; i < length; i++) m.data[i] = (unsigned char)(length + i);
            hub_producer_init(&p, ring, 8, UINT64_MAX - place);
            hub_consumer_init(&c, ring, 8, UINT64_MAX - place);
            CHECK_OK(hub_ring_room(&p, m.cells));
            stage(&p, &m);
            CHECK_RC(hub_ring_next(&c, &entry, data), HUB_EAGAIN); /* staged is not published */
            hub_ring_publish(&p);
            CHECK_OK(hub_ring_next(&c, &entry, data));
            expect(&entry, data, &m);
            hub_ring_step(&c, entry.cells);
            hub_ring_commit(&c);
            CHECK_EQ(hub_load_relaxed_64(&ring->head), hub_load_relaxed_64(&ring->tail));
            free(ring);
        }
    }
}

/* A full ring is full to the last cell, and has room again after exactly what was taken. */
static void full_to_the_last_cell(void) {
    hub_ring_shm *ring = ring_new(8, HUB_START_64);
    hub_producer p;
    hub_consumer c;
    hub_entry entry;
    unsigned char data[HUB_INLINE_MAX];
    message small;
    memset(&small, 0, sizeof small);
    small.ref = HUB_REF_NONE;
    small.cells = 1;
    hub_producer_init(&p, ring, 8, HUB_START_64);
    hub_consumer_init(&c, ring, 8, HUB_START_64);
    for (int i = 0; i < 8; i++) {
        CHECK_OK(hub_ring_room(&p, 1));
        small.fields.message_id = (uint64_t)i;
        stage(&p, &small);
    }
    CHECK_RC(hub_ring_room(&p, 1), HUB_ERINGFULL);
    hub_ring_publish(&p);
    CHECK_RC(hub_ring_room(&p, 1), HUB_ERINGFULL);
    CHECK_EQ(hub_ring_free_cells(&c), 0);
    for (uint32_t taken = 1; taken <= 8; taken++) {
        CHECK_OK(hub_ring_next(&c, &entry, data));
        CHECK_EQ(entry.message.message_id, taken - 1);
        hub_ring_step(&c, 1);
        if (taken == 1)
            CHECK_RC(hub_ring_room(&p, 1), HUB_ERINGFULL); /* stepped over, not let go */
        hub_ring_commit(&c);
        CHECK_OK(hub_ring_room(&p, taken));
        CHECK_RC(hub_ring_room(&p, taken + 1), HUB_ERINGFULL);
    }
    free(ring);
}

/* ---- one thread writes, one reads ------------------------------------------------------------ */

typedef struct pipe_of_two {
    hub_ring_shm *ring;
    uint32_t capacity;
    unsigned messages;
} pipe_of_two;

static void *producing(void *argument) {
    pipe_of_two *t = argument;
    hub_producer p;
    test_random r = {77};
    hub_producer_init(&p, t->ring, t->capacity, HUB_START_64);
    for (unsigned i = 0; i < t->messages; i++) {
        message m = message_random(&r);
        int rc;
        while ((rc = hub_ring_room(&p, m.cells)) == HUB_ERINGFULL) {
            hub_ring_publish(&p);
            (void)sched_yield();
        }
        CHECK_OK(rc);
        stage(&p, &m);
        if (random_below(&r, 3)) hub_ring_publish(&p);
    }
    hub_ring_publish(&p);
    return NULL;
}

static void two_threads(void) {
    pipe_of_two t = {ring_new(32, HUB_START_64), 32, test_rounds(200000)};
    pthread_t other;
    hub_consumer c;
    hub_entry entry;
    unsigned char data[HUB_INLINE_MAX];
    test_random r = {77}; /* the same messages, made again */
    hub_consumer_init(&c, t.ring, t.capacity, HUB_START_64);
    CHECK_EQ(pthread_create(&other, NULL, producing, &t), 0);
    for (unsigned i = 0; i < t.messages; i++) {
        message m = message_random(&r);
        int rc;
        while ((rc = hub_ring_next(&c, &entry, data)) == HUB_EAGAIN) {
            hub_ring_commit(&c);
            (void)sched_yield();
        }
        CHECK_OK(rc);
        expect(&entry, data, &m);
        hub_ring_step(&c, entry.cells);
        if (random_below(&r, 3)) hub_ring_commit(&c);
    }
    CHECK_EQ(pthread_join(other, NULL), 0);
    CHECK_RC(hub_ring_next(&c, &entry, data), HUB_EAGAIN);
    free(t.ring);
}

int main(void) {
    test_begin(120);
    RUN(every_inline_length_everywhere);
    RUN(full_to_the_last_cell);
    RUN(random_against_model);
    RUN(two_threads);
    return test_end();
}
