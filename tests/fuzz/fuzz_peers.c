/* fuzz_peers.c - liars in processes of their own write while host and honest peers work.
 *
 *   fuzz_peers [--seconds N] [--seed S]
 *
 * A round is one hub: the host (its service thread, one all-peers transport or one a peer), three
 * honest peers that echo checked patterns, and a liar that writes lies into words of its scope as
 * fast as it can and is killed and replaced now and then.  What its scope leaves alone must come
 * through to the last byte; whatever it does, each step of the host is over within its time limit.
 * At the end all are killed, and the host must have reclaimed every peer. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arena.h"
#include "lies.h"
#include "position.h"
#include "service.h"
#include "stage.h"

#define HONEST 3u
#define STEP_SECONDS 60u
#define ANSWER_NS 2000000000LL
#define LARGEST (70u * 1024)

/* What the liar writes to: its own block and entry; the signals; the pool; all of it. */
enum reach { REACH_OWN, REACH_SIGNALS, REACH_POOL, REACH_ALL, REACHES };

typedef struct round {
    hub_session *host;
    hub_transport *all;
    peer honest[HONEST], liar;
    enum reach reach;
    uint64_t seed;
    test_random random;
    uint64_t *lies; /* shared with the liars: how many were written */
    uint64_t sent[HONEST], answered[HONEST];
    bool lost[HONEST]; /* accused: only where the liar reaches it */
} round_state;

static uint64_t rounds, answers, lies_told, kills, accusations, late, mended;

/* ---- the peers' side ------------------------------------------------------------------------- */

/* Echo until the host is gone. Looks again after a while: the liar may have taken a wake-up. */
static int echo(peer_side *me) {
    hub_frame frame;
    for (;;) {
        int rc = hub_recv(me->transport, &frame, hub_clock_ns() + 50000000);
        if (rc == HUB_EHOSTGONE) return 0;
        if (rc != 0) continue;
        do { /* moved if it is a slot, copied if not */
            int64_t deadline = hub_clock_ns() + 50000000;
            rc = frame.slot.data != NULL
                     ? hub_send_slot(me->transport, HUB_TO_DEFAULT, &frame.message, &frame.slot,
                                     frame.length, deadline)
                     : hub_send(me->transport, HUB_TO_DEFAULT, &frame.message, frame.inline_data,
                                frame.length, deadline);
        } while (rc == HUB_ETIMEDOUT || rc == HUB_EINTR);
        if (rc == HUB_EHOSTGONE) return 0;
        if (rc != 0 && frame.slot.data != NULL) (void)hub_slot_free(me->session, &frame.slot);
    }
}

static bool within(enum reach reach, const fuzz_field *f) {
    switch (f->part) {
    case PART_HEADER: return false; /* who attaches would refuse it: fuzz_file.c */
    case PART_SIGNALS: return reach >= REACH_SIGNALS;
    case PART_SLOT: return reach >= REACH_POOL;
    case PART_CLASS: return reach >= REACH_POOL && f->offset >= offsetof(hub_class_shm, hot);
    case PART_PEER: return true;
    default: return true;
    }
}

static fuzz_place where(const hub_geometry *g, enum reach reach, enum fuzz_part part, uint32_t me,
                        test_random *r) {
    if (reach == REACH_ALL || part < PART_PEER || part == PART_HOST_LANE)
        return fields_place(g, part, random_below(r, fields_places(g, part)));
    uint32_t cells = part == PART_UP_CELL || part == PART_DOWN_CELL ? g->ring_capacity : 1;
    if (part == PART_PEER) return fields_place(g, part, me);
    return fields_place(g, part, (uint64_t)(me - 1) * cells + random_below(r, cells));
}

