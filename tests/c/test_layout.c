/* test_layout.c - what a header says is what was asked for, and no bad header is believed. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arena.h"
#include "check.h"

#define HEAD_BYTES \
    (sizeof(hub_header_shm) + sizeof(hub_signals_shm) + HUB_CLASSES_MAX * sizeof(hub_class_shm))

/* A published header with its class table, and the geometry it was written from. */
static void head_make(unsigned char *head, const hub_config *config, hub_geometry *g) {
    hub_fault fault = {0, ""};
    memset(head, 0, HEAD_BYTES);
    CHECK_OK_FAULT(hub_layout_compute(config, g, &fault), fault);
    hub_layout_write(head, g, 4711, 123456789);
    hub_layout_publish(head);
}

static unsigned char *head_new(void) {
    void *head = NULL;
    CHECK_EQ(posix_memalign(&head, 64, HEAD_BYTES), 0);
    return head;
}

/* Regions in the order of layout.h, aligned, not overlapping, inside the file. */
static void geometry_check(const hub_geometry *g) {
    CHECK_EQ(g->signals_offset, sizeof(hub_header_shm));
    CHECK_EQ(g->classes_offset, g->signals_offset + sizeof(hub_signals_shm));
    CHECK_EQ(g->peers_offset, g->classes_offset + HUB_CLASSES_MAX * sizeof(hub_class_shm));
    CHECK_GE(g->host_lane_offset, g->peers_offset + g->max_peers * sizeof(hub_peer_shm));
    CHECK_EQ(g->host_lane_offset % HUB_CACHE_LINE, 0);
    CHECK_GE(g->blocks_offset, g->host_lane_offset + sizeof(hub_lane_shm));
    CHECK_EQ(g->blocks_offset % HUB_PAGE, 0);
    CHECK_EQ(g->block_stride % HUB_PAGE, 0);
    CHECK_GE(g->block_stride, HUB_BLOCK_RING_UP + 2 * hub_ring_bytes(g->ring_capacity));
    CHECK_GE(hub_block_ring_down(g->ring_capacity),
             HUB_BLOCK_RING_UP + sizeof(hub_ring_shm) + (uint64_t)g->ring_capacity * HUB_CELL);
    uint64_t at = g->blocks_offset + (g->max_peers - 1) * g->block_stride;
    for (uint32_t k = 0; k < g->class_count; k++) {
        CHECK_EQ(g->classes[k].meta_offset, at);
        at += g->classes[k].max_slots * sizeof(hub_slot_shm);
        at = (at + HUB_PAGE - 1) / HUB_PAGE * HUB_PAGE;
    }
    for (uint32_t k = 0; k < g->class_count; k++) {
        CHECK_EQ(g->classes[k].holders_offset, at);
        at += g->classes[k].max_slots * sizeof(uint64_t);
        at = (at + HUB_PAGE - 1) / HUB_PAGE * HUB_PAGE;
    }
    CHECK_EQ(g->data_offset, at);
    for (uint32_t k = 0; k < g->class_count; k++) {
        CHECK_EQ(g->classes[k].data_offset, at);
        CHECK_EQ(at % (g->classes[k].slot_size >= HUB_PAGE ? HUB_PAGE : HUB_CACHE_LINE), 0);
        CHECK_GE(g->classes[k].slot_stride, g->classes[k].slot_size);
        CHECK_LE(g->classes[k].slots, g->classes[k].max_slots);
        at += g->classes[k].max_slots * g->classes[k].slot_stride;
        at = (at + HUB_PAGE - 1) / HUB_PAGE * HUB_PAGE;
    }
    CHECK_EQ(g->total_size, at);
}

static void round_trip(void) {
    hub_config configs[] = {config_of_the_table(false), config_of_the_table(true),
                            config_of_one(64, 1), config_of_one(1ULL << 30, 3)};
    configs[2].max_peers = 2;
    configs[2].ring_capacity = 8;
    configs[3].max_peers = 64;
    configs[3].ring_capacity = 65536;
    unsigned char *head = head_new();
    for (unsigned i = 0; i < sizeof configs / sizeof *configs; i++) {
        hub_geometry written, read;
        hub_config back;
        hub_fault fault = {0, ""};
        head_make(head, &configs[i], &written);
        geometry_check(&written);
        CHECK_OK_FAULT(hub_layout_read(head, written.total_size, &read, &fault), fault);
        CHECK(memcmp(&written, &read, sizeof read) == 0);
        hub_layout_config(&read, &back);
        CHECK(memcmp(&back, &configs[i], sizeof back) == 0);
    }
    free(head);
}

