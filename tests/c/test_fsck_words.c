/* test_fsck_words.c - fsck and the words that are about no slot: what the peer table may say of whom,
 * who is woken by a repair, and what is left in the hub of a dead host. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "doorbell.h"
#include "fsck.h"
#include "pair.h"
#include "service.h"

typedef struct seen {
    unsigned count[HUB_FSCK_KINDS];
    hub_fsck_finding last;
} seen;

static void note(void *context, const hub_fsck_finding *finding) {
    seen *s = context;
    s->count[finding->kind]++;
    s->last = *finding;
}

static hub_fsck_totals look_holding(hub_session *host, int repair, uint32_t held, seen *s) {
    hub_fsck_totals totals;
    memset(s, 0, sizeof *s);
    CHECK_OK(hub_host_fsck(host, repair, held, note, s, &totals));
    return totals;
}

static hub_fsck_totals look(hub_session *host, int repair, seen *s) {
    return look_holding(host, repair, 0, s);
}

static hub_a32 *backed_of(hub_session *host, const hub_slot *slot) {
    return &host->pool.classes[hub_ref_class(slot->ref)].meta[hub_ref_index(slot->ref)].backed;
}

/* ---- the peer table ------------------------------------------------------------------- */

typedef struct world {
    pair p; /* id 1 is active */
    hub_link *reserved;
    uint32_t absent, former; /* ids that never had a life, and that had one */
} world;

static void world_open(world *w) {
    hub_config config = config_tiny();
    int fd;
    pair_open(&w->p, &config, false);
    w->former = w->p.id;
    pair_detach(&w->p);
    pair_attach(&w->p);
    CHECK_OK(hub_host_add_peer(w->p.host, "reserved", &w->reserved, &fd));
    w->absent = w->reserved->id + 1;
    CHECK_REL(w->former, !=, w->p.id);
    CHECK_REL(w->absent, <, config.max_peers);
}

static void world_close(world *w) {
    CHECK_OK(hub_host_remove_peer(w->p.host, w->reserved->id));
    peer_wait_free(w->p.host, w->reserved->id);
    hub_link_unref(w->reserved);
    pair_close(&w->p);
}

/* Is it found that the table says so? And after a repair it says what it said. */
static void says(world *w, uint32_t id, uint32_t epoch, uint32_t state, bool found) {
    hub_a64 *word = &hub_session_peer(w->p.host, id)->state;
    uint64_t before = hub_load_acquire_64(word);
    seen s;
    test_doing("peer %u, epoch %u, state %u", id, epoch, state);
    hub_store_release_64(word, hub_state_make(epoch, state));
    (void)look(w->p.host, 0, &s);
    CHECK_EQ(s.count[HUB_FSCK_PEER], found);
    if (found) {
        CHECK_EQ(s.last.peer_id, id);
        CHECK_EQ(look(w->p.host, 1, &s).left, 0);
        /* An entry that nobody has had yet says nothing, and after a repair whose turn it is. */
        uint64_t first = hub_state_make(HUB_START_EPOCH, HUB_PEER_FREE);
        CHECK_EQ(hub_load_acquire_64(word), before == 0 ? first : before);
    }
    hub_store_release_64(word, before);
    test_doing("%s", "");
}

static void set_state(hub_session *host, hub_link *link, uint32_t state) {
    CHECK_EQ(pthread_mutex_lock(&host->lock), 0);
    link->state = state;
    CHECK_EQ(pthread_mutex_unlock(&host->lock), 0);
}

/* The host keeps its own state of each life: with it set to `mine`, what may the table say? */
static void life(world *w, hub_link *link, uint32_t mine, uint32_t allowed) {
    uint32_t before = link->state;
    hub_a64 *word = &hub_session_peer(w->p.host, link->id)->state;
    set_state(w->p.host, link, mine);
    hub_store_release_64(word, hub_state_make(link->epoch, mine));
    for (uint32_t state = 0; state < 11; state++)
        says(w, link->id, link->epoch, state, !(allowed >> state & 1));
    says(w, link->id, link->epoch + 1, mine, true);
    set_state(w->p.host, link, before);
    hub_store_release_64(word, hub_state_make(link->epoch, before));
}

