/* reclaim.h - what becomes of a peer's messages and slots when it is gone.
 * The session's lock is held for all of these. */
#ifndef HUB_RECLAIM_H
#define HUB_RECLAIM_H

#include "session.h"

/* Close both rings: what the peer published moves to the link's queue, what it never received is
 * listed (unless it is alive and may still read) and discarded. Its slots stay. Idempotent. */
void hub_reclaim_rings(hub_session *session, hub_link *link, bool alive);
/* Take back everything it held and free its id; the link leaves the table. */
void hub_reclaim_all(hub_session *session, hub_link *link);

#endif
