/* test_fsck.c - fsck in the host: nothing is found in a hub that is used as it is meant, whoever is
 * killed; each kind of damage is found, named and mended; after any damage the hub has all its
 * slots again, on its stacks. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "session.h"
#include "stage.h"

typedef struct seen {
    unsigned count[HUB_FSCK_KINDS];
    unsigned total, left;
    hub_fsck_finding last;
} seen;

static void note(void *context, const hub_fsck_finding *finding) {
    seen *s = context;
    CHECK_REL(finding->kind, <, HUB_FSCK_KINDS);
    CHECK_REL(finding->kind, >, 0);
    CHECK(finding->found[0] != 0);
    CHECK(memchr(finding->found, 0, sizeof finding->found) != NULL);
    s->count[finding->kind]++;
    s->total++;
    s->left += !finding->mended;
    s->last = *finding;
}

static hub_fsck_totals look(hub_session *host, int repair, uint32_t held, seen *s) {
    hub_fsck_totals totals;
    memset(s, 0, sizeof *s);
    CHECK_OK(hub_host_fsck(host, repair, held, note, s, &totals));
    CHECK_EQ(totals.findings, s->total);
    CHECK_EQ(totals.left, s->left);
    CHECK_EQ(totals.findings, totals.mended + totals.left);
    return totals;
}

static void expect_clean(hub_session *host, uint32_t held) {
    seen s;
    (void)look(host, 0, held, &s);
    if (s.total != 0)
        FAIL("%u findings; the last: %s, class %d, slot %d, peer %d: %s", s.total,
             hub_fsck_name(s.last.kind), s.last.class_index, s.last.index, s.last.peer_id,
             s.last.found);
}

/* Every slot is on a stack, once, and can be popped: no scan is needed for any of them. */
static void check_capacity(hub_session *host) {
    hub_pool *pool = &host->pool;
    for (uint32_t k = 0; k < pool->class_count; k++) {
        hub_pool_class *c = &pool->classes[k];
        uint32_t in_service = hub_in_service(c), popped = 0, index, gen;
        unsigned char *got = calloc(c->max_slots, 1);
        CHECK_GE(in_service, host->segment.geometry.classes[k].slots);
        hub_a64 *stacks[] = {&c->shared->hot, &c->shared->cold};
        for (int i = 0; i < 2; i++)
            while (hub_stack_pop(c, stacks[i], 1, &index) == 1) {
                CHECK_REL(index, <, in_service);
                CHECK(hub_claim_popped(pool, c, index, &gen));
                CHECK(!got[index]);
                got[index] = 1;
                popped++;
                CHECK_OK(hub_pool_back(pool, hub_ref_make(k, index), 1));
                c->data[(uint64_t)index * c->slot_stride] = 1;
            }
        CHECK_EQ(popped, in_service);
        for (index = 0; index < in_service; index++)
            CHECK_OK(hub_pool_free(pool, hub_ref_make(k, index),
                                   hub_ctl_gen(hub_load_relaxed_64(&c->meta[index].ctl))));
        free(got);
    }
    hub_pool_flush(pool);
}

/* ---- sound hubs --------------------------------------------------------------------------- */

static int echo(peer_side *me) {
    hub_frame frame;
    while (hub_recv(me->transport, &frame, soon()) == 0) {
        if (frame.slot.data == NULL)
            send_bytes(me->transport, frame.inline_data, frame.length, frame.message.message_id);
        else
            CHECK_OK(hub_send_slot(me->transport, HUB_TO_DEFAULT, &frame.message, &frame.slot,
                                   frame.length, soon()));
    }
    return 0;
}

static void a_new_hub_is_clean(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    expect_clean(host, 0);
    expect_clean(host, HUB_FSCK_HELD_UNKNOWN);
    check_capacity(host);
    expect_clean(host, 0);
    host_close(host);
    hub_config_default(&config);
    host = host_open(&config);
    expect_clean(host, 0);
    seen s;
    hub_fsck_totals totals = look(host, 1, 0, &s);
    CHECK_EQ(totals.findings, 0);
    CHECK_EQ(totals.slots, 1024 + 256 + 32 + 8 + 4);
    CHECK_EQ(totals.live, 0);
    check_capacity(host);
    host_close(host);
}

