/* host.h - what only the host does with its session. */
#ifndef HUB_HOST_H
#define HUB_HOST_H

#include "session.h"

/* The host's part of hub_session_close; its transports are closed already. */
void hub_host_close(hub_session *session);

#endif
