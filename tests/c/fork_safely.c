/* fork_safely.c - under ASan: nobody else is inside the allocator at a fork.
 *
 * ASan's allocator of the compilers in use has no fork handlers: a child of a process with threads
 * inherits its locks as they are, and waits for ever for the one that the host's service thread
 * held.  (glibc's own has, so real hosts may fork.)  The sanitizer build links with --wrap for the
 * functions below; they make the allocator one thread's at a time, and fork waits for it.  A thread
 * allocates before its first own instruction, too: whoever creates one waits until that is over. */
#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif

#ifdef WITH_ASAN
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void __real_free(void *block);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void __wrap_free(void *block);

static pthread_mutex_t allocator = PTHREAD_MUTEX_INITIALIZER;

void *__wrap_malloc(size_t size) {
    (void)pthread_mutex_lock(&allocator);
    void *got = __real_malloc(size);
    (void)pthread_mutex_unlock(&allocator);
    return got;
}

void *__wrap_calloc(size_t count, size_t size) {
    (void)pthread_mutex_lock(&allocator);
    void *got = __real_calloc(count, size);
    (void)pthread_mutex_unlock(&allocator);
    return got;
}

void *__wrap_realloc(void *old, size_t size) {
    (void)pthread_mutex_lock(&allocator);
    void *got = __real_realloc(old, size);
    (void)pthread_mutex_unlock(&allocator);
    return got;
}

void __wrap_free(void *block) {
    (void)pthread_mutex_lock(&allocator);
    __real_free(block);
    (void)pthread_mutex_unlock(&allocator);
}

typedef struct beginning {
    void *(*body)(void *);
    void *argument;
    sem_t begun;
} beginning;

int __real_pthread_create(pthread_t *ret, const pthread_attr_t *how, void *(*body)(void *),
                          void *argument);
int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *how, void *(*body)(void *),
                          void *argument);

static void *begin(void *argument) {
    beginning b = *(beginning *)argument;
    (void)sem_post(&((beginning *)argument)->begun); /* the creator's stack from here on */
    return b.body(b.argument);
}

int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *how, void *(*body)(void *),
                          void *argument) {
    beginning b = {body, argument, {{0}}};
    (void)sem_init(&b.begun, 0, 0);
    int rc = __real_pthread_create(ret, how, begin, &b);
    while (rc == 0 && sem_wait(&b.begun) != 0) continue;
    (void)sem_destroy(&b.begun);
    return rc;
}

static void before(void) { (void)pthread_mutex_lock(&allocator); }
static void after(void) { (void)pthread_mutex_unlock(&allocator); }

/* Before the core's own handlers are registered, the first of which a constructor is, too: so it is
 * called after those at a fork, for they take locks under which others allocate. */
static __attribute__((constructor(101))) void fork_safely(void) {
    (void)pthread_atfork(before, after, after);
}
#else
typedef int nothing_to_do; /* C has no empty translation units */
#endif
