/* spin.c - spinning before sleeping: bounded, and only while it pays.
 *
 * Adaptive: after a few spins in a row that end without a message the next ones
 * become rarer (of 2, 4, 8, 16 waits one spins), one that finds a message makes
 * them usual again.  An idle hub therefore sleeps, and one that is answered quickly never
 * enters the kernel. */
#include <sched.h>

#include "doorbell.h"
#include "resource_limits.h"
#include "transport.h"

/* Twice what waking a process on an idle core takes: who waits for one that sleeps must still be
 * spinning when it answers, or both sleep in turns for as long as they talk. */
#define ADAPTIVE_LIMIT_NS 100000
#define FORGIVEN_MISSES 8u /* a neighbour's time slice is no reason to stop */
#define RAREST_SHIFT 4u
#define PAUSES_PER_LOOK 16
#define YIELD_AFTER_NS 4000
#define QUICK_LOOKS 32

void hub_spin_init(hub_spin *spin, int64_t configured_ns) {
    spin->adaptive = configured_ns < 0;
    spin->limit_ns = spin->adaptive ? ADAPTIVE_LIMIT_NS : configured_ns;
}

/* Relaxed throughout: these are private statistics that only steer how long we spin. */
static bool worth_it(hub_spin *spin) {
    if (!spin->adaptive) return true;
    uint32_t misses = hub_load_relaxed_32(&spin->misses);
    if (misses <= FORGIVEN_MISSES) return true;
    uint32_t shift = misses - FORGIVEN_MISSES;
    if (shift > RAREST_SHIFT) shift = RAREST_SHIFT;
    uint32_t skipped = hub_load_relaxed_32(&spin->skipped) + 1;
    hub_store_relaxed_32(&spin->skipped, skipped);
    return (skipped & ((1u << shift) - 1)) == 0;
}

static void learn(hub_spin *spin, bool hit) {
    hub_store_relaxed_64(&spin->spins, hub_load_relaxed_64(&spin->spins) + 1);
    if (hit) {
        hub_store_relaxed_64(&spin->hits, hub_load_relaxed_64(&spin->hits) + 1);
        hub_store_relaxed_32(&spin->misses, 0);
    } else {
        hub_store_relaxed_32(&spin->misses, hub_load_relaxed_32(&spin->misses) + 1);
    }
}

static hub_a8 *spin_byte(hub_session *s, uint32_t id) {
    return &hub_session_signals(s)->spinning[id];
}

/* One byte a process, not a counter: a kill leaves a byte set, which the host clears. */
static bool cores_are_free(hub_session *s) {
    static hub_a32 cached_cores;
    uint32_t cores = hub_load_relaxed_32(&cached_cores), spinning = 0;
    if (cores == 0) {
        cores = (uint32_t)hub_limits_cores();
        hub_store_relaxed_32(&cached_cores, cores);
    }
    for (uint32_t i = 0; i < s->segment.geometry.max_peers; i++)
        spinning += i != s->id && hub_load_relaxed_8(spin_byte(s, i)) != 0;
    return spinning < cores;
}

/* A doorbell may wake the other side on this very core, behind us: from here on it is let through.
 * Where nobody waits for the core that costs a fraction of a microsecond. */
static void let_others_run(int64_t begun, int64_t now) {
    if (now - begun > YIELD_AFTER_NS) (void)sched_yield();
}

int64_t hub_spin_left(int64_t deadline) {
    if (deadline == HUB_FOREVER) return -1;
    int64_t left = deadline - hub_clock_ns();
    return left > 0 ? left : 0;
}

bool hub_spin_until(hub_transport *t, hub_spin *spin, bool (*there)(const void *),
                    const void *context, int64_t max_ns, bool long_one) {
    hub_session *s = t->session;
    int64_t limit = spin->limit_ns;
    if (max_ns >= 0 && max_ns < limit) limit = max_ns;
    if (limit <= 0) return false;
    if (long_one) {
        if (!worth_it(spin) || !cores_are_free(s)) return false;
        hub_store_relaxed_8(spin_byte(s, s->id), 1);
    } else if (spin->adaptive && hub_load_relaxed_32(&spin->misses) > FORGIVEN_MISSES) {
        return false; /* a short spin teaches nothing: the long one decides */
    }
    int64_t begun = hub_clock_ns(), now = begun;
    bool hit = false;
    do {
        for (int i = 0; i < PAUSES_PER_LOOK && !hit; i++) {
            hit = there(context);
            if (!hit) hub_pause();
        }
        if (hit || hub_load_relaxed_32(&t->closed) || hub_load_relaxed_32(&s->host_gone)) break;
        now = hub_clock_ns();
        let_others_run(begun, now);
    } while (now - begun < limit);
    if (long_one) {
        hub_store_relaxed_8(spin_byte(s, s->id), 0);
        /* A spin costs as much as a sleep when it takes as long as waking up does, and the limit is
         * of that size. Found later than that, the core was somebody else's meanwhile: a sleeper
         * would have had it as soon. */
        learn(spin, hit && hub_clock_ns() - begun <= limit);
    } else if (hit) {
        learn(spin, true);
    }
    return hit;
}

static bool message_there(const void *context) { return hub_transport_nonempty(context); }

/* The answer that is on its way when one starts to wait: too soon to look at a clock. */
static bool quick_look(const hub_transport *t) {
    const hub_ring_shm *ring = t->link->rx.ring;
    uint64_t head = hub_load_relaxed_64(&ring->head);
    for (int i = 0; i < QUICK_LOOKS; i++) {
        if (hub_load_relaxed_64(&ring->tail) != head) return true;
        hub_pause();
    }
    return false;
}

bool hub_spin_for_message(hub_transport *t, int64_t max_ns, bool long_one) {
    if (!long_one && !t->all && t->spin.limit_ns > 0 && max_ns != 0 &&
        hub_load_relaxed_32(&t->spin.misses) == 0 && quick_look(t))
        return true;
    return hub_spin_until(t, &t->spin, message_there, t, max_ns, long_one);
}

typedef struct room_wanted {
    const hub_producer *tx;
    uint64_t tail;
    uint32_t cells;
} room_wanted;

static bool room_there(const void *context) {
    const room_wanted *wanted = context;
    uint64_t used = wanted->tail - hub_load_relaxed_64(&wanted->tx->ring->head);
    return used + wanted->cells <= wanted->tx->capacity;
}

bool hub_spin_for_room(hub_transport *t, hub_link *link, uint32_t cells, int64_t max_ns) {
    /* A part of the ring rather than one cell: the two sides then meet at it less often. */
    uint32_t part = link->tx.capacity / 4;
    room_wanted wanted = {&link->tx, hub_load_relaxed_64(&link->tx.ring->tail),
                          cells > part ? cells : part};
    return hub_spin_until(t, &t->room_spin, room_there, &wanted, max_ns, true) ||
           room_there(&(room_wanted){&link->tx, wanted.tail, cells});
}
