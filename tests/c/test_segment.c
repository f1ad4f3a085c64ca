/* test_segment.c - an anonymous hub's memory: sealed, sparse, cheap, mapped whole; bad files. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arena.h"
#include "check.h"

static void path_of(int fd, char *ret, size_t size) {
    (void)snprintf(ret, size, "/proc/self/fd/%d", fd);
}

static void sealed_against_resizing(void) {
    hub_config config = config_of_the_table(true);
    arena a;
    arena_open(&a, &config);
    int fd = a.segment.fd;
    struct stat st;
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK_EQ(st.st_size, a.segment.geometry.total_size);
    CHECK_EQ(ftruncate(fd, 4096), -1);
    CHECK_EQ(errno, EPERM);
    CHECK_EQ(ftruncate(fd, st.st_size + 4096), -1);
    CHECK_EQ(errno, EPERM);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    CHECK_EQ(errno, EPERM);
    int seals = fcntl(fd, F_GET_SEALS);
    CHECK_EQ(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_WRITE),
             F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    CHECK(a.segment.path == NULL);
    arena_close(&a);
    CHECK(a.segment.base == NULL && a.segment.fd == -1);
    arena_close(&a); /* idempotent */
}

/* A program that was handed the descriptor and writes to whatever it has. */
static void stray_writes_are_refused(void) {
    hub_config config = config_of_the_table(true);
    arena a;
    arena_open(&a, &config);
    char path[64];
    int copy = dup(a.segment.fd);
    CHECK_GE(copy, 0);
    CHECK_EQ(write(copy, "garbage", 7), -1);
    CHECK_EQ(errno, EPERM);
    CHECK_EQ(close(copy), 0);
    path_of(a.segment.fd, path, sizeof path);
    hub_segment other;
    hub_fault fault;
    CHECK_OK_FAULT(hub_segment_open(&other, path, &fault), fault); /* the header is intact */
    CHECK_EQ(write(other.fd, "stray", 5), -1); /* nor by who has opened it */
    CHECK_EQ(errno, EPERM);
    hub_segment_fini(&other);
    arena_close(&a);
}

/* New, with all the room to grow: little memory; every configured slot used: what that takes. */
static void memory_follows_use(void) {
    hub_config config = config_of_the_table(true);
    arena a;
    arena_open(&a, &config);
    uint64_t fresh = hub_segment_usage(&a.segment);
    test_say("    a new hub takes %llu KiB", (unsigned long long)(fresh / 1024));
    CHECK_REL(fresh, <, 2 * MIB);
    CHECK_GE(fresh, 4096);
    uint64_t at = a.segment.geometry.classes[3].data_offset;
    CHECK_OK(hub_segment_back(&a.segment, at, 1 * MIB));
    CHECK_EQ(hub_segment_usage(&a.segment), fresh + 1 * MIB);
    CHECK_OK(hub_segment_back(&a.segment, at, 1 * MIB)); /* again: nothing more */
    CHECK_EQ(hub_segment_usage(&a.segment), fresh + 1 * MIB);
    hub_segment_populate(&a.segment, at, 1 * MIB);
    memset(a.segment.base + at, 0x5A, 1 * MIB);
    CHECK_EQ(hub_segment_usage(&a.segment), fresh + 1 * MIB);
    CHECK_OK(hub_segment_punch(&a.segment, at, 1 * MIB));
    CHECK_EQ(hub_segment_usage(&a.segment), fresh);
    struct stat st;
    CHECK_EQ(fstat(a.segment.fd, &st), 0);
    CHECK_EQ(st.st_size, a.segment.geometry.total_size); /* punching keeps the size */
    arena_close(&a);
}