/* Takes and gives slots of all classes, until it is killed. */
static int churn(peer_side *me) {
    test_random r = {(uint64_t)getpid()};
    for (;;) {
        hub_slot slot;
        if (hub_alloc(me->transport, random_below(&r, 40000), HUB_NOW, &slot) == 0) {
            slot.data[0] = 1;
            CHECK_OK(hub_slot_free(me->session, &slot));
        }
    }
    return 0;
}

static void nothing_is_found_while_peers_work_and_die(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer busy[3], talker;
    test_random r = {11};
    peer_start(host, &talker, true, echo, NULL);
    for (int i = 0; i < 3; i++) peer_start(host, &busy[i], true, churn, NULL);
    for (unsigned round = 0; round < test_rounds(300); round++) {
        hub_frame frame;
        send_pattern(talker.transport, random_below(&r, 3) ? 300 : 20, round + 1);
        if (round % 2) expect_clean(host, 0); /* the message is on its way */
        receive(talker.transport, &frame);
        expect_clean(host, frame.slot.data != NULL);
        frame_free(host, &frame);
        seen s;
        if (round % 7 == 0) {
            hub_fsck_totals totals = look(host, 1, HUB_FSCK_HELD_UNKNOWN, &s);
            CHECK_EQ(totals.findings, 0);
            CHECK_EQ(totals.live, 1);
        }
        if (round % 10 == 9) {
            int i = (int)random_below(&r, 3);
            peer_kill(host, &busy[i]);
            expect_clean(host, 0);
            peer_start(host, &busy[i], true, churn, NULL);
        }
    }
    for (int i = 0; i < 3; i++) peer_kill(host, &busy[i]);
    peer_kill(host, &talker);
    seen s;
    CHECK_EQ(look(host, 1, 0, &s).findings, 0);
    check_capacity(host);
    host_close(host);
}

/* What the dead had not delivered is the host's, and is not taken for a stray. */
static int send_and_wait(peer_side *me) {
    send_pattern(me->transport, 900, 1);
    send_pattern(me->transport, 900, 2);
    for (;;) (void)pause();
    return 0;
}

static void messages_of_the_dead_are_not_strays(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    hub_frame frame;
    seen s;
    peer_start(host, &p, true, send_and_wait, NULL);
    peer_wait_active(host, &p);
    while (host_owned(host) < 2) test_pause();
    child_kill(p.pid);
    peer_wait_free(host, p.id);
    expect_clean(host, 0);
    CHECK_EQ(look(host, 1, 0, &s).findings, 0);
    receive(p.transport, &frame);
    check_pattern(host, &frame);
    expect_clean(host, 1);
    frame_free(host, &frame);
    peer_drop(&p);
    expect_clean(host, 0);
    host_close(host);
}

/* ---- each kind ------------------------------------------------------------------------------ */

static hub_slot_shm *slot_at(hub_session *host, uint32_t k, uint32_t i) {
    return &host->pool.classes[k].meta[i];
}

static void damage(hub_session *host, uint32_t kind) {
    hub_pool_class *c = &host->pool.classes[0];
    hub_class_shm *shared = c->shared;
    hub_header_shm *header = hub_session_header(host);
    switch (kind) {
    case HUB_FSCK_HEADER: header->block_stride ^= 4096; break;
    case HUB_FSCK_PEER:
        hub_store_relaxed_64(&hub_session_peer(host, 3)->state, hub_state_make(7, 3));
        break;
    case HUB_FSCK_SIGNAL:
        hub_store_relaxed_64(&hub_session_signals(host)->pool_waiters, 1ULL << 40);
        break;
    case HUB_FSCK_RING: break; /* needs a peer: below */
    case HUB_FSCK_IN_SERVICE: hub_store_relaxed_32(&shared->in_service, 3); break;
    case HUB_FSCK_STATE:
        hub_store_relaxed_64(&slot_at(host, 0, 2)->ctl, hub_ctl_make(5, 99, 1));
        break;
    case HUB_FSCK_OWNER:
        hub_store_relaxed_64(&slot_at(host, 0, 2)->ctl, hub_ctl_make(5, HUB_OWNED, 4));
        break;
    case HUB_FSCK_STRAY:
        hub_store_relaxed_64(&slot_at(host, 0, 2)->ctl, hub_ctl_make(5, HUB_OWNED, 0));
        break;
    case HUB_FSCK_BACKED: hub_store_relaxed_32(&slot_at(host, 0, 2)->backed, 2); break;
    case HUB_FSCK_OUT_OF_RANGE: hub_store_relaxed_32(&slot_at(host, 0, 2)->next, 8); break;
    case HUB_FSCK_CIRCLE: hub_store_relaxed_32(&slot_at(host, 0, 6)->next, 2); break;
    case HUB_FSCK_TWICE: hub_store_relaxed_64(&shared->hot, hub_head_make(9, 7)); break;
    case HUB_FSCK_NOT_LINKED:
        hub_store_relaxed_64(&slot_at(host, 0, 2)->ctl,
                             hub_ctl_make(5, HUB_FREE, 0) | HUB_CTL_UNLINKED);
        break;
    default: FAIL("kind %u has no damage here", kind);
    }
}

