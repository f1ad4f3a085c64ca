/* resource_limits.h - how much memory and address space this process may use. */
#ifndef HUB_LIMITS_H
#define HUB_LIMITS_H

#include <stdint.h>

/* RAM, or the cgroup's limit if that is lower; 0 if neither is known. */
uint64_t hub_limits_memory(void);
/* Address space (RLIMIT_AS); UINT64_MAX if not limited. */
uint64_t hub_limits_address_space(void);
/* Longest file it may make (RLIMIT_FSIZE); UINT64_MAX if not limited. */
uint64_t hub_limits_file_size(void);
/* Cores this process may run on, at least 1. */
int hub_limits_cores(void);

#endif