#define MAY(state) (1u << (state))
static void what_the_table_may_say(void) {
    world w;
    world_open(&w);
    says(&w, 0, 0, HUB_PEER_ACTIVE, false);
    says(&w, 0, 1, HUB_PEER_ACTIVE, true);
    says(&w, 0, 0, HUB_PEER_LEAVING, true);
    uint32_t epoch = w.p.host->host->epochs[w.former];
    says(&w, w.former, epoch, HUB_PEER_FREE, false);
    says(&w, w.former, epoch + 1, HUB_PEER_FREE, true);
    says(&w, w.former, epoch, HUB_PEER_ACTIVE, true);
    says(&w, w.absent, 0, HUB_PEER_FREE, false);
    says(&w, w.absent, 3, HUB_PEER_ACTIVE, true);
    uint32_t coming =
        MAY(HUB_PEER_RESERVED) | MAY(HUB_PEER_ATTACHING) | MAY(HUB_PEER_CANCELLED);
    life(&w, w.reserved, HUB_PEER_RESERVED, coming);
    life(&w, w.reserved, HUB_PEER_ATTACHING, coming);
    uint32_t going = MAY(HUB_PEER_LEAVING) | MAY(HUB_PEER_LEFT);
    life(&w, w.p.link, HUB_PEER_ACTIVE, going | MAY(HUB_PEER_ACTIVE));
    life(&w, w.p.link, HUB_PEER_LEAVING, going);
    life(&w, w.p.link, HUB_PEER_HUNG_UP, MAY(HUB_PEER_HUNG_UP));
    life(&w, w.p.link, HUB_PEER_QUARANTINED, MAY(HUB_PEER_QUARANTINED));
    world_close(&w);
}

/* ---- who is woken ----------------------------------------------------------------------- */

static void a_repair_wakes_everybody(void) {
    world w;
    seen s;
    world_open(&w);
    hub_waiter *waiter = &w.p.from_host->waiter;
    uint32_t generation = hub_waiter_generation(waiter);
    (void)hub_doorbell_drain(w.p.from_peer->link->fd);
    (void)hub_exchange_acq_rel_64(&hub_session_signals(w.p.host)->ready, 0);
    CHECK_EQ(look(w.p.host, 0, &s).findings, 0);
    CHECK_EQ(hub_waiter_generation(waiter), generation); /* who only looks wakes nobody */
    CHECK_EQ(look(w.p.host, 1, &s).findings, 0);
    CHECK_REL(hub_waiter_generation(waiter), !=, generation);
    CHECK_GE(hub_doorbell_drain(w.p.from_peer->link->fd), 1);
    CHECK_EQ(hub_load_acquire_64(&hub_session_signals(w.p.host)->ready), 1ULL << w.p.id);
    world_close(&w);
}

/* ---- bookkeeping beyond what is in service ------------------------------------------------ */

static void any_word_beyond_is_seen(void) {
    for (unsigned which = 0; which < 3; which++) {
        hub_config config = config_tiny();
        config.classes[2].max_slots = 6; /* 2 in service */
        hub_session *host = host_open(&config);
        hub_slot_shm *slot = &host->pool.classes[2].meta[4];
        seen s;
        if (which == 0) hub_store_relaxed_64(&slot->ctl, hub_ctl_make(9, HUB_FREE, 0));
        if (which == 1) hub_store_relaxed_32(&slot->next, 3);
        if (which == 2) hub_store_relaxed_32(&slot->backed, 1);
        (void)look(host, 0, &s);
        CHECK_EQ(s.count[HUB_FSCK_IN_SERVICE], 1);
        CHECK_EQ(look(host, 1, &s).left, 0);
        host_close(host);
    }
}