/* Lies for ever, with true messages in between so that there is something to lie about. */
static int tell_lies(peer_side *me) {
    round_state *round = me->argument;
    const hub_geometry *g = &me->session->segment.geometry;
    unsigned char *base = me->session->segment.base;
    test_random r = {round->seed ^ (uint64_t)getpid() << 20};
    unsigned count;
    const fuzz_field *table = fields_table(&count);
    static const unsigned char bytes[1024];
    for (uint64_t n = 0;; n++) {
        unsigned field = (unsigned)random_below(&r, count);
        if (!within(round->reach, &table[field]) || table[field].kind == KIND_PAD) continue;
        fuzz_word word = lies_word(&r, field, where(g, round->reach, table[field].part,
                                                    me->session->id, &r));
        uint64_t value = lies_value(&r, g, base, &word);
        /* Now and then the same word again and again: what looks twice sees two values. */
        uint64_t again = random_below(&r, 16) == 0 ? random_below(&r, 3000) : 1;
        for (; again > 0; again--) {
            lies_write(base, &word, again % 2 ? value : random_next(&r));
            (void)__atomic_fetch_add(round->lies, 1, __ATOMIC_RELAXED);
        }
        if (n % 8 == 0) {
            hub_message m = message_of(n);
            hub_frame frame;
            (void)hub_send(me->transport, HUB_TO_DEFAULT, &m, bytes, random_below(&r, 1024),
                           HUB_NOW);
            if (hub_recv(me->transport, &frame, HUB_NOW) == 0 && frame.slot.data != NULL)
                (void)hub_slot_free(me->session, &frame.slot);
            hub_session_ring_bell(me->session);
        }
        for (uint64_t pause = random_below(&r, 300); pause > 0; pause--) hub_pause();
    }
    return 0;
}

/* ---- the host's side ------------------------------------------------------------------------- */

static hub_config config(void) {
    hub_config c = config_of_one(1 * KIB, 64);
    config_add(&c, 16 * KIB, 16, 24);
    config_add(&c, 128 * KIB, 4, 8);
    c.max_peers = 16;
    c.ring_capacity = 32;
    return c;
}

static hub_transport *transport_of(round_state *round, unsigned i) {
    return round->all != NULL ? round->all : round->honest[i].transport;
}

static void check_rc(int rc, const char *what) {
    static const int known[] = {0, HUB_EAGAIN, HUB_ERINGFULL, HUB_EEXHAUSTED, HUB_ETIMEDOUT,
                                HUB_EPEERGONE, HUB_EVIOLATION, HUB_ESTALE, HUB_ENOPEER, HUB_EINTR};
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
        if (rc == known[i]) return;
    FAIL("%s: %d (%s)", what, rc, hub_strerror(rc));
}

static void check_answer(round_state *round, const hub_frame *frame) {
    CHECK_LE(frame->length, frame->slot.data != NULL ? frame->slot.capacity : HUB_INLINE_MAX);
    if (frame->slot.data != NULL) {
        uint64_t at = (uint64_t)(frame->slot.data - round->host->segment.base);
        CHECK_GE(at, round->host->segment.geometry.data_offset);
        CHECK_LE(at + frame->slot.capacity, round->host->segment.geometry.total_size);
    }
    for (unsigned i = 0; i < HONEST; i++) {
        if (round->honest[i].id != frame->peer_id) continue;
        bool exact = round->reach < (frame->slot.data != NULL ? REACH_POOL : REACH_ALL);
        if (!exact) return;
        if (round->reach < REACH_POOL) CHECK_EQ(frame->message.message_id, round->answered[i] + 1);
        round->answered[i] = frame->message.message_id;
        pattern_check(frame_data(frame), frame->length, frame->message.message_id);
        answers++;
    }
}

static void take(round_state *round, hub_transport *t, int64_t deadline) {
    hub_frame frame;
    hub_gone gone;
    int rc = hub_recv(t, &frame, deadline);
    check_rc(rc, "the host receives");
    if (rc == 0) {
        check_answer(round, &frame);
        if (frame.slot.data != NULL) {
            rc = hub_slot_free(round->host, &frame.slot);
            CHECK(rc == 0 || (rc == HUB_ESTALE && round->reach >= REACH_POOL));
        }
    } else if (rc == HUB_EPEERGONE && hub_transport_gone(t, &gone)) {
        free(gone.ids);
    }
}

