/* test_inspect.c - what statistics and a look from outside say is what the words in shared memory
 * say: each is written by hand, with a value of its own. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "session.h"
#include "stage.h"

#define PEER 2u

static void lane_fill(hub_lane_shm *lane, uint64_t base, uint32_t classes) {
    hub_store_relaxed_64(&lane->sent, base + 1);
    hub_store_relaxed_64(&lane->received, base + 2);
    hub_store_relaxed_64(&lane->bytes_sent, base + 3);
    hub_store_relaxed_64(&lane->bytes_received, base + 4);
    hub_store_relaxed_64(&lane->rings_rung, base + 5);
    hub_store_relaxed_64(&lane->waits, base + 6);
    for (uint32_t k = 0; k < classes; k++) hub_store_relaxed_64(&lane->exhausted[k], base + 10 + k);
}

static void ring_fill(hub_ring_shm *ring, uint32_t base) {
    hub_store_relaxed_64(&ring->head, base + 1);
    hub_store_relaxed_64(&ring->tail, base + 2);
    hub_store_relaxed_32(&ring->closed, base + 3);
    hub_store_relaxed_32(&ring->sleeping, base + 4);
    hub_store_relaxed_32(&ring->want, base + 5);
}

static const hub_peer_stat *peer_of(const hub_stat *stat, uint32_t id) {
    for (uint32_t i = 0; i < stat->peer_count; i++)
        if (stat->peers[i].peer_id == id) return &stat->peers[i];
    FAIL("no entry for peer %u among %u", id, stat->peer_count);
}

static void check_peer(const hub_stat *stat) {
    const hub_peer_stat *p = peer_of(stat, PEER);
    CHECK_EQ(p->state, HUB_PEER_RESERVED);
    CHECK_EQ(p->epoch, HUB_START_EPOCH + 1);
    CHECK_EQ((uint32_t)p->pid, 4321);
    CHECK(strcmp(p->name, "second") == 0);
    CHECK_EQ(p->owned, 2);
    CHECK_EQ(p->sent, 1001);
    CHECK_EQ(p->received, 1002);
    CHECK_EQ(p->bytes_sent, 1003);
    CHECK_EQ(p->bytes_received, 1004);
    CHECK_EQ(p->rings_rung, 1005);
    CHECK_EQ(p->waits, 1006);
}

/* Of the class of 1 KiB: 8 slots, two of them the peer's, one in its ring, one shared, one more has
 * been used. The counts of both lanes are added, and no lane of an id never given out is read. */
static void check_class(const hub_stat *stat) {
    const hub_class_stat *c = &stat->classes[0];
    CHECK_EQ(c->slot_size, 1024);
    CHECK_EQ(c->slots, 8);
    CHECK_EQ(c->max_slots, 8);
    CHECK_EQ(c->free, 4);
    CHECK_EQ(c->owned, 2);
    CHECK_EQ(c->in_ring, 1);
    CHECK_EQ(c->shared, 1);
    CHECK_EQ(c->backed, 5);
    CHECK_EQ(c->high_water, 5);
    CHECK_EQ(c->exhausted, (5000 + 10) + (1000 + 10));
    CHECK_EQ(stat->classes[1].free, 4);
    CHECK_EQ(stat->classes[1].exhausted, (5000 + 11) + (1000 + 11));
}