/* ---- how many slots are free, and where ------------------------------------------------------ */

static uint64_t count_remembered(const hub_pool *pool) {
    uint64_t count = 0;
    for (uint32_t k = 0; k < pool->class_count; k++)
        for (uint32_t i = 0; i < hub_in_service(&pool->classes[k]); i++) {
            uint64_t ctl = hub_load_acquire_64(&pool->classes[k].meta[i].ctl);
            count += hub_ctl_state(ctl) == HUB_FREE && !hub_ctl_linked(ctl);
        }
    return count;
}

static void free_slots_are_counted(void) {
    hub_config config = config_tiny();
    config.classes[0].slots = config.classes[0].max_slots = 128; /* many enough to be cached */
    hub_slot slots[3];
    seen s;
    hub_session *host = host_open(&config);
    hub_pool_class *c = &host->pool.classes[0];
    CHECK_EQ(look(host, 0, &s).remembered, 0);
    for (unsigned i = 0; i < 3; i++) CHECK_OK(hub_pool_alloc(&host->pool, 100, &slots[i]));
    for (unsigned i = 0; i < 2; i++)
        CHECK_OK(hub_pool_free(&host->pool, slots[i].ref, slots[i].gen));
    uint64_t remembered = count_remembered(&host->pool);
    CHECK_GE(remembered, 1);
    hub_fsck_totals totals = look_holding(host, 0, 1, &s);
    CHECK_EQ(totals.findings, 0);
    CHECK_EQ(totals.remembered, remembered); /* not the one that is held */
    CHECK_EQ(totals.off_list, 0);
    /* A process took one off a stack, and died. */
    uint64_t head = hub_load_acquire_64(&c->shared->cold);
    CHECK_REL(hub_head_index(head), !=, HUB_INDEX_NONE);
    uint32_t next = hub_load_relaxed_32(&c->meta[hub_head_index(head)].next);
    hub_store_release_64(&c->shared->cold, hub_head_make(hub_head_tag(head) + 1, next));
    totals = look_holding(host, 0, 1, &s);
    CHECK_EQ(totals.findings, 0);
    CHECK_EQ(totals.remembered, remembered);
    CHECK_EQ(totals.off_list, 1);
    CHECK_OK(hub_pool_free(&host->pool, slots[2].ref, slots[2].gen));
    host_close(host);
}

/* ---- the host's waiters, and rings ------------------------------------------------------------ */

static void the_hosts_own_bit(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_a64 *waiters = &hub_session_signals(host)->pool_waiters;
    seen s;
    for (unsigned waits = 0; waits < 2; waits++) {
        CHECK_EQ(pthread_mutex_lock(&host->lock), 0);
        host->pool_waiters = waits;
        CHECK_EQ(pthread_mutex_unlock(&host->lock), 0);
        hub_store_release_64(waiters, waits);
        CHECK_EQ(look(host, 0, &s).findings, 0);
        hub_store_release_64(waiters, !waits);
        CHECK_EQ(look(host, 0, &s).findings, 1);
        CHECK_EQ(s.count[HUB_FSCK_SIGNAL], 1);
        CHECK_EQ(look(host, 1, &s).left, 0);
        CHECK_EQ(hub_load_acquire_64(waiters), waits);
    }
    host->pool_waiters = 0;
    hub_store_release_64(waiters, 0);
    host_close(host);
}

/* A word of a ring: a lie is found, and mended. */
static void ring_word(world *w, hub_a32 *word, uint32_t honest, uint32_t lie, uint32_t mended) {
    seen s;
    hub_store_release_32(word, honest);
    CHECK_EQ(look(w->p.host, 0, &s).findings, 0);
    hub_store_release_32(word, lie);
    CHECK_EQ(look(w->p.host, 0, &s).findings, 1);
    CHECK_EQ(s.count[HUB_FSCK_RING], 1);
    CHECK_EQ(look(w->p.host, 1, &s).left, 0);
    CHECK_EQ(hub_load_acquire_32(word), mended);
}