/* 109 to 116 MiB when nothing may grow, as the table says. */
static void length_of_the_table(void) {
    hub_config config = config_of_the_table(false);
    hub_geometry g;
    CHECK_OK(hub_layout_compute(&config, &g, NULL));
    CHECK_GE(g.total_size, 109 * MIB);
    CHECK_LE(g.total_size, 116 * MIB);
}

static void refuse_config(const hub_config *config, const char *word) {
    hub_geometry g;
    hub_fault fault = {0, ""};
    memset(&g, 0xAB, sizeof g);
    CHECK_RC(hub_layout_compute(config, &g, &fault), HUB_EINVAL);
    CHECK_EQ(fault.code, HUB_EINVAL);
    if (strstr(fault.text, word) == NULL) FAIL("'%s' does not say '%s'", fault.text, word);
    CHECK_EQ(((unsigned char *)&g)[0], 0xAB); /* outputs untouched on failure */
    CHECK_RC(hub_layout_compute(config, &g, NULL), HUB_EINVAL);
}

static void bad_configurations(void) {
    static const uint64_t bad_sizes[] = {0, 1, 63, 65, 96, 4095, 4096 + 64, (1ULL << 30) + 4096,
                                         UINT64_MAX, 1ULL << 63};
    for (unsigned i = 0; i < sizeof bad_sizes / sizeof *bad_sizes; i++) {
        hub_config config = config_of_one(bad_sizes[i], 1);
        refuse_config(&config, "must be a multiple of");
    }
    hub_config c = config_of_the_table(false);
    c.class_count = 0;
    refuse_config(&c, "classes");
    c.class_count = 9;
    refuse_config(&c, "classes");
    c = config_of_one(1024, 4);
    config_add(&c, 1024, 1, 1);
    refuse_config(&c, "ascending");
    c.classes[1].slot_size = 512;
    refuse_config(&c, "ascending");
    c = config_of_one(1024, 4);
    c.classes[0].max_slots = 0;
    refuse_config(&c, "max_slots");
    c.classes[0].slots = 0;
    refuse_config(&c, "max_slots");
    c.classes[0].slots = 4;
    c.classes[0].max_slots = 3;
    refuse_config(&c, "max_slots");
    c.classes[0].max_slots = HUB_SLOTS_MAX + 1;
    refuse_config(&c, "max_slots");
    static const uint32_t bad_peers[] = {0, 1, 65, UINT32_MAX};
    for (unsigned i = 0; i < 4; i++) {
        c = config_of_one(1024, 4);
        c.max_peers = bad_peers[i];
        refuse_config(&c, "max_peers");
    }
    static const uint32_t bad_rings[] = {0, 4, 7, 9, 255, 131072, UINT32_MAX};
    for (unsigned i = 0; i < 7; i++) {
        c = config_of_one(1024, 4);
        c.ring_capacity = bad_rings[i];
        refuse_config(&c, "ring_capacity");
    }
    c = config_of_one(1024, 4);
    c.max_bytes = 0; /* whoever makes the hub chooses */
    hub_geometry geometry;
    CHECK_OK(hub_layout_compute(&c, &geometry, NULL));
    c.max_bytes = MIB - 1;
    refuse_config(&c, "max_bytes");
    c = config_of_one(1024, 4);
    c.spin_ns = -2;
    refuse_config(&c, "spin");
    c.spin_ns = 1000000001;
    refuse_config(&c, "spin");
    /* More than an address space: must be refused, not computed modulo 2^64. */
    c = config_of_one(1ULL << 30, HUB_SLOTS_MAX);
    refuse_config(&c, "64 TiB");
}

static void refuse_head(const unsigned char *head, uint64_t size) {
    hub_geometry g;
    hub_fault fault = {0, ""};
    memset(&g, 0xAB, sizeof g);
    CHECK_RC(hub_layout_read(head, size, &g, &fault), HUB_EFORMAT);
    CHECK_EQ(fault.code, HUB_EFORMAT);
    CHECK(fault.text[0] != 0);
    CHECK_EQ(((unsigned char *)&g)[0], 0xAB);
    CHECK_RC(hub_layout_read(head, size, &g, NULL), HUB_EFORMAT);
}

