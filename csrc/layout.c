/* layout.c - lays a hub out, writes its header, and believes no header it reads. */
#include "layout.h"

#include <string.h>

#define SLOT_SIZE_MIN 64ULL
#define SLOT_SIZE_MAX (1ULL << 30)
#define MAX_BYTES_MIN (1ULL << 20)
#define TOTAL_MAX (1ULL << 46) /* half of what a 48-bit address space can map */

static uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

static int check_class(const hub_class_config *c, uint32_t i, uint64_t smaller, hub_fault *fault) {
    uint64_t unit = c->slot_size >= HUB_PAGE ? HUB_PAGE : HUB_CACHE_LINE;
    if (c->slot_size < SLOT_SIZE_MIN || c->slot_size > SLOT_SIZE_MAX || c->slot_size % unit != 0)
        return hub_fault_set(fault, HUB_EINVAL,
                             "size class %u: slot_size %llu; it must be a multiple of %llu from "
                             "64 B to 1 GiB",
                             i, (unsigned long long)c->slot_size, (unsigned long long)unit);
    if (c->slot_size <= smaller)
        return hub_fault_set(fault, HUB_EINVAL,
                             "size class %u: slot_size %llu is not larger than the class before "
                             "it; give the classes in ascending order",
                             i, (unsigned long long)c->slot_size);
    if (c->max_slots < 1 || c->max_slots > HUB_SLOTS_MAX || c->slots > c->max_slots)
        return hub_fault_set(fault, HUB_EINVAL,
                             "size class %u: slots %u, max_slots %u; max_slots must be 1..%u and "
                             "slots no more than it",
                             i, c->slots, c->max_slots, HUB_SLOTS_MAX);
    return 0;
}

static int check_config(const hub_config *config, hub_fault *fault) {
    uint64_t smaller = 0;
    if (config->class_count < 1 || config->class_count > HUB_CLASSES_MAX)
        return hub_fault_set(fault, HUB_EINVAL, "%u size classes; a hub has 1..%d",
                             config->class_count, HUB_CLASSES_MAX);
    for (uint32_t i = 0; i < config->class_count; i++) {
        int rc = check_class(&config->classes[i], i, smaller, fault);
        if (rc < 0) return rc;
        smaller = config->classes[i].slot_size;
    }
    if (config->max_peers < 2 || config->max_peers > HUB_PEERS_MAX)
        return hub_fault_set(fault, HUB_EINVAL, "max_peers %u; it must be 2..%d", config->max_peers,
                             HUB_PEERS_MAX);
    uint32_t ring = config->ring_capacity;
    if (ring < HUB_RING_CAPACITY_MIN || ring > HUB_RING_CAPACITY_MAX || (ring & (ring - 1)) != 0)
        return hub_fault_set(fault, HUB_EINVAL,
                             "ring_capacity %u; it must be a power of two from %u to %u", ring,
                             HUB_RING_CAPACITY_MIN, HUB_RING_CAPACITY_MAX);
    if (config->max_bytes != 0 && config->max_bytes < MAX_BYTES_MIN)
        return hub_fault_set(fault, HUB_EINVAL, "max_bytes %llu; it must be 0 (default) or >= 1 MiB",
                             (unsigned long long)config->max_bytes);
    if (config->spin_ns < -1 || config->spin_ns > 1000000000LL)
        return hub_fault_set(fault, HUB_EINVAL, "spin %lld ns; it must be -1 (adaptive) or 0..1 s",
                             (long long)config->spin_ns);
    return 0;
}

