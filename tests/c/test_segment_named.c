/* test_segment_named.c - hubs with a name: exclusive, stale ones replaced, nothing else touched. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena.h"
#include "check.h"

static char hub_path[128], other_path[128];

static hub_config small(void) { return config_of_one(4096, 8); }

static int exists(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0;
}

static unsigned files_in_folder(void) {
    char command[160], line[16];
    (void)snprintf(command, sizeof command, "ls -A %s | wc -l", temporary_folder());
    FILE *list = popen(command, "r");
    CHECK(list != NULL && fgets(line, sizeof line, list) != NULL);
    CHECK_EQ(pclose(list), 0);
    return (unsigned)strtoul(line, NULL, 10);
}

static void private_and_removed_on_close(void) {
    hub_config config = small();
    arena a;
    struct stat st;
    mode_t mask = umask(0); /* no help from the mask */
    arena_open_at(&a, hub_path, &config);
    (void)umask(mask);
    CHECK_EQ(stat(hub_path, &st), 0);
    CHECK_EQ(st.st_mode & 07777, 0600);
    CHECK_EQ(st.st_size, a.segment.geometry.total_size);
    CHECK(hub_segment_locked(a.segment.fd));
    CHECK(fcntl(a.segment.fd, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl(a.segment.lock_fd, F_GETFD) & FD_CLOEXEC);
    arena_close(&a);
    CHECK(!exists(hub_path));
}

/* Until it is published there is nothing to be seen, and a crash before it leaves nothing. */
static int die_half_made(void *unused) {
    (void)unused;
    hub_config config = small();
    hub_segment s;
    CHECK_OK(hub_segment_create(&s, hub_path, &config, NULL));
    CHECK_EQ(files_in_folder(), 0);
    return 0; /* without closing: _exit */
}

static void never_half_made(void) {
    child_run(die_half_made, NULL);
    CHECK_EQ(files_in_folder(), 0);
}

static void live_hub_is_refused(void) {
    hub_config config = small();
    arena a;
    hub_segment second;
    hub_fault fault = {0, ""};
    arena_open_at(&a, hub_path, &config);
    ino_t inode;
    struct stat st;
    CHECK_EQ(stat(hub_path, &st), 0);
    inode = st.st_ino;
    CHECK_OK(hub_segment_create(&second, hub_path, &config, &fault));
    CHECK_RC(hub_segment_publish(&second, &fault), HUB_EEXISTS);
    CHECK(strstr(fault.text, hub_path) != NULL);
    hub_segment_fini(&second);
    CHECK_EQ(stat(hub_path, &st), 0);
    CHECK_EQ(st.st_ino, inode); /* still the first one's */
    CHECK_RC(hub_segment_unlink_if_stale(hub_path, &fault), 0);
    CHECK(exists(hub_path));
    arena_close(&a);
    CHECK_RC(hub_segment_unlink_if_stale(hub_path, &fault), -ENOENT);
}

typedef struct killed_host {
    gate made;
} killed_host;

static int host_until_killed(void *argument) {
    killed_host *k = argument;
    hub_config config = small();
    arena a;
    arena_open_at(&a, hub_path, &config);
    gate_open(&k->made);
    for (;;) (void)pause();
    return 0;
}

static void make_stale(void) {
    killed_host k;
    gate_init(&k.made);
    pid_t pid = child_start(host_until_killed, &k);
    gate_wait(&k.made);
    CHECK_RC(hub_segment_unlink_if_stale(hub_path, NULL), 0); /* alive: left alone */
    child_kill(pid);
    gate_fini(&k.made);
    CHECK(exists(hub_path));
}

static void stale_hub_is_replaced(void) {
    hub_config config = small();
    struct stat before, after;
    arena a;
    make_stale();
    CHECK_EQ(stat(hub_path, &before), 0);
    arena_open_at(&a, hub_path, &config);
    CHECK_EQ(stat(hub_path, &after), 0);
    CHECK(before.st_ino != after.st_ino);
    CHECK_EQ(files_in_folder(), 1);
    arena_close(&a);
    CHECK_EQ(files_in_folder(), 0);
    make_stale();
    CHECK_RC(hub_segment_unlink_if_stale(hub_path, NULL), 1);
    CHECK(!exists(hub_path));
}

/* Somebody inherited the hub's descriptor and lives on: the lock died with the host all the same.
 */