/* Every field of the header that anything follows from, set to what it must not be. */
static void bad_fields(void) {
    hub_config config = config_of_the_table(false);
    hub_geometry g;
    unsigned char *head = head_new();
    hub_header_shm *h = (hub_header_shm *)head;
    hub_class_shm *classes =
        (hub_class_shm *)(head + sizeof(hub_header_shm) + sizeof(hub_signals_shm));
    head_make(head, &config, &g);
#define REFUSED(field, value)             \
    do {                                  \
        head_make(head, &config, &g);     \
        (field) = (value);                \
        refuse_head(head, g.total_size);  \
    } while (0)
    REFUSED(h->magic.value, 0);
    REFUSED(h->magic.value, HUB_MAGIC + 1);
    REFUSED(h->version_major, 0);
    REFUSED(h->version_major, HUB_VERSION_MAJOR + 1);
    REFUSED(h->header_size, 0);
    REFUSED(h->header_size, 255);
    REFUSED(h->total_size, 0);
    REFUSED(h->total_size, g.total_size - 1);
    REFUSED(h->total_size, g.total_size + HUB_PAGE);
    REFUSED(h->total_size, UINT64_MAX);
    REFUSED(h->class_count, 0);
    REFUSED(h->class_count, 4);
    REFUSED(h->class_count, 9);
    REFUSED(h->class_count, UINT32_MAX);
    REFUSED(h->max_peers, 0);
    REFUSED(h->max_peers, 31);
    REFUSED(h->max_peers, 33);
    REFUSED(h->max_peers, UINT32_MAX);
    REFUSED(h->ring_capacity, 0);
    REFUSED(h->ring_capacity, 128);
    REFUSED(h->ring_capacity, 512);
    REFUSED(h->ring_capacity, 257);
    REFUSED(h->max_bytes, 1);
    REFUSED(h->spin_ns, -2);
    REFUSED(h->classes_offset, 0);
    REFUSED(h->classes_offset, h->classes_offset + 64);
    REFUSED(h->classes_offset, UINT64_MAX);
    REFUSED(h->signals_offset, h->signals_offset + 64);
    REFUSED(h->peers_offset, h->peers_offset + 64);
    REFUSED(h->host_lane_offset, UINT64_MAX - 64);
    REFUSED(h->blocks_offset, 0);
    REFUSED(h->block_stride, 0);
    REFUSED(h->data_offset, h->data_offset - HUB_PAGE);
    REFUSED(classes[0].slot_size, 0);
    REFUSED(classes[0].slot_size, 2048);
    REFUSED(classes[4].slot_size, UINT64_MAX);
    REFUSED(classes[0].slots, 1025);
    REFUSED(classes[4].max_slots, 0);
    REFUSED(classes[4].max_slots, 5);
    REFUSED(classes[4].max_slots, UINT32_MAX);
#undef REFUSED
    head_make(head, &config, &g);
    refuse_head(head, g.total_size - 1);
    refuse_head(head, g.total_size + 1);
    for (uint64_t size = 0; size < sizeof(hub_header_shm); size++) refuse_head(head, size);
    /* A minor version is for additions: it is read. */
    h->version_minor = 7;
    hub_geometry read;
    CHECK_OK(hub_layout_read(head, g.total_size, &read, NULL));
    free(head);
}

/* A header cut off anywhere is refused by its size, and nothing behind its end is read (the heap
 * copy is exactly as long as it claims to be, which the address sanitizer watches). */
/* Not a byte behind the file is looked at: there is no memory. */
static void truncated_files(void) {
    hub_config config = config_of_the_table(false);
    hub_geometry g;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    CHECK_LE(HEAD_BYTES, page);
    unsigned char *head = head_new();
    head_make(head, &config, &g);
    unsigned char *pages =
        mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED);
    CHECK_EQ(mprotect(pages + page, page, PROT_NONE), 0);
    for (uint64_t size = 0; size < HEAD_BYTES; size += 8) {
        unsigned char *copy = pages + page - size;
        memcpy(copy, head, size);
        if (size >= sizeof(hub_header_shm)) ((hub_header_shm *)copy)->total_size = size;
        refuse_head(copy, size);
    }
    CHECK_EQ(munmap(pages, 2 * page), 0);
    free(head);
}

/* Whatever single byte or random run of bytes is changed: refused, or a sound geometry within the
 * file (some fields, like the pid, mean nothing to a reader). */