int hub_layout_compute(const hub_config *config, hub_geometry *ret, hub_fault *fault) {
    int rc = check_config(config, fault);
    if (rc < 0) return rc;

    hub_geometry g;
    memset(&g, 0, sizeof g);
    g.class_count = config->class_count;
    g.max_peers = config->max_peers;
    g.ring_capacity = config->ring_capacity;
    g.max_bytes = config->max_bytes;
    g.spin_ns = config->spin_ns;

    uint64_t at = sizeof(hub_header_shm);
    g.signals_offset = at;
    at += sizeof(hub_signals_shm);
    g.classes_offset = at;
    at += (uint64_t)HUB_CLASSES_MAX * sizeof(hub_class_shm);
    g.peers_offset = at;
    at += (uint64_t)g.max_peers * sizeof(hub_peer_shm);
    g.host_lane_offset = round_up(at, HUB_CACHE_LINE);
    at = round_up(g.host_lane_offset + sizeof(hub_lane_shm), HUB_PAGE);
    /* Blocks are page-aligned so that add_peer can reserve one by itself. */
    g.blocks_offset = at;
    g.block_stride =
        round_up(HUB_BLOCK_RING_UP + 2 * hub_ring_bytes(g.ring_capacity), HUB_PAGE);
    at += (uint64_t)(g.max_peers - 1) * g.block_stride;
    for (uint32_t i = 0; i < g.class_count; i++) {
        hub_class_geometry *c = &g.classes[i];
        c->slot_size = config->classes[i].slot_size;
        c->slot_stride = c->slot_size;
        c->slots = config->classes[i].slots;
        c->max_slots = config->classes[i].max_slots;
        c->meta_offset = at;
        at = round_up(at + (uint64_t)c->max_slots * sizeof(hub_slot_shm), HUB_PAGE);
    }
    for (uint32_t i = 0; i < g.class_count; i++) {
        g.classes[i].holders_offset = at;
        at = round_up(at + (uint64_t)g.classes[i].max_slots * sizeof(uint64_t), HUB_PAGE);
    }
    g.data_offset = at;
    for (uint32_t i = 0; i < g.class_count; i++) {
        hub_class_geometry *c = &g.classes[i];
        c->data_offset = at;
        at = round_up(at + (uint64_t)c->max_slots * c->slot_stride, HUB_PAGE);
        if (at > TOTAL_MAX)
            return hub_fault_set(fault, HUB_EINVAL,
                                 "the size classes add up to more than 64 TiB; lower max_slots");
    }
    g.total_size = at;
    *ret = g;
    return 0;
}

void hub_layout_config(const hub_geometry *g, hub_config *ret) {
    memset(ret, 0, sizeof *ret);
    ret->class_count = g->class_count;
    for (uint32_t i = 0; i < g->class_count; i++) {
        ret->classes[i].slot_size = g->classes[i].slot_size;
        ret->classes[i].slots = g->classes[i].slots;
        ret->classes[i].max_slots = g->classes[i].max_slots;
    }
    ret->max_peers = g->max_peers;
    ret->ring_capacity = g->ring_capacity;
    ret->max_bytes = g->max_bytes;
    ret->spin_ns = g->spin_ns;
}

void hub_layout_write(unsigned char *base, const hub_geometry *g, int32_t host_pid,
                      uint64_t realtime_ns) {
    hub_header_shm *h = (hub_header_shm *)base;
    h->version_major = HUB_VERSION_MAJOR;
    h->version_minor = HUB_VERSION_MINOR;
    h->header_size = sizeof *h;
    h->total_size = g->total_size;
    h->class_count = g->class_count;
    h->max_peers = g->max_peers;
    h->ring_capacity = g->ring_capacity;
    h->host_pid = host_pid;
    h->max_bytes = g->max_bytes;
    h->spin_ns = g->spin_ns;
    h->classes_offset = g->classes_offset;
    h->signals_offset = g->signals_offset;
    h->peers_offset = g->peers_offset;
    h->host_lane_offset = g->host_lane_offset;
    h->blocks_offset = g->blocks_offset;
    h->block_stride = g->block_stride;
    h->data_offset = g->data_offset;
    h->created_realtime_ns = realtime_ns;
    hub_class_shm *classes = (hub_class_shm *)(base + g->classes_offset);
    for (uint32_t i = 0; i < g->class_count; i++) {
        const hub_class_geometry *c = &g->classes[i];
        classes[i].slot_size = c->slot_size;
        classes[i].slot_stride = c->slot_stride;
        classes[i].meta_offset = c->meta_offset;
        classes[i].holders_offset = c->holders_offset;
        classes[i].data_offset = c->data_offset;
        classes[i].slots = c->slots;
        classes[i].max_slots = c->max_slots;
    }
}

