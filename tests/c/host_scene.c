/* host_scene.c - see host_scene.h. */
#define _GNU_SOURCE
#include "host_scene.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "doorbell.h"
#include "oracle.h"

#define RUN_SECONDS 120u
#define TO_SPARE 2u

hub_config host_config(void) {
    hub_config config = config_tiny();
    config.max_peers = ROLES + 3;
    config.spin_ns = 0;
    return config;
}

static uint64_t metadata_bytes(void) {
    hub_config config = host_config();
    hub_geometry geometry;
    CHECK_OK(hub_layout_compute(&config, &geometry, NULL));
    return geometry.data_offset;
}

static void await(const hub_a32 *flag) {
    while (!hub_load_acquire_32(flag)) test_pause();
}

static void await_rounds(const host_scene *s, uint64_t count) {
    uint64_t from = hub_load_acquire_64(&s->shared->rounds);
    while (hub_load_acquire_64(&s->shared->rounds) - from < count) test_pause();
}

/* ---- looking into the host's process --------------------------------------------------------- */

/* The hub that is being made: the host's descriptor of it, once it is as long as it will be. */
static int find_hub(void *context, uint64_t *ret_bytes) {
    const host_scene *s = context;
    char folder[64], path[320], target[256];
    int found = -1;
    (void)snprintf(folder, sizeof folder, "/proc/%d/fd", (int)s->host_pid);
    DIR *dir = opendir(folder);
    CHECK(dir != NULL);
    for (struct dirent *entry = readdir(dir); entry != NULL && found < 0; entry = readdir(dir)) {
        (void)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length <= 0) continue;
        target[length] = 0;
        if (strstr(target, "memfd:shmhub") == NULL && strstr(target, temporary_folder()) == NULL)
            continue;
        struct stat st;
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
            (uint64_t)st.st_size >= metadata_bytes())
            found = fd;
        else if (fd >= 0)
            (void)close(fd);
    }
    (void)closedir(dir);
    *ret_bytes = metadata_bytes();
    return found;
}

static pid_t service_thread(pid_t host) {
    char folder[64];
    pid_t found = 0;
    (void)snprintf(folder, sizeof folder, "/proc/%d/task", (int)host);
    DIR *dir = opendir(folder);
    CHECK(dir != NULL);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        pid_t thread = (pid_t)strtol(entry->d_name, NULL, 10);
        if (thread > 0 && thread != host) found = thread;
    }
    (void)closedir(dir);
    CHECK_GE(found, 1);
    return found;
}

/* ---- one run --------------------------------------------------------------------------------- */

static bool leave_asleep(void *context) {
    (void)context;
    return false;
}

static int make_a_hub(void *argument) {
    hub_session *host;
    hub_config config = host_config();
    CHECK_OK(hub_host_create(argument, &config, &host, NULL));
    return 0; /* without closing it */
}

static void start(host_scene *s) {
    memset(s->shared, 0, sizeof *s->shared);
    memset(s->pids, 0, sizeof s->pids);
    if (s->op->stale) child_run(make_a_hub, s->path);
    gate_init(&s->finish);
    CHECK_OK(hub_doorbell_pair(s->channel));
    s->host_pid = child_start(host_be, s);
    (void)close(s->channel[1]); /* its end is its own: we see it hang up */
    unsigned peers = s->op->creates ? 0 : s->op->reclaims ? ROLES : ROLES - 1;
    while (peers-- > 0) {
        enum host_role role;
        uint32_t id;
        int doorbell_fd = host_take_doorbell(s, &role, &id);
        s->pids[role] = host_start_role(s, role, id, doorbell_fd);
        (void)close(doorbell_fd);
    }
}

/* Ready to be stepped; the worker rests, so that what is stored is stored by the host. */
static void prepare(host_scene *s, stepper *st) {
    memset(st, 0, sizeof *st);
    st->pid = s->host_pid;
    st->where = &s->shared->where;
    st->context = s;
    st->watched = -1;
    if (s->op->creates) {
        st->find_watched = find_hub;
        return;
    }
    if (s->op->reclaims)
        await(&s->shared->gathered);
    else
        (void)step_until(st, 0, 0); /* it has begun, so all are gathered */
    hub_store_release_32(&s->shared->rest, 1);
    await(&s->shared->resting);
    st->watched = open(s->path, O_RDONLY | O_CLOEXEC);
    CHECK_GE(st->watched, 0);
    st->watched_bytes = metadata_bytes();
    if (!s->op->reclaims) return;
    st->pid = service_thread(s->host_pid);
    st->where = NULL;
    st->asleep = leave_asleep;
    step_seize(st->pid);
    child_kill(s->pids[VICTIM]);
    s->pids[VICTIM] = 0;
}