static void random_headers(void) {
    hub_config config = config_of_the_table(true);
    hub_geometry g, read;
    unsigned char *good = head_new(), *head = head_new();
    test_random r = {20260};
    head_make(good, &config, &g);
    unsigned refused = 0, rounds = test_rounds(200000);
    for (unsigned i = 0; i < rounds; i++) {
        memcpy(head, good, HEAD_BYTES);
        uint64_t changes = 1 + random_below(&r, 4);
        for (uint64_t n = 0; n < changes; n++) {
            uint64_t at = random_below(&r, HEAD_BYTES);
            head[at] = random_below(&r, 2)
                           ? (unsigned char)random_next(&r)
                           : (unsigned char)(head[at] ^ (1u << random_below(&r, 8)));
        }
        int rc = hub_layout_read(head, g.total_size, &read, NULL);
        if (rc == 0) {
            CHECK_EQ(read.total_size, g.total_size);
            geometry_check(&read);
        } else {
            CHECK_RC(rc, HUB_EFORMAT);
            refused++;
        }
    }
    CHECK_GE(refused, rounds / 50);
    for (unsigned i = 0; i < rounds; i++) {
        for (uint64_t at = 0; at < HEAD_BYTES; at += 8) {
            uint64_t word = random_next(&r);
            memcpy(head + at, &word, 8);
        }
        if (i % 2) ((hub_header_shm *)head)->magic.value = HUB_MAGIC;
        refuse_head(head, random_below(&r, 1u << 20));
        if (i == 2000) break;
    }
    free(good);
    free(head);
}

/* The order of publishing: without the magic the same bytes are no hub. */
static void unpublished_is_refused(void) {
    hub_config config = config_of_the_table(false);
    hub_geometry g;
    unsigned char *head = head_new();
    memset(head, 0, HEAD_BYTES);
    CHECK_OK(hub_layout_compute(&config, &g, NULL));
    hub_layout_write(head, &g, 1, 1);
    refuse_head(head, g.total_size);
    hub_layout_publish(head);
    CHECK_OK(hub_layout_read(head, g.total_size, &g, NULL));
    free(head);
}

static void words(void) {
    test_random r = {7};
    for (int i = 0; i < 1000; i++) {
        uint32_t gen = (uint32_t)random_next(&r), owner = (uint32_t)random_below(&r, 0x10000);
        uint32_t state = (uint32_t)random_below(&r, 4), to = (uint32_t)random_below(&r, 128);
        uint32_t class_index = (uint32_t)random_below(&r, 8);
        uint32_t index = (uint32_t)random_below(&r, HUB_SLOTS_MAX);
        uint64_t ctl = hub_ctl_make(gen, state, owner);
        CHECK_EQ(hub_ctl_gen(ctl), gen);
        CHECK_EQ(hub_ctl_state(ctl), state);
        CHECK_EQ(hub_ctl_owner(ctl), owner);
        CHECK(hub_ctl_linked(ctl));
        CHECK(!hub_ctl_linked(ctl | HUB_CTL_UNLINKED));
        uint64_t moved = hub_ctl_moved(ctl | HUB_CTL_UNLINKED, HUB_RING, to);
        CHECK_EQ(moved, hub_ctl_make(gen, HUB_RING, to) | HUB_CTL_UNLINKED);
        uint32_t ref = hub_ref_make(class_index, index);
        CHECK_EQ(hub_ref_class(ref), class_index);
        CHECK_EQ(hub_ref_index(ref), index);
        CHECK(ref != HUB_REF_NONE);
        uint64_t word = hub_state_make(gen, state);
        CHECK_EQ(hub_state_epoch(word), gen);
        CHECK_EQ(hub_state_of(word), state);
        uint64_t head = hub_head_make(random_next(&r) & 0xFFFFFFFFFFULL, index);
        CHECK_EQ(hub_head_index(head), index);
        CHECK_EQ(hub_head_make(hub_head_tag(head), index), head);
    }
    /* A tag at its end wraps into nothing else. */
    CHECK_EQ(hub_head_make(0xFFFFFFFFFFULL + 1, 5), 5);
    CHECK_EQ(hub_ctl_make(0, HUB_FREE, 0), 0); /* what was never written is FREE and linked */
}

int main(void) {
    test_begin(120);
    RUN(round_trip);
    RUN(length_of_the_table);
    RUN(bad_configurations);
    RUN(bad_fields);
    RUN(truncated_files);
    RUN(random_headers);
    RUN(unpublished_is_refused);
    RUN(words);
    return test_end();
}
