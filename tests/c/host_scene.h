/* host_scene.h - a host as a child, with its peers as the test's other children, so that the host
 * itself can be stopped or killed at a point of what it does, and the peers be asked afterwards.
 *
 *   reader     holds a slot it received, sleeps and waits for a message
 *   allocator  sleeps and waits for a slot
 *   writer     its ring is full, sleeps and waits for room
 *   worker     takes, fills, checks and gives back slots, sends, all the time
 *   victim     holds slots, has published and unread messages; dies where the host is to reclaim
 *
 * The hub is named: every peer opens it by its path, the next host finds what the dead one left.
 * The test's process has no hub of its own while these live. */
#ifndef TEST_HOST_SCENE_H
#define TEST_HOST_SCENE_H

#include "stage.h"
#include "step.h"

enum host_role { READER, ALLOCATOR, WRITER, WORKER, VICTIM, ROLES };

/* Shared by all of the processes. */
typedef struct host_shared {
    stepped where; /* the host's operation */
    hub_a32 ready[ROLES];     /* it does what it is there for */
    hub_a32 go_on[ROLES];     /* allocator, worker: now */
    hub_a32 gathered;         /* all of them are ready */
    hub_a32 rest, resting;    /* worker: it is to, it does */
    hub_a32 served;           /* the allocator has a slot */
    hub_a64 rounds;           /* worker */
    hub_a64 sent[ROLES];      /* messages published, as the peer saw it */
} host_shared;

typedef struct host_scene host_scene;

typedef struct host_operation {
    const char *name;
    bool creates;                   /* there is no hub before, and nobody else */
    bool reclaims;                  /* it is the service thread's, begun by the victim's death */
    bool tells;                     /* afterwards the peers have been told that the host is gone */
    bool anonymous;
    bool stale;                     /* the remains of an earlier host lie there */
    int (*operate)(host_scene *);   /* in the host, unless it reclaims */
} host_operation;

struct host_scene {
    const host_operation *op;
    char path[96];
    host_shared *shared;
    int channel[2]; /* host -> test: doorbells */
    gate finish;    /* test -> host: settle, look, close */
    pid_t host_pid, pids[ROLES];
    /* in the host's process */
    hub_session *host;
    hub_link *links[ROLES];
    hub_transport *transports[ROLES];
    hub_link *late; /* of the operation that adds a peer */
    hub_slot kept[4];
    unsigned kept_count;
};

void host_scene_open(host_scene *s);
void host_scene_close(host_scene *s);
/* The host killed at every point; stopped at every point and let go on (but for one that creates).
 * Prints a line for each. */
void host_scene_prove(host_scene *s, const host_operation *op);

hub_config host_config(void);

/* host_roles.c: what each process does. */
int host_be(void *scene);
pid_t host_start_role(host_scene *s, enum host_role role, uint32_t id, int doorbell_fd);
/* Test: receive a doorbell from the host. */
int host_take_doorbell(host_scene *s, enum host_role *ret_role, uint32_t *ret_id);

#endif
