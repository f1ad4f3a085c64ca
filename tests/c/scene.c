/* scene.c - see scene.h. */
#define _GNU_SOURCE
#include "scene.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "oracle.h"

#define RUN_SECONDS 120u /* one run takes milliseconds; a hang is found after this */
/* Runs in a row that were over before their point, until all were met: in a crowd one may be short
 * by chance. */
#define TO_SPARE 3u
#define TO_SPARE_IN_A_CROWD 12u

/* ---- the victim ---------------------------------------------------------------------------- */

static int be_victim(void *argument) {
    static victim v;
    scene *s = argument;
    char path[64];
    hub_fault fault = {0, ""};
    v.doorbell_fd = s->peer_fd;
    for (unsigned i = 0; i < VICTIM_MESSAGES; i++) {
        v.messages[i] = message_of(i);
        pattern_write(v.bytes[i], sizeof v.bytes[i], i);
        v.buffers[i].data = v.bytes[i];
        v.buffers[i].length = sizeof v.bytes[i];
    }
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", hub_session_fd(s->host));
    CHECK_OK_FAULT(hub_peer_open(path, s->told.id, &v.session, &fault), fault);
    if (!(s->op->flags & SCENE_UNATTACHED)) {
        CHECK_OK_FAULT(hub_peer_register(v.session, &fault), fault);
        CHECK_OK_FAULT(hub_transport_open_peer(v.session, v.doorbell_fd, "victim", soon(),
                                               &v.transport, &fault),
                       fault);
    }
    s->op->prepare(&v);
    step_begin(s->where);
    int rc = s->op->operate(&v);
    step_end(s->where, rc);
    return 0;
}

static void victim_start(scene *s) {
    hub_store_release_32(&s->where->over, 0);
    CHECK_OK(hub_host_add_peer(s->host, "victim", &s->link, &s->peer_fd));
    tally_begin(&s->told, s->host, hub_link_peer_id(s->link));
    if (!s->crowded)
        CHECK_OK(hub_transport_open_host_peer(s->host, s->link, "victim", &s->transport, NULL));
    hub_transport *transport = s->crowded ? s->others.all : s->transport;
    for (unsigned i = 0; i < s->op->incoming; i++)
        CHECK_OK(tally_send(&s->told, transport, s->told.id, HUB_NOW));
    if (s->crowded) crowd_victim(&s->others, &s->told); /* its thread counts from here on */
    s->pid = child_start(be_victim, s);
    hub_link_close_peer_fd(s->link);
}

/* ---- who waits for it ---------------------------------------------------------------------- */

/* Everything that it published, then the news of its end. */
static void *receive_all(void *argument) {
    scene *s = argument;
    hub_frame frame;
    hub_gone gone;
    int rc;
    while ((rc = hub_recv(s->transport, &frame, soon())) == 0) tally_take(&s->told, &frame);
    CHECK_RC(rc, HUB_EPEERGONE);
    CHECK_EQ(hub_transport_gone(s->transport, &gone), 1);
    tally_gone(&s->told, &gone);
    return NULL;
}

static void *send_one_more(void *argument) {
    scene *s = argument;
    int rc = tally_send(&s->told, s->transport, HUB_TO_DEFAULT, soon());
    if (rc != HUB_EPEERGONE) CHECK_OK(rc);
    return NULL;
}

static void *allocate_one(void *argument) {
    scene *s = argument;
    hub_slot slot;
    CHECK_OK(hub_alloc(s->waiter.transport, 1000, soon(), &slot));
    CHECK_OK(hub_slot_free(s->host, &slot));
    return NULL;
}

static int wait_for_slots(peer_side *me) {
    scene *s = me->argument;
    for (;;) {
        hub_slot slot;
        gate_wait(&s->wait_now);
        CHECK_OK(hub_alloc(me->transport, 1000, soon(), &slot));
        CHECK_OK(hub_slot_free(me->session, &slot));
        gate_open(&s->served);
    }
}