static void each_kind_is_found_and_mended(void) {
    for (uint32_t kind = 1; kind < HUB_FSCK_KINDS; kind++) {
        if (kind == HUB_FSCK_RING) continue;
        hub_config config = config_tiny();
        hub_session *host = host_open(&config);
        seen s;
        damage(host, kind);
        hub_fsck_totals totals = look(host, 0, 0, &s);
        if (s.count[kind] == 0) FAIL("%s was not found", hub_fsck_name(kind));
        CHECK_EQ(totals.mended, 0);
        if (kind >= HUB_FSCK_STATE && kind <= HUB_FSCK_BACKED) {
            CHECK_EQ(s.last.index, 2);
            CHECK_EQ(s.last.class_index, 0);
        }
        totals = look(host, 1, 0, &s);
        CHECK_REL(totals.mended, >, 0);
        CHECK_EQ(totals.left, 0);
        expect_clean(host, 0);
        check_capacity(host);
        host_close(host);
    }
}

/* What the host cannot know of is left alone, and said. */
static void a_stray_among_held_slots_is_counted(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    hub_slot slot;
    seen s;
    CHECK_OK(hub_pool_alloc(&host->pool, 16 * KIB, &slot));
    damage(host, HUB_FSCK_STRAY);
    CHECK_EQ(look(host, 0, HUB_FSCK_HELD_UNKNOWN, &s).findings, 0);
    CHECK_EQ(look(host, 1, 1, &s).left, 1);
    CHECK_EQ(s.count[HUB_FSCK_STRAY], 1);
    slot.data[0] = 1;
    CHECK_OK(hub_slot_free(host, &slot));
    CHECK_EQ(look(host, 1, 0, &s).mended, 1);
    check_capacity(host);
    host_close(host);
}

/* ---- with peers ----------------------------------------------------------------------------- */

/* The slots of one who lives are his, whatever the stacks look like. */
static int hold_and_echo(peer_side *me) {
    hub_slot slot;
    CHECK_OK(hub_alloc(me->transport, 1000, HUB_NOW, &slot));
    memset(slot.data, 0x5A, 1000);
    send_bytes(me->transport, "", 0, 1);
    hub_frame frame;
    while (hub_recv(me->transport, &frame, soon()) == 0) {
        if (frame.slot.data != NULL)
            CHECK_OK(hub_send_slot(me->transport, HUB_TO_DEFAULT, &frame.message, &frame.slot,
                                   frame.length, soon()));
        else
            send_bytes(me->transport, frame.inline_data, frame.length, frame.message.message_id);
        for (int i = 0; i < 1000; i++) CHECK_EQ(slot.data[i], 0x5A);
    }
    return 0;
}

static void call(hub_session *host, peer *p, uint64_t id) {
    hub_frame frame;
    send_pattern(p->transport, id % 2 ? 900 : 30, id);
    receive(p->transport, &frame);
    CHECK_EQ(frame.message.message_id, id);
    check_pattern(host, &frame);
    frame_free(host, &frame);
}

