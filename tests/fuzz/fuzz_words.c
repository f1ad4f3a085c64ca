/* fuzz_words.c - one word of the metadata becomes a lie, the host reads it, and goes on.
 *
 *   fuzz_words [--seconds N | --states N] [--seed S] [--jobs J] [--episode E]
 *
 * An episode is one hub, and some words lied about in it, one after the other; how far the lies
 * reach (the liar's own words; also the signals; also the pool; also an honest peer's rings; all)
 * is chosen with it and decides what is still demanded of the honest.  A state counts when the word
 * that was changed has been read by the host afterwards (reads.h).  Everything follows from the
 * seed and the episode's number, but for what the host's service thread does meanwhile. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cast.h"
#include "host_work.h"
#include "lies.h"
#include "position.h"
#include "reads.h"
#include "service.h"
#include "stage.h"

#define STEP_SECONDS 60u
#define LIES_IN_AN_EPISODE 150u
#define STEPS_AT_MOST 12u
#define JOBS_MOST 32u

enum scope { OWN, SIGNALS, POOL, RINGS, ALL, SCOPES };

typedef struct tally {
    uint64_t tried, live, copied;
} tally;

/* Of all the processes at work: shared. */
typedef struct totals {
    tally fields[FIELDS_MAX];
    uint64_t episodes, checked, violations, replaced, races;
} totals;

static totals *all;

static void add(uint64_t *to, uint64_t n) { (void)__atomic_fetch_add(to, n, __ATOMIC_RELAXED); }

/* ---- what is lied about ---------------------------------------------------------------------- */

static bool reaches(enum scope scope, const fuzz_field *f) {
    switch (f->part) {
    case PART_SIGNALS: return scope >= SIGNALS;
    case PART_SLOT: return scope >= POOL;
    case PART_CLASS: return scope >= POOL || f->offset < offsetof(hub_class_shm, hot);
    default: return true;
    }
}

/* Peers' parts: the liars', in the wider scopes also those of an honest one, in the widest any. */
static uint32_t some_subject(const cast *c, enum scope scope, test_random *r) {
    uint64_t n = random_below(r, scope == ALL ? 6 : scope == RINGS ? 3 : 2);
    if (n < 2) return c->sides[n == 0 ? LIAR_A : LIAR_B].id;
    if (n < 4) return c->sides[n == 2 ? HONEST_A : HONEST_B].id;
    return 1 + (uint32_t)random_below(r, c->host->segment.geometry.max_peers - 1);
}

static uint64_t cell_to_come(const cast *c, enum fuzz_part part, uint32_t id, test_random *r) {
    const hub_link *link = c->host->host->links[id];
    uint32_t capacity = c->host->segment.geometry.ring_capacity;
    if (link == NULL || random_below(r, 4) == 0) return random_below(r, capacity);
    uint64_t ring = part == PART_UP_CELL ? hub_ring_up(id) : hub_ring_down(id);
    const hub_ring_shm *shared = hub_session_ring(c->host, (uint32_t)ring);
    /* The next that somebody will look at: as the host knows, or as the ring says. */
    uint64_t at = part == PART_UP_CELL ? link->rx.head : hub_load_relaxed_64(&shared->head);
    return (at + (random_below(r, 4) == 0 ? random_below(r, 4) : 0)) & (capacity - 1);
}

static fuzz_place some_place(const cast *c, enum scope scope, enum fuzz_part part, test_random *r) {
    const hub_geometry *g = &c->host->segment.geometry;
    uint32_t id = some_subject(c, scope, r);
    switch (part) {
    case PART_PEER: /* anybody's: the host keeps its own book of who is in what state */
        return fields_place(g, part, random_below(r, 2) ? id : random_below(r, g->max_peers));
    case PART_LANE:
    case PART_UP:
    case PART_DOWN: return fields_place(g, part, id - 1);
    case PART_UP_CELL:
    case PART_DOWN_CELL:
        return fields_place(g, part, (uint64_t)(id - 1) * g->ring_capacity +
                                         cell_to_come(c, part, id, r));
    case PART_CLASS: return fields_place(g, part, random_below(r, g->class_count));
    default: return fields_place(g, part, random_below(r, fields_places(g, part)));
    }
}

/* The one least tried of three that the scope allows: all come to the same in the end. */
static unsigned some_field(enum scope scope, test_random *r) {
    unsigned count, best = FIELDS_MAX;
    const fuzz_field *table = fields_table(&count);
    for (int n = 0; n < 6;) {
        unsigned i = (unsigned)random_below(r, count);
        if (!reaches(scope, &table[i]) || table[i].kind == KIND_PAD) continue;
        if (best == FIELDS_MAX || all->fields[i].tried < all->fields[best].tried) best = i;
        n++;
    }
    return best;
}

/* What may no longer be demanded once such a word may have been changed. */
static void distrust(cast *c, enum scope scope) {
    for (int role = 0; role < ROLES; role++) {
        if (scope >= POOL) c->trust.slots_exact[role] = false;
        if (scope == ALL || (scope == RINGS && role == HONEST_A))
            c->trust.inline_exact[role] = false;
    }
    if (scope >= SIGNALS) c->trust.ready = false;
    if (scope >= POOL) c->only_liars = false;
}

