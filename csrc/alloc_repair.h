/* alloc_repair.h - what fsck does to the pool. Knows the rules of alloc.h; what is wrong, and
 * whether anybody else may be at work, is the caller's to know. */
#ifndef HUB_ALLOC_REPAIR_H
#define HUB_ALLOC_REPAIR_H

#include "alloc.h"

/* Could an honest hub have so many slots of this class in service? */
bool hub_pool_plausible_in_service(uint32_t in_service, uint32_t slots, uint32_t max_slots);
/* Pages that the largest honest `backed` of this class names. */
uint32_t hub_pool_most_pages(uint64_t slot_size);

/* Reserve the bookkeeping of all slots in service, and make the count plausible and no less than
 * `used`: slots up to the last that has any bookkeeping. 0, HUB_ENOSPC. */
int hub_pool_mend_in_service(hub_pool *pool, uint32_t class_index, uint32_t used);
/* A slot whose ctl is `ctl`, which gives it to nobody: free it. False: ctl has changed. */
bool hub_pool_seize(hub_pool *pool, uint32_t ref, uint64_t ctl);
/* A free slot: give its memory back, so that `backed` is true again. False: it is not free. */
bool hub_pool_freshen(hub_pool *pool, uint32_t ref);
/* A slot that this process owns, whose `backed` is more than there can be: back it whole. */
bool hub_pool_mend_backed(hub_pool *pool, uint32_t ref, uint32_t backed);
/* Put free slots that are remembered somewhere (L = 0) onto the stacks: how many. */
uint32_t hub_pool_link_remembered(hub_pool *pool, uint32_t class_index);
/* Others may be at work: take a broken stack off with one CAS, put back what was on it. */
void hub_pool_restack(hub_pool *pool, uint32_t class_index, bool hot);
/* Nobody else may be at work: both stacks anew, from ctl and backed alone. */
void hub_pool_relist(hub_pool *pool, uint32_t class_index);

#endif
