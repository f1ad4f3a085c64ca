/* lies.c - see lies.h. */
#include "lies.h"

#include <string.h>

fuzz_word lies_word(test_random *r, unsigned field, fuzz_place place) {
    unsigned count;
    const fuzz_field *f = &fields_table(&count)[field];
    uint64_t element = random_below(r, f->size / f->width);
    return (fuzz_word){f, field, place, place.at + f->offset + element * f->width};
}

/* Atomically, as wide as the word is: what others read is the old value or the lie. */
uint64_t lies_read(const unsigned char *base, const fuzz_word *w) {
    const void *at = base + w->at;
    switch (w->field->width) {
    case 1: return __atomic_load_n((const uint8_t *)at, __ATOMIC_RELAXED);
    case 2: return __atomic_load_n((const uint16_t *)at, __ATOMIC_RELAXED);
    case 4: return __atomic_load_n((const uint32_t *)at, __ATOMIC_RELAXED);
    default: return __atomic_load_n((const uint64_t *)at, __ATOMIC_RELAXED);
    }
}

void lies_write(unsigned char *base, const fuzz_word *w, uint64_t value) {
    void *at = base + w->at;
    switch (w->field->width) {
    case 1: __atomic_store_n((uint8_t *)at, (uint8_t)value, __ATOMIC_RELEASE); break;
    case 2: __atomic_store_n((uint16_t *)at, (uint16_t)value, __ATOMIC_RELEASE); break;
    case 4: __atomic_store_n((uint32_t *)at, (uint32_t)value, __ATOMIC_RELEASE); break;
    default: __atomic_store_n((uint64_t *)at, value, __ATOMIC_RELEASE); break;
    }
}

