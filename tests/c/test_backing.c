/* test_backing.c - what is asked of the kernel, and when: every range that is written to is reserved
 * first, what could not be reserved is given back, and at the cap nothing is asked for in vain.
 * fallocate is this program's own: it notes each call, and answers as the test wants. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "alloc_repair.h"
#include "arena.h"
#include "check.h"
#include "session.h"
#include "stage.h"

#define NOTED 64u

static struct {
    bool punched;
    uint64_t offset, length;
} noted[NOTED];
static unsigned calls;
static uint64_t refused_from, refused_to; /* a range that is not reserved: no memory */
static uint64_t also; /* what another process reserves at the same time: its length, at `also_at` */
static uint64_t also_at;

int fallocate(int fd, int mode, off_t offset, off_t length) {
    bool punch = (mode & FALLOC_FL_PUNCH_HOLE) != 0;
    if (calls < NOTED) {
        noted[calls].punched = punch;
        noted[calls].offset = (uint64_t)offset;
        noted[calls].length = (uint64_t)length;
    }
    calls++;
    if (!punch && (uint64_t)offset < refused_to && (uint64_t)(offset + length) > refused_from) {
        errno = ENOSPC;
        return -1;
    }
    if (!punch && also > 0)
        CHECK_EQ(syscall(SYS_fallocate, fd, 0, also_at, also), 0);
    return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

static void forget(void) {
    calls = 0;
    refused_from = refused_to = also = 0;
}

static bool was(bool punched, uint64_t offset, uint64_t length) {
    for (unsigned i = 0; i < calls && i < NOTED; i++)
        if (noted[i].punched == punched && noted[i].offset <= offset &&
            noted[i].offset + noted[i].length >= offset + length)
            return true;
    return false;
}
static unsigned count(bool punched) {
    unsigned n = 0;
    for (unsigned i = 0; i < calls && i < NOTED; i++) n += noted[i].punched == punched;
    return n;
}

static unsigned kicks;
static void count_kick(void *context, uint64_t waiters) {
    (void)context, (void)waiters;
    kicks++;
}
static void watch_kicks(arena *a) {
    a->host.kick = count_kick;
    hub_store_relaxed_64(&a->host.signals->pool_waiters, 2);
    kicks = 0;
}

static uint64_t data_at(const arena *a, uint32_t class_index, uint32_t index) {
    const hub_class_geometry *g = &a->segment.geometry.classes[class_index];
    return g->data_offset + index * g->slot_stride;
}

/* ---- making a hub, adding a peer ------------------------------------------------------------------ */

static void bookkeeping_is_reserved_first(void) {
    hub_config config = config_of_one(8192, 300);
    config_add(&config, 65536, 20, 40);
    hub_geometry g;
    hub_segment segment;
    CHECK_OK(hub_layout_compute(&config, &g, NULL));
    uint64_t ranges[][2] = {
        {0, g.blocks_offset},
        {g.classes[0].meta_offset, 300 * sizeof(hub_slot_shm)},
        {g.classes[0].holders_offset, 300 * sizeof(uint64_t)},
        {g.classes[1].meta_offset, 20 * sizeof(hub_slot_shm)},
        {g.classes[1].holders_offset, 20 * sizeof(uint64_t)},
    };
    unsigned n = sizeof ranges / sizeof *ranges;
    forget();
    CHECK_OK(hub_segment_create(&segment, NULL, &config, NULL));
    for (unsigned i = 0; i < n; i++) CHECK(was(false, ranges[i][0], ranges[i][1]));
    hub_segment_fini(&segment);
    for (unsigned i = 0; i < n; i++) {
        forget();
        refused_from = ranges[i][0];
        refused_to = ranges[i][0] + ranges[i][1];
        CHECK_RC(hub_segment_create(&segment, NULL, &config, NULL), HUB_ENOSPC);
    }
    forget();
}

static void a_peers_block_is_reserved_first(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_link *link = NULL;
    int fd;
    const hub_geometry *g = &host->segment.geometry;
    forget();
    refused_from = hub_block_offset(g, 1);
    refused_to = refused_from + g->block_stride;
    CHECK_RC(hub_host_add_peer(host, "no room", &link, &fd), HUB_ENOSPC);
    CHECK(link == NULL);
    forget();
    CHECK_OK(hub_host_add_peer(host, "room", &link, &fd));
    CHECK_EQ(hub_link_peer_id(link), 1);
    CHECK(was(false, hub_block_offset(g, 1), g->block_stride));
    hub_link_unref(link);
    host_close(host);
}

/* ---- growing -------------------------------------------------------------------------------------- */

static void growth_reserves_both(void) {
    hub_config config = config_of_one(8192, 0);
    config.classes[0].max_slots = 1000;
    arena a;
    arena_open(&a, &config);
    hub_pool_class *c = &a.host.classes[0];
    const hub_class_geometry *g = &a.segment.geometry.classes[0];
    for (unsigned holders = 0; holders < 2; holders++) {
        forget();
        refused_from = holders ? g->holders_offset : g->meta_offset;
        refused_to = refused_from + 1;
        CHECK(!hub_pool_grow(&a.host, c));
        CHECK_EQ(hub_in_service(c), 0);
    }
    for (uint32_t n = 0; n < 4; n++) {
        uint32_t had = n * HUB_GROW_SLOTS, more = n < 3 ? HUB_GROW_SLOTS : 1000 - had;
        forget();
        CHECK(hub_pool_grow(&a.host, c));
        CHECK_EQ(hub_in_service(c), had + more);
        CHECK_EQ(calls, 2);
        CHECK(was(false, g->meta_offset + had * sizeof(hub_slot_shm), more * sizeof(hub_slot_shm)));
        CHECK(was(false, g->holders_offset + had * sizeof(uint64_t), more * sizeof(uint64_t)));
        CHECK_EQ(arena_check_stacks(&a, 0), had + more);
    }
    forget();
    CHECK(!hub_pool_grow(&a.host, c));
    CHECK_EQ(calls, 0);
    arena_close(&a);
}

/* ---- a slot --------------------------------------------------------------------------------------- */

/* No memory: what may have been reserved of it is given back, and the slot is free and cold. */
static void no_memory(void) {
    hub_config config = config_of_one(256 * KIB, 3);
    arena a;
    hub_slot slot, held;
    arena_open(&a, &config);
    hub_pool_class *c = &a.host.classes[0];
    watch_kicks(&a);
    forget();
    refused_from = a.segment.geometry.data_offset;
    refused_to = UINT64_MAX;
    CHECK_RC(hub_pool_alloc(&a.host, 100 * KIB, &slot), HUB_ENOSPC);
    CHECK_GE(count(true), 1);
    CHECK(was(true, data_at(&a, 0, 0), 100 * KIB));
    CHECK_EQ(hub_head_index(hub_load_relaxed_64(&c->shared->hot)), HUB_INDEX_NONE);
    CHECK_EQ(arena_count(&a, 0).free, 3);
    CHECK_EQ(arena_check_stacks(&a, 0), 3);
    CHECK_EQ(kicks, 0); /* nothing became free that was not before */
    forget();
    CHECK_OK(hub_pool_alloc(&a.host, 10 * KIB, &held));
    forget();
    refused_from = a.segment.geometry.data_offset;
    refused_to = UINT64_MAX;
    CHECK_RC(hub_pool_back(&a.host, held.ref, 100 * KIB), HUB_ENOSPC);
    uint64_t kept = hub_pool_backed(&a.host, held.ref);
    CHECK_EQ(kept, 12 * KIB);
    CHECK(was(true, data_at(&a, 0, hub_ref_index(held.ref)) + kept, 100 * KIB - kept));
    CHECK(!was(true, data_at(&a, 0, hub_ref_index(held.ref)), 1)); /* what it had it keeps */
    CHECK_EQ(kicks, 0);
    forget();
    CHECK_OK(hub_pool_free(&a.host, held.ref, held.gen));
    CHECK_EQ(kicks, 1);
    arena_close(&a);
}

/* Another process reserves at the same time, and together they are above the cap: undone, tried
 * again, given up; and since room had been found, who waits is told. */
static void overshot(void) {
    hub_config config = config_of_one(256 * KIB, 4);
    for (unsigned held = 0; held < 2; held++) {
        arena a;
        hub_slot slot, mine;
        arena_open(&a, &config);
        watch_kicks(&a);
        if (held) CHECK_OK(hub_pool_alloc(&a.host, 4 * KIB, &mine));
        a.host.max_bytes = hub_segment_usage(&a.segment) + 128 * KIB;
        forget();
        also = 64 * KIB;
        also_at = data_at(&a, 0, 3);
        if (held)
            CHECK_RC(hub_pool_back(&a.host, mine.ref, 100 * KIB), HUB_EEXHAUSTED);
        else
            CHECK_RC(hub_pool_alloc(&a.host, 100 * KIB, &slot), HUB_EEXHAUSTED);
        CHECK_GE(count(true), 1);
        CHECK_GE(count(false), 1);
        CHECK_LE(hub_segment_usage(&a.segment), a.host.max_bytes);
        CHECK_EQ(kicks, 1);
        CHECK_EQ(arena_count(&a, 0).free, 4 - held);
        forget();
        arena_close(&a);
    }
}

/* Slots that share a page with others: whatever goes wrong, nothing of it is punched. */
static void a_shared_page_is_never_punched(void) {
    hub_config config = config_of_one(KIB, 1024);
    arena a;
    hub_pool dead;
    hub_slot slot;
    uint32_t gen;
    arena_open(&a, &config);
    arena_pool(&a, &dead, 3);
    forget();
    refused_from = a.segment.geometry.data_offset;
    refused_to = UINT64_MAX;
    CHECK_RC(hub_pool_alloc(&a.host, KIB, &slot), HUB_ENOSPC);
    CHECK_EQ(count(true), 0);
    forget();
    a.host.max_bytes = hub_segment_usage(&a.segment) + 64 * KIB;
    also = 128 * KIB;
    also_at = data_at(&a, 0, 512);
    CHECK_RC(hub_pool_alloc(&a.host, KIB, &slot), HUB_EEXHAUSTED);
    CHECK_GE(count(false), 1);
    CHECK_EQ(count(true), 0);
    forget();
    CHECK(hub_take_free(&dead, &dead.classes[0], 7, &gen)); /* and died before it reserved anything */
    CHECK_EQ(hub_pool_reclaim(&a.host, 3), 1);
    CHECK_EQ(count(true), 0);
    hub_pool_fini(&dead);
    arena_close(&a);
}

/* At the cap with nothing to give back: nothing is asked for, nobody is told. */
static void at_the_cap(void) {
    hub_config config = config_of_one(256 * KIB, 4);
    arena a;
    hub_slot held, slot;
    arena_open(&a, &config);
    watch_kicks(&a);
    CHECK_OK(hub_pool_alloc(&a.host, 256 * KIB, &held));
    a.host.max_bytes = hub_segment_usage(&a.segment) + 64 * KIB;
    forget();
    CHECK_RC(hub_pool_alloc(&a.host, 100 * KIB, &slot), HUB_EEXHAUSTED);
    CHECK_EQ(calls, 0);
    CHECK_EQ(kicks, 0);
    CHECK_OK(hub_pool_alloc(&a.host, 64 * KIB, &slot)); /* exactly what is left */
    CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    CHECK_OK(hub_pool_free(&a.host, held.ref, held.gen));
    arena_close(&a);
}

/* At the cap with memory in free slots of another class: it is given back, as much as is needed, and
 * the first try succeeds. */
static void room_is_made(void) {
    hub_config config = config_of_one(64 * KIB, 4);
    config_add(&config, 256 * KIB, 4, 4);
    arena a;
    hub_slot slots[2], slot;
    arena_open(&a, &config);
    for (unsigned i = 0; i < 2; i++) CHECK_OK(hub_pool_alloc(&a.host, 256 * KIB, &slots[i]));
    for (unsigned i = 0; i < 2; i++) CHECK_OK(hub_pool_free(&a.host, slots[i].ref, slots[i].gen));
    a.host.max_bytes = hub_segment_usage(&a.segment);
    forget();
    CHECK_OK(hub_pool_alloc(&a.host, 64 * KIB, &slot));
    CHECK_EQ(hub_ref_class(slot.ref), 0);
    CHECK_EQ(count(true), 1);
    CHECK_LE(hub_segment_usage(&a.segment), a.host.max_bytes);
    CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    arena_close(&a);
}

/* ---- repairs --------------------------------------------------------------------------------------- */

static void repairs_reserve_and_give_back(void) {
    hub_config config = config_of_one(64 * KIB, 40);
    config.classes[0].max_slots = 600;
    arena a;
    hub_slot slot;
    arena_open(&a, &config);
    hub_pool_class *c = &a.host.classes[0];
    const hub_class_geometry *g = &a.segment.geometry.classes[0];
    for (unsigned holders = 0; holders < 2; holders++) {
        forget();
        refused_from = holders ? g->holders_offset : g->meta_offset;
        refused_to = refused_from + 1;
        CHECK_RC(hub_pool_mend_in_service(&a.host, 0, 0), HUB_ENOSPC);
    }
    forget();
    hub_store_relaxed_32(&c->shared->in_service, 41); /* none that is honest */
    CHECK_OK(hub_pool_mend_in_service(&a.host, 0, 0));
    CHECK_GE(hub_in_service(c), 40);
    CHECK(hub_pool_plausible_in_service(hub_in_service(c), 40, 600));
    CHECK(was(false, g->meta_offset, 40 * sizeof(hub_slot_shm)));
    CHECK(was(false, g->holders_offset, 40 * sizeof(uint64_t)));

    CHECK_OK(hub_pool_alloc(&a.host, 64 * KIB, &slot));
    uint32_t index = hub_ref_index(slot.ref);
    hub_a32 *backed = &c->meta[index].backed;
    forget();
    hub_store_release_32(backed, 1000);
    refused_from = data_at(&a, 0, index);
    refused_to = refused_from + 1;
    CHECK(!hub_pool_mend_backed(&a.host, slot.ref, 1000));
    CHECK_EQ(hub_load_relaxed_32(backed), 1000);
    forget();
    CHECK(hub_pool_mend_backed(&a.host, slot.ref, 1000));
    CHECK(was(false, data_at(&a, 0, index), 64 * KIB));
    CHECK_EQ(hub_load_relaxed_32(backed), 16);
    CHECK(!hub_pool_mend_backed(&a.host, slot.ref, 1000)); /* it says something else meanwhile */
    CHECK_EQ(hub_load_relaxed_32(backed), 16);

    forget();
    CHECK(!hub_pool_freshen(&a.host, slot.ref)); /* not free */
    CHECK_EQ(calls, 0);
    CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    CHECK(hub_pool_freshen(&a.host, slot.ref));
    CHECK(was(true, data_at(&a, 0, index), 64 * KIB));
    CHECK_EQ(hub_load_relaxed_32(backed), 0);
    CHECK_EQ(hub_ctl_state(hub_load_relaxed_64(&c->meta[index].ctl)), HUB_FREE);
    forget();
    arena_close(&a);
}

int main(void) {
    test_begin(120);
    RUN(bookkeeping_is_reserved_first);
    RUN(a_peers_block_is_reserved_first);
    RUN(growth_reserves_both);
    RUN(no_memory);
    RUN(overshot);
    RUN(a_shared_page_is_never_punched);
    RUN(at_the_cap);
    RUN(room_is_made);
    RUN(repairs_reserve_and_give_back);
    return test_end();
}