static void opened_by_another(void) {
    hub_config config = config_of_the_table(false);
    arena a;
    hub_segment other;
    hub_fault fault = {0, ""};
    char path[64];
    arena_open(&a, &config);
    path_of(a.segment.fd, path, sizeof path);
    uint64_t before = hub_segment_usage(&a.segment);
    CHECK_OK_FAULT(hub_segment_open(&other, path, &fault), fault);
    CHECK(memcmp(&other.geometry, &a.segment.geometry, sizeof other.geometry) == 0);
    CHECK(other.base != a.segment.base);
    CHECK_EQ(hub_segment_usage(&a.segment), before); /* opening backs nothing */
    uint64_t at = a.segment.geometry.classes[0].data_offset;
    CHECK_OK(hub_segment_back(&a.segment, at, 4096));
    a.segment.base[at] = 77;
    CHECK_EQ(other.base[at], 77);
    /* What is mapped stays when the maker has gone. */
    arena_close(&a);
    CHECK_EQ(other.base[at], 77);
    hub_segment_fini(&other);
}

static void viewed_without_mapping(void) {
    hub_config config = config_of_the_table(true);
    arena a;
    hub_segment view;
    hub_fault fault = {0, ""};
    arena_open(&a, &config);
    uint64_t before = hub_segment_usage(&a.segment);
    CHECK_OK_FAULT(hub_segment_view(&view, a.segment.fd, &fault), fault);
    CHECK(memcmp(&view.geometry, &a.segment.geometry, sizeof view.geometry) == 0);
    CHECK(memcmp(view.base, a.segment.base, sizeof(hub_header_shm)) == 0);
    CHECK_EQ(hub_segment_usage(&a.segment), before);
    hub_segment_view_fini(&view);
    arena_close(&a);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(hub_segment_view(&view, null, &fault) < 0);
    CHECK(hub_segment_view(&view, -1, &fault) == -EBADF);
    CHECK_EQ(close(null), 0);
}

/* Payloads out of core dumps, metadata in: VmFlags of the mappings say so. */
static void core_dump_flags(void) {
    hub_config config = config_of_the_table(false);
    arena a;
    arena_open(&a, &config);
    if (test_emulated()) {
        test_say("    not here: the emulator has no such flags");
        arena_close(&a);
        return;
    }
    unsigned long begin = (unsigned long)(uintptr_t)a.segment.base;
    unsigned long data = begin + a.segment.geometry.data_offset;
    FILE *maps = fopen("/proc/self/smaps", "re");
    CHECK(maps != NULL);
    char line[512];
    unsigned long at = 0;
    int metadata_in = 0, data_out = 0;
    while (fgets(line, sizeof line, maps) != NULL) {
        unsigned long from, to;
        char rights[8];
        if (sscanf(line, "%lx-%lx %4s ", &from, &to, rights) == 3) at = from;
        if (strncmp(line, "VmFlags:", 8) == 0) {
            if (at == begin) metadata_in = strstr(line, " dd") == NULL;
            if (at == data) data_out = strstr(line, " dd") != NULL;
        }
    }
    (void)fclose(maps);
    CHECK(metadata_in);
    CHECK(data_out);
    arena_close(&a);
}

static void refuse_file(const void *bytes, size_t length, off_t size) {
    hub_segment s;
    hub_fault fault = {0, ""};
    char path[64];
    int fd = memfd_create("not-a-hub", MFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(ftruncate(fd, size), 0);
    if (length > 0) CHECK_EQ(pwrite(fd, bytes, length, 0), length);
    path_of(fd, path, sizeof path);
    unsigned before = open_descriptors();
    CHECK_RC(hub_segment_open(&s, path, &fault), HUB_EFORMAT);
    CHECK(strstr(fault.text, path) != NULL);
    CHECK(s.base == NULL && s.fd == -1);
    hub_segment_fini(&s);
    CHECK_RC(hub_segment_view(&s, fd, &fault), HUB_EFORMAT);
    CHECK_EQ(open_descriptors(), before);
    CHECK_EQ(close(fd), 0);
}

static void foreign_files_are_refused(void) {
    unsigned char bytes[8192];
    test_random r = {99};
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)random_next(&r);
    refuse_file("", 0, 0);
    refuse_file("x", 1, 1);
    refuse_file(bytes, 255, 255);
    refuse_file(bytes, 256, 256);
    refuse_file(bytes, sizeof bytes, sizeof bytes);
    refuse_file("", 0, 1 << 20); /* a hole */
    /* A true header whose file was cut. */
    hub_config config = config_of_the_table(false);
    arena a;
    arena_open(&a, &config);
    refuse_file(a.segment.base, 4096, 4096);
    refuse_file(a.segment.base, 300, 300);
    refuse_file(a.segment.base, 4096, (off_t)a.segment.geometry.total_size - 1);
    arena_close(&a);
    hub_segment s;
    hub_fault fault = {0, ""};
    CHECK_RC(hub_segment_open(&s, "/proc/self/fd/999", &fault), -ENOENT);
    CHECK_RC(hub_segment_open(&s, "/", &fault), -EISDIR);
    CHECK_RC(hub_segment_open(&s, "/dev/null", &fault), HUB_EFORMAT);
    CHECK_RC(hub_segment_open(&s, "", &fault), -ENOENT);
}

