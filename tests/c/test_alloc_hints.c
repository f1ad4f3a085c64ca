/* test_alloc_hints.c - stacks and caches are hints, and nothing depends on them but how long an
 * allocation takes: therefore they are looked at here, word by word.  What is backed goes on the hot
 * stack and what is not on the cold one; a batch is remembered; a broken stack is cut. */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <string.h>

#include "alloc_quick.h"
#include "arena.h"
#include "check.h"

#define SIZE 4096u

static hub_pool_class *class_of(arena *a) { return &a->host.classes[0]; }
static uint32_t top_of(const hub_a64 *head) { return hub_head_index(hub_load_relaxed_64(head)); }
static uint64_t tag_of(const hub_a64 *head) { return hub_head_tag(hub_load_relaxed_64(head)); }
static uint64_t next_tag(uint64_t tag) { return hub_head_tag(hub_head_make(tag + 1, 0)); }

static uint32_t length_of(hub_pool_class *c, const hub_a64 *head) {
    uint32_t count = 0;
    for (uint32_t i = top_of(head); i != HUB_INDEX_NONE;
         i = hub_load_relaxed_32(&c->meta[i].next)) {
        CHECK_REL(count, <, c->max_slots);
        count++;
    }
    return count;
}

static void at_first_all_are_cold(void) {
    hub_config config = config_of_one(SIZE, 12);
    arena a;
    arena_open(&a, &config);
    hub_pool_class *c = class_of(&a);
    CHECK_EQ(top_of(&c->shared->hot), HUB_INDEX_NONE);
    CHECK_EQ(length_of(c, &c->shared->cold), 12);
    CHECK_EQ(arena_check_stacks(&a, 0), 12);
    arena_close(&a);
}

static void freed_where_it_belongs(void) {
    hub_config config = config_of_one(SIZE, 12);
    for (unsigned discarded = 0; discarded < 2; discarded++) {
        arena a;
        hub_slot slot;
        uint32_t index, gen;
        arena_open(&a, &config);
        hub_pool_class *c = class_of(&a);
        CHECK_OK(hub_pool_alloc(&a.host, SIZE, &slot));
        if (discarded)
            CHECK_OK(hub_pool_discard(&a.host, slot.ref, slot.gen, HUB_OWNED, 0));
        else
            CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
        CHECK_EQ(top_of(&c->shared->hot), hub_ref_index(slot.ref));
        CHECK_EQ(length_of(c, &c->shared->cold), 11);
        /* Mine, and nothing of it backed. */
        CHECK_EQ(hub_stack_pop(c, &c->shared->cold, 1, &index), 1);
        CHECK(hub_claim_popped(&a.host, c, index, &gen));
        if (discarded)
            CHECK_OK(hub_pool_discard(&a.host, hub_ref_make(0, index), gen, HUB_OWNED, 0));
        else
            CHECK_OK(hub_pool_free(&a.host, hub_ref_make(0, index), gen));
        CHECK_EQ(top_of(&c->shared->cold), index);
        CHECK_EQ(length_of(c, &c->shared->hot), 1);
        CHECK_EQ(arena_check_stacks(&a, 0), 12);
        arena_close(&a);
    }
}

/* The same where the thread remembers what it freed: not what is not backed, and of what was trimmed
 * since then only that it is cold. */