static void every_word_is_told(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_link *links[2];
    hub_slot slots[5];
    int fds[2];
    CHECK_OK(hub_host_add_peer(host, "first", &links[0], &fds[0]));
    CHECK_OK(hub_host_add_peer(host, "second", &links[1], &fds[1]));
    CHECK_EQ(hub_link_peer_id(links[1]), PEER);
    for (unsigned i = 0; i < 5; i++) CHECK_OK(hub_pool_alloc(&host->pool, 100, &slots[i]));
    hub_pool *pool = &host->pool;
    for (unsigned i = 0; i < 2; i++)
        CHECK_OK(hub_pool_move(pool, slots[i].ref, slots[i].gen, HUB_OWNED, 0, HUB_OWNED, PEER));
    CHECK_OK(hub_pool_move(pool, slots[2].ref, slots[2].gen, HUB_OWNED, 0, HUB_RING,
                           hub_ring_up(PEER)));
    CHECK_OK(hub_pool_move(pool, slots[3].ref, slots[3].gen, HUB_OWNED, 0, HUB_SHARED, 0));
    CHECK_OK(hub_pool_free(pool, slots[4].ref, slots[4].gen));
    lane_fill(hub_session_lane(host, 0), 5000, 2);
    lane_fill(hub_session_lane(host, PEER), 1000, 2);
    hub_store_relaxed_32(&hub_session_peer(host, PEER)->pid, 4321);
    ring_fill(hub_session_ring(host, hub_ring_up(PEER)), 100);
    ring_fill(hub_session_ring(host, hub_ring_down(PEER)), 200);
    hub_store_relaxed_64(&hub_session_signals(host)->pool_waiters, 0xF0);
    hub_store_relaxed_64(&hub_session_signals(host)->ready, 0xE0);

    hub_inspection *look = malloc(sizeof *look);
    CHECK(look != NULL);
    memset(look, 0xFF, sizeof *look); /* what is not told is not zero by itself */
    CHECK_OK(hub_inspect(hub_session_fd(host), look, NULL));
    check_peer(&look->stat);
    check_class(&look->stat);
    CHECK_EQ(peer_of(&look->stat, 1)->state, HUB_PEER_RESERVED);
    const hub_peer_stat *of_host = peer_of(&look->stat, 0);
    CHECK_EQ(of_host->state, HUB_PEER_ACTIVE);
    CHECK_EQ(of_host->pid, getpid());
    CHECK_EQ(look->stat.peer_count, 3);
    for (uint32_t down = 0; down < 2; down++) {
        uint32_t n = 2 * PEER + down, base = 100 + 100 * down;
        CHECK_EQ(look->rings[n].head, base + 1);
        CHECK_EQ(look->rings[n].tail, base + 2);
        CHECK_EQ(look->rings[n].closed, base + 3);
        CHECK_EQ(look->rings[n].sleeping, base + 4);
        CHECK_EQ(look->rings[n].want, base + 5);
        CHECK_EQ(look->rings[n].capacity, 16);
    }
    CHECK_EQ(look->waiters, 0xF0);
    CHECK_EQ(look->ready, 0xE0);
    CHECK_EQ(look->live, 1);
    CHECK_GE(look->stat.memory_bytes, 4096);
    hub_store_release_32(&hub_session_header(host)->host_closed, 1);
    CHECK_OK(hub_inspect(hub_session_fd(host), look, NULL));
    CHECK_EQ(look->live, 0);
    hub_store_release_32(&hub_session_header(host)->host_closed, 0);

    hub_stat *stat = malloc(sizeof *stat);
    CHECK(stat != NULL);
    memset(stat, 0xFF, sizeof *stat);
    CHECK_OK(hub_session_stat(host, stat));
    check_peer(stat);
    check_class(stat);
    hub_store_relaxed_32(&host->forked, 1);
    CHECK_RC(hub_session_stat(host, stat), HUB_EFORKED);
    hub_store_relaxed_32(&host->forked, 0);
    free(stat);
    free(look);
    hub_store_relaxed_64(&hub_session_signals(host)->pool_waiters, 0);
    for (unsigned i = 0; i < 2; i++) hub_link_unref(links[i]);
    hub_session_close(host);
    hub_session_unref(host);
}

/* A count that a scribbler wrote is no reason to read behind the bookkeeping. */
static void counts_are_clamped(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_stat *stat = malloc(sizeof *stat);
    CHECK(stat != NULL);
    hub_store_relaxed_32(&host->pool.classes[0].shared->in_service, UINT32_MAX);
    CHECK_OK(hub_session_stat(host, stat));
    CHECK_EQ(stat->classes[0].slots, 8);
    CHECK_EQ(stat->classes[0].free, 8);
    hub_store_relaxed_32(&host->pool.classes[0].shared->in_service, 3);
    CHECK_OK(hub_session_stat(host, stat));
    CHECK_EQ(stat->classes[0].slots, 3);
    CHECK_EQ(stat->classes[0].free, 3);
    hub_store_relaxed_32(&host->pool.classes[0].shared->in_service, 8);
    free(stat);
    host_close(host);
}

int main(void) {
    test_begin(60);
    RUN(every_word_is_told);
    RUN(counts_are_clamped);
    return test_end();
}
