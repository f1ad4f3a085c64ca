/* fsck_words.c - everything that is not about a slot: header and class table,
 * the peer table, the signals, the rings.
 *
 * The host knows the truth of most of these words, because it never reads them
 * back: geometry, states and its own ring counters are in its private memory.
 * From outside they can only be compared with each other. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc_repair.h"
#include "fsck.h"

static unsigned char *mapping(const hub_fsck_run *run) { return run->pool->segment->base; }

/* ---- header and class table ------------------------------------------------------------- */

#define TABLE_BYTES \
    (sizeof(hub_header_shm) + sizeof(hub_signals_shm) + HUB_CLASSES_MAX * sizeof(hub_class_shm))
#define CONSTANT_PART offsetof(hub_class_shm, hot)

/* Copy what must be equal; what is for people, or changes, is left as it is. */
static void as_it_should_be(const hub_fsck_run *run, const unsigned char *found,
                            unsigned char *ret) {
    hub_header_shm *wanted = (hub_header_shm *)ret;
    const hub_header_shm *h = (const hub_header_shm *)found;
    memset(ret, 0, TABLE_BYTES);
    hub_layout_write(ret, run->geometry, h->host_pid, h->created_realtime_ns);
    hub_layout_publish(ret);
    wanted->version_minor = h->version_minor;
    wanted->host_closed = h->host_closed;
    if (run->host == NULL) return;
    wanted->host_pid = (int32_t)getpid();
    wanted->version_minor = HUB_VERSION_MINOR;
    hub_store_relaxed_32(&wanted->host_closed, 0);
}

static void mend_constants(hub_fsck_run *run, const unsigned char *wanted) {
    unsigned char *base = mapping(run);
    const hub_header_shm *h = (const hub_header_shm *)wanted;
    /* Whoever attaches meanwhile reads constants that are wrong, or these. */
    hub_layout_write(base, run->geometry, h->host_pid, h->created_realtime_ns);
    hub_layout_publish(base);
    hub_store_release_32(&((hub_header_shm *)base)->host_closed,
                         hub_load_relaxed_32(&h->host_closed));
    hub_header_shm *header = (hub_header_shm *)base;
    header->version_minor = h->version_minor;
    header->reserved0 = 0;
    memset(header->reserved, 0, sizeof header->reserved);
}

static int check_constants(hub_fsck_run *run) {
    _Alignas(8) unsigned char found[TABLE_BYTES], wanted[TABLE_BYTES];
    int rc = run->source.read(&run->source, 0, found, sizeof found);
    if (rc < 0) return rc;
    as_it_should_be(run, found, wanted);
    bool broken = false;
    for (size_t at = 0; at < sizeof(hub_header_shm); at += 8)
        if (memcmp(found + at, wanted + at, 8) != 0) {
            uint64_t is, should;
            memcpy(&is, found + at, 8);
            memcpy(&should, wanted + at, 8);
            hub_fsck_say(run, HUB_FSCK_HEADER, -1, -1, -1, run->mending,
                         "header, 8 bytes at %zu: %#llx instead of %#llx", at,
                         (unsigned long long)is, (unsigned long long)should);
            broken = true;
        }
    uint64_t table = run->geometry->classes_offset;
    for (uint32_t k = 0; k < run->geometry->class_count; k++) {
        uint64_t at = table + k * sizeof(hub_class_shm);
        if (memcmp(found + at, wanted + at, offsetof(hub_class_shm, pad0)) == 0) continue;
        hub_fsck_say(run, HUB_FSCK_HEADER, (int32_t)k, -1, -1, run->mending,
                     "class table: size, slots or offsets of the class are not as it was made");
        broken = true;
    }
    if (broken && run->mending) mend_constants(run, wanted);
    return 0;
}

/* ---- peers ---------------------------------------------------------------------------------- */

static int read_state(hub_fsck_run *run, uint32_t id, uint64_t *ret) {
    return run->source.read(&run->source,
                            run->geometry->peers_offset + id * sizeof(hub_peer_shm) +
                                offsetof(hub_peer_shm, state),
                            ret, sizeof *ret);
}