static void remembered_only_if_backed(void) {
    hub_config config = config_of_one(SIZE, 64);
    arena a;
    hub_slot slots[2];
    uint32_t index, gen;
    arena_open(&a, &config);
    hub_pool_class *c = class_of(&a);
    hub_cache *cache = hub_cache_mine(c);
    CHECK(cache != NULL);
    CHECK_EQ(hub_stack_pop(c, &c->shared->cold, 1, &index), 1);
    CHECK(hub_claim_popped(&a.host, c, index, &gen));
    CHECK_OK(hub_pool_free(&a.host, hub_ref_make(0, index), gen));
    CHECK_EQ(cache->count, 0);
    CHECK_EQ(top_of(&c->shared->cold), index);
    for (unsigned i = 0; i < 2; i++) CHECK_OK(hub_pool_alloc(&a.host, SIZE, &slots[i]));
    for (unsigned i = 0; i < 2; i++) CHECK_OK(hub_pool_free(&a.host, slots[i].ref, slots[i].gen));
    CHECK_EQ(cache->count, 2);
    CHECK_EQ(top_of(&c->shared->hot), HUB_INDEX_NONE);
    hub_store_release_32(&c->meta[hub_ref_index(slots[0].ref)].backed, 0); /* as a trim does */
    hub_pool_flush(&a.host);
    CHECK_EQ(cache->count, 0);
    CHECK_EQ(top_of(&c->shared->hot), hub_ref_index(slots[1].ref));
    CHECK_EQ(length_of(c, &c->shared->hot), 1);
    CHECK_EQ(top_of(&c->shared->cold), hub_ref_index(slots[0].ref));
    CHECK_EQ(arena_check_stacks(&a, 0), 64);
    arena_close(&a);
}

/* Popped together, one is taken and the others are remembered: FREE, L = 0. Of those that a scan
 * has taken meanwhile L goes, and no more. */
static void a_batch_is_remembered(void) {
    hub_config config = config_of_one(SIZE, 64);
    for (unsigned taken = 0; taken < 2; taken++) {
        arena a;
        hub_pool other;
        hub_slot slots[8], slot;
        uint32_t gen = 0, below;
        arena_open(&a, &config);
        arena_pool(&a, &other, 1);
        hub_pool_class *c = class_of(&a);
        for (unsigned i = 0; i < 8; i++) CHECK_OK(hub_pool_alloc(&other, SIZE, &slots[i]));
        for (unsigned i = 0; i < 8; i++)
            CHECK_OK(hub_pool_free(&other, slots[i].ref, slots[i].gen));
        hub_pool_flush(&other);
        CHECK_EQ(length_of(c, &c->shared->hot), 8);
        below = hub_load_relaxed_32(&c->meta[top_of(&c->shared->hot)].next);
        if (taken) CHECK(hub_take_free(&other, &other.classes[0], below, &gen));
        uint64_t tag = tag_of(&c->shared->hot);
        CHECK_OK(hub_pool_alloc(&a.host, SIZE, &slot));
        hub_cache *cache = hub_cache_mine(c);
        CHECK(cache != NULL);
        CHECK_EQ(c->cache_capacity, 4); /* so three are popped at once */
        CHECK_EQ(tag_of(&c->shared->hot), next_tag(tag));
        CHECK_EQ(length_of(c, &c->shared->hot), 5);
        CHECK_EQ(hub_load_relaxed_32(&c->below[below % HUB_BELOW]), hub_ref_index(slot.ref));
        CHECK_EQ(cache->count, 2 - taken);
        uint64_t ctl = hub_load_relaxed_64(&c->meta[below].ctl);
        CHECK(!hub_ctl_linked(ctl));
        CHECK_EQ(hub_ctl_state(ctl), taken ? HUB_OWNED : HUB_FREE);
        for (uint32_t i = 0; i < cache->count; i++)
            CHECK_EQ(hub_load_relaxed_64(&c->meta[cache->items[i]].ctl) & 0xFFFFFFFFu,
                     HUB_CTL_UNLINKED);
        if (taken) CHECK_OK(hub_pool_free(&other, hub_ref_make(0, below), gen));
        CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
        arena_check_all_free(&a);
        hub_pool_fini(&other);
        arena_close(&a);
    }
}

/* A link that leads nowhere ends the stack there; the tag, which lies beside the index, stays. */
static void garbage_is_cut_off(void) {
    static const uint32_t garbage[] = {HUB_INDEX_NONE + 1, 0xFF000003u, UINT32_MAX};
    hub_config config = config_of_one(SIZE, 12);
    for (unsigned i = 0; i < sizeof garbage / sizeof *garbage; i++) {
        arena a;
        hub_slot held[12];
        uint32_t index;
        arena_open(&a, &config);
        hub_pool_class *c = class_of(&a);
        uint64_t tag = tag_of(&c->shared->cold);
        hub_store_relaxed_32(&c->meta[top_of(&c->shared->cold)].next, garbage[i]);
        CHECK_EQ(hub_stack_pop(c, &c->shared->cold, 1, &index), 1);
        CHECK_EQ(top_of(&c->shared->cold), HUB_INDEX_NONE);
        CHECK_EQ(tag_of(&c->shared->cold), next_tag(tag));
        CHECK_EQ(arena_take_all(&a.host, SIZE, 0, held, 12), 12);
        arena_close(&a);
    }
}