static int hold_descriptor(void *argument) {
    killed_host *k = argument;
    int fd = open(hub_path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    gate_open(&k->made);
    for (;;) (void)pause();
    return 0;
}

static void holders_do_not_keep_it_alive(void) {
    killed_host k;
    make_stale();
    gate_init(&k.made);
    pid_t pid = child_start(hold_descriptor, &k);
    gate_wait(&k.made);
    CHECK_RC(hub_segment_unlink_if_stale(hub_path, NULL), 1);
    child_kill(pid);
    gate_fini(&k.made);
}

static void put_file(const char *path, const char *text) {
    FILE *file = fopen(path, "we");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void refuse_name(int wanted) {
    hub_config config = small();
    hub_segment s;
    hub_fault fault = {0, ""};
    unsigned before = open_descriptors();
    CHECK_OK(hub_segment_create(&s, hub_path, &config, &fault));
    CHECK_RC(hub_segment_publish(&s, &fault), wanted);
    CHECK(strstr(fault.text, hub_path) != NULL);
    hub_segment_fini(&s);
    CHECK_EQ(open_descriptors(), before);
    CHECK(exists(hub_path));
    CHECK_RC(hub_segment_unlink_if_stale(hub_path, &fault), wanted);
    CHECK(exists(hub_path));
}

static void others_files_are_left_alone(void) {
    char text[16] = "";
    put_file(hub_path, "my thesis");
    refuse_name(HUB_EFORMAT);
    FILE *file = fopen(hub_path, "re");
    CHECK(file != NULL && fgets(text, sizeof text, file) != NULL);
    CHECK_EQ(fclose(file), 0);
    CHECK_EQ(strcmp(text, "my thesis"), 0);
    CHECK_EQ(unlink(hub_path), 0);
    put_file(hub_path, "");
    refuse_name(HUB_EFORMAT);
    CHECK_EQ(unlink(hub_path), 0);
    CHECK_EQ(mkfifo(hub_path, 0600), 0); /* opening one must not wait for a writer */
    refuse_name(HUB_EFORMAT);
    CHECK_EQ(unlink(hub_path), 0);
    CHECK_EQ(mkdir(hub_path, 0700), 0);
    refuse_name(-EISDIR);
    CHECK_EQ(rmdir(hub_path), 0);
}

/* A link, even to a stale hub, is never followed for making or removing. */
static void links_are_refused(void) {
    make_stale();
    CHECK_EQ(rename(hub_path, other_path), 0);
    CHECK_EQ(symlink(other_path, hub_path), 0);
    refuse_name(-ELOOP);
    CHECK(exists(other_path));
    CHECK_EQ(unlink(hub_path), 0);
    CHECK_EQ(symlink("/nonexistent/shmhub", hub_path), 0);
    refuse_name(-ELOOP);
    CHECK_EQ(unlink(hub_path), 0);
    CHECK_RC(hub_segment_unlink_if_stale(other_path, NULL), 1);
}

/* The name was taken over by another hub: closing the first must not remove the second's. */
static void only_ones_own_name_is_removed(void) {
    hub_config config = small();
    arena first, second;
    arena_open_at(&first, hub_path, &config);
    CHECK_EQ(unlink(hub_path), 0);
    arena_open_at(&second, hub_path, &config);
    arena_close(&first);
    CHECK(exists(hub_path));
    arena_close(&second);
    CHECK(!exists(hub_path));
}

static void bad_folders(void) {
    hub_config config = small();
    hub_segment s;
    hub_fault fault = {0, ""};
    unsigned before = open_descriptors();
    CHECK_RC(hub_segment_create(&s, "/nonexistent/folder/hub", &config, &fault), -ENOENT);
    CHECK(strstr(fault.text, "/nonexistent/folder/hub") != NULL);
    CHECK_OK(hub_segment_create(&s, "", &config, &fault)); /* its folder would be this one */
    CHECK_RC(hub_segment_publish(&s, &fault), -ENOENT);
    hub_segment_fini(&s);
    int rc = hub_segment_create(&s, "/proc/hub", &config, &fault);
    CHECK(rc < 0);
    CHECK_EQ(open_descriptors(), before);
}

/* ---- racers: of several that want one name, exactly one has it at any time ------------------- */

#define RACERS 4

typedef struct race {
    hub_a32 holders, won;
    unsigned rounds;
} race;

static int racing(void *argument) {
    race *r = argument;
    hub_config config = small();
    test_random random = {(uint64_t)getpid()};
    for (unsigned i = 0; i < r->rounds; i++) {
        hub_segment s;
        hub_fault fault = {0, ""};
        CHECK_OK_FAULT(hub_segment_create(&s, hub_path, &config, &fault), fault);
        int rc = hub_segment_publish(&s, &fault);
        if (rc == 0) {
            CHECK_EQ(hub_fetch_add_acq_rel_32(&r->holders, 1), 0);
            struct stat named;
            CHECK_EQ(stat(hub_path, &named), 0);
            CHECK_EQ(named.st_ino, s.inode); /* nobody has unlinked or replaced a live hub */
            (void)hub_fetch_add_acq_rel_32(&r->won, 1);
            (void)hub_fetch_add_acq_rel_32(&r->holders, UINT32_MAX);
            if (random_below(&random, 4) == 0) {
                hub_segment_close_fds(&s); /* as if killed: the name stays, stale */
                free(s.path);
                s.path = NULL;
            }
        } else {
            CHECK_RC(rc, HUB_EEXISTS);
        }
        hub_segment_fini(&s);
        if (random_below(&random, 3) == 0) {
            rc = hub_segment_unlink_if_stale(hub_path, &fault);
            CHECK(rc == 0 || rc == 1 || rc == -ENOENT);
        }
    }
    return 0;
}

static void racers(void) {
    race *r = shared_memory(sizeof *r);
    pid_t pids[RACERS];
    r->rounds = test_rounds(400);
    for (int i = 0; i < RACERS; i++) pids[i] = child_start(racing, r);
    for (int i = 0; i < RACERS; i++) child_ok(pids[i]);
    CHECK_GE(hub_load_relaxed_32(&r->won), r->rounds);
    (void)unlink(hub_path);
    CHECK_EQ(files_in_folder(), 0);
}

int main(void) {
    test_begin(60);
    (void)snprintf(hub_path, sizeof hub_path, "%s/hub", temporary_folder());
    (void)snprintf(other_path, sizeof other_path, "%s/other", temporary_folder());
    unsigned before = open_descriptors();
    RUN(private_and_removed_on_close);
    RUN(never_half_made);
    RUN(live_hub_is_refused);
    RUN(stale_hub_is_replaced);
    RUN(holders_do_not_keep_it_alive);
    RUN(others_files_are_left_alone);
    RUN(links_are_refused);
    RUN(only_ones_own_name_is_removed);
    RUN(bad_folders);
    RUN(racers);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
