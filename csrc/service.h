/* service.h - the host's thread: completes attaches, watches every peer's pidfd
 * and doorbell, reclaims the dead, relays pool wake-ups.  No GIL, no Python. */
#ifndef HUB_SERVICE_H
#define HUB_SERVICE_H

#include "session.h"

int hub_service_start(hub_session *session, hub_fault *fault);
/* Ends the thread and waits for it. Idempotent. */
void hub_service_stop(hub_session *session);

/* Look for what waits although it need not (service_lookout.c): milliseconds until the next look,
 * -1 while there is nobody to look for. The session's lock is held. */
int hub_service_lookout(hub_session *session);
/* Tests of the protocols set it: these must do without. */
extern hub_a32 hub_service_lookout_off;

/* The session's lock is held for all of these. */
int hub_service_watch_link(hub_session *session, hub_link *link); /* its doorbell, before attach */
int hub_service_watch_process(hub_session *session, hub_link *link); /* link->watch_fd */
void hub_service_event(hub_session *session, uint32_t kind, const hub_link *link,
                       const char *detail);
void hub_service_set_state(hub_session *session, hub_link *link, uint32_t state);
/* A peer that has not attached will not any more. */
void hub_service_cancel(hub_session *session, hub_link *link, const char *why);
/* The link broke the protocol: quarantine it. Takes the lock itself. */
void hub_service_violation(hub_session *session, hub_link *link, const char *what);
/* A violation that cannot be blamed on one peer (a stale slot in a message): counted, reported. */
void hub_service_report(hub_session *session, const hub_link *link, const char *what);

#endif
