/* fsck.c - what is checked and repaired, by whom: the host, somebody outside, or
 * the heir of a dead host.
 *
 * A repair is two passes.  The first mends what it finds and says so; the second
 * only looks, and what it finds is what is left.  So "repaired" is never said of
 * something that was not looked at again. */
#define _GNU_SOURCE
#include "fsck.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc_repair.h"

static const struct {
    const char *name, *meaning;
} kinds[HUB_FSCK_KINDS] = {
    [0] = {"unknown", "unknown"},
    [HUB_FSCK_HEADER] = {"header", "nobody can attach, or only to a wrong picture of the hub"},
    [HUB_FSCK_PEER] = {"peer", "tools see a wrong state; the host keeps its own and is not misled"},
    [HUB_FSCK_SIGNAL] = {"signal", "a wake-up may be lost, or one too many sent"},
    [HUB_FSCK_RING] = {"ring", "its reader takes the writer for broken, or waits for ever"},
    [HUB_FSCK_IN_SERVICE] = {"in_service", "slots are missing from the class, or bookkeeping that "
                                           "is not reserved is used"},
    [HUB_FSCK_STATE] = {"state", "nobody can ever allocate or free this slot"},
    [HUB_FSCK_OWNER] = {"owner", "nobody is there to free this slot"},
    [HUB_FSCK_STRAY] = {"stray", "nobody will free this slot: the host does not hold it"},
    [HUB_FSCK_BACKED] = {"backed", "memory is promised that was never reserved"},
    [HUB_FSCK_OUT_OF_RANGE] = {"out_of_range", "what was below it on the stack is only found by "
                                               "scans"},
    [HUB_FSCK_CIRCLE] = {"circle", "pops go round until they cut it; then only scans find slots"},
    [HUB_FSCK_TWICE] = {"twice", "popping it from one stack breaks the other"},
    [HUB_FSCK_NOT_LINKED] = {"not_linked", "it is popped in vain, and linked a second time"},
};

const char *hub_fsck_name(uint32_t kind) { return kinds[kind < HUB_FSCK_KINDS ? kind : 0].name; }
const char *hub_fsck_meaning(uint32_t kind) {
    return kinds[kind < HUB_FSCK_KINDS ? kind : 0].meaning;
}

void hub_fsck_say(hub_fsck_run *run, uint32_t kind, int32_t class_index, int32_t index,
                  int32_t peer_id, bool mended, const char *format, ...) {
    if (run->mending && !mended) return; /* the second pass finds it again */
    run->totals->findings++;
    if (mended)
        run->totals->mended++;
    else
        run->totals->left++;
    if (run->report == NULL) return;
    hub_fsck_finding finding;
    memset(&finding, 0, sizeof finding);
    finding.kind = kind;
    finding.class_index = class_index;
    finding.index = index;
    finding.peer_id = peer_id;
    finding.mended = mended;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(finding.found, sizeof finding.found, format, arguments);
    va_end(arguments);
    run->report(run->context, &finding);
}