/* All of them sleep when this returns. */
static void begin_to_wait(scene *s) {
    if (s->crowded) return;
    if (s->op->flags & SCENE_RECEIVER) {
        CHECK_EQ(pthread_create(&s->receiver, NULL, receive_all, s), 0);
        wait_ring_asleep(s->host, hub_ring_up(s->told.id));
    }
    if (s->op->flags & SCENE_SENDER) {
        while (tally_send(&s->told, s->transport, HUB_TO_DEFAULT, HUB_NOW) == 0) continue;
        CHECK_EQ(pthread_create(&s->sender, NULL, send_one_more, s), 0);
        wait_ring_wanted(s->host, hub_ring_down(s->told.id));
    }
    if (s->op->flags & SCENE_ALLOCATORS) {
        gate_open(&s->wait_now);
        wait_pool_waiter(s->host, s->waiter.id);
        CHECK_EQ(pthread_create(&s->allocator, NULL, allocate_one, s), 0);
        wait_pool_waiter(s->host, 0);
    }
}

/* After the victim's death each of them must have been served, or told. */
static void end_to_wait(scene *s) {
    if (s->crowded) {
        crowd_await_gone(&s->others);
        return;
    }
    if (s->op->flags & SCENE_SENDER) CHECK_EQ(pthread_join(s->sender, NULL), 0);
    if (s->op->flags & SCENE_RECEIVER)
        CHECK_EQ(pthread_join(s->receiver, NULL), 0);
    else
        (void)receive_all(s);
    if (s->op->flags & SCENE_ALLOCATORS) {
        gate_wait(&s->served);
        CHECK_EQ(pthread_join(s->allocator, NULL), 0);
    }
}

/* ---- one run ------------------------------------------------------------------------------- */

typedef struct point {
    unsigned steps, events;
} point;

/* Was it over before that point? *ret_met says how far it got. */
static bool die_at(scene *s, point at, point *ret_met) {
    test_again(RUN_SECONDS);
    bool by_event = s->op->flags & SCENE_BY_EVENT;
    s->kept_count = 0;
    if (s->crowded) crowd_pause(&s->others); /* until the victim has what it is to begin with */
    s->op->world(s);
    victim_start(s);
    stepper st = {.pid = s->pid, .where = s->where, .asleep = s->op->asleep, .context = s,
                  .watched = -1};
    if (by_event) {
        st.watched = hub_session_fd(s->host);
        st.watched_bytes = s->host->segment.geometry.data_offset;
    }
    (void)step_until(&st, 0, at.events);
    begin_to_wait(s);
    if (s->crowded && !by_event) crowd_resume(&s->others);
    bool over = step_until(&st, at.steps, at.events) == STEP_OVER;
    ret_met->steps = st.steps;
    ret_met->events = st.events;
    step_fini(&st);
    if (over && !s->crowded) CHECK_RC(s->where->rc, s->op->expect);
    if (s->crowded && by_event) crowd_resume(&s->others);
    if (s->crowded) crowd_rounds(&s->others, 3); /* while it stands in the middle of it */
    child_kill(s->pid);
    end_to_wait(s); /* served by what the victim held, nothing else */
    while (s->kept_count > 0) CHECK_OK(hub_slot_free(s->host, &s->kept[--s->kept_count]));
    peer_wait_free(s->host, s->told.id);
    tally_check(&s->told);
    if (!s->crowded) {
        hub_transport_close(s->transport);
        hub_transport_unref(s->transport);
    }
    hub_link_unref(s->link);
    if (s->crowded) crowd_pause(&s->others);
    s->relinked += oracle(s->host, s->op->world != world_orphaned);
    if (s->crowded) crowd_resume(&s->others);
    return over;
}

/* What it takes alone, to its end. In a crowd there may be no end: who is stepped is too slow to
 * get the slot that others fight for. */
static unsigned length_alone(scene *s) {
    point met, end = {UINT32_MAX, UINT32_MAX};
    test_doing("%s, alone: to its end", s->op->name);
    CHECK(die_at(s, end, &met));
    return s->op->flags & SCENE_BY_EVENT ? met.events : met.steps;
}