/* ---- limits of the process ------------------------------------------------------------------- */

static int with_little_address_space(void *unused) {
    (void)unused;
    hub_config config = config_of_the_table(true);
    hub_segment s;
    hub_fault fault = {0, ""};
    struct rlimit limit = {1024 * MIB, 1024 * MIB};
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    /* Less room to grow, all configured slots. */
    CHECK_OK_FAULT(hub_segment_create(&s, NULL, &config, &fault), fault);
    CHECK_EQ(s.limited, 1);
    CHECK_LE(s.geometry.total_size, 512 * MIB);
    for (uint32_t k = 0; k < 5; k++) CHECK_EQ(s.geometry.classes[k].slots, config.classes[k].slots);
    hub_segment_fini(&s);
    /* Not even those: an error that names the limit. */
    limit.rlim_cur = 100 * MIB;
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    unsigned before = open_descriptors();
    CHECK_RC(hub_segment_create(&s, NULL, &config, &fault), -ENOMEM);
    CHECK(strstr(fault.text, "RLIMIT_AS") != NULL);
    CHECK_EQ(open_descriptors(), before);
    return 0;
}

static int with_small_files(void *unused) {
    (void)unused;
    hub_config config = config_of_the_table(false);
    hub_segment s;
    hub_fault fault = {0, ""};
    struct rlimit limit = {MIB, MIB};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    unsigned before = open_descriptors();
    /* SIGXFSZ keeps its default, which ends the process: the core must not provoke it. */
    CHECK_RC(hub_segment_create(&s, NULL, &config, &fault), -EFBIG);
    CHECK(strstr(fault.text, "RLIMIT_FSIZE") != NULL);
    CHECK_EQ(open_descriptors(), before);
    return 0;
}

static int with_few_descriptors(void *unused) {
    (void)unused;
    hub_config config = config_of_the_table(false);
    hub_segment s;
    hub_fault fault = {0, ""};
    char path[128];
    (void)snprintf(path, sizeof path, "%s/hub", temporary_folder());
    unsigned used = open_descriptors();
    for (unsigned room = 0;; room++) {
        struct rlimit limit = {used + room, 1024};
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
        int rc = hub_segment_create(&s, path, &config, &fault);
        if (rc == 0) break;
        CHECK_RC(rc, -EMFILE);
        CHECK(access(path, F_OK) < 0);
        CHECK_REL(room, <, 8);
    }
    hub_segment_fini(&s);
    return 0;
}

static void limits_of_the_process(void) {
    child_run(with_small_files, NULL);
    if (test_emulated()) {
        test_say("    address space and descriptors not here: the emulator needs its own");
        return;
    }
    if (!test_sanitized()) child_run(with_little_address_space, NULL);
    (void)temporary_folder(); /* made here, so that it is removed here */
    child_run(with_few_descriptors, NULL);
}

int main(void) {
    test_begin(60);
    unsigned before = open_descriptors();
    RUN(sealed_against_resizing);
    RUN(stray_writes_are_refused);
    RUN(memory_follows_use);
    RUN(opened_by_another);
    RUN(viewed_without_mapping);
    RUN(core_dump_flags);
    RUN(foreign_files_are_refused);
    RUN(limits_of_the_process);
    CHECK_EQ(open_descriptors(), before);
    return test_end();
}