int hub_fsck_read_fd(const hub_fsck_source *source, uint64_t offset, void *into, size_t length) {
    unsigned char *at = into;
    while (length > 0) {
        ssize_t got = pread(source->fd, at, length, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -errno;
        if (got == 0) {
            memset(at, 0, length);
            return 0;
        }
        at += got;
        offset += (uint64_t)got;
        length -= (size_t)got;
    }
    return 0;
}

static int pass(hub_fsck_run *run) {
    run->hosts = 0;
    int rc = hub_fsck_words(run);
    for (uint32_t k = 0; rc == 0 && k < run->geometry->class_count; k++)
        rc = hub_fsck_class(run, k);
    return rc;
}

/* What is counted anew by the second pass. */
static void forget_counts(hub_fsck_totals *totals) {
    totals->slots = totals->off_list = totals->remembered = totals->misplaced = 0;
    totals->unjudged = 0;
}

/* No process has the hub open: who owned a slot, wrote a ring or waited is gone. */
static void free_all_of_the_dead(hub_fsck_run *run) {
    hub_pool *pool = run->pool;
    const hub_geometry *g = run->geometry;
    hub_peer_shm *peers = (hub_peer_shm *)(pool->segment->base + g->peers_offset);
    for (uint32_t id = 0; id < g->max_peers; id++) {
        uint64_t state = hub_load_relaxed_64(&peers[id].state);
        if (id > 0)
            hub_store_release_64(&peers[id].state,
                                 hub_state_make(hub_state_epoch(state), HUB_PEER_FREE));
        run->totals->reclaimed += hub_pool_reclaim(pool, id);
        hub_store_relaxed_8(&pool->signals->spinning[id], 0);
    }
    (void)hub_exchange_acq_rel_64(&pool->signals->pool_waiters, 0);
    (void)hub_exchange_acq_rel_64(&pool->signals->ready, 0);
}

static int all_passes(hub_fsck_run *run) {
    uint64_t before = hub_segment_usage(run->pool->segment);
    run->mending = true;
    int rc = pass(run);
    if (rc == 0 && run->host == NULL && run->exclusive) {
        free_all_of_the_dead(run);
        rc = pass(run); /* what they had goes onto the stacks */
    }
    uint64_t after = hub_segment_usage(run->pool->segment);
    run->totals->bytes = before > after ? before - after : 0;
    run->mending = false;
    forget_counts(run->totals);
    return rc < 0 ? rc : pass(run);
}

/* ---- in the host -------------------------------------------------------------------- */

static uint8_t claim_of(const hub_link *link) {
    if (link == NULL) return HUB_CLAIM_NOTHING;
    switch (link->state) {
    case HUB_PEER_RESERVED:
    case HUB_PEER_ATTACHING: return HUB_CLAIM_MAIL;
    case HUB_PEER_CANCELLED:
    case HUB_PEER_DEAD: return HUB_CLAIM_NOTHING;
    default: return HUB_CLAIM_ANY;
    }
}

/* Whatever was scribbled on a wake-up word: everybody looks again, which is never wrong. */
static void wake_everybody(hub_session *s) {
    for (uint32_t id = 1; id < s->segment.geometry.max_peers; id++) {
        hub_link *link = s->host->links[id];
        if (link == NULL || link->state != HUB_PEER_ACTIVE) continue;
        (void)hub_fetch_or_acq_rel_64(&s->pool.signals->ready, 1ULL << id);
        hub_link_ring(link);
    }
    hub_session_notify_locked(s);
}

/* More slots say that they are the host's than it holds, and it holds some: which is not known. */
static void count_strays(hub_fsck_run *run, uint32_t held, uint32_t queued) {
    uint64_t known = (uint64_t)held + queued;
    if (run->hosts > known && known > 0)
        hub_fsck_say(run, HUB_FSCK_STRAY, -1, -1, 0, false,
                     "%llu slots are marked as the host's, which holds %llu: release them, look "
                     "again", (unsigned long long)run->hosts, (unsigned long long)known);
}

int hub_host_fsck(hub_session *s, int repair, uint32_t held, hub_fsck_report report, void *context,
                  hub_fsck_totals *ret) {
    int rc = hub_session_check(s);
    if (rc < 0) return rc;
    if (s->host == NULL) return HUB_EINVAL;
    hub_fsck_run run;
    memset(&run, 0, sizeof run);
    memset(ret, 0, sizeof *ret);
    run.geometry = &s->segment.geometry;
    run.source.read = hub_fsck_read_fd;
    run.source.fd = s->segment.fd;
    run.source.moving = true;
    run.host = s;
    run.report = report;
    run.context = context;
    run.totals = ret;
    int saved = errno;
    /* Under the lock nobody attaches, leaves or is reclaimed: who may hold what stays as it is. */
    (void)pthread_mutex_lock(&s->lock);
    uint32_t queued = hub_load_acquire_32(&s->host->queued);
    bool nobody_lives = true;
    for (uint32_t id = 1; id < HUB_PEERS_MAX; id++) {
        run.claims[id] = claim_of(s->host->links[id]);
        if (run.claims[id] == HUB_CLAIM_ANY) nobody_lives = false;
    }
    bool none = held == 0 && queued == 0;
    run.claims[0] = none ? HUB_CLAIM_NOTHING : HUB_CLAIM_ANY;
    run.exclusive = nobody_lives && held == 0;
    run.source.moving = !run.exclusive;
    ret->live = !run.exclusive;
    if (repair) run.pool = &s->pool;
    rc = hub_session_closed(s) ? HUB_ECLOSED : repair ? all_passes(&run) : pass(&run);
    if (rc == 0 && held != HUB_FSCK_HELD_UNKNOWN && !none) count_strays(&run, held, queued);
    if (repair) wake_everybody(s);
    (void)pthread_mutex_unlock(&s->lock);
    errno = saved;
    return rc;
}

/* ---- from outside --------------------------------------------------------------------- */

int hub_fsck_look(const hub_geometry *geometry, const hub_fsck_source *source,
                  hub_fsck_report report, void *context, hub_fsck_totals *ret) {
    hub_fsck_run run;
    memset(&run, 0, sizeof run);
    memset(ret, 0, sizeof *ret);
    run.geometry = geometry;
    run.source = *source;
    run.report = report;
    run.context = context;
    run.totals = ret;
    ret->live = source->moving;
    int saved = errno;
    int rc = pass(&run);
    errno = saved;
    return rc;
}

int hub_fsck(int fd, hub_fsck_report report, void *context, hub_fsck_totals *ret,
             hub_fault *fault) {
    hub_segment copy; /* checks the header, and tells of it */
    int saved = errno;
    int rc = hub_segment_view(&copy, fd, fault);
    errno = saved;
    if (rc < 0) return rc;
    hub_geometry geometry = copy.geometry;
    hub_segment_view_fini(&copy);
    /* Even without a host its peers may still free what they hold. */
    hub_fsck_source source = {hub_fsck_read_fd, fd, NULL, true};
    return hub_fsck_look(&geometry, &source, report, context, ret);
}

/* ---- the remains of a host -------------------------------------------------------------- */

int hub_fsck_repair(const char *path, hub_fsck_report report, void *context, hub_fsck_totals *ret,
                    hub_fault *fault) {
    hub_segment segment;
    bool alone = false;
    int saved = errno;
    int rc = hub_segment_open_stale(&segment, path, &alone, fault);
    hub_pool *pool = rc < 0 ? NULL : calloc(1, sizeof *pool);
    if (rc == 0 && pool == NULL) rc = -ENOMEM;
    if (pool != NULL) {
        hub_pool_init(pool, &segment, 0,
                      (hub_lane_shm *)(segment.base + segment.geometry.host_lane_offset));
        hub_fsck_run run;
        memset(&run, 0, sizeof run);
        memset(ret, 0, sizeof *ret);
        run.geometry = &segment.geometry;
        run.source.read = hub_fsck_read_fd;
        run.source.fd = segment.fd;
        run.source.moving = !alone;
        run.pool = pool;
        run.exclusive = alone;
        run.report = report;
        run.context = context;
        run.totals = ret;
        ret->live = !alone;
        rc = all_passes(&run);
        hub_pool_fini(pool);
        free(pool);
    }
    if (rc < 0 && fault != NULL && fault->code == 0)
        (void)hub_fault_set(fault, rc, "repairing '%.120s': %s", path, hub_strerror(rc));
    if (segment.base != NULL || segment.fd >= 0) hub_segment_fini(&segment);
    errno = saved;
    return rc;
}
