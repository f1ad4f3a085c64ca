/* reads.h - did the host read the word that the liar changed?
 *
 * The core of a fuzzing build reports its accesses: its atomics through HUB_POINT of atomic.h, all
 * other loads through the calls that ASan makes of them (reads.c takes those).  Only addresses in
 * the host's own mapping count, or in the copy that hub_inspect makes of the metadata: peers in the
 * same process have mappings of their own. */
#ifndef FUZZ_READS_H
#define FUZZ_READS_H

#include "segment.h"

enum fuzz_seen {
    SEEN_NOT = 0,
    SEEN_COPIED = 1, /* by an inspection, in its copy */
    SEEN_LIVE = 2    /* in the mapping, by the host at work */
};

/* The host whose reads count; NULL: none. */
void reads_watch(const hub_segment *host);
/* From here on: was [at, at + width) of the file read? */
void reads_arm(uint64_t at, uint32_t width);
enum fuzz_seen reads_seen(void);

/* A liar that wins every race: from here on the word becomes the next of two values before each
 * time that the host looks at it. `also_changes`: also before each read-modify-write (not for words
 * that are changed by compare-and-swap until it succeeds: there winning always is not possible). */
void reads_race(const uint64_t values[2], bool also_changes);
void reads_race_end(void);
/* Has the host looked so often that it would never have ended? (The race was over then.) */
bool reads_spun(void);

#endif