static void at_every_point(scene *s, const char *mode, unsigned length) {
    bool by_event = s->op->flags & SCENE_BY_EVENT;
    unsigned points = 0, runs = 0, over = 0;
    unsigned stride = by_event ? step_event_stride(length) : step_stride(length);
    /* Others' changes make it repeat itself: longer than alone. */
    unsigned most = s->crowded ? length + length / 4 : 2 * length;
    s->relinked = 0;
    unsigned spare = s->crowded && !by_event ? TO_SPARE_IN_A_CROWD : TO_SPARE;
    for (unsigned at = 0; over < spare && at <= most; runs++) {
        point met, target = {by_event ? UINT32_MAX : at, by_event ? at : UINT32_MAX};
        test_doing("%s, %s: point %u of %u", s->op->name, mode, at, length);
        if (die_at(s, target, &met)) {
            over++;
        } else {
            over = 0;
            points++;
        }
        at += at == 0 ? 1 + (unsigned)random_below(&s->random, stride) : stride;
    }
    test_doing("%s", "");
    test_say("prove: %s %s points=%u of=%u stride=%u runs=%u relinked=%u failures=0", s->op->name,
             mode, points, length, stride, runs, s->relinked);
    CHECK_GE(points, 2);
}

/* ---- the whole ----------------------------------------------------------------------------- */

void scene_open(scene *s) {
    memset(s, 0, sizeof *s);
    hub_config config = config_tiny();
    config.spin_ns = 0; /* a spin is many instructions of one state */
    s->where = shared_memory(sizeof *s->where);
    s->host = host_open(&config);
    s->random.state = step_seed();
    oracle_refill(s->host);
    gate_init(&s->wait_now);
    gate_init(&s->served);
}

void scene_close(scene *s) {
    static hub_stat stat; /* large */
    CHECK_OK(hub_session_stat(s->host, &stat));
    CHECK_EQ(stat.violations, 0);
    host_close(s->host);
    gate_fini(&s->wait_now);
    gate_fini(&s->served);
    shared_memory_free(s->where, sizeof *s->where);
}

void scene_prove(scene *s, const operation *op) {
    s->op = op;
    if (op->flags & SCENE_ALLOCATORS) {
        peer_start(s->host, &s->waiter, true, wait_for_slots, s);
        peer_wait_active(s->host, &s->waiter);
    }
    unsigned length = length_alone(s);
    at_every_point(s, "alone", length);
    if (op->flags & SCENE_ALLOCATORS) peer_kill(s->host, &s->waiter);
    if (op->flags & SCENE_ALONE_ONLY) return;
    s->crowded = true;
    crowd_start(&s->others, s->host);
    at_every_point(s, "crowd", length);
    crowd_stop(&s->others);
    s->crowded = false;
}

/* ---- for tables ---------------------------------------------------------------------------- */

void world_as_it_is(scene *s) { (void)s; }
void world_cold(scene *s) { (void)hub_session_trim(s->host); }
void world_orphaned(scene *s) { oracle_orphan_all(s->host); }
void world_taken(scene *s) {
    while (hub_pool_alloc(&s->host->pool, 1, &s->kept[s->kept_count]) == 0) s->kept_count++;
    CHECK_GE(s->kept_count, 1);
}

void world_one_left(scene *s) {
    world_taken(s);
    CHECK_OK(hub_slot_free(s->host, &s->kept[--s->kept_count]));
}

void prepare_nothing(victim *v) { (void)v; }
void victim_take(victim *v, uint64_t size, unsigned most) {
    while (v->count < most && hub_alloc(v->transport, size, HUB_NOW, &v->held[v->count]) == 0)
        v->count++;
}

bool asleep_until_freed(void *argument) {
    scene *s = argument;
    if (s->kept_count > 0) CHECK_OK(hub_slot_free(s->host, &s->kept[--s->kept_count]));
    return true;
}

bool asleep_until_told(void *argument) {
    scene *s = argument;
    if (!s->crowded) CHECK_OK(tally_send(&s->told, s->transport, HUB_TO_DEFAULT, HUB_NOW));
    return true;
}

bool asleep_until_room(void *argument) {
    scene *s = argument;
    hub_frame frame;
    if (s->crowded) return true; /* its thread receives all the time */
    CHECK_OK(hub_recv(s->transport, &frame, HUB_NOW));
    tally_take(&s->told, &frame);
    return true;
}
