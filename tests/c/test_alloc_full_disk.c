/* test_alloc_full_disk.c - a full file system is an error when a slot is backed, never a SIGBUS
 * when it is written. Needs the right to mount a small tmpfs in a mount namespace of its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena.h"
#include "check.h"

#define NOT_ALLOWED 77

static char hub_path[128];

/* Nobody outside sees this mount, and it goes with the process. */
static int mount_small(const char *options) {
    if (unshare(CLONE_NEWNS) < 0) return -1;
    if (mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0) return -1;
    return mount("shmhub-test", temporary_folder(), "tmpfs", 0, options);
}

static int full_while_allocating(void *unused) {
    (void)unused;
    if (mount_small("size=6m") < 0) return NOT_ALLOWED;
    hub_config config = config_of_the_table(true);
    arena a;
    hub_slot held[512], slot;
    uint32_t count = 0;
    int rc;
    arena_open_at(&a, hub_path, &config);
    uint64_t fresh = hub_segment_usage(&a.segment);
    while ((rc = hub_pool_alloc(&a.host, 200 * KIB, &held[count])) == 0) {
        pattern_write(held[count].data, 200 * KIB, count);
        count++;
    }
    CHECK_RC(rc, HUB_ENOSPC);
    CHECK_GE(count, 20);
    hub_slot small[64];
    uint32_t fill = 0;
    while ((rc = hub_pool_alloc(&a.host, 16 * KIB, &small[fill])) == 0) fill++;
    CHECK_RC(rc, HUB_ENOSPC);
    CHECK_RC(hub_pool_alloc(&a.host, 5 * MIB, &slot), HUB_ENOSPC);
    CHECK_RC(hub_pool_back(&a.host, held[0].ref, 256 * KIB), HUB_ENOSPC);
    CHECK_EQ(hub_pool_backed(&a.host, held[0].ref), 200 * KIB);
    for (uint32_t i = 0; i < count; i++) pattern_check(held[i].data, 200 * KIB, i);
    /* Nothing was lost by failing; what is freed pays for what is asked, of whatever class. */
    uint32_t owned = 0;
    for (uint32_t k = 0; k < config.class_count; k++) owned += arena_count(&a, k).owned;
    CHECK_EQ(owned, count + fill);
    for (uint32_t i = 0; i < fill; i++)
        CHECK_OK(hub_pool_free(&a.host, small[i].ref, small[i].gen));
    for (uint32_t i = 0; i < count; i++) {
        pattern_check(held[i].data, 200 * KIB, i);
        CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
    }
    CHECK_OK(hub_pool_alloc(&a.host, 5 * MIB, &slot));
    pattern_write(slot.data, 5 * MIB, 1);
    CHECK_OK(hub_pool_free(&a.host, slot.ref, slot.gen));
    arena_check_all_free(&a);
    CHECK_REL(hub_pool_trim(&a.host, UINT64_MAX), >, 0);
    CHECK_LE(hub_segment_usage(&a.segment), fresh + 64 * HUB_PAGE);
    arena_close(&a);
    return 0;
}

static int full_while_growing(void *unused) {
    (void)unused;
    if (mount_small("size=600k") < 0) return NOT_ALLOWED;
    hub_config config = config_of_one(1024, 16);
    config.classes[0].max_slots = 100000;
    arena a;
    arena_open_at(&a, hub_path, &config);
    uint32_t count = 0;
    int rc;
    hub_slot *held = calloc(2000, sizeof *held);
    CHECK(held != NULL);
    while ((rc = hub_pool_alloc(&a.host, 1024, &held[count])) == 0) {
        memset(held[count].data, 0x77, 1024);
        count++;
    }
    CHECK(rc == HUB_ENOSPC || rc == HUB_EEXHAUSTED);
    CHECK_GE(count, 100);
    for (uint32_t i = 0; i < count; i++) CHECK_OK(hub_pool_free(&a.host, held[i].ref, held[i].gen));
    arena_check_all_free(&a);
    free(held);
    arena_close(&a);
    return 0;
}

/* Room for a part of the bookkeeping only: an error, and no file stays. */
static int too_small_for_a_hub(void *unused) {
    (void)unused;
    if (mount_small("size=32k") < 0) return NOT_ALLOWED;
    hub_config config = config_of_the_table(true);
    hub_segment s;
    hub_fault fault = {0, ""};
    unsigned before = open_descriptors();
    CHECK_RC(hub_segment_create(&s, hub_path, &config, &fault), HUB_ENOSPC);
    CHECK(strstr(fault.text, "full") != NULL);
    CHECK(access(hub_path, F_OK) < 0);
    CHECK_EQ(open_descriptors(), before);
    return 0;
}

static void on_small_disk(int (*body)(void *)) {
    int status = child_wait(child_start(body, NULL));
    if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_ALLOWED)
        test_skip("mounting a small tmpfs needs root or a mount namespace");
    if (WIFSIGNALED(status)) FAIL("ended by signal %d", WTERMSIG(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

int main(void) {
    test_begin(60);
    (void)snprintf(hub_path, sizeof hub_path, "%s/hub", temporary_folder());
    test_say("  too_small_for_a_hub");
    on_small_disk(too_small_for_a_hub);
    test_say("  full_while_allocating");
    on_small_disk(full_while_allocating);
    test_say("  full_while_growing");
    on_small_disk(full_while_growing);
    return test_end();
}