static void each_word_of_a_ring(void) {
    world w;
    seen s;
    world_open(&w);
    hub_session *host = w.p.host;
    uint32_t coming = w.reserved->id, capacity = host->segment.geometry.ring_capacity;
    hub_ring_shm *up = hub_session_ring(host, hub_ring_up(coming));
    hub_ring_shm *down = hub_session_ring(host, hub_ring_down(coming));
    ring_word(&w, &up->sleeping, 1, 2, 0);
    ring_word(&w, &up->want, capacity, capacity + 1, 0);
    ring_word(&w, &down->closed, 0, 1, 0);
    /* It has not attached: it finds its counters where they began. */
    uint64_t tail = hub_load_acquire_64(&up->tail), head = hub_load_acquire_64(&down->head);
    hub_store_release_64(&up->tail, tail + capacity + 1);
    hub_store_release_64(&down->head, head + 1);
    CHECK_EQ(look(host, 1, &s).left, 0);
    CHECK_EQ(s.count[HUB_FSCK_RING], 2);
    CHECK_EQ(hub_load_acquire_64(&up->tail), tail);
    CHECK_EQ(hub_load_acquire_64(&down->head), head);
    /* Closed, and it is right that it is, but not with that word. */
    hub_service_violation(host, w.p.link, "tested");
    ring_word(&w, &pair_up(&w.p)->closed, 1, 9, 1);
    ring_word(&w, &pair_down(&w.p)->closed, 1, 0, 1);
    hub_transport_unref(w.p.from_peer);
    hub_session_close(w.p.peer);
    hub_session_unref(w.p.peer);
    hub_transport_unref(w.p.from_host);
    hub_link_unref(w.p.link);
    hub_link_unref(w.reserved);
    hub_session_close(host);
    hub_session_unref(host);
}

/* ---- what was seen once ------------------------------------------------------------------------ */

/* Reads a hub in which a word is another at its first reading, or at every other one. */
typedef struct changing {
    const unsigned char *base;
    uint64_t offset;  /* of the word */
    uint64_t values[2];
    unsigned reads;
    bool again;
} changing;

static int read_changing(const hub_fsck_source *source, uint64_t offset, void *into, size_t length) {
    changing *c = (changing *)(uintptr_t)source->context;
    for (size_t i = 0; i < length; i++) /* the service thread may write there */
        ((unsigned char *)into)[i] = __atomic_load_n(c->base + offset + i, __ATOMIC_RELAXED);
    if (offset <= c->offset && c->offset + 8 <= offset + length) {
        memcpy((unsigned char *)into + (c->offset - offset), &c->values[c->again ? c->reads % 2 : c->reads > 0],
               8);
        c->reads++;
    }
    return 0;
}

static hub_fsck_totals look_at(hub_session *host, const void *word, uint64_t first,
                               uint64_t second, bool again, seen *s) {
    hub_fsck_totals totals;
    changing c = {host->segment.base, 0, {first, second}, 0, again};
    c.offset = (uint64_t)((const unsigned char *)word - host->segment.base);
    hub_fsck_source source = {read_changing, -1, &c, true};
    memset(s, 0, sizeof *s);
    CHECK_OK(hub_fsck_look(&host->segment.geometry, &source, note, s, &totals));
    if (first != second) CHECK_GE(c.reads, 2);
    return totals;
}

/* Two 32-bit words beside each other, the second one in question. */
static uint64_t pair_of(const hub_a32 *word, uint32_t value) {
    uint64_t both;
    memcpy(&both, word, 8);
    return (both & ~0xFFFFFFFFULL) | value;
}

