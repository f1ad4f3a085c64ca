/* reads.c - see reads.h.  Linked with --wrap for the functions below, which only look at addresses.
 *
 * Nothing here may be instrumented: it would call itself. */
#define _GNU_SOURCE
#include "reads.h"

#include <stddef.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define PLAIN __attribute__((no_sanitize("address", "undefined")))
#define COPIES 4u
#define LOOKS_MOST 100000u

/* Read by every thread at every access: written only while the host stands still, except `seen`. */
static const unsigned char *base;
static uint64_t metadata;
static int host_fd = -1;
static uint64_t armed_at, armed_width;
static int seen;

/* Where inspections have put parts of the metadata: `size` bytes of the file from `at` on. */
typedef struct copy {
    uintptr_t from;
    uint64_t size, at;
} copy;
static copy copies[COPIES];
static unsigned next_copy;

/* The race: 0 none, 1 before loads, 2 before every access. */
static int racing;
static uint64_t race_values[2];
static uint32_t looks;

void reads_watch(const hub_segment *host) {
    base = host == NULL ? NULL : host->base;
    metadata = host == NULL ? 0 : host->geometry.data_offset;
    host_fd = host == NULL ? -1 : host->fd;
    memset(copies, 0, sizeof copies);
    armed_width = 0;
    reads_race_end();
}

void reads_arm(uint64_t at, uint32_t width) {
    memset(copies, 0, sizeof copies);
    reads_race_end();
    __atomic_store_n(&armed_at, at, __ATOMIC_RELAXED);
    __atomic_store_n(&armed_width, width, __ATOMIC_RELAXED);
    __atomic_store_n(&seen, SEEN_NOT, __ATOMIC_RELEASE);
}

enum fuzz_seen reads_seen(void) {
    return (enum fuzz_seen)__atomic_load_n(&seen, __ATOMIC_ACQUIRE);
}

PLAIN static int overlaps(uint64_t offset, uint64_t size) {
    uint64_t at = __atomic_load_n(&armed_at, __ATOMIC_RELAXED);
    uint64_t width = __atomic_load_n(&armed_width, __ATOMIC_RELAXED);
    return offset < at + width && at < offset + size;
}

void reads_race(const uint64_t values[2], bool also_changes) {
    race_values[0] = values[0];
    race_values[1] = values[1];
    __atomic_store_n(&looks, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&racing, also_changes ? 2 : 1, __ATOMIC_RELEASE);
}

void reads_race_end(void) { __atomic_store_n(&racing, 0, __ATOMIC_RELEASE); }

bool reads_spun(void) { return __atomic_load_n(&looks, __ATOMIC_ACQUIRE) >= LOOKS_MOST; }

PLAIN static void win(void) {
    uint32_t n = __atomic_fetch_add(&looks, 1, __ATOMIC_ACQ_REL);
    void *at = (void *)(uintptr_t)(base + armed_at);
    if (n >= LOOKS_MOST) {
        reads_race_end();
        return;
    }
    switch (armed_width) {
    case 1: __atomic_store_n((uint8_t *)at, (uint8_t)race_values[n % 2], __ATOMIC_RELEASE); break;
    case 2: __atomic_store_n((uint16_t *)at, (uint16_t)race_values[n % 2], __ATOMIC_RELEASE); break;
    case 4: __atomic_store_n((uint32_t *)at, (uint32_t)race_values[n % 2], __ATOMIC_RELEASE); break;
    default: __atomic_store_n((uint64_t *)at, race_values[n % 2], __ATOMIC_RELEASE); break;
    }
}

PLAIN static void look(uintptr_t address, uint64_t size, int access) {
    uint64_t offset = address - (uintptr_t)base;
    int race = __atomic_load_n(&racing, __ATOMIC_ACQUIRE);
    if (base == NULL) return;
    if (race == 0 && __atomic_load_n(&seen, __ATOMIC_RELAXED) == SEEN_LIVE) return;
    if (offset < metadata) {
        if (!overlaps(offset, size)) return;
        __atomic_store_n(&seen, SEEN_LIVE, __ATOMIC_RELEASE);
        if (race == 2 || (race == 1 && access == 0)) win();
        return;
    }
    for (unsigned i = 0; i < COPIES; i++) {
        /* The driver alone inspects; the service thread never meets these addresses. */
        if (address - copies[i].from < copies[i].size &&
            overlaps(address - copies[i].from + copies[i].at, size) &&
            __atomic_load_n(&seen, __ATOMIC_RELAXED) == SEEN_NOT)
            __atomic_store_n(&seen, SEEN_COPIED, __ATOMIC_RELEASE);
    }
}

/* ---- atomics --------------------------------------------------------------------------------- */

PLAIN void hub_interleave_point(const void *address, int access) {
    if (address != NULL && access != 1) look((uintptr_t)address, 1, access);
}

/* ---- plain loads and copies ------------------------------------------------------------------ */

#define TAKE_LOAD(size)                                       \
    void __real___asan_load##size(uintptr_t address);         \
    void __wrap___asan_load##size(uintptr_t address);         \
    PLAIN void __wrap___asan_load##size(uintptr_t address) {  \
        look(address, size, 0);                               \
        __real___asan_load##size(address);                    \
    }
TAKE_LOAD(1)
TAKE_LOAD(2)
TAKE_LOAD(4)
TAKE_LOAD(8)
TAKE_LOAD(16)

void __real___asan_loadN(uintptr_t address, size_t size);
void __wrap___asan_loadN(uintptr_t address, size_t size);
PLAIN void __wrap___asan_loadN(uintptr_t address, size_t size) {
    look(address, size, 0);
    __real___asan_loadN(address, size);
}

void *__real___asan_memcpy(void *to, const void *from, size_t size);
void *__wrap___asan_memcpy(void *to, const void *from, size_t size);
PLAIN void *__wrap___asan_memcpy(void *to, const void *from, size_t size) {
    look((uintptr_t)from, size, 0);
    return __real___asan_memcpy(to, from, size);
}

/* An inspection reads the file; what it then reads of the copy counts. */
ssize_t __real_pread(int fd, void *to, size_t size, off_t at);
ssize_t __wrap_pread(int fd, void *to, size_t size, off_t at);
PLAIN ssize_t __wrap_pread(int fd, void *to, size_t size, off_t at) {
    ssize_t got = __real_pread(fd, to, size, at);
    if (fd == host_fd && got > 0 && (uint64_t)at < metadata)
        copies[next_copy++ % COPIES] = (copy){(uintptr_t)to, (uint64_t)got, (uint64_t)at};
    return got;
}