int hub_fsck_look_at_claim(hub_fsck_run *run, uint32_t id) {
    uint64_t state;
    if (run->host != NULL || id >= run->geometry->max_peers) return 0;
    int rc = read_state(run, id, &state);
    if (rc < 0) return rc;
    switch (hub_state_of(state)) {
    case HUB_PEER_FREE: run->claims[id] = HUB_CLAIM_NOTHING; break;
    case HUB_PEER_RESERVED:
    case HUB_PEER_ATTACHING: run->claims[id] = HUB_CLAIM_MAIL; break;
    /* The host discards a cancelled one's mail a moment after it says so. Whatever else the word
     * says is a finding of its own. */
    default: run->claims[id] = HUB_CLAIM_ANY;
    }
    if (id == 0) run->claims[id] = HUB_CLAIM_ANY;
    return 0;
}

/* In the host: may the table say `state` of this life? Peers take some steps by themselves. */
static bool may_say(const hub_session *s, uint32_t id, uint64_t word) {
    const hub_link *link = s->host->links[id];
    uint32_t state = hub_state_of(word);
    if (id == 0) return word == hub_state_make(0, HUB_PEER_ACTIVE);
    if (link == NULL) return word == 0 || word == hub_state_make(s->host->epochs[id], HUB_PEER_FREE);
    if (hub_state_epoch(word) != link->epoch) return false;
    switch (link->state) {
    case HUB_PEER_RESERVED:
    case HUB_PEER_ATTACHING:
        return state == HUB_PEER_RESERVED || state == HUB_PEER_ATTACHING ||
               state == HUB_PEER_CANCELLED;
    case HUB_PEER_ACTIVE:
        return state == HUB_PEER_ACTIVE || state == HUB_PEER_LEAVING || state == HUB_PEER_LEFT;
    case HUB_PEER_LEAVING: return state == HUB_PEER_LEAVING || state == HUB_PEER_LEFT;
    default: return state == link->state;
    }
}

static uint64_t should_say(const hub_session *s, uint32_t id) {
    const hub_link *link = s->host->links[id];
    if (id == 0) return hub_state_make(0, HUB_PEER_ACTIVE);
    return link == NULL ? hub_state_make(s->host->epochs[id], HUB_PEER_FREE)
                        : hub_state_make(link->epoch, link->state);
}

static int check_peer(hub_fsck_run *run, uint32_t id) {
    uint64_t word, again;
    int rc = read_state(run, id, &word);
    if (rc < 0) return rc;
    bool sound = run->host != NULL
                     ? may_say(run->host, id, word)
                     : hub_state_of(word) <= HUB_PEER_CANCELLED &&
                           (id > 0 || hub_state_of(word) == HUB_PEER_ACTIVE);
    if (!sound) rc = read_state(run, id, &again);
    if (rc < 0 || sound || again != word) return rc;
    bool mended = false;
    if (run->mending) {
        hub_peer_shm *entry = (hub_peer_shm *)(mapping(run) + run->geometry->peers_offset) + id;
        /* A survivor of a dead host, of whom nobody knows any more: what it holds stays its. */
        uint32_t unknown = run->exclusive ? HUB_PEER_FREE : HUB_PEER_HUNG_UP;
        uint64_t wanted = run->host != NULL ? should_say(run->host, id)
                          : id == 0         ? hub_state_make(0, HUB_PEER_ACTIVE)
                                            : hub_state_make(hub_state_epoch(word), unknown);
        mended = hub_cas_acq_rel_64(&entry->state, &again, wanted);
    }
    hub_fsck_say(run, HUB_FSCK_PEER, -1, -1, (int32_t)id, mended,
                 "peer table: state %u, epoch %u, which it cannot be in", hub_state_of(word),
                 hub_state_epoch(word));
    return hub_fsck_look_at_claim(run, id);
}

/* ---- signals ------------------------------------------------------------------------------------ */

/* Bits of ids that have no process; without the host's word, of ids that there are not. */
static uint64_t nobodys_bits(const hub_fsck_run *run, bool with_host) {
    uint32_t count = run->geometry->max_peers;
    uint64_t bits = count < 64 ? ~0ULL << count : 0;
    if (!with_host) bits |= 1;
    for (uint32_t id = 1; id < count; id++)
        if (run->claims[id] == HUB_CLAIM_NOTHING && (run->host != NULL || run->exclusive))
            bits |= 1ULL << id;
    return bits;
}

static void check_word(hub_fsck_run *run, const char *name, uint64_t word, uint64_t nobodys,
                       hub_a64 *shared) {
    if ((word & nobodys) == 0) return;
    if (shared != NULL) (void)hub_fetch_and_acq_rel_64(shared, ~nobodys);
    hub_fsck_say(run, HUB_FSCK_SIGNAL, -1, -1, -1, shared != NULL,
                 "%s: bits %#llx are set for ids that nobody has", name,
                 (unsigned long long)(word & nobodys));
}