static void seen_once_is_not_believed(void) {
    hub_config config = config_tiny();
    config.classes[0].max_slots = 1000;
    pair p;
    seen s;
    pair_open(&p, &config, false);
    hub_a32 *words[] = {&pair_up(&p)->sleeping, &pair_up(&p)->want, &pair_up(&p)->closed};
    for (unsigned i = 0; i < 3; i++) {
        uint64_t good = pair_of(words[i], 0), bad = pair_of(words[i], 1000);
        CHECK_EQ(look_at(p.host, words[i], bad, good, false, &s).findings, 0);
        CHECK_EQ(look_at(p.host, words[i], good, bad, false, &s).findings, 0);
        CHECK_EQ(look_at(p.host, words[i], bad, bad, false, &s).findings, 1);
        CHECK_EQ(s.count[HUB_FSCK_RING], 1);
    }
    /* The owner of a slot has come since the table of peers was read. */
    hub_slot slot;
    CHECK_OK(hub_pool_alloc(&p.peer->pool, 100, &slot));
    hub_a64 *state = &hub_session_peer(p.host, p.id)->state;
    uint64_t now = hub_load_acquire_64(state), before = hub_state_make(0, HUB_PEER_FREE);
    CHECK_EQ(look_at(p.host, state, now, now, false, &s).findings, 0);
    CHECK_EQ(look_at(p.host, state, before, now, false, &s).findings, 0);
    CHECK_GE(look_at(p.host, state, before, before, false, &s).findings, 1);
    CHECK_GE(s.count[HUB_FSCK_OWNER], 1);
    CHECK_OK(hub_pool_free(&p.peer->pool, slot.ref, slot.gen));
    /* So has who sent it. */
    hub_message m = message_of(1);
    hub_frame frame;
    CHECK_OK(hub_alloc(p.from_peer, 1000, HUB_NOW, &slot));
    slot.data[0] = 1;
    CHECK_OK(hub_send_slot(p.from_peer, HUB_TO_DEFAULT, &m, &slot, 1000, HUB_NOW));
    CHECK_EQ(look_at(p.host, state, now, now, false, &s).findings, 0);
    CHECK_EQ(look_at(p.host, state, before, now, false, &s).findings, 0);
    (void)look_at(p.host, state, before, before, false, &s);
    CHECK_GE(s.count[HUB_FSCK_OWNER], 1);
    CHECK_OK(hub_recv(p.from_host, &frame, HUB_NOW));
    frame_free(p.host, &frame);
    /* A slot's owner has just said how much of it is there. */
    hub_slot_shm *meta = &p.host->pool.classes[0].meta[3];
    hub_a32 *next = &meta->next; /* and `backed` beside it */
    CHECK_EQ((unsigned char *)next + 4, (unsigned char *)&meta->backed);
    uint64_t good, bad;
    memcpy(&good, next, 8);
    bad = (good & 0xFFFFFFFFULL) | 999ULL << 32;
    CHECK_EQ(look_at(p.host, next, bad, good, false, &s).findings, 0);
    CHECK_EQ(look_at(p.host, next, bad, bad, false, &s).findings, 1);
    CHECK_EQ(s.count[HUB_FSCK_BACKED], 1);
    /* The class grows while it is read: its stacks are not judged. */
    hub_a32 *in_service = &p.host->pool.classes[0].shared->in_service;
    uint64_t few = pair_of(in_service, 8), more = pair_of(in_service, 264);
    uint64_t judged = look_at(p.host, in_service, few, few, true, &s).unjudged;
    CHECK_EQ(judged, 0);
    CHECK_EQ(look_at(p.host, in_service, few, more, true, &s).unjudged, 2);
    pair_close(&p);
}

/* ---- the remains of a host ----------------------------------------------------------------- */

#define GHOST 2u
#define NOBODY 3u