static void nothing_stays(void) {
    DIR *dir = opendir(temporary_folder());
    CHECK(dir != NULL);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir))
        if (entry->d_name[0] != '.') FAIL("'%s' was left behind", entry->d_name);
    (void)closedir(dir);
}

/* The next host: whatever the dead one left under that name is no obstacle. */
static void take_over(host_scene *s) {
    hub_session *next;
    hub_config config = host_config();
    hub_fault fault = {0, ""};
    if (!s->op->anonymous) {
        CHECK_OK_FAULT(hub_host_create(s->path, &config, &next, &fault), fault);
        (void)oracle(next, false);
        host_close(next);
    }
    nothing_stays();
}

static void peers_are_told(const host_scene *s) {
    for (unsigned role = 0; role < ROLES; role++)
        if (s->pids[role] != 0) child_ok(s->pids[role]);
}

static void killed(host_scene *s, const stepper *st) {
    (void)kill(s->host_pid, SIGKILL);
    if (s->op->reclaims) step_reap(st->pid);
    (void)child_wait(s->host_pid);
    peers_are_told(s);
    take_over(s);
}

/* It was stopped and goes on: everything comes to its end as if it had not been. */
static void went_on(host_scene *s, const stepper *st, step_state state) {
    step_let_go(st, state);
    if (s->op->tells) {
        peers_are_told(s);
    } else {
        if (s->op->reclaims) {
            await(&s->shared->served); /* by what the victim held */
            gate_open(&s->finish);
        } else {
            await(&s->shared->served);
        }
        for (unsigned role = 0; role < ROLES; role++)
            if (s->pids[role] != 0) child_kill(s->pids[role]);
        gate_open(&s->finish);
    }
    child_ok(s->host_pid);
    nothing_stays();
}

/* Did the operation end before that point? */
static bool run(host_scene *s, bool kills, unsigned events, unsigned *ret_events) {
    stepper st;
    test_again(RUN_SECONDS);
    start(s);
    prepare(s, &st);
    step_state state = step_until(&st, UINT32_MAX, events);
    *ret_events = st.events;
    if (st.watched >= 0) (void)close(st.watched);
    step_fini(&st);
    if (!s->op->creates) {
        hub_store_release_32(&s->shared->rest, 0);
        if (!s->op->tells) await_rounds(s, 5); /* peers get on while the host stands still */
    }
    if (kills)
        killed(s, &st);
    else
        went_on(s, &st, state);
    gate_fini(&s->finish);
    (void)close(s->channel[0]);
    return state != STEP_STANDS;
}

static void at_every_point(host_scene *s, bool kills) {
    unsigned length, met, points = 0, runs = 1, over = 0;
    const char *mode = kills ? "killed" : "stopped";
    test_doing("%s, the host %s: to its end", s->op->name, mode);
    CHECK(run(s, kills, UINT32_MAX, &length));
    unsigned stride = step_event_stride(length);
    unsigned at = (unsigned)((uint64_t)hub_clock_ns() % stride); /* others each time */
    for (; over < TO_SPARE && at <= 2 * length; at += stride, runs++) {
        test_doing("%s, the host %s: point %u of %u", s->op->name, mode, at, length);
        if (run(s, kills, at, &met)) {
            over++;
        } else {
            over = 0;
            points++;
        }
    }
    test_doing("%s", "");
    test_say("prove: %s host-%s points=%u of=%u stride=%u runs=%u failures=0", s->op->name, mode,
             points, length, stride, runs);
    CHECK_GE(points, 2);
}

/* ---- the whole ------------------------------------------------------------------------------- */

void host_scene_open(host_scene *s) {
    memset(s, 0, sizeof *s);
    s->shared = shared_memory(sizeof *s->shared);
    (void)snprintf(s->path, sizeof s->path, "%s/hub", temporary_folder());
}

void host_scene_close(host_scene *s) { shared_memory_free(s->shared, sizeof *s->shared); }

void host_scene_prove(host_scene *s, const host_operation *op) {
    s->op = op;
    at_every_point(s, true);
    if (!op->creates) at_every_point(s, false);
}