static int check_signals(hub_fsck_run *run) {
    hub_signals_shm found;
    uint64_t at = run->geometry->signals_offset;
    int rc = run->source.read(&run->source, at, &found, sizeof found);
    if (rc < 0) return rc;
    hub_signals_shm *shared = run->mending ? (hub_signals_shm *)(mapping(run) + at) : NULL;
    check_word(run, "pool_waiters", found.pool_waiters.value, nobodys_bits(run, true),
               shared == NULL ? NULL : &shared->pool_waiters);
    check_word(run, "ready", found.ready.value, nobodys_bits(run, false),
               shared == NULL ? NULL : &shared->ready);
    uint64_t nobodys = nobodys_bits(run, true);
    for (uint32_t id = 0; id < HUB_PEERS_MAX; id++) {
        if (found.spinning[id].value == 0 ||
            (found.spinning[id].value == 1 && !(nobodys >> id & 1)))
            continue;
        if (shared != NULL) hub_store_relaxed_8(&shared->spinning[id], 0);
        hub_fsck_say(run, HUB_FSCK_SIGNAL, -1, -1, (int32_t)id, shared != NULL,
                     "spinning: %u for an id that does not spin", found.spinning[id].value);
    }
    if (run->host == NULL) return 0;
    /* Ours, under the session's lock. */
    hub_a64 *waiters = &run->host->pool.signals->pool_waiters;
    bool waits = run->host->pool_waiters > 0, says = hub_load_acquire_64(waiters) & 1;
    if (waits == says) return 0;
    if (shared != NULL && waits) (void)hub_fetch_or_acq_rel_64(waiters, 1);
    if (shared != NULL && !waits) (void)hub_fetch_and_acq_rel_64(waiters, ~1ULL);
    hub_fsck_say(run, HUB_FSCK_SIGNAL, -1, -1, 0, shared != NULL,
                 "pool_waiters: the host %s for a slot, its bit says that it %s",
                 waits ? "waits" : "does not wait", says ? "waits" : "does not");
    return 0;
}

/* ---- rings -------------------------------------------------------------------------------------- */

typedef struct ring_words {
    uint64_t tail, head;
    uint32_t capacity, closed, sleeping, want;
} ring_words;

static uint64_t ring_offset(const hub_fsck_run *run, uint32_t id, bool down) {
    return hub_block_offset(run->geometry, id) +
           (down ? hub_block_ring_down(run->geometry->ring_capacity) : HUB_BLOCK_RING_UP);
}

static int read_ring(hub_fsck_run *run, uint32_t id, bool down, ring_words *ret) {
    hub_ring_shm ring;
    int rc = run->source.read(&run->source, ring_offset(run, id, down), &ring, sizeof ring);
    if (rc < 0) return rc;
    ret->tail = ring.tail.value;
    ret->head = ring.head.value;
    ret->capacity = ring.capacity;
    ret->closed = ring.closed.value;
    ret->sleeping = ring.sleeping.value;
    ret->want = ring.want.value;
    return 0;
}

/* `a` was read before `b`; counters only grow: no consumer is ahead of a tail read later, and no
 * producer more than the capacity ahead of a head read later. */
static bool counters_sound(const ring_words *a, const ring_words *b, uint32_t capacity) {
    return b->tail - a->head < 1ULL << 63 && (int64_t)(a->tail - b->head) <= (int64_t)capacity;
}

/* The peer's counter is wrong; the host's own is compared in check_host_rings. Who lives puts his
 * right with his next message, or is found out by it. */
static bool mend_counters(hub_fsck_run *run, hub_ring_shm *ring, uint32_t id, bool down) {
    if (run->host == NULL) { /* nobody will ever read it */
        if (run->exclusive) hub_store_release_64(&ring->head, hub_load_acquire_64(&ring->tail));
        return run->exclusive;
    }
    if (run->claims[id] == HUB_CLAIM_ANY) return false;
    /* Not attached: it will be told where its life began, and finds what was sent to it. */
    if (down)
        hub_store_release_64(&ring->head, run->host->host->down_positions[id]);
    else
        hub_store_release_64(&ring->tail, run->host->host->up_positions[id]);
    return true;
}