/* A host dies while somebody of its peers spins, waits, and has published. */
static int die_as_host(void *path) {
    hub_config config = config_tiny();
    hub_fault fault = {0, ""};
    hub_session *host;
    CHECK_OK_FAULT(hub_host_create(path, &config, &host, &fault), fault);
    hub_signals_shm *signals = hub_session_signals(host);
    hub_store_release_64(&hub_session_peer(host, GHOST)->state,
                         hub_state_make(5, HUB_PEER_ACTIVE));
    CHECK_OK(hub_segment_back(&host->segment, hub_block_offset(&host->segment.geometry, GHOST),
                              host->segment.geometry.block_stride));
    hub_session_ring(host, hub_ring_up(GHOST))->capacity = config.ring_capacity;
    hub_session_ring(host, hub_ring_down(GHOST))->capacity = config.ring_capacity;
    hub_store_relaxed_64(&hub_session_ring(host, hub_ring_up(GHOST))->tail, 1000); /* of 16 cells */
    hub_store_relaxed_8(&signals->spinning[GHOST], 1);
    (void)hub_fetch_or_acq_rel_64(&signals->pool_waiters, 1 | 1ULL << GHOST);
    (void)hub_fetch_or_acq_rel_64(&signals->ready, 1ULL << GHOST | 1ULL << NOBODY);
    hub_slot slot;
    CHECK_OK(hub_pool_alloc(&host->pool, 1000, &slot));
    hub_slot_shm *twice_wrong = &host->pool.classes[2].meta[0];
    hub_store_relaxed_64(&twice_wrong->ctl, hub_ctl_make(9, HUB_SHARED, 0));
    hub_store_relaxed_32(&twice_wrong->backed, 999);
    hub_session_header(host)->reserved0 = 7; /* the header has to be written again, */
    hub_store_release_32(&hub_session_header(host)->host_closed, 1); /* and say what it said */
    _exit(0);                                                        /* nothing is closed */
}

/* Ids that there are none of: nothing behind the table says what they may hold. */
static void an_owner_beyond_the_table(void) {
    hub_config config = config_tiny();
    seen s;
    hub_session *host = host_open(&config);
    const hub_peer_shm *behind = hub_session_peer(host, 0) + HUB_PEERS_MAX;
    uint64_t active = hub_state_make(HUB_START_EPOCH, HUB_PEER_ACTIVE);
    hub_a64 *ctl = &host->pool.classes[0].meta[3].ctl;
    uint64_t before = hub_load_acquire_64(ctl);
    hub_store_release_64(ctl, hub_ctl_moved(before, HUB_OWNED, 200));
    CHECK_EQ(look_at(host, &behind->state, active, active, false, &s).findings, 1);
    CHECK_EQ(s.count[HUB_FSCK_OWNER], 1);
    hub_store_release_64(ctl, hub_ctl_moved(before, HUB_RING, 200));
    CHECK_EQ(look_at(host, &behind->state, active, active, false, &s).findings, 1);
    CHECK_EQ(s.count[HUB_FSCK_OWNER], 1);
    hub_store_release_64(ctl, before);
    host_close(host);
}

/* Too much of a slot that the host holds is said to be there: it keeps it, and the rest is true. */
static void a_held_slot_is_mended(void) {
    hub_config config = config_tiny();
    hub_slot slot;
    seen s;
    hub_session *host = host_open(&config);
    CHECK_OK(hub_pool_alloc(&host->pool, 100, &slot));
    hub_a32 *backed = backed_of(host, &slot);
    uint32_t before = hub_load_relaxed_32(backed);
    hub_store_relaxed_32(backed, 999);
    hub_fsck_totals totals = look_holding(host, 1, 1, &s);
    CHECK_EQ(s.count[HUB_FSCK_BACKED], 1);
    CHECK_EQ(totals.findings, 1);
    CHECK_EQ(totals.left, 0);
    CHECK_EQ(hub_load_relaxed_32(backed), before);
    CHECK_OK(hub_pool_free(&host->pool, slot.ref, slot.gen));
    host_close(host);
}

