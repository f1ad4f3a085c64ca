/* error.h - every code the core returns.
 *
 * A function returns >= 0 for success, -errno where the operating system said
 * no, and a HUB_E* code (below -10000) for what is ours.  "Full", "empty" and
 * "exhausted" are outcomes, not faults, and have codes of their own so that a
 * caller cannot take them for failures.  Outputs are untouched on failure. */
#ifndef HUB_ERROR_H
#define HUB_ERROR_H

#if defined(__GNUC__)
#define HUB_API __attribute__((visibility("default")))
#else
#define HUB_API
#endif

enum {
    /* outcomes */
    HUB_EAGAIN = -10001,      /* nothing to receive now */
    HUB_ERINGFULL = -10002,   /* the ring has no room for the message now */
    HUB_EEXHAUSTED = -10003,  /* no slot that fits is free now */
    HUB_ETIMEDOUT = -10004,   /* the deadline passed */
    HUB_EINTR = -10005,       /* a signal arrived: look at it, call again */
    /* the other side */
    HUB_EHOSTGONE = -10010,   /* host died or closed */
    HUB_EPEERGONE = -10011,   /* peer died or left */
    HUB_EVIOLATION = -10012,  /* shared memory says what no honest peer writes */
    /* use */
    HUB_ECLOSED = -10020,     /* this object was closed on our side */
    HUB_EFORKED = -10021,     /* used in a forked child */
    HUB_ETOOLARGE = -10022,   /* more than this hub can ever hold in one slot */
    HUB_ESTALE = -10023,      /* slot reference is not (any more) the caller's */
    HUB_ESTATE = -10024,      /* peer is not in a state that allows it */
    HUB_ELIMIT = -10025,      /* no free peer id */
    HUB_ENOTATTACHED = -10026,/* transport used before the host's answer */
    HUB_EBUSY = -10027,       /* that peer has a transport already */
    HUB_ENOPEER = -10028,     /* no such peer */
    HUB_EINVAL = -10029,      /* an argument is out of its range */
    /* files */
    HUB_EFORMAT = -10040,     /* not a hub, wrong version, truncated, bad geometry */
    HUB_EEXISTS = -10041,     /* a live hub is at that path */
    HUB_ENOSPC = -10042,      /* no memory for a slot's pages (tmpfs or cgroup full) */
    HUB_EUNSUPPORTED = -10043 /* the platform lacks what the hub needs */
};

/* A sentence about a failure on a cold path (create, open, attach). */
typedef struct hub_fault {
    int code;
    char text[240];
} hub_fault;

/* Short name of any code, "errno N" text for -errno. Never NULL. */
HUB_API const char *hub_strerror(int code);

/* Fill `fault` (may be NULL) and return `code`. Keeps errno. */
int hub_fault_set(hub_fault *fault, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