/* ---- one lie --------------------------------------------------------------------------------- */

static void traffic(cast *c, test_random *r) {
    static const uint64_t lengths[] = {3, 16, 40, 240, 241, 1024, 5000};
    for (int role = 0; role < ROLES; role++) {
        if (random_below(r, 2))
            cast_peer_sends(c, role, lengths[random_below(r, sizeof lengths / sizeof *lengths)]);
        if (random_below(r, 2)) cast_peer_takes(c, role);
    }
}

static void lie(cast *c, uint64_t seed, uint64_t episode, enum scope scope, unsigned number,
                test_random *r) {
    const hub_geometry *g = &c->host->segment.geometry;
    traffic(c, r);
    unsigned field = some_field(scope, r);
    unsigned count;
    enum fuzz_part part = fields_table(&count)[field].part;
    fuzz_word word = lies_word(r, field, some_place(c, scope, part, r));
    uint64_t value = lies_value(r, g, c->host->segment.base, &word);
    uint64_t truth = lies_read(c->host->segment.base, &word);
    position_note("fuzz_words --seed %llu --episode %llu (scope %d, lie %u): %s of %u.%u at %llu: "
                  "%#llx -> %#llx",
                  (unsigned long long)seed, (unsigned long long)episode, (int)scope, number,
                  word.field->name, word.place.subject, word.place.item,
                  (unsigned long long)word.at, (unsigned long long)truth,
                  (unsigned long long)value);
    /* Through the liar's own mapping, as it would. */
    lies_write(c->sides[LIAR_A].session->segment.base, &word, value);
    reads_arm(word.at, word.field->width);
    add(&all->fields[field].tried, 1);
    bool race = random_below(r, 4) == 0;
    if (race) {
        uint64_t other = lies_value(r, g, c->host->segment.base, &word);
        uint64_t values[2] = {value, random_below(r, 2) ? truth : other};
        bool swapped = word.field->kind == KIND_STACK || word.field->kind == KIND_CTL ||
                       word.field->kind == KIND_STATE;
        reads_race(values, !swapped);
        add(&all->races, 1);
    }

    const enum host_step *likely = host_steps_for(word.field);
    unsigned steps = 0;
    for (; *likely != HOST_STEPS && reads_seen() != SEEN_LIVE; likely++, steps++) {
        host_step_do(c, *likely, r);
        if (steps == 1) traffic(c, r);
    }
    /* Who attaches refuses a hub whose header is wrong (fuzz_file.c), and others shall attach. */
    bool constant = part == PART_HEADER ||
                    (part == PART_CLASS && word.field->offset < offsetof(hub_class_shm, hot));
    if (constant) reads_race_end();
    if (constant) lies_write(c->sides[LIAR_A].session->segment.base, &word, truth);
    /* Then on with the day's work, whether it has been read or not. */
    unsigned more = 1 + (unsigned)random_below(r, reads_seen() == SEEN_NOT ? STEPS_AT_MOST : 3);
    for (; more > 0; more--) {
        host_step_do(c, (enum host_step)random_below(r, STEP_LEAVE), r);
        if (random_below(r, 4) == 0) traffic(c, r);
    }
    if (random_below(r, 40) == 0) host_step_do(c, STEP_LEAVE, r);
    if (random_below(r, 40) == 0) host_step_do(c, STEP_CANCEL, r);
    if (reads_seen() == SEEN_NOT) host_step_do(c, STEP_STAT, r);
    if (reads_seen() == SEEN_NOT) host_step_do(c, STEP_INSPECT, r);
    if (reads_seen() == SEEN_NOT) host_step_do(c, STEP_FSCK, r);
    reads_race_end();
    if (reads_spun()) FAIL("the host looks at %s for ever", word.field->name);
    add(&all->fields[field].live, reads_seen() == SEEN_LIVE);
    add(&all->fields[field].copied, reads_seen() == SEEN_COPIED);
    cast_events(c);
}

/* ---- an episode ------------------------------------------------------------------------------ */

/* What the honest have sent so far arrives. */
static void settle(cast *c, enum cast_role role) {
    cast_side *side = &c->sides[role];
    for (unsigned n = 0; n < 4 * CAST_PENDING && side->down.count > 0; n++) {
        cast_peer_takes(c, role);
        if (!c->trust.inline_exact[role]) return;
    }
    for (unsigned n = 0; n < 8 * CAST_PENDING && side->up.count > 0; n++) {
        if (!c->trust.ready) /* the liar has cleared it: as its next message would */
            (void)hub_fetch_or_acq_rel_64(&hub_session_signals(c->host)->ready, 1ULL << side->id);
        (void)cast_host_takes(c, role, HUB_NOW, false);
    }
    unsigned lost = side->up.count + side->down.count;
    if (lost > 0 && c->trust.slots_exact[role])
        FAIL("%u messages of peer %u are lost", lost, side->id);
}

