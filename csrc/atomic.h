/* atomic.h - the only file that names memory orders.
 *
 * Words in shared memory are structs around one integer, so that nothing can
 * touch them except through these functions; the order is in the function's
 * name.  Every call site names its partner.  A build with HUB_INTERLEAVE hands
 * control to a scheduler before each operation (tests/c). */
#ifndef HUB_ATOMIC_H
#define HUB_ATOMIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct hub_a32 {
    uint32_t value;
} hub_a32;
typedef struct hub_a64 {
    uint64_t value;
} hub_a64;

_Static_assert(__atomic_always_lock_free(sizeof(uint64_t), 0), "64-bit atomics must be lock free");

#ifdef HUB_INTERLEAVE
/* access: 0 a load, 1 a store, 2 a read-modify-write. */
void hub_interleave_point(const void *address, int access);
#define HUB_POINT(address, access) hub_interleave_point((address), (access))
#else
#define HUB_POINT(address, access) ((void)0)
#endif

#define HUB_DEFINE_ATOMIC(bits)                                                                   \
    static inline uint##bits##_t hub_load_relaxed_##bits(const hub_a##bits *p) {                  \
        HUB_POINT(p, 0);                                                                          \
        return __atomic_load_n(&p->value, __ATOMIC_RELAXED);                                      \
    }                                                                                             \
    static inline uint##bits##_t hub_load_acquire_##bits(const hub_a##bits *p) {                  \
        HUB_POINT(p, 0);                                                                          \
        return __atomic_load_n(&p->value, __ATOMIC_ACQUIRE);                                      \
    }                                                                                             \
    static inline void hub_store_relaxed_##bits(hub_a##bits *p, uint##bits##_t v) {               \
        HUB_POINT(p, 1);                                                                          \
        __atomic_store_n(&p->value, v, __ATOMIC_RELAXED);                                         \
    }                                                                                             \
    static inline void hub_store_release_##bits(hub_a##bits *p, uint##bits##_t v) {               \
        HUB_POINT(p, 1);                                                                          \
        __atomic_store_n(&p->value, v, __ATOMIC_RELEASE);                                         \
    }                                                                                             \
    static inline uint##bits##_t hub_exchange_acquire_##bits(hub_a##bits *p, uint##bits##_t v) {  \
        HUB_POINT(p, 2);                                                                          \
        return __atomic_exchange_n(&p->value, v, __ATOMIC_ACQUIRE);                               \
    }                                                                                             \
    static inline uint##bits##_t hub_exchange_acq_rel_##bits(hub_a##bits *p, uint##bits##_t v) {  \
        HUB_POINT(p, 2);                                                                          \
        return __atomic_exchange_n(&p->value, v, __ATOMIC_ACQ_REL);                               \
    }                                                                                             \
    static inline uint##bits##_t hub_fetch_or_acq_rel_##bits(hub_a##bits *p, uint##bits##_t v) {  \
        HUB_POINT(p, 2);                                                                          \
        return __atomic_fetch_or(&p->value, v, __ATOMIC_ACQ_REL);                                 \
    }                                                                                             \
    static inline uint##bits##_t hub_fetch_and_acq_rel_##bits(hub_a##bits *p, uint##bits##_t v) { \
        HUB_POINT(p, 2);                                                                          \
        return __atomic_fetch_and(&p->value, v, __ATOMIC_ACQ_REL);                                \
    }                                                                                             \
    static inline uint##bits##_t hub_fetch_add_acq_rel_##bits(hub_a##bits *p, uint##bits##_t v) { \
        HUB_POINT(p, 2);                                                                          \
        return __atomic_fetch_add(&p->value, v, __ATOMIC_ACQ_REL);                                \
    }                                                                                             \
    /* The failure order is acquire: every loop here looks at what it found. */                   \
    static inline bool hub_cas_acq_rel_##bits(hub_a##bits *p, uint##bits##_t *expected,           \
                                              uint##bits##_t desired) {                           \
        HUB_POINT(p, 2);                                                                          \
        return __atomic_compare_exchange_n(&p->value, expected, desired, false, __ATOMIC_ACQ_REL, \
                                           __ATOMIC_ACQUIRE);                                     \
    }

/* A byte that one process writes and others glance at; nothing is ordered by it. */
typedef struct hub_a8 {
    uint8_t value;
} hub_a8;
static inline uint8_t hub_load_relaxed_8(const hub_a8 *p) {
    HUB_POINT(p, 0);
    return __atomic_load_n(&p->value, __ATOMIC_RELAXED);
}
static inline void hub_store_relaxed_8(hub_a8 *p, uint8_t v) {
    HUB_POINT(p, 1);
    __atomic_store_n(&p->value, v, __ATOMIC_RELAXED);
}

HUB_DEFINE_ATOMIC(32)
HUB_DEFINE_ATOMIC(64)

/* ThreadSanitizer does not model fences (gcc refuses them); there a read-modify-write of one word
 * that all threads share orders the same accesses. */
#if defined(__SANITIZE_THREAD__)
#define HUB_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HUB_TSAN 1
#endif
#endif

/* Full fence between "I set mine" and "I look at yours". On x86 all but one of those who call it have
 * a locked instruction beside it, so no test there sees it missing (tests/mutants). */
static inline void hub_fence(void) {
    HUB_POINT(0, 0);
#ifdef HUB_TSAN
    static uint32_t fence_word;
    (void)__atomic_fetch_add(&fence_word, 1, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* The same, directly after a read-modify-write: on x86 that instruction was the full fence, what
 * is left is to hold the compiler. */
static inline void hub_fence_after_rmw(void) {
#if (defined(__x86_64__) || defined(__i386__)) && !defined(HUB_TSAN)
    HUB_POINT(0, 0);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
#else
    hub_fence();
#endif
}

/* Release store followed by a full fence; one xchg is cheaper than mov and mfence on x86. */
static inline void hub_store_release_then_fence_64(hub_a64 *p, uint64_t v) {
#if defined(__x86_64__) && !defined(HUB_TSAN)
    HUB_POINT(p, 1);
    (void)__atomic_exchange_n(&p->value, v, __ATOMIC_SEQ_CST);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
#else
    hub_store_release_64(p, v);
    hub_fence();
#endif
}

/* Fetch a line that is about to be changed, so that reading it first does not fetch it twice. */
static inline void hub_prefetch_for_write(const void *p) {
#if defined(__x86_64__)
    __asm__ __volatile__("prefetchw (%0)" ::"r"(p)); /* a no-op where it is not known */
#else
    __builtin_prefetch(p, 1);
#endif
}

/* Copy what another process may be changing, once: what is checked afterwards is what is used. After
 * the barrier the compiler cannot go back to `from` for a field; without it gcc does. */
static inline void hub_copy_once(void *to, const void *from, size_t size) {
    memcpy(to, from, size);
    __asm__ __volatile__("" ::: "memory");
}

/* Tell the core that this is a spin loop. */
static inline void hub_pause(void) {
    HUB_POINT(0, 0);
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

#endif
