/* scene.h - a host, a victim that is stopped at a chosen point of an operation and killed there,
 * and the oracle that is asked afterwards; for every point of the operation.
 *
 * A program has a table of operations and calls scene_prove for each.  Each is proved alone (nobody
 * else is at work, or somebody sleeps and waits for what the victim does) and in a crowd (crowd.h),
 * which goes on by whole rounds while the victim stands still in the middle.  Points that are
 * events are found by comparing memory, so there the crowd rests until the victim stands. */
#ifndef TEST_SCENE_H
#define TEST_SCENE_H

#include "crowd.h"
#include "step.h"

#define VICTIM_SLOTS 32u
#define VICTIM_MESSAGES 8u

/* In the victim's process. What is no call of the hub is done by `prepare`, before the steps. */
typedef struct victim {
    hub_session *session;
    hub_transport *transport;
    int doorbell_fd;
    hub_slot held[VICTIM_SLOTS];
    unsigned count;
    hub_frame frame;
    hub_message messages[VICTIM_MESSAGES]; /* ids 0, 1, ... */
    hub_buffer buffers[VICTIM_MESSAGES];
    unsigned char bytes[VICTIM_MESSAGES][1000]; /* patterns, for lengths that are multiples of 8 */
} victim;

typedef struct scene scene;

enum scene_flags {
    SCENE_BY_EVENT = 1,    /* points are events, not instructions: see step.h */
    SCENE_UNATTACHED = 2,  /* the operation attaches */
    SCENE_RECEIVER = 4,    /* alone: the host sleeps and waits for a message */
    SCENE_SENDER = 8,      /* alone: the ring to the victim is full, the host waits for room */
    SCENE_ALLOCATORS = 16, /* alone: a peer and a host's thread wait for a slot of 1000 bytes */
    SCENE_ALONE_ONLY = 32
};

typedef struct operation {
    const char *name;
    void (*world)(scene *);       /* host, before the victim lives: all slots are free and backed */
    unsigned incoming;            /* messages that lie in the victim's ring */
    void (*prepare)(victim *);
    int (*operate)(victim *);
    bool (*asleep)(void *scene);  /* host: the victim sleeps in it: wake it */
    int expect;                   /* what it returns, alone */
    unsigned flags;
} operation;

struct scene {
    hub_session *host;
    const operation *op;
    stepped *where;
    test_random random;
    bool crowded;
    crowd others;
    peer waiter; /* of SCENE_ALLOCATORS */
    gate wait_now, served;
    hub_slot kept[VICTIM_SLOTS]; /* the host's, in `world` */
    unsigned kept_count;
    /* of one run */
    tally told;
    hub_link *link;
    hub_transport *transport; /* alone */
    int peer_fd;
    pid_t pid;
    pthread_t receiver, sender, allocator;
    unsigned relinked; /* slots that the dead left on no stack */
};

/* 8 slots of 1 KiB, 4 of 16 KiB, 2 of 1 MiB, rings of 16 cells, no spinning. */
void scene_open(scene *s);
void scene_close(scene *s);
/* At every point (or a sample, see step_stride), alone and in a crowd. Prints a line for each. */
void scene_prove(scene *s, const operation *op);

/* ---- for tables - */
void world_as_it_is(scene *s);
void world_cold(scene *s);     /* nothing is backed but slots smaller than a page */
void world_taken(scene *s);    /* the host holds every slot */
void world_one_left(scene *s); /* every slot but one */
void world_orphaned(scene *s); /* no slot is on a stack */
void prepare_nothing(victim *v);
/* Take slots of `size` until `most` are held or none is left. */
void victim_take(victim *v, uint64_t size, unsigned most);
bool asleep_until_freed(void *scene); /* frees one slot of world_taken */
bool asleep_until_told(void *scene);  /* sends a message */
bool asleep_until_room(void *scene);  /* receives one */

#endif