/* Its holder goes on writing that word: said, and left to it. */
static void a_slot_of_anothers_is_left_alone(void) {
    hub_config config = config_tiny();
    hub_slot slot;
    pair p;
    seen s;
    pair_open(&p, &config, false);
    CHECK_OK(hub_pool_alloc(&p.peer->pool, 100, &slot));
    hub_a32 *backed = backed_of(p.host, &slot);
    uint32_t before = hub_load_relaxed_32(backed);
    hub_store_relaxed_32(backed, 999);
    CHECK_EQ(look(p.host, 1, &s).left, 1);
    CHECK_EQ(s.count[HUB_FSCK_BACKED], 1);
    CHECK_EQ(hub_load_relaxed_32(backed), 999);
    hub_store_relaxed_32(backed, before);
    CHECK_OK(hub_pool_free(&p.peer->pool, slot.ref, slot.gen));
    pair_close(&p);
}

/* The cold stack runs into the hot one: beside a living peer both are put together again. */
static void one_stack_runs_into_the_other(void) {
    hub_config config = config_tiny();
    hub_slot slots[3];
    pair p;
    seen s;
    pair_open(&p, &config, false);
    for (unsigned i = 0; i < 3; i++) CHECK_OK(hub_pool_alloc(&p.peer->pool, 100, &slots[i]));
    for (unsigned i = 0; i < 3; i++)
        CHECK_OK(hub_pool_free(&p.peer->pool, slots[i].ref, slots[i].gen));
    hub_pool_class *c = &p.host->pool.classes[0];
    uint32_t hot = hub_head_index(hub_load_relaxed_64(&c->shared->hot));
    uint32_t cold = hub_head_index(hub_load_relaxed_64(&c->shared->cold));
    CHECK_REL(hot, !=, HUB_INDEX_NONE);
    CHECK_REL(cold, !=, HUB_INDEX_NONE);
    hub_store_relaxed_32(&c->meta[cold].next, hot);
    CHECK_GE(look(p.host, 0, &s).findings, 1);
    CHECK_GE(s.count[HUB_FSCK_TWICE], 1);
    CHECK_EQ(look(p.host, 1, &s).left, 0);
    CHECK_EQ(look(p.host, 0, &s).findings, 0);
    pair_close(&p);
}

/* A peer has written that the host has closed the hub. It has not, and says so. */
static void a_living_host_has_not_closed(void) {
    hub_config config = config_tiny();
    seen s;
    hub_session *host = host_open(&config);
    hub_a32 *closed = &hub_session_header(host)->host_closed;
    hub_store_release_32(closed, 1);
    CHECK_EQ(look(host, 1, &s).left, 0);
    CHECK_EQ(s.count[HUB_FSCK_HEADER], 1);
    CHECK_EQ(hub_load_acquire_32(closed), 0);
    host_close(host);
}

/* Twice is a lie of anybody; of an id that nobody has, once is. */
static void who_may_spin(void) {
    world w;
    seen s;
    world_open(&w);
    uint32_t beyond = w.p.host->segment.geometry.max_peers;
    CHECK_REL(beyond, <, HUB_PEERS_MAX);
    const struct {
        uint32_t id, value;
        bool found;
    } cases[] = {{w.p.id, 1, false}, {w.p.id, 2, true}, {w.former, 1, true},
                 {w.absent, 1, true}, {beyond, 1, true}, {0, 1, false}, {0, 2, true}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        hub_a8 *spinning = &hub_session_signals(w.p.host)->spinning[cases[i].id];
        test_doing("spinning of %u: %u", cases[i].id, cases[i].value);
        hub_store_relaxed_8(spinning, (uint8_t)cases[i].value);
        CHECK_EQ(look(w.p.host, 0, &s).findings, cases[i].found);
        CHECK_EQ(s.count[HUB_FSCK_SIGNAL], cases[i].found);
        if (cases[i].found) CHECK_EQ(s.last.peer_id, cases[i].id);
        CHECK_EQ(look(w.p.host, 1, &s).left, 0);
        CHECK_EQ(hub_load_relaxed_8(spinning), cases[i].found ? 0 : 1);
        hub_store_relaxed_8(spinning, 0);
    }
    test_doing("%s", "");
    world_close(&w);
}