/* An index that is one too high is none, at the top and below it. */
static void one_too_high(void) {
    hub_config config = config_of_one(SIZE, 64);
    config.classes[0].max_slots = 128;
    arena a;
    uint32_t popped[8];
    arena_open(&a, &config);
    hub_pool_class *c = class_of(&a);
    uint32_t top = top_of(&c->shared->cold);
    hub_store_relaxed_32(&c->meta[top].next, 64);
    CHECK_EQ(hub_stack_pop(c, &c->shared->cold, 8, popped), 1);
    CHECK_EQ(top_of(&c->shared->cold), 64); /* may be in service by the next look */
    CHECK_EQ(hub_stack_pop(c, &c->shared->cold, 8, popped), 0);
    arena_close(&a);
}

/* A scribbler has made a stack a circle of slots that are somebody's: the pops in vain are counted,
 * and the stack is emptied. */
static void circles_are_cut(void) {
    hub_config config = config_of_one(SIZE, 12);
    for (unsigned cold = 0; cold < 2; cold++) {
        arena a;
        hub_pool other;
        hub_slot held[12], slot;
        arena_open(&a, &config);
        arena_pool(&a, &other, 1);
        hub_pool_class *c = class_of(&a);
        CHECK_EQ(arena_take_all(&other, SIZE, 0, held, 12), 12);
        CHECK_OK(hub_pool_free(&other, held[11].ref, held[11].gen));
        hub_a64 *head = cold ? &c->shared->cold : &c->shared->hot;
        hub_store_relaxed_32(&c->meta[hub_ref_index(held[0].ref)].next, hub_ref_index(held[1].ref));
        hub_store_relaxed_32(&c->meta[hub_ref_index(held[1].ref)].next, hub_ref_index(held[0].ref));
        uint64_t tag = 77;
        hub_store_relaxed_64(head, hub_head_make(tag, hub_ref_index(held[0].ref)));
        if (cold) {
            CHECK_OK(hub_pool_alloc(&a.host, SIZE, &slot)); /* the one on the hot stack */
            CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
            hub_store_relaxed_64(&c->shared->hot, hub_head_make(9, HUB_INDEX_NONE));
        }
        CHECK_OK(hub_pool_alloc(&a.host, SIZE, &slot)); /* by a scan */
        CHECK_EQ(slot.ref, held[11].ref);
        CHECK_EQ(top_of(head), HUB_INDEX_NONE);
        CHECK_EQ(tag_of(head), tag + 12 + 2); /* one pop more than there are slots, and the cut */
        CHECK_RC(hub_pool_alloc(&a.host, SIZE, &slot), HUB_EEXHAUSTED);
        hub_pool_fini(&other);
        arena_close(&a);
    }
}

/* By whichever way a slot is had, its reference of before is no longer good. */
static void check_new(hub_pool *pool, const hub_slot *slot, const hub_slot *before) {
    CHECK_EQ(slot->ref, before->ref);
    CHECK_EQ(slot->gen, before->gen + 1);
    CHECK_RC(hub_pool_free(pool, before->ref, before->gen), HUB_ESTALE);
}

