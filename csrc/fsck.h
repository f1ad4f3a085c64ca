/* fsck.h - one check of one hub: what the files of fsck share, and nobody else.
 *
 * Looking is done on copies that a source reads out of the file (or a dump), so
 * that nothing that shared memory says can lead it astray: it neither faults on a
 * hole nor follows a link that changes under it.  Repairing is done in the
 * mapping, through the allocator (alloc_repair.h) and single stores. */
#ifndef HUB_FSCK_H
#define HUB_FSCK_H

#include "session.h"

typedef struct hub_fsck_source hub_fsck_source;
struct hub_fsck_source {
    int (*read)(const hub_fsck_source *source, uint64_t offset, void *into, size_t length);
    int fd;
    const void *context;
    bool moving; /* others may be at work: nothing is believed that was not seen twice */
};
/* Read from source->fd. Beyond the end of the file: zeros. */
int hub_fsck_read_fd(const hub_fsck_source *source, uint64_t offset, void *into, size_t length);

/* What an id may hold. */
enum hub_fsck_claim {
    HUB_CLAIM_NOTHING = 0,
    HUB_CLAIM_MAIL = 1, /* not attached: only what the host has sent to it */
    HUB_CLAIM_ANY = 2
};

typedef struct hub_fsck_run {
    const hub_geometry *geometry;
    hub_fsck_source source;
    hub_session *host; /* in the host, its lock is held; NULL: from outside */
    hub_pool *pool;    /* to repair with; NULL: only look */
    bool mending;      /* this pass repairs; the next one looks what is left */
    bool exclusive;    /* no other process has the hub and no other thread is in a call on it */
    uint8_t claims[HUB_PEERS_MAX + 1]; /* enum hub_fsck_claim; the last one's are of no id */
    uint64_t hosts;    /* slots in OWNED(host) */
    hub_fsck_report report;
    void *context;
    hub_fsck_totals *totals;
} hub_fsck_run;

/* Count a finding and report it, unless the next pass will. */
void hub_fsck_say(hub_fsck_run *run, uint32_t kind, int32_t class_index, int32_t index,
                  int32_t peer_id, bool mended, const char *format, ...)
    __attribute__((format(printf, 7, 8)));

/* Header, class table, peer table, signals, rings. Fills run->claims. 0 or -errno. */
int hub_fsck_words(hub_fsck_run *run);
/* What the peer table says now about what an id may hold. */
int hub_fsck_look_at_claim(hub_fsck_run *run, uint32_t id);
/* Slots and stacks of a class. 0 or -errno. */
int hub_fsck_class(hub_fsck_run *run, uint32_t class_index);
/* All of it from outside, looking only. */
int hub_fsck_look(const hub_geometry *geometry, const hub_fsck_source *source,
                  hub_fsck_report report, void *context, hub_fsck_totals *ret);

#endif
