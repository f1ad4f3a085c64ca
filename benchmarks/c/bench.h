/* bench.h - what the C questions share: a clock, a second process, a place that both see.
 *
 * Every program is called as `program QUESTION COUNT` and prints nanoseconds an operation. Where
 * two processes take part, the second is the same program, started with the shared memory's
 * descriptor. Nobody is tied to a core: shmhub decides by the cores a process may use whether to
 * spin, and two that never sleep get a core each from the kernel. */
#ifndef BENCH_H
#define BENCH_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#define BENCH_REFS 256u          /* of the ring of references, a power of two */
#define BENCH_SLOTS 1024u        /* of the bare stack */
#define BENCH_EXTRA 4            /* further arguments for the second process */
#define BENCH_NONE UINT32_MAX
#define BENCH_PATIENCE (1ull << 34) /* spins before a side gives up: the other is gone */

#if defined(__x86_64__) || defined(__i386__)
#define bench_relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define bench_relax() __asm__ __volatile__("yield")
#else
#define bench_relax() ((void)0)
#endif

/* A bare ring of references: how an index gets to the other side, the same for every allocator. */
struct bench_refs {
    _Alignas(64) _Atomic uint64_t tail;
    uint64_t head_seen; /* the producer's */
    _Alignas(64) _Atomic uint64_t head;
    uint64_t tail_seen; /* the consumer's */
    _Alignas(64) uint64_t cells[BENCH_REFS];
};

/* A bare Treiber stack: head { tag:40, index:24 }, links beside it; no owner, no recovery. */
struct bench_stack {
    _Alignas(64) _Atomic uint64_t head;
    _Alignas(64) struct {
        _Atomic uint32_t next;
        uint32_t pad[3]; /* as far apart as shmhub's slot metas */
    } slots[BENCH_SLOTS];
};

struct bench_shared {
    _Alignas(64) _Atomic uint32_t arrived; /* barrier */
    _Alignas(64) _Atomic uint64_t word;    /* the spinning word */
    _Alignas(64) _Atomic uint64_t word_back;
    struct bench_refs refs;
    struct bench_stack stack;
};

struct bench {
    const char *question;
    uint64_t count;
    int second;                /* this is the second process */
    struct bench_shared *shared;
    int shared_fd;
    const char *extra[BENCH_EXTRA]; /* in the second process: what the first handed down */
    pid_t child;
};

void bench_fail(const char *what);
uint64_t bench_now(void);
/* Understand the command line; maps the shared memory (made by the first process). */
void bench_open(struct bench *bench, int argc, char **argv);
/* Start the second process with up to BENCH_EXTRA further arguments (NULL: none). */
void bench_start_second(struct bench *bench, const char *const *extra);
/* Both sides wait here for each other; `step` counts 1, 2, ... in each program. */
void bench_meet(struct bench *bench, uint32_t step);
/* Wait for the second process; fails if it failed. */
void bench_join(struct bench *bench);
void bench_print(uint64_t nanoseconds, uint64_t operations);

/* Operations of the bare parts, inlined as an allocator's would be. */
static inline void bench_refs_put(struct bench_refs *refs, uint64_t ref)
{
    uint64_t tail = atomic_load_explicit(&refs->tail, memory_order_relaxed);
    uint64_t left = BENCH_PATIENCE;
    while (tail - refs->head_seen >= BENCH_REFS) {
        refs->head_seen = atomic_load_explicit(&refs->head, memory_order_acquire);
        if (tail - refs->head_seen < BENCH_REFS)
            break;
        if (--left == 0)
            bench_fail("the other side does not take");
        bench_relax();
    }
    refs->cells[tail % BENCH_REFS] = ref;
    atomic_store_explicit(&refs->tail, tail + 1, memory_order_release);
}

static inline uint64_t bench_refs_take(struct bench_refs *refs)
{
    uint64_t head = atomic_load_explicit(&refs->head, memory_order_relaxed);
    uint64_t left = BENCH_PATIENCE;
    while (refs->tail_seen == head) {
        refs->tail_seen = atomic_load_explicit(&refs->tail, memory_order_acquire);
        if (refs->tail_seen != head)
            break;
        if (--left == 0)
            bench_fail("the other side does not give");
        bench_relax();
    }
    uint64_t ref = refs->cells[head % BENCH_REFS];
    atomic_store_explicit(&refs->head, head + 1, memory_order_release);
    return ref;
}

#define BENCH_INDEX_BITS 24
#define BENCH_INDEX_MASK ((1ull << BENCH_INDEX_BITS) - 1)
#define BENCH_TAG_ONE (1ull << BENCH_INDEX_BITS)

static inline uint32_t bench_stack_pop(struct bench_stack *stack)
{
    uint64_t head = atomic_load_explicit(&stack->head, memory_order_acquire);
    for (;;) {
        uint64_t index = head & BENCH_INDEX_MASK;
        if (index == BENCH_INDEX_MASK)
            return BENCH_NONE;
        uint64_t next = atomic_load_explicit(&stack->slots[index].next, memory_order_relaxed);
        uint64_t wanted = ((head & ~BENCH_INDEX_MASK) + BENCH_TAG_ONE) | (next & BENCH_INDEX_MASK);
        if (atomic_compare_exchange_weak_explicit(&stack->head, &head, wanted,
                                                  memory_order_acquire, memory_order_acquire))
            return (uint32_t)index;
    }
}

static inline void bench_stack_push(struct bench_stack *stack, uint32_t index)
{
    uint64_t head = atomic_load_explicit(&stack->head, memory_order_relaxed);
    for (;;) {
        atomic_store_explicit(&stack->slots[index].next, (uint32_t)(head & BENCH_INDEX_MASK),
                              memory_order_relaxed);
        uint64_t wanted = ((head & ~BENCH_INDEX_MASK) + BENCH_TAG_ONE) | index;
        if (atomic_compare_exchange_weak_explicit(&stack->head, &head, wanted,
                                                  memory_order_release, memory_order_relaxed))
            return;
    }
}

static inline void bench_stack_fill(struct bench_stack *stack)
{
    atomic_store(&stack->head, BENCH_INDEX_MASK);
    for (uint32_t index = BENCH_SLOTS; index-- > 0;)
        bench_stack_push(stack, index);
}

#endif