static void send_one(round_state *round, unsigned i) {
    static const uint64_t lengths[] = {1, 16, 100, 240, 241, 1000, 5000, 20000, 60000};
    static unsigned char bytes[LARGEST];
    test_random *r = &round->random;
    uint64_t length = lengths[random_below(r, sizeof lengths / sizeof *lengths)];
    uint64_t id = round->sent[i] + 1;
    hub_message m = message_of(id);
    if (round->lost[i]) return;
    pattern_write(bytes, length, id);
    int64_t deadline = random_below(r, 2) ? HUB_NOW : hub_clock_ns() + 2000000;
    int rc = hub_send(transport_of(round, i), round->honest[i].id, &m, bytes, length, deadline);
    check_rc(rc, "the host sends");
    if (rc == 0) round->sent[i] = id;
}

static void look_around(round_state *round) {
    static hub_stat stat;
    hub_event event;
    uint64_t what = random_below(&round->random, 40);
    if (what == 0) CHECK(hub_session_trim(round->host) >= 0);
    if (what == 1) CHECK_OK(hub_session_stat(round->host, &stat));
    while (hub_host_next_event(round->host, &event)) {
        if (event.kind == HUB_EVENT_ATTACHED) continue;
        accusations += event.kind == HUB_EVENT_VIOLATION;
        for (unsigned i = 0; i < HONEST; i++) {
            if (event.peer_id != round->honest[i].id) continue;
            if (round->reach < REACH_POOL)
                FAIL("event %u (%s) about honest peer %u", event.kind, event.detail, event.peer_id);
            round->lost[i] = true;
        }
    }
}

/* Wait for what is on its way to an honest one and back. */
static void settle(round_state *round, unsigned i) {
    int64_t give_up = hub_clock_ns() + 30000000000LL;
    while (round->answered[i] < round->sent[i] && !round->lost[i]) {
        int64_t begun = hub_clock_ns();
        take(round, transport_of(round, i), hub_clock_ns() + ANSWER_NS);
        late += hub_clock_ns() - begun >= ANSWER_NS;
        look_around(round);
        if (hub_clock_ns() > give_up)
            FAIL("peer %u: %llu messages sent, %llu answered", round->honest[i].id,
                 (unsigned long long)round->sent[i], (unsigned long long)round->answered[i]);
    }
}

static void start_liar(round_state *round) {
    peer_start(round->host, &round->liar, round->all == NULL, tell_lies, round);
}

/* Its process ends, however it was judged; what is left of it is the host's to clear up. */
static void end(round_state *round, peer *p) {
    child_kill(p->pid);
    int64_t deadline = hub_clock_ns() + 30000000000LL;
    hub_link *link = p->link;
    for (;;) { /* the host's own book: a liar may have written anything into the shared one */
        (void)pthread_mutex_lock(&round->host->lock);
        bool gone = round->host->host->links[p->id] != link;
        (void)pthread_mutex_unlock(&round->host->lock);
        if (gone) break;
        if (hub_clock_ns() > deadline) FAIL("dead peer %u is not reclaimed", p->id);
        test_pause();
    }
    peer_drop(p);
}

static void found(void *context, const hub_fsck_finding *finding) {
    (void)context;
    if (!finding->mended)
        test_say("left: %s, class %d, slot %d, peer %d: %s", hub_fsck_name(finding->kind),
                 finding->class_index, finding->index, finding->peer_id, finding->found);
}

/* Everybody is gone: fsck puts right what was scribbled on, and every slot can be had again. */
static void end_all(round_state *round) {
    static hub_slot slots[256];
    const hub_geometry *g = &round->host->segment.geometry;
    hub_fsck_totals totals;
    for (unsigned i = 0; i < HONEST; i++) end(round, &round->honest[i]);
    if (round->all != NULL) {
        hub_transport_close(round->all);
        hub_transport_unref(round->all);
        round->all = NULL;
    }
    CHECK_OK(hub_host_fsck(round->host, 1, 0, found, NULL, &totals));
    CHECK_EQ(totals.left, 0);
    mended += totals.mended;
    CHECK_OK(hub_host_fsck(round->host, 0, 0, found, NULL, &totals));
    CHECK_EQ(totals.findings, 0);
    unsigned n = 0, all = 0;
    for (uint32_t k = g->class_count; k-- > 0;) {
        /* From the largest class on, so that none is taken for a smaller payload. */
        uint64_t size = k == 0 ? 1 : g->classes[k - 1].slot_size + 1;
        while (n < 256 && hub_pool_alloc(&round->host->pool, size, &slots[n]) == 0) n++;
        all += g->classes[k].max_slots;
    }
    CHECK_EQ(n, all);
    while (n > 0) CHECK_OK(hub_slot_free(round->host, &slots[--n]));
}

