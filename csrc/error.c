/* error.c - names of codes and sentences about failures. */
#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

const char *hub_strerror(int code) {
    switch (code) {
    case HUB_EAGAIN: return "nothing to receive";
    case HUB_ERINGFULL: return "ring full";
    case HUB_EEXHAUSTED: return "slots exhausted";
    case HUB_ETIMEDOUT: return "timed out";
    case HUB_EINTR: return "interrupted";
    case HUB_EHOSTGONE: return "host gone";
    case HUB_EPEERGONE: return "peer gone";
    case HUB_EVIOLATION: return "protocol violation";
    case HUB_ECLOSED: return "closed";
    case HUB_EFORKED: return "used in a forked child";
    case HUB_ETOOLARGE: return "payload too large";
    case HUB_ESTALE: return "stale slot reference";
    case HUB_ESTATE: return "wrong peer state";
    case HUB_ELIMIT: return "no free peer id";
    case HUB_ENOTATTACHED: return "not attached";
    case HUB_EBUSY: return "peer has a transport";
    case HUB_ENOPEER: return "no such peer";
    case HUB_EINVAL: return "argument out of range";
    case HUB_EFORMAT: return "not a hub";
    case HUB_EEXISTS: return "a live hub is there";
    case HUB_ENOSPC: return "no memory for slots";
    case HUB_EUNSUPPORTED: return "unsupported platform";
    default: return code >= 0 ? "success" : "operating system error";
    }
}

int hub_fault_set(hub_fault *fault, int code, const char *format, ...) {
    if (fault != NULL) {
        int saved = errno;
        va_list arguments;
        va_start(arguments, format);
        fault->code = code;
        (void)vsnprintf(fault->text, sizeof fault->text, format, arguments);
        va_end(arguments);
        errno = saved;
    }
    return code;
}