static uint64_t one_of(test_random *r, const uint64_t *values, size_t count) {
    return values[random_below(r, count)];
}
#define ONE_OF(...)                                                        \
    one_of(r, (const uint64_t[]){__VA_ARGS__},                             \
           sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static uint64_t some_index(test_random *r, const hub_geometry *g, const fuzz_word *w) {
    uint64_t slots = g->classes[w->place.subject % g->class_count].max_slots;
    return ONE_OF(random_below(r, slots), random_below(r, slots), w->place.item, 0, slots - 1,
                  slots, slots + 1, HUB_INDEX_NONE, HUB_INDEX_NONE - 1, 0x7FFFFFFF, 0xFFFFFFFF);
}

/* Near: off by one, by a lap, by a power of two, at the other side's counter, anywhere. */
static uint64_t some_position(test_random *r, const hub_geometry *g, const unsigned char *base,
                              const fuzz_word *w, uint64_t now) {
    const hub_ring_shm *ring = (const void *)(base + w->place.at);
    uint64_t other = w->field->offset == offsetof(hub_ring_shm, tail) ? ring->head.value
                                                                      : ring->tail.value;
    uint64_t step = ONE_OF(1, 1, 2, 5, g->ring_capacity - 1, g->ring_capacity, g->ring_capacity + 1,
                           2 * g->ring_capacity, 1ULL << 31, 1ULL << 32, 1ULL << 40, 1ULL << 63);
    return ONE_OF(now + step, now - step, other + step, other - step, other, 0, UINT64_MAX);
}

static uint64_t some_ctl(test_random *r, const hub_geometry *g, uint64_t now) {
    uint32_t gen = hub_ctl_gen(now) + (uint32_t)ONE_OF(0, 0, 0, 1, UINT32_MAX, random_next(r));
    uint32_t state = (uint32_t)ONE_OF(0, 1, 2, 3, 4, 0x7F);
    uint32_t owner = (uint32_t)ONE_OF(0, random_below(r, g->max_peers),
                                      random_below(r, 2 * g->max_peers), g->max_peers, 0xFFFF);
    uint64_t ctl = hub_ctl_make(gen, state, owner);
    if (random_below(r, 2)) ctl |= HUB_CTL_UNLINKED;
    if (random_below(r, 8) == 0) ctl |= random_below(r, 256) << 24; /* the spare bits */
    return random_below(r, 4) == 0 ? now ^ HUB_CTL_UNLINKED : ctl;
}

static uint64_t some_length(test_random *r, const hub_geometry *g) {
    uint64_t size = g->classes[random_below(r, g->class_count)].slot_size;
    return ONE_OF(0, 1, 16, 17, 64, 65, 240, 241, size, size + 1, size - 1, HUB_PAGE, HUB_PAGE + 1,
                  1ULL << 32, 1ULL << 63, UINT64_MAX, random_below(r, size));
}

static uint64_t plausible(test_random *r, const hub_geometry *g, const unsigned char *base,
                          const fuzz_word *w, uint64_t now) {
    switch (w->field->kind) {
    case KIND_SIZE:
        return ONE_OF(0, 1, now + 1, now - 1, now + 64, now - 64, now + HUB_PAGE, now - HUB_PAGE,
                      now * 2, now / 2, g->data_offset, g->total_size, 1ULL << 32, 1ULL << 63);
    case KIND_COUNT:
        return ONE_OF(0, 1, now + 1, now - 1, now * 2, now / 2, 2, 8, 9, 64, 65, HUB_SLOTS_MAX,
                      HUB_SLOTS_MAX + 1, 0x80000000, 0xFFFFFFFF);
    case KIND_FLAG: return ONE_OF(0, 1, 2, 0x80, 0xFF, 0xFFFFFFFF);
    case KIND_BITS:
        return ONE_OF(0, UINT64_MAX, now ^ (1ULL << random_below(r, 64)),
                      now | 1ULL << random_below(r, g->max_peers),
                      now & ~(1ULL << random_below(r, g->max_peers)), 1ULL << random_below(r, 64),
                      ~(1ULL << random_below(r, 64)));
    case KIND_STACK:
        return ONE_OF(now >> 24, now >> 24, (now >> 24) + 1, (now >> 24) - 1, 0, 0xFFFFFFFFFF)
                   << 24 |
               (some_index(r, g, w) & 0xFFFFFF);
    case KIND_CTL: return some_ctl(r, g, now);
    case KIND_INDEX: return some_index(r, g, w);
    case KIND_PAGES:
        return ONE_OF(0, 1, 2, now + 1, now - 1, 4, 255, 256, 257, 1ULL << 20, 1ULL << 31,
                      0xFFFFFFFF);
    case KIND_STATE:
        return hub_state_make(hub_state_epoch(now) + (uint32_t)ONE_OF(0, 0, 0, 0, 1, UINT32_MAX),
                              (uint32_t)ONE_OF(random_below(r, 12), random_below(r, 12),
                                               0xFFFFFFFF));
    case KIND_POSITION: return some_position(r, g, base, w, now);
    case KIND_WANT:
        return ONE_OF(0, 1, 2, 5, g->ring_capacity, g->ring_capacity + 1, 0x80000000, 0xFFFFFFFF);
    case KIND_REF: {
        uint32_t k = (uint32_t)random_below(r, HUB_CLASSES_MAX);
        uint64_t slots = g->classes[k % g->class_count].max_slots;
        return ONE_OF(HUB_REF_NONE, hub_ref_make(k, (uint32_t)random_below(r, slots)),
                      hub_ref_make(k, (uint32_t)slots), hub_ref_make(k, 0x1FFFFFFF), now + 1,
                      now ^ (1ULL << 29));
    }
    case KIND_LENGTH: return some_length(r, g);
    case KIND_CELLS: return ONE_OF(0, 1, 2, 3, 4, 5, 6, 16, 17, 0x8000, 0xFFFF);
    case KIND_SEQUENCE:
        return ONE_OF(now + 1, now - 1, now + g->ring_capacity, now - g->ring_capacity, 0);
    default: return ONE_OF(0, 1, now + 1, now - 1, 1ULL << 31, 1ULL << 63, UINT64_MAX);
    }
}

uint64_t lies_value(test_random *r, const hub_geometry *g, const unsigned char *base,
                    const fuzz_word *w) {
    uint64_t now = lies_read(base, w), value;
    unsigned bits = w->field->width * 8;
    uint64_t mask = bits == 64 ? UINT64_MAX : (1ULL << bits) - 1;
    do {
        uint64_t how = random_below(r, 8);
        if (how == 0)
            value = random_next(r);
        else if (how == 1)
            value = now ^ (1ULL << random_below(r, bits));
        else
            value = plausible(r, g, base, w, now);
        value &= mask;
    } while (value == now);
    return value;
}