static void every_way_raises_the_generation(void) {
    for (unsigned large = 0; large < 2; large++) {
        /* 128 KiB: remembered as well, but not by the inline path. */
        hub_config config = config_of_one(large ? 128 * KIB : SIZE, 64);
        uint64_t size = config.classes[0].slot_size;
        arena a;
        hub_slot slots[64], again;
        arena_open(&a, &config);
        hub_pool_class *c = class_of(&a);
        for (unsigned i = 0; i < 64; i++) CHECK_OK(hub_pool_alloc(&a.host, size, &slots[i]));
        CHECK_OK(hub_pool_free(&a.host, slots[3].ref, slots[3].gen));
        hub_cache *cache = hub_cache_mine(c);
        CHECK_EQ(cache->count, 1);
        uint64_t hot = hub_load_relaxed_64(&c->shared->hot);
        CHECK_OK(hub_pool_alloc(&a.host, size, &again)); /* remembered */
        check_new(&a.host, &again, &slots[3]);
        CHECK_EQ(cache->count, 0);
        CHECK_EQ(hub_load_relaxed_64(&c->shared->hot), hot);
        CHECK_OK(hub_pool_free(&a.host, again.ref, again.gen));
        hub_pool_flush(&a.host);
        slots[3] = again;
        CHECK_OK(hub_pool_alloc(&a.host, size, &again)); /* from the stack */
        check_new(&a.host, &again, &slots[3]);
        CHECK_OK(hub_pool_free(&a.host, again.ref, again.gen));
        cache->count = 0; /* as if another thread remembered it */
        slots[3] = again;
        CHECK_OK(hub_pool_alloc(&a.host, size, &again)); /* by a scan */
        check_new(&a.host, &again, &slots[3]);
        arena_close(&a);
    }
}

/* The inline paths: taken when the thread remembers a slot that is backed whole, and no other. */
static void inline_paths(void) {
    hub_config config = config_of_one(SIZE, 64);
    arena a;
    hub_slot slot, again;
    arena_open(&a, &config);
    hub_pool_class *c = class_of(&a);
    CHECK(!hub_alloc_quick(&a.host, SIZE, &slot)); /* remembers nothing */
    CHECK_OK(hub_pool_alloc(&a.host, SIZE, &slot));
    hub_slot_shm *meta = &c->meta[hub_ref_index(slot.ref)];
    CHECK(!hub_free_quick(&a.host, slot.ref, slot.gen + 1));
    CHECK(!hub_free_quick(&a.host, hub_ref_make(1, 0), slot.gen));
    CHECK(!hub_free_quick(&a.host, hub_ref_make(0, 64), 0));
    hub_store_release_32(&meta->backed, 0);
    CHECK(!hub_free_quick(&a.host, slot.ref, slot.gen));
    CHECK_EQ(hub_ctl_owner(hub_load_relaxed_64(&meta->ctl)), 0);
    CHECK_EQ(hub_ctl_state(hub_load_relaxed_64(&meta->ctl)), HUB_OWNED);
    hub_store_release_32(&meta->backed, 1);
    CHECK(hub_free_quick(&a.host, slot.ref, slot.gen));
    CHECK(!hub_free_quick(&a.host, slot.ref, slot.gen));
    uint64_t freed = hub_load_relaxed_64(&meta->ctl);
    hub_store_release_32(&meta->backed, 0); /* trimmed: seen before anything is changed */
    CHECK(!hub_alloc_quick(&a.host, SIZE, &again));
    CHECK_EQ(hub_load_relaxed_64(&meta->ctl), freed);
    hub_store_release_32(&meta->backed, 1);
    CHECK(!hub_alloc_quick(&a.host, SIZE + 1, &again)); /* more than any class holds */
    CHECK(hub_alloc_quick(&a.host, SIZE, &again));
    CHECK_EQ(again.ref, slot.ref);
    CHECK_EQ(again.gen, slot.gen + 1);
    /* Full: the fifth is not for the inline path. */
    hub_slot more[5];
    for (unsigned i = 0; i < 5; i++) CHECK_OK(hub_pool_alloc(&a.host, SIZE, &more[i]));
    hub_pool_flush(&a.host);
    for (unsigned i = 0; i < 5; i++)
        CHECK_EQ(hub_free_quick(&a.host, more[i].ref, more[i].gen), i < c->cache_capacity);
    arena_close(&a);
}

