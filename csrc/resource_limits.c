/* resource_limits.c - reads the limits of this process from the system. */
#define _GNU_SOURCE
#include "resource_limits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

#ifdef __linux__
static uint64_t read_number(const char *path) {
    FILE *file = fopen(path, "re");
    if (file == NULL) return UINT64_MAX;
    char text[64];
    uint64_t value = UINT64_MAX;
    if (fgets(text, sizeof text, file) != NULL && text[0] >= '0' && text[0] <= '9')
        value = strtoull(text, NULL, 10);
    (void)fclose(file);
    return value;
}

/* The lowest limit from this cgroup up to the root; version 2, else version 1's memory controller. */
static uint64_t cgroup_limit(void) {
    uint64_t least = UINT64_MAX;
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL) return least;
    char line[1024], path[1200];
    while (fgets(line, sizeof line, file) != NULL) {
        const char *root, *leaf, *group;
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, "0::", 3) == 0) {
            root = "/sys/fs/cgroup";
            leaf = "memory.max";
            group = line + 3;
        } else {
            char *controller = strstr(line, ":memory:");
            if (controller == NULL) continue;
            root = "/sys/fs/cgroup/memory";
            leaf = "memory.limit_in_bytes";
            group = controller + 8;
        }
        char group_copy[1024];
        (void)snprintf(group_copy, sizeof group_copy, "%s", group);
        for (;;) {
            (void)snprintf(path, sizeof path, "%s%s/%s", root, group_copy, leaf);
            uint64_t value = read_number(path);
            if (value < least) least = value;
            char *slash = strrchr(group_copy, '/');
            if (slash == NULL) break;
            *slash = 0;
        }
    }
    (void)fclose(file);
    return least;
}
#endif

uint64_t hub_limits_memory(void) {
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    uint64_t ram = pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
#ifdef __linux__
    uint64_t group = cgroup_limit();
    if (group < ram) return group;
#endif
    return ram;
}

uint64_t hub_limits_address_space(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
    return limit.rlim_cur;
}

uint64_t hub_limits_file_size(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
    return limit.rlim_cur;
}

int hub_limits_cores(void) {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        int count = CPU_COUNT(&set);
        return count > 0 ? count : 1;
    }
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}