static void a_live_hub_is_mended_under_its_peers(void) {
    static const uint32_t kinds[] = {HUB_FSCK_HEADER,     HUB_FSCK_PEER,   HUB_FSCK_SIGNAL,
                                     HUB_FSCK_STATE,      HUB_FSCK_OWNER,  HUB_FSCK_OUT_OF_RANGE,
                                     HUB_FSCK_IN_SERVICE, HUB_FSCK_CIRCLE, HUB_FSCK_NOT_LINKED};
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    hub_frame frame;
    seen s;
    uint64_t id = 100;
    peer_start(host, &p, true, hold_and_echo, NULL);
    receive(p.transport, &frame);
    for (unsigned i = 0; i < 2 * sizeof kinds / sizeof *kinds; i++) {
        damage(host, kinds[i % (sizeof kinds / sizeof *kinds)]);
        hub_fsck_totals totals = look(host, 1, 0, &s);
        CHECK_EQ(totals.left, 0);
        CHECK_EQ(totals.live, 1);
        expect_clean(host, 0);
        CHECK_EQ(host_owned(host), 1);
        for (int n = 0; n < 20; n++) call(host, &p, id++);
    }
    /* The host's side of the rings, and its constants. The peer sleeps: would it look at them before
     * they are mended, it would rightly say that they are broken. */
    wait_ring_asleep(host, hub_ring_down(p.id));
    hub_ring_shm *up = hub_session_ring(host, hub_ring_up(p.id));
    hub_ring_shm *down = hub_session_ring(host, hub_ring_down(p.id));
    hub_store_relaxed_64(&up->head, 1ULL << 50);
    hub_store_relaxed_64(&down->tail, hub_load_relaxed_64(&down->tail) - 1);
    hub_store_relaxed_32(&down->closed, 9);
    up->capacity = 3;
    hub_store_relaxed_32(&up->want, 1000);
    hub_fsck_totals totals = look(host, 1, 0, &s);
    CHECK_GE(s.count[HUB_FSCK_RING], 4);
    CHECK_EQ(totals.left, 0);
    for (int n = 0; n < 20; n++) call(host, &p, id++);
    /* All capacity is there for those who ask, if only by scans. */
    hub_slot slots[7], more;
    for (int i = 0; i < 7; i++) CHECK_OK(hub_pool_alloc(&host->pool, 1000, &slots[i]));
    CHECK_OK(hub_pool_alloc(&host->pool, 1000, &more));
    CHECK_EQ(hub_ref_class(more.ref), 1);
    CHECK_OK(hub_slot_free(host, &more));
    for (int i = 0; i < 7; i++) CHECK_OK(hub_slot_free(host, &slots[i]));
    peer_kill(host, &p);
    (void)look(host, 1, 0, &s);
    check_capacity(host);
    host_close(host);
}

/* The peer's own counters are not the host's to write while it lives. */
static int lie_and_wait(peer_side *me) {
    hub_ring_shm *down = hub_session_ring(me->session, hub_ring_down(me->session->id));
    hub_store_release_64(&down->head, hub_load_relaxed_64(&down->head) + 1000);
    send_bytes(me->transport, "", 0, 1);
    for (;;) (void)pause();
    return 0;
}

static void what_lives_is_left(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p;
    hub_frame frame;
    seen s;
    peer_start(host, &p, true, lie_and_wait, NULL);
    receive(p.transport, &frame);
    CHECK_EQ(look(host, 1, 0, &s).left, 1);
    CHECK_EQ(s.last.kind, HUB_FSCK_RING);
    CHECK_EQ(s.last.peer_id, p.id);
    peer_kill(host, &p);
    CHECK_EQ(look(host, 1, 0, &s).findings, 0);
    host_close(host);
}

/* Bookkeeping of slots that are not in service yet: the class would grow into the lie. */
static void lies_beyond_what_is_in_service(void) {
    hub_config config = config_tiny();
    config.classes[2].max_slots = 6; /* 2 in service */
    hub_session *host = host_open(&config);
    hub_pool_class *c = &host->pool.classes[2];
    hub_slot slots[6];
    seen s;
    expect_clean(host, 0);
    for (uint32_t i = 2; i < 6; i++)
        hub_store_relaxed_64(&c->meta[i].ctl, hub_ctl_make(i, HUB_OWNED, 3));
    CHECK_GE(look(host, 0, 0, &s).findings, 1);
    CHECK_GE(s.count[HUB_FSCK_IN_SERVICE], 1);
    CHECK_EQ(look(host, 1, 0, &s).left, 0);
    expect_clean(host, 0);
    for (int i = 0; i < 6; i++) CHECK_OK(hub_pool_alloc(&host->pool, 1 * MIB, &slots[i]));
    for (int i = 0; i < 6; i++) CHECK_OK(hub_slot_free(host, &slots[i]));
    host_close(host);
}

/* ---- any damage ----------------------------------------------------------------------------- */

