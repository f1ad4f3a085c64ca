/* segment.h - the hub's memory: made, opened, backed page by page, given back.
 *
 * A segment is one file (sealed memfd, or a locked named file), mapped once at
 * the full length it can ever have.  Knows the layout's sizes, nothing of
 * slots, peers or messages.  The caller serialises open and close; backing and
 * punching may be called by any thread. */
#ifndef HUB_SEGMENT_H
#define HUB_SEGMENT_H

#include "layout.h"

typedef struct hub_segment {
    unsigned char *base;
    int fd;
    int lock_fd;   /* host of a named hub: holds the flock; else -1 */
    int limited;   /* host: geometry was made smaller, address space is limited */
    uint64_t device, inode; /* of a named hub, so that only our file is unlinked */
    char *path;    /* NULL if anonymous */
    hub_geometry geometry;
} hub_segment;

/* Make a hub: laid out, metadata backed, mapped, header written but not published. */
int hub_segment_create(hub_segment *segment, const char *path, const hub_config *config,
                       hub_fault *fault);
/* Put the magic on, and the name of a named hub in its place. */
int hub_segment_publish(hub_segment *segment, hub_fault *fault);
/* Map somebody else's. */
int hub_segment_open(hub_segment *segment, const char *path, hub_fault *fault);
/* Copy a hub's metadata out of a descriptor (inspect): nothing is mapped, so looking at a hub can
 * neither fault nor back its holes. segment->base is malloc'ed; free with hub_segment_view_fini. */
int hub_segment_view(hub_segment *segment, int fd, hub_fault *fault);
void hub_segment_view_fini(hub_segment *segment);
/* Unlink a named hub we made. Idempotent. */
void hub_segment_unlink(hub_segment *segment);
/* Close descriptors, leave the mapping (also used in a forked child). */
void hub_segment_close_fds(hub_segment *segment);
/* Unmap and close. Accepts a half-made or zeroed one whose fds are -1. */
void hub_segment_fini(hub_segment *segment);

/* Reserve memory for a range so that touching it cannot fault: 0, HUB_ENOSPC, -errno. */
int hub_segment_back(const hub_segment *segment, uint64_t offset, uint64_t length);
/* Give whole pages back. */
int hub_segment_punch(const hub_segment *segment, uint64_t offset, uint64_t length);
/* Memory the hub takes, as the kernel counts it. */
uint64_t hub_segment_usage(const hub_segment *segment);
/* Map pages of a backed range in one go (a hint). */
void hub_segment_populate(const hub_segment *segment, uint64_t offset, uint64_t length);

/* Take over the remains of a named hub: its lock is held until hub_segment_fini, which does not
 * unlink it. *ret_alone: no other process has it open or mapped (the kernel says so). */
int hub_segment_open_stale(hub_segment *segment, const char *path, bool *ret_alone,
                           hub_fault *fault);
/* 1 removed, 0 live, < 0 not a hub or an error. */
int hub_segment_unlink_if_stale(const char *path, hub_fault *fault);
/* Is the lock of a named hub held? */
int hub_segment_locked(int fd);

#endif