static void whose_it_is(void) {
    hub_config config = config_of_one(SIZE, 12);
    arena a;
    hub_pool other;
    hub_slot slot;
    arena_open(&a, &config);
    arena_pool(&a, &other, 1);
    CHECK_OK(hub_pool_alloc(&a.host, SIZE, &slot));
    hub_a64 *ctl = &class_of(&a)->meta[hub_ref_index(slot.ref)].ctl;
    CHECK(hub_pool_is_mine(&a.host, slot.ref, slot.gen));
    hub_store_release_64(ctl, hub_load_relaxed_64(ctl) ^ HUB_CTL_UNLINKED);
    CHECK(hub_pool_is_mine(&a.host, slot.ref, slot.gen)); /* whether it is linked is no matter */
    hub_store_release_64(ctl, hub_load_relaxed_64(ctl) ^ HUB_CTL_UNLINKED);
    CHECK(!hub_pool_is_mine(&a.host, slot.ref, slot.gen + 1));
    CHECK(!hub_pool_is_mine(&other, slot.ref, slot.gen));
    /* What is not in service is nobody's, whatever is written there. */
    hub_store_relaxed_32(&class_of(&a)->shared->in_service, hub_ref_index(slot.ref));
    CHECK(!hub_pool_is_mine(&a.host, slot.ref, slot.gen));
    hub_store_relaxed_32(&class_of(&a)->shared->in_service, 12);
    CHECK(!hub_pool_is_mine(&a.host, hub_ref_make(7, 0), slot.gen));
    CHECK_OK(hub_pool_move(&a.host, slot.ref, slot.gen, HUB_OWNED, 0, HUB_RING, 0));
    CHECK(!hub_pool_is_mine(&a.host, slot.ref, slot.gen));
    hub_pool_fini(&other);
    arena_close(&a);
}

static unsigned kicks;
static void count_kick(void *context, uint64_t waiters) {
    (void)context;
    CHECK_EQ(waiters, 1ULL << 9);
    kicks++;
}

/* Into a full cache, and of a slot of which nothing is backed: those, too, look for waiters. */
static void unusual_frees_look_for_waiters(void) {
    hub_config config = config_of_one(SIZE, 64);
    arena a;
    hub_slot slots[5];
    uint32_t index, gen;
    arena_open(&a, &config);
    hub_pool_class *c = class_of(&a);
    for (unsigned i = 0; i < 5; i++) CHECK_OK(hub_pool_alloc(&a.host, SIZE, &slots[i]));
    a.host.kick = count_kick;
    hub_store_relaxed_64(&a.host.signals->pool_waiters, 1ULL << 9);
    kicks = 0;
    for (unsigned i = 0; i < 5; i++) {
        CHECK_OK(hub_pool_free(&a.host, slots[i].ref, slots[i].gen));
        CHECK_EQ(kicks, i + 1);
    }
    CHECK_EQ(hub_stack_pop(c, &c->shared->cold, 1, &index), 1);
    CHECK(hub_claim_popped(&a.host, c, index, &gen));
    CHECK_OK(hub_pool_free(&a.host, hub_ref_make(0, index), gen));
    CHECK_EQ(kicks, 6);
    arena_close(&a);
}

/* What was remembered and is taken is not linked when the cache goes. */
static void taken_ones_are_not_linked(void) {
    hub_config config = config_of_one(SIZE, 64);
    arena a;
    hub_pool other;
    hub_slot slot;
    uint32_t gen;
    arena_open(&a, &config);
    arena_pool(&a, &other, 1);
    hub_pool_class *c = class_of(&a);
    CHECK_OK(hub_pool_alloc(&a.host, SIZE, &slot));
    CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    CHECK(hub_take_free(&other, &other.classes[0], hub_ref_index(slot.ref), &gen));
    hub_pool_flush(&a.host);
    CHECK_EQ(top_of(&c->shared->hot), HUB_INDEX_NONE);
    CHECK(!hub_ctl_linked(hub_load_relaxed_64(&c->meta[hub_ref_index(slot.ref)].ctl)));
    CHECK_OK(hub_pool_free(&other, slot.ref, gen));
    hub_pool_fini(&other);
    arena_close(&a);
}

/* ---- lanes ------------------------------------------------------------------------------------- */

