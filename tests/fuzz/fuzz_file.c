/* fuzz_file.c - a hub's file that was changed before anybody opened it.
 *
 *   fuzz_file [--seconds N] [--seed S]
 *
 * A real hub with messages in it is copied; some words of the copy become lies, or it is cut or
 * lengthened; then it is opened as a peer does and worked on without a host, inspected, checked and
 * repaired by fsck, taken over as the remains of a named hub.  Each ends with a result or a
 * sentence, and after a repair fsck finds nothing that it could have mended. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cast.h"
#include "lies.h"
#include "position.h"
#include "stage.h"

#define STEP_SECONDS 60u
#define LIES_MOST 12u

static uint64_t files, opened, refused, repaired, beyond, taken;

/* The metadata of a hub in which much has happened. */
static unsigned char *record(hub_geometry *ret) {
    cast c;
    cast_open(&c, true);
    for (int role = 0; role < ROLES; role++) {
        cast_peer_sends(&c, role, 100);
        cast_peer_sends(&c, role, 3000);
        (void)cast_host_sends(&c, role, 20, HUB_NOW);
        (void)cast_host_sends(&c, role, 900, HUB_NOW);
    }
    (void)cast_host_takes(&c, HONEST_A, HUB_NOW, false);
    *ret = c.host->segment.geometry;
    unsigned char *copy = malloc(ret->data_offset);
    CHECK(copy != NULL);
    memcpy(copy, c.host->segment.base, ret->data_offset);
    cast_close(&c);
    return copy;
}

static fuzz_word some_word(test_random *r, const hub_geometry *g, bool header) {
    unsigned count, field;
    const fuzz_field *table = fields_table(&count);
    do {
        field = (unsigned)random_below(r, count);
    } while ((table[field].part == PART_HEADER ||
              (table[field].part == PART_CLASS &&
               table[field].offset < offsetof(hub_class_shm, hot))) != header);
    return lies_word(r, field,
                     fields_place(g, table[field].part,
                                  random_below(r, fields_places(g, table[field].part))));
}

/* Write a copy with lies in it; its length may be another. */
static void make_file(test_random *r, const char *path, const hub_geometry *g,
                      const unsigned char *metadata) {
    unsigned char *bytes = malloc(g->data_offset);
    CHECK(bytes != NULL);
    memcpy(bytes, metadata, g->data_offset);
    bool header = random_below(r, 4) == 0;
    for (uint64_t n = random_below(r, LIES_MOST); n > 0; n--) {
        fuzz_word word = some_word(r, g, header && random_below(r, 2));
        lies_write(bytes, &word, lies_value(r, g, bytes, &word));
    }
    uint64_t length = g->total_size, written = g->data_offset;
    if (random_below(r, 10) == 0) length = random_below(r, 2 * g->total_size);
    if (written > length) written = length;
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0);
    CHECK(pwrite(fd, bytes, written, 0) == (ssize_t)written);
    CHECK(ftruncate(fd, (off_t)length) == 0);
    (void)close(fd);
    free(bytes);
}

/* What a peer does that was let in to such a hub: its pool is what it finds there. */
static void work_on_it(hub_session *s, test_random *r) {
    hub_slot held[16];
    hub_fault fault = {0, ""};
    unsigned n = 0;
    hub_stat *stat = malloc(sizeof *stat);
    CHECK(stat != NULL);
    CHECK_OK(hub_session_stat(s, stat));
    free(stat);
    int rc = hub_peer_register(s, &fault);
    CHECK(rc == 0 || fault.text[0] != 0);
    while (n < 16) {
        uint64_t size = random_below(r, 70000);
        rc = hub_pool_alloc(&s->pool, size, &held[n]);
        CHECK(rc == 0 || rc == HUB_EEXHAUSTED || rc == HUB_ETOOLARGE || rc == HUB_ENOSPC);
        if (rc < 0) break;
        CHECK_GE(held[n].capacity, size);
        held[n].data[0] = held[n].data[size == 0 ? 0 : size - 1] = 1;
        n++;
    }
    while (n > 0) (void)hub_slot_free(s, &held[--n]);
    CHECK(hub_session_trim(s) >= 0);
}

