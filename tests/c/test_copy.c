/* test_copy.c - hub_copy: exactly the bytes that were asked for, on both sides of its threshold and
 * wherever source and target begin. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "hub.h"

#define MIB ((size_t)1 << 20)
#define ROOM (13 * MIB)
#define GUARD 128u

static unsigned char *from, *to;

static void copies(size_t length, size_t from_at, size_t to_at) {
    memset(to, 0xEE, ROOM + 2 * GUARD);
    hub_copy(to + GUARD + to_at, from + from_at, length);
    CHECK_EQ(memcmp(to + GUARD + to_at, from + from_at, length), 0);
    for (size_t i = 0; i < GUARD; i++) {
        CHECK_EQ(to[to_at + i], 0xEE);
        CHECK_EQ(to[GUARD + to_at + length + i], 0xEE);
    }
}

static void every_byte_and_no_other(void) {
    static const size_t lengths[] = {0, 1, 63, 64, 65, 4096, MIB + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t at = 0; at < 3; at++) copies(lengths[i], at, 2 - at);
}

static void past_the_cache(void) {
    for (size_t more = 0; more < 5; more++)
        for (size_t at = 0; at < 66; at += 13) {
            copies(12 * MIB + more - 2, at, 65 - at);
            copies(12 * MIB + 61 + more, 0, at);
        }
}

int main(void) {
    from = malloc(ROOM);
    to = malloc(ROOM + 2 * GUARD);
    CHECK(from != NULL && to != NULL);
    for (size_t i = 0; i < ROOM; i++) from[i] = (unsigned char)((i * 2654435761u) >> 13);
    RUN(every_byte_and_no_other);
    RUN(past_the_cache);
    free(from);
    free(to);
    return test_end();
}