static int check_ring(hub_fsck_run *run, uint32_t id, bool down) {
    const char *name = down ? "ring from the host" : "ring to the host";
    uint32_t capacity = run->geometry->ring_capacity;
    ring_words a, b;
    int rc = read_ring(run, id, down, &a);
    if (rc == 0) rc = read_ring(run, id, down, &b);
    if (rc < 0) return rc;
    hub_ring_shm *ring =
        run->mending ? (hub_ring_shm *)(mapping(run) + ring_offset(run, id, down)) : NULL;
    if (b.capacity != capacity) {
        if (ring != NULL) ring->capacity = capacity;
        hub_fsck_say(run, HUB_FSCK_RING, -1, -1, (int32_t)id, ring != NULL,
                     "%s: capacity %u instead of %u", name, b.capacity, capacity);
    }
    if (!counters_sound(&a, &b, capacity)) {
        bool mended = ring != NULL && mend_counters(run, ring, id, down);
        hub_fsck_say(run, HUB_FSCK_RING, -1, -1, (int32_t)id, mended,
                     "%s: head %llu, tail %llu of %u cells", name, (unsigned long long)b.head,
                     (unsigned long long)b.tail, capacity);
    }
    if (a.closed > 1 && b.closed > 1) {
        if (ring != NULL) hub_store_release_32(&ring->closed, 1);
        hub_fsck_say(run, HUB_FSCK_RING, -1, -1, (int32_t)id, ring != NULL, "%s: closed is %u",
                     name, b.closed);
    }
    if (a.sleeping > 1 && b.sleeping > 1) {
        /* Woken for nothing; it arms again. */
        if (ring != NULL) (void)hub_exchange_acq_rel_32(&ring->sleeping, 0);
        hub_fsck_say(run, HUB_FSCK_RING, -1, -1, (int32_t)id, ring != NULL, "%s: sleeping is %u",
                     name, b.sleeping);
    }
    if (a.want > capacity && b.want > capacity) {
        if (ring != NULL) (void)hub_exchange_acq_rel_32(&ring->want, 0);
        hub_fsck_say(run, HUB_FSCK_RING, -1, -1, (int32_t)id, ring != NULL,
                     "%s: its sender waits for %u cells of %u", name, b.want, capacity);
    }
    return 0;
}

/* The host's own counter and its `closed`, as it keeps them; its lock of that ring is held. */
static void check_own(hub_fsck_run *run, uint32_t id, const char *name, hub_a64 *counter,
                      uint64_t wanted, hub_a32 *closed, bool retired) {
    uint64_t found = hub_load_acquire_64(counter);
    if (found != wanted) {
        if (run->mending) hub_store_release_64(counter, wanted);
        hub_fsck_say(run, HUB_FSCK_RING, -1, -1, (int32_t)id, run->mending,
                     "%s is at %llu, the host at %llu", name, (unsigned long long)found,
                     (unsigned long long)wanted);
    }
    bool shut = hub_load_acquire_32(closed) != 0;
    if (shut == retired) return;
    if (run->mending) hub_store_release_32(closed, retired);
    hub_fsck_say(run, HUB_FSCK_RING, -1, -1, (int32_t)id, run->mending,
                 "%s: its ring is %s, and marked as %s", name, retired ? "closed" : "open",
                 shut ? "closed" : "open");
}

static void check_host_rings(hub_fsck_run *run, hub_link *link) {
    (void)pthread_mutex_lock(&link->tx_lock);
    check_own(run, link->id, "tail from the host", &link->tx.ring->tail, link->tx.tail,
              &link->tx.ring->closed, link->tx_retired);
    (void)pthread_mutex_unlock(&link->tx_lock);
    (void)pthread_mutex_lock(&link->rx_lock);
    check_own(run, link->id, "head to the host", &link->rx.ring->head, link->rx.head,
              &link->rx.ring->closed, link->rx_retired);
    (void)pthread_mutex_unlock(&link->rx_lock);
}

int hub_fsck_words(hub_fsck_run *run) {
    int rc = check_constants(run);
    for (uint32_t id = 0; rc == 0 && id < run->geometry->max_peers; id++) {
        rc = hub_fsck_look_at_claim(run, id);
        if (rc == 0) rc = check_peer(run, id);
    }
    if (rc == 0) rc = check_signals(run);
    /* The rings of an id that nobody has are set up anew for its next life: nobody reads them. */
    for (uint32_t id = 1; rc == 0 && id < run->geometry->max_peers; id++) {
        if (run->claims[id] == HUB_CLAIM_NOTHING) continue;
        if (run->host != NULL && run->host->host->links[id] != NULL)
            check_host_rings(run, run->host->host->links[id]);
        rc = check_ring(run, id, false);
        if (rc == 0) rc = check_ring(run, id, true);
    }
    return rc;
}