static void ignore(void *context, const hub_fsck_finding *finding) {
    (void)context;
    CHECK(hub_fsck_meaning(finding->kind)[0] != 0);
}

/* The remains of a hub: nobody holds the lock. */
static void mend(const char *path) {
    hub_fault fault = {0, ""};
    hub_fsck_totals totals;
    int rc = hub_fsck_repair(path, ignore, NULL, &totals, &fault);
    if (rc < 0) {
        CHECK(fault.text[0] != 0);
        return;
    }
    repaired++;
    beyond += totals.left > 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    uint64_t left = totals.left;
    CHECK_OK_FAULT(hub_fsck(fd, ignore, NULL, &totals, &fault), fault);
    CHECK_EQ(totals.findings, left);
    (void)close(fd);
}

static void one_file(test_random *r, const char *path, const hub_geometry *g,
                     const unsigned char *metadata) {
    hub_fault fault = {0, ""};
    hub_session *session;
    make_file(r, path, g, metadata);
    files++;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    hub_inspection *look = malloc(sizeof *look);
    CHECK(look != NULL);
    int rc = hub_inspect(fd, look, &fault);
    CHECK(rc == 0 || fault.text[0] != 0);
    free(look);
    hub_fsck_totals totals;
    rc = hub_fsck(fd, ignore, NULL, &totals, &fault);
    CHECK(rc == 0 || fault.text[0] != 0);
    (void)close(fd);
    fault.text[0] = 0;
    rc = hub_peer_open(path, 1 + (uint32_t)random_below(r, 15), &session, &fault);
    if (rc < 0) {
        CHECK(fault.text[0] != 0);
        refused++;
    } else {
        opened++;
        work_on_it(session, r);
        hub_session_close(session);
        hub_session_unref(session);
    }
    if (random_below(r, 2)) mend(path);
    /* A new host takes the name of a dead one's hub, and leaves alone what is none. */
    if (random_below(r, 4) == 0) {
        hub_config config = cast_config();
        fault.text[0] = 0;
        rc = hub_host_create(path, &config, &session, &fault);
        CHECK(rc == 0 || fault.text[0] != 0);
        if (rc == 0) {
            taken++;
            host_close(session);
        }
    } else {
        rc = hub_unlink_if_stale(path, &fault);
        CHECK(rc == 1 || rc == HUB_EFORMAT);
    }
    (void)unlink(path);
}

int main(int argc, char **argv) {
    uint64_t seed = 1, seconds = 10;
    char path[128];
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) FAIL("%s: no option, or it wants a number", argv[i]);
        uint64_t value = strtoull(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--seconds") == 0) seconds = value;
        else if (strcmp(argv[i], "--seed") == 0) seed = value;
        else FAIL("unknown option %s", argv[i]);
    }
    test_begin(STEP_SECONDS);
    position_begin(STEP_SECONDS);
    (void)snprintf(path, sizeof path, "%s/hub", temporary_folder());
    hub_geometry g;
    unsigned char *metadata = record(&g);
    const char *wrong = fields_check(&g);
    if (wrong != NULL) FAIL("the table of fields: %s", wrong);
    int64_t end = hub_clock_ns() + (int64_t)seconds * 1000000000;
    for (uint64_t n = 0; hub_clock_ns() < end; n++) {
        test_random r = {seed * 0x9E3779B97F4A7C15ULL + n};
        position_note("fuzz_file --seed %llu: file %llu", (unsigned long long)seed,
                      (unsigned long long)n);
        one_file(&r, path, &g, metadata);
    }
    free(metadata);
    (void)alarm(0);
    (void)printf("%llu files: %llu opened and worked on, %llu refused; %llu repaired (%llu with "
                 "something left), %llu names taken over\n",
                 (unsigned long long)files, (unsigned long long)opened,
                 (unsigned long long)refused, (unsigned long long)repaired,
                 (unsigned long long)beyond, (unsigned long long)taken);
    return test_end();
}