static int hold_a_little(peer_side *me) {
    hub_slot slot;
    CHECK_OK(hub_alloc(me->transport, 1000, HUB_NOW, &slot));
    send_bytes(me->transport, "", 0, 1);
    for (;;) (void)pause();
    return 0;
}

/* Random and plausible words all over the metadata. */
static void scribble(hub_session *host, test_random *r, uint64_t words) {
    const hub_geometry *g = &host->segment.geometry;
    for (uint64_t n = 0; n < words; n++) {
        uint64_t at = random_below(r, g->data_offset / 8) * 8;
        /* Half of them where it hurts. */
        if (random_below(r, 2)) {
            const hub_class_geometry *c = &g->classes[random_below(r, g->class_count)];
            at = random_below(r, 2)
                     ? c->meta_offset + random_below(r, 2ULL * c->max_slots) * 8
                     : g->classes_offset + random_below(r, g->class_count * 256 / 8) * 8;
        }
        uint64_t word = random_next(r);
        switch (random_below(r, 5)) {
        case 0: word = random_below(r, 20); break;
        case 1:
            word = hub_ctl_make((uint32_t)random_below(r, 9), (uint32_t)random_below(r, 5),
                                (uint32_t)random_below(r, 14)) |
                   (random_below(r, 2) ? HUB_CTL_UNLINKED : 0);
            break;
        case 2: word = random_below(r, 10) | random_below(r, 3) << 32; break;
        case 3: word = UINT64_MAX; break;
        default: break;
        }
        __atomic_store_n((uint64_t *)(void *)(host->segment.base + at), word, __ATOMIC_RELAXED);
    }
}

static hub_config config_growing(void) {
    hub_config config = config_of_one(1 * KIB, 8);
    config.classes[0].max_slots = 600;
    config_add(&config, 16 * KIB, 4, 40);
    config_add(&config, 1 * MIB, 0, 2);
    config.max_peers = 4;
    config.ring_capacity = 16;
    return config;
}

static void any_damage_is_mended_once_its_author_is_dead(void) {
    uint64_t findings = 0, mended = 0;
    for (unsigned round = 0; round < test_rounds(400); round++) {
        test_random r = {round + 1};
        hub_config config = round % 2 ? config_tiny() : config_growing();
        hub_session *host = host_open(&config);
        seen s;
        if (round % 8 == 0) { /* it was used before */
            peer p;
            hub_frame frame;
            peer_start(host, &p, true, hold_a_little, NULL);
            receive(p.transport, &frame);
            scribble(host, &r, 1 + random_below(&r, 400));
            child_kill(p.pid);
            while (hub_link_gone(p.link) == 0) test_pause();
            peer_drop(&p);
        }
        scribble(host, &r, round % 3 ? 1 + random_below(&r, 20) : 2000);
        hub_fsck_totals totals = look(host, 1, 0, &s);
        if (totals.left > 0)
            FAIL("round %u: %s, class %d, slot %d, peer %d: %s", round, hub_fsck_name(s.last.kind),
                 s.last.class_index, s.last.index, s.last.peer_id, s.last.found);
        findings += totals.findings;
        mended += totals.mended;
        expect_clean(host, 0);
        check_capacity(host);
        expect_clean(host, 0);
        /* And it works: somebody attaches, and gets an answer. */
        if (round % 8 == 0) {
            peer p;
            peer_start(host, &p, true, echo, NULL);
            for (uint64_t id = 1; id < 6; id++) call(host, &p, id);
            peer_kill(host, &p);
        }
        hub_session_close(host);
        hub_session_unref(host);
    }
    test_say("    %llu findings, all mended", (unsigned long long)findings);
    CHECK_EQ(findings, mended);
    CHECK_REL(findings, >, test_rounds(400));
}

int main(void) {
    test_begin(280);
    RUN(a_new_hub_is_clean);
    RUN(nothing_is_found_while_peers_work_and_die);
    RUN(messages_of_the_dead_are_not_strays);
    RUN(each_kind_is_found_and_mended);
    RUN(a_stray_among_held_slots_is_counted);
    RUN(a_live_hub_is_mended_under_its_peers);
    RUN(what_lives_is_left);
    RUN(lies_beyond_what_is_in_service);
    RUN(any_damage_is_mended_once_its_author_is_dead);
    return test_end();
}
