/* test_named_races.c - between looking at a named hub and touching it somebody else may put another
 * file there: that one is never unlinked.  flock and lstat are this program's own, so that the
 * other acts at exactly that moment. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arena.h"
#include "check.h"

static void (*before_lstat)(const char *path);
static int other_device; /* lstat tells of a file on another file system */

int lstat(const char *path, struct stat *st) {
    void (*then)(const char *) = before_lstat;
    before_lstat = NULL;
    if (then != NULL) then(path);
    int rc = fstatat(AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW);
    if (rc == 0 && other_device) st->st_dev++;
    return rc;
}

static char path[128], other[128];

static void write_file(const char *at, const char *text, size_t length) {
    int fd = open(at, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, text, length), length);
    CHECK_EQ(close(fd), 0);
}

static bool is_text(const char *at, const char *text) {
    char found[64] = {0};
    int fd = open(at, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t got = read(fd, found, sizeof found - 1);
    (void)close(fd);
    return got >= 0 && strcmp(found, text) == 0;
}

/* A hub whose host is dead: nobody holds its lock. */
static void make_stale(void) {
    hub_config config = config_of_one(4096, 4);
    hub_segment segment;
    hub_fault fault = {0, ""};
    CHECK_OK_FAULT(hub_segment_create(&segment, path, &config, &fault), fault);
    CHECK_OK_FAULT(hub_segment_publish(&segment, &fault), fault);
    CHECK_EQ(close(segment.lock_fd), 0);
    segment.lock_fd = -1; /* so that it is left there */
    hub_segment_fini(&segment);
    struct stat st;
    CHECK_EQ(stat(path, &st), 0);
}

static void replace_it(const char *at) { CHECK_EQ(rename(other, at), 0); }

static void replaced_is_left(void) {
    make_stale();
    write_file(other, "mine", 4);
    before_lstat = replace_it;
    CHECK_RC(hub_segment_unlink_if_stale(path, NULL), -ENOENT);
    CHECK(is_text(path, "mine"));
    CHECK_EQ(unlink(path), 0);
    /* A host that takes the name looks again, and finds what it must leave alone. */
    hub_config config = config_of_one(4096, 4);
    hub_segment segment;
    hub_fault fault = {0, ""};
    make_stale();
    write_file(other, "mine", 4);
    CHECK_OK_FAULT(hub_segment_create(&segment, path, &config, &fault), fault);
    before_lstat = replace_it;
    CHECK_RC(hub_segment_publish(&segment, &fault), HUB_EFORMAT);
    hub_segment_fini(&segment);
    CHECK(is_text(path, "mine"));
    CHECK_EQ(unlink(path), 0);
}

static void another_file_system_is_left(void) {
    make_stale();
    other_device = 1;
    CHECK_RC(hub_segment_unlink_if_stale(path, NULL), -ENOENT);
    other_device = 0;
    CHECK_RC(hub_segment_unlink_if_stale(path, NULL), 1);
    CHECK(access(path, F_OK) < 0);
    /* Its own host, closing: the name leads elsewhere. */
    hub_config config = config_of_one(4096, 4);
    hub_segment segment;
    CHECK_OK(hub_segment_create(&segment, path, &config, NULL));
    CHECK_OK(hub_segment_publish(&segment, NULL));
    other_device = 1;
    hub_segment_unlink(&segment);
    other_device = 0;
    CHECK_EQ(access(path, F_OK), 0);
    hub_segment_fini(&segment);
    CHECK_EQ(unlink(path), 0);
}

/* As long as a header, and none. */
static void no_hub_is_left(void) {
    static const char zeros[4096];
    hub_config config = config_of_one(4096, 4);
    hub_segment segment;
    write_file(path, zeros, sizeof zeros);
    CHECK_RC(hub_segment_unlink_if_stale(path, NULL), HUB_EFORMAT);
    CHECK_OK(hub_segment_create(&segment, path, &config, NULL));
    CHECK_RC(hub_segment_publish(&segment, NULL), HUB_EFORMAT);
    hub_segment_fini(&segment);
    struct stat st;
    CHECK_EQ(stat(path, &st), 0);
    CHECK_EQ(st.st_size, sizeof zeros);
    CHECK_EQ(unlink(path), 0);
}

int main(void) {
    test_begin(60);
    (void)snprintf(path, sizeof path, "%s/hub", temporary_folder());
    (void)snprintf(other, sizeof other, "%s/other", temporary_folder());
    RUN(replaced_is_left);
    RUN(another_file_system_is_left);
    RUN(no_hub_is_left);
    return test_end();
}