static void episode(uint64_t seed, uint64_t number) {
    test_random r = {seed * 0x9E3779B97F4A7C15ULL + number};
    enum scope scope = (enum scope)random_below(&r, SCOPES);
    cast c;
    cast_open(&c, random_below(&r, 2) == 0);
    reads_watch(&c.host->segment);
    distrust(&c, scope);
    for (unsigned n = 0; n < LIES_IN_AN_EPISODE; n++) {
        lie(&c, seed, number, scope, n, &r);
        /* A quarantined liar keeps its id while its process lives, and this one is ours. */
        for (int role = LIAR_A; role < ROLES; role++)
            if (c.sides[role].lost) {
                hub_stat *stat = malloc(sizeof *stat);
                CHECK(stat != NULL);
                CHECK_OK(hub_session_stat(c.host, stat));
                bool full = stat->peer_count + 4 >= c.host->segment.geometry.max_peers;
                free(stat);
                if (full) n = LIES_IN_AN_EPISODE;
                else cast_replace(&c, role);
                add(&all->replaced, 1);
            }
    }
    settle(&c, HONEST_A);
    settle(&c, HONEST_B);
    cast_events(&c);
    reads_watch(NULL);
    add(&all->episodes, 1);
    add(&all->checked, c.checked);
    add(&all->violations, c.violations);
    cast_close(&c);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static void report(void) {
    unsigned count;
    const fuzz_field *table = fields_table(&count);
    uint64_t states = 0, least = UINT64_MAX, unread = 0;
    (void)printf("%-26s %10s %12s %12s\n", "field", "changed", "then read", "by inspect");
    for (unsigned i = 0; i < count; i++) {
        const tally *t = &all->fields[i];
        if (table[i].kind == KIND_PAD) continue;
        (void)printf("%-26s %10llu %12llu %12llu\n", table[i].name, (unsigned long long)t->tried,
                     (unsigned long long)t->live, (unsigned long long)t->copied);
        states += t->live + t->copied;
        if (t->live + t->copied == 0) unread++;
        else if (t->live + t->copied < least) least = t->live + t->copied;
    }
    (void)printf("%llu states in %llu hubs; least of a field %llu; %llu fields that no host reads; "
                 "%llu of them won every race; %llu honest messages found right, %llu violations "
                 "told, %llu liars replaced\n",
                 (unsigned long long)states, (unsigned long long)all->episodes,
                 (unsigned long long)least, (unsigned long long)unread,
                 (unsigned long long)all->races,
                 (unsigned long long)all->checked,
                 (unsigned long long)all->violations, (unsigned long long)all->replaced);
}

static uint64_t states_so_far(void) {
    uint64_t sum = 0;
    for (unsigned i = 0; i < FIELDS_MAX; i++) sum += all->fields[i].live + all->fields[i].copied;
    return sum;
}

typedef struct job {
    uint64_t seed, seconds, states, only;
} job;

static int work(void *argument) {
    const job *j = argument;
    position_begin(STEP_SECONDS);
    /* Here nobody may sleep for ever: so it is switched on again (see check.c). */
    hub_store_relaxed_32(&hub_service_lookout_off, 0);
    int64_t end = hub_clock_ns() + (int64_t)j->seconds * 1000000000;
    if (j->only != UINT64_MAX) episode(j->seed, j->only);
    for (uint64_t n = 0; j->only == UINT64_MAX && hub_clock_ns() < end; n++) {
        if (states_so_far() >= j->states) break;
        episode(j->seed, n);
    }
    (void)alarm(0);
    return 0;
}

int main(int argc, char **argv) {
    job j = {1, 10, UINT64_MAX, UINT64_MAX};
    uint64_t jobs = 4;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) FAIL("%s: no option, or it wants a number", argv[i]);
        uint64_t value = strtoull(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--seconds") == 0) j.seconds = value;
        else if (strcmp(argv[i], "--states") == 0) j.states = value, j.seconds = 100000;
        else if (strcmp(argv[i], "--seed") == 0) j.seed = value;
        else if (strcmp(argv[i], "--jobs") == 0) jobs = value;
        else if (strcmp(argv[i], "--episode") == 0) j.only = value, jobs = 1;
        else FAIL("unknown option %s", argv[i]);
    }
    test_begin(0); /* each step has its own limit */
    CHECK(jobs >= 1 && jobs <= JOBS_MOST);
    all = shared_memory(sizeof *all);
    /* Processes with seeds of their own: each waits much of its time, for its host's thread. */
    pid_t pids[JOBS_MOST];
    (void)printf("fuzz_words: seeds %llu to %llu\n", (unsigned long long)j.seed,
                 (unsigned long long)(j.seed + jobs - 1));
    for (uint64_t i = 0; i < jobs; i++, j.seed++) pids[i] = child_start(work, &j);
    for (uint64_t i = 0; i < jobs; i++) child_ok(pids[i]);
    report();
    return test_end();
}
