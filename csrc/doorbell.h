/* doorbell.h - the AF_UNIX socketpair that wakes the other side, whose hang-up
 * tells that it is gone, and over which a peer and its host shake hands.
 * Unaware of rings and of who sleeps. */
#ifndef HUB_DOORBELL_H
#define HUB_DOORBELL_H

#include "layout.h"

#define HUB_HELLO_MAGIC 0x6F6C6C48u   /* "Hllo" */
#define HUB_WELCOME_MAGIC 0x656D6C57u /* "Wlme" */

/* Peer -> host, with the peer's own pidfd and (by the kernel) its credentials. */
typedef struct hub_hello {
    uint32_t magic;
    uint32_t version;
    uint32_t peer_id;
    uint32_t reserved;
} hub_hello;

/* Host -> peer, with the service bell and the host's pidfd. status < 0: refused. */
typedef struct hub_welcome {
    uint32_t magic;
    uint32_t version;
    int32_t status;
    uint32_t peer_id;
    uint32_t epoch;
    int32_t host_pid;
    uint64_t up_tail;
    uint64_t down_head;
    hub_geometry geometry;
    char text[120]; /* why it was refused */
} hub_welcome;

#define HUB_MESSAGE_FDS 2

/* Two connected ends, close-on-exec, the host's one with credentials on. */
int hub_doorbell_pair(int ret_ends[2]);

/* One message with up to HUB_MESSAGE_FDS descriptors. 0 or -errno. */
int hub_doorbell_send_message(int fd, const void *data, size_t length, const int *fds, int count);
/* Receive one message: bytes received, 0 on hang-up, -errno. Descriptors come close-on-exec, -1
 * where there is none; *ret_pid is the sender's as the kernel says, 0 if it does not. */
int hub_doorbell_recv_message(int fd, void *data, size_t length, int ret_fds[HUB_MESSAGE_FDS],
                              int32_t *ret_pid);

/* A descriptor that names this process / that one; -errno. */
int hub_pidfd_open(int32_t pid);
/* Whom a pidfd names: the pid, 0 if it cannot be told, -errno if it is no pidfd. */
int32_t hub_pidfd_pid(int pidfd);
/* Has that process ended? */
bool hub_pidfd_ended(int pidfd);
/* Is the process (of a pidfd that has not ended) on its way out? false also where /proc is none. */
bool hub_process_exiting(int32_t pid);

/* Milliseconds for poll until a deadline, rounded up; -1 for ever. */
int hub_poll_timeout(int64_t deadline);

#endif