void hub_layout_publish(unsigned char *base) {
    hub_store_release_64(&((hub_header_shm *)base)->magic, HUB_MAGIC);
}

int hub_layout_read(const unsigned char *base, uint64_t file_size, hub_geometry *ret,
                    hub_fault *fault) {
    if (file_size < sizeof(hub_header_shm))
        return hub_fault_set(fault, HUB_EFORMAT,
                             "not a hub: %llu bytes are shorter than a header (256 bytes)",
                             (unsigned long long)file_size);
    const hub_header_shm *shared = (const hub_header_shm *)base;
    if (hub_load_acquire_64(&shared->magic) != HUB_MAGIC)
        return hub_fault_set(fault, HUB_EFORMAT,
                             "not a hub: the file does not start with the shmhub magic (or the "
                             "host has not finished making it)");
    hub_header_shm h; /* only the copy is looked at */
    hub_copy_once(&h, shared, sizeof h);
    if (h.version_major != HUB_VERSION_MAJOR || h.header_size != sizeof h)
        return hub_fault_set(fault, HUB_EFORMAT,
                             "hub format version %u.%u (header of %u bytes); this shmhub reads "
                             "version %d: use the same shmhub release in host and peer",
                             h.version_major, h.version_minor, h.header_size, HUB_VERSION_MAJOR);
    if (h.total_size != file_size)
        return hub_fault_set(fault, HUB_EFORMAT,
                             "truncated hub: the header says %llu bytes, the file has %llu",
                             (unsigned long long)h.total_size, (unsigned long long)file_size);

    hub_config config;
    memset(&config, 0, sizeof config);
    config.class_count = h.class_count;
    config.max_peers = h.max_peers;
    config.ring_capacity = h.ring_capacity;
    config.max_bytes = h.max_bytes;
    config.spin_ns = h.spin_ns;
    uint64_t table = sizeof(hub_header_shm) + sizeof(hub_signals_shm);
    if (h.class_count > HUB_CLASSES_MAX || h.classes_offset != table ||
        file_size < table + HUB_CLASSES_MAX * sizeof(hub_class_shm))
        return hub_fault_set(fault, HUB_EFORMAT,
                             "hub header: class table of %u classes at offset %llu is out of range",
                             h.class_count, (unsigned long long)h.classes_offset);
    hub_class_shm classes[HUB_CLASSES_MAX];
    hub_copy_once(classes, base + table, sizeof classes);
    for (uint32_t i = 0; i < h.class_count; i++) {
        config.classes[i].slot_size = classes[i].slot_size;
        config.classes[i].slots = classes[i].slots;
        config.classes[i].max_slots = classes[i].max_slots;
    }
    hub_geometry g;
    hub_fault why = {0, ""};
    if (hub_layout_compute(&config, &g, &why) < 0)
        return hub_fault_set(fault, HUB_EFORMAT, "hub header out of range: %.180s", why.text);
    if (g.total_size != h.total_size || g.data_offset != h.data_offset ||
        g.signals_offset != h.signals_offset || g.peers_offset != h.peers_offset ||
        g.host_lane_offset != h.host_lane_offset || g.blocks_offset != h.blocks_offset ||
        g.block_stride != h.block_stride)
        return hub_fault_set(fault, HUB_EFORMAT,
                             "hub header: its offsets do not follow from its geometry (%llu bytes "
                             "stated, %llu computed)",
                             (unsigned long long)h.total_size, (unsigned long long)g.total_size);
    *ret = g;
    return 0;
}