typedef struct lane {
    hub_pool_class *c;
    hub_cache *got;
    gate go, end;
    bool stays;
} lane;

static void *claim_a_lane(void *argument) {
    lane *l = argument;
    l->got = hub_cache_mine(l->c);
    if (l->stays) {
        gate_open(&l->go);
        gate_wait(&l->end);
    }
    return NULL;
}

/* Four threads have a lane each, the fifth has none; when one of them has ended its lane is taken
 * over by the next whose number leads there, and what they knew of each other is freed. */
static void lanes_of_threads(void) {
    hub_config config = config_of_one(SIZE, 64);
    arena a;
    lane four[HUB_CACHE_LANES], next;
    pthread_t threads[HUB_CACHE_LANES], thread;
    arena_open(&a, &config);
    hub_pool_class *c = class_of(&a);
    for (unsigned i = 0; i < HUB_CACHE_LANES; i++) {
        four[i] = (lane){.c = c, .stays = true};
        gate_init(&four[i].go);
        gate_init(&four[i].end);
        CHECK_EQ(pthread_create(&threads[i], NULL, claim_a_lane, &four[i]), 0);
        gate_wait(&four[i].go);
        CHECK(four[i].got != NULL);
        for (unsigned k = 0; k < i; k++) CHECK(four[k].got != four[i].got);
    }
    for (unsigned i = 0; i < 2 * HUB_CACHE_LANES; i++) {
        next = (lane){.c = c};
        CHECK_EQ(pthread_create(&thread, NULL, claim_a_lane, &next), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK(next.got == NULL); /* all are taken, by threads that live */
    }
    for (unsigned i = 0; i < HUB_CACHE_LANES; i++) {
        gate_open(&four[i].end);
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
        gate_fini(&four[i].go);
        gate_fini(&four[i].end);
    }
    for (unsigned i = 0; i < 2 * HUB_CACHE_LANES; i++) {
        next = (lane){.c = c};
        CHECK_EQ(pthread_create(&thread, NULL, claim_a_lane, &next), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK(next.got != NULL);
    }
    hub_pool_fini(&a.host);
    for (unsigned i = 0; i < HUB_CACHE_LANES; i++)
        CHECK_EQ(hub_load_relaxed_64(&c->caches[i].owner), 0);
    arena_close(&a);
}

#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
#define COUNTS_BLOCKS 1
/* A thread and the lanes it had are counted; with the last of them it is freed. */
static void threads_leave_nothing(void) {
    if (test_sanitized()) return; /* its allocator has no mallinfo, and finds leaks itself */
    hub_config config = config_of_one(SIZE, 64);
    arena a;
    size_t before = 0;
    for (unsigned n = 0; n < 1100; n++) {
        lane one;
        pthread_t thread;
        if (n % 50 == 0) arena_open(&a, &config);
        one = (lane){.c = class_of(&a)};
        CHECK_EQ(pthread_create(&thread, NULL, claim_a_lane, &one), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        if (n % 50 == 49) arena_close(&a);
        if (n == 99) before = mallinfo2().uordblks; /* what is kept anyway is there by now */
    }
    CHECK_LE(mallinfo2().uordblks, before + 1000 * sizeof(hub_thread) / 4);
}
#endif

int main(void) {
    test_begin(120);
#ifdef COUNTS_BLOCKS
    if (!test_sanitized()) CHECK_EQ(mallopt(M_ARENA_MAX, 1), 1); /* so that all blocks are counted */
#endif
    RUN(at_first_all_are_cold);
    RUN(freed_where_it_belongs);
    RUN(remembered_only_if_backed);
    RUN(a_batch_is_remembered);
    RUN(garbage_is_cut_off);
    RUN(one_too_high);
    RUN(circles_are_cut);
    RUN(every_way_raises_the_generation);
    RUN(inline_paths);
    RUN(whose_it_is);
    RUN(unusual_frees_look_for_waiters);
    RUN(taken_ones_are_not_linked);
    RUN(lanes_of_threads);
#ifdef COUNTS_BLOCKS
    RUN(threads_leave_nothing);
#endif
    return test_end();
}