static void nothing_is_left_of_a_dead_hub(void) {
    char path[128];
    seen s;
    hub_fsck_totals totals;
    hub_fault fault = {0, ""};
    hub_segment segment;
    bool alone = false;
    (void)snprintf(path, sizeof path, "%s/hub", temporary_folder());
    child_run(die_as_host, path);
    memset(&s, 0, sizeof s);
    CHECK_OK_FAULT(hub_fsck_repair(path, note, &s, &totals, &fault), fault);
    CHECK_EQ(totals.left, 0);
    CHECK_EQ(totals.reclaimed, 1);
    CHECK_EQ(s.count[HUB_FSCK_SIGNAL], 1); /* nobody has the id NOBODY */
    CHECK_EQ(s.count[HUB_FSCK_STATE], 1); /* and what is free then is not backed beyond its end */
    CHECK_EQ(s.count[HUB_FSCK_PEER], 0);
    CHECK_EQ(s.count[HUB_FSCK_RING], 1);
    CHECK_EQ(s.count[HUB_FSCK_HEADER], 1);
    CHECK_OK_FAULT(hub_segment_open_stale(&segment, path, &alone, &fault), fault);
    CHECK(alone);
    const hub_geometry *g = &segment.geometry;
    const hub_header_shm *header = (const hub_header_shm *)segment.base;
    CHECK_EQ(header->reserved0, 0);
    CHECK_EQ(hub_load_acquire_32(&header->host_closed), 1);
    const hub_peer_shm *peers = (const hub_peer_shm *)(segment.base + g->peers_offset);
    const hub_signals_shm *signals = (const hub_signals_shm *)(segment.base + g->signals_offset);
    CHECK_EQ(hub_load_acquire_64(&peers[0].state), hub_state_make(0, HUB_PEER_ACTIVE));
    CHECK_EQ(hub_load_acquire_64(&peers[GHOST].state), hub_state_make(5, HUB_PEER_FREE));
    CHECK_EQ(hub_load_relaxed_8(&signals->spinning[GHOST]), 0);
    CHECK_EQ(hub_load_acquire_64(&signals->pool_waiters), 0);
    CHECK_EQ(hub_load_acquire_64(&signals->ready), 0);
    const hub_ring_shm *up =
        (const hub_ring_shm *)(segment.base + hub_block_offset(g, GHOST) + HUB_BLOCK_RING_UP);
    CHECK_EQ(hub_load_acquire_64(&up->tail), 1000);
    CHECK_EQ(hub_load_acquire_64(&up->head), 1000); /* nothing of it is unread */
    hub_segment_fini(&segment);
    memset(&s, 0, sizeof s);
    CHECK_OK_FAULT(hub_fsck_repair(path, note, &s, &totals, &fault), fault);
    CHECK_EQ(totals.findings, 0);
}

int main(void) {
    test_begin(120);
    host_can_be();
    RUN(what_the_table_may_say);
    RUN(a_repair_wakes_everybody);
    RUN(any_word_beyond_is_seen);
    RUN(free_slots_are_counted);
    RUN(the_hosts_own_bit);
    RUN(each_word_of_a_ring);
    RUN(seen_once_is_not_believed);
    RUN(an_owner_beyond_the_table);
    RUN(a_held_slot_is_mended);
    RUN(a_slot_of_anothers_is_left_alone);
    RUN(one_stack_runs_into_the_other);
    RUN(a_living_host_has_not_closed);
    RUN(who_may_spin);
    RUN(nothing_is_left_of_a_dead_hub);
    return test_end();
}