static void one_round(uint64_t seed, uint64_t number, uint64_t *lies) {
    round_state round;
    hub_config c = config();
    memset(&round, 0, sizeof round);
    round.random.state = round.seed = seed * 0x9E3779B97F4A7C15ULL + number;
    round.reach = (enum reach)random_below(&round.random, REACHES);
    round.lies = lies;
    bool all = random_below(&round.random, 2) == 0;
    position_note("fuzz_peers --seed %llu: round %llu, reach %d, %s", (unsigned long long)seed,
                  (unsigned long long)number, (int)round.reach, all ? "all peers" : "one a peer");
    round.host = host_open(&c);
    if (all) CHECK_OK(hub_transport_open_host(round.host, "all", &round.all, NULL));
    for (unsigned i = 0; i < HONEST; i++) {
        peer_start(round.host, &round.honest[i], !all, echo, NULL);
        peer_wait_active(round.host, &round.honest[i]);
    }
    unsigned lives = 1 + (unsigned)random_below(&round.random, 3);
    for (unsigned life = 0; life < lives; life++) {
        start_liar(&round);
        for (unsigned n = 0; n < 400; n++) {
            unsigned i = (unsigned)random_below(&round.random, HONEST);
            (void)alarm(STEP_SECONDS + TEST_STANDSTILL);
            send_one(&round, i);
            int64_t wait = (int64_t)random_below(&round.random, 200000);
            take(&round, transport_of(&round, i), hub_clock_ns() + wait);
            if (round.liar.transport != NULL) take(&round, round.liar.transport, HUB_NOW);
            look_around(&round);
        }
        end(&round, &round.liar);
        kills++;
        look_around(&round);
    }
    /* The liar is dead: all that it left alone is answered. */
    for (unsigned i = 0; i < HONEST && round.reach < REACH_POOL; i++) settle(&round, i);
    end_all(&round);
    hub_session_close(round.host);
    hub_session_unref(round.host);
    rounds++;
}

int main(int argc, char **argv) {
    uint64_t seed = 1, seconds = 10;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) FAIL("%s: no option, or it wants a number", argv[i]);
        uint64_t value = strtoull(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--seconds") == 0) seconds = value;
        else if (strcmp(argv[i], "--seed") == 0) seed = value;
        else FAIL("unknown option %s", argv[i]);
    }
    test_begin(STEP_SECONDS);
    position_begin(STEP_SECONDS);
    hub_store_relaxed_32(&hub_service_lookout_off, 0); /* nobody may sleep for ever here */
    (void)printf("fuzz_peers: seed %llu\n", (unsigned long long)seed);
    uint64_t *lies = shared_memory(sizeof *lies);
    int64_t end = hub_clock_ns() + (int64_t)seconds * 1000000000;
    for (uint64_t n = 0; hub_clock_ns() < end; n++) one_round(seed, n, lies);
    lies_told = *lies;
    (void)alarm(0);
    (void)printf("%llu rounds, %llu lies written beside %llu answers found right; %llu liars "
                 "killed and reclaimed, %llu violations told, %llu waits of 2 s in vain, "
                 "%llu findings mended by fsck, full capacity after each round\n",
                 (unsigned long long)rounds, (unsigned long long)lies_told,
                 (unsigned long long)answers, (unsigned long long)kills,
                 (unsigned long long)accusations, (unsigned long long)late,
                 (unsigned long long)mended);
    return test_end();
}
