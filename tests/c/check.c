/* check.c - checks, watchdog and helpers of the C tests; see check.h. */
#define _GNU_SOURCE
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "children.h"
#include "service.h"

static char folder[64];
static pid_t main_process;
static char doing[160];

/* Also from a signal handler, so nothing but system calls. */
static void leave_nothing(void) {
    children_kill_all();
    if (getpid() != main_process || folder[0] == 0) return;
    /* What a failed test left in it goes as well; these are the names that tests use. */
    static const char *const names[] = {"/hub", "/other"};
    char path[96];
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        size_t length = strlen(folder);
        memcpy(path, folder, length);
        memcpy(path + length, names[i], strlen(names[i]) + 1);
        if (unlink(path) < 0) (void)rmdir(path);
    }
    (void)rmdir(folder);
}

static void time_is_up(int signal_number) {
    static const char text[] = "watchdog: the test did not end in time\n";
    (void)signal_number;
    ssize_t put = write(STDERR_FILENO, text, sizeof text - 1);
    put = write(STDERR_FILENO, doing, strlen(doing));
    put = write(STDERR_FILENO, "\n", 1);
    (void)put;
    leave_nothing();
    _exit(1);
}

void test_begin(unsigned seconds) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = time_is_up;
    (void)sigaction(SIGALRM, &action, NULL);
    main_process = getpid();
    hub_store_relaxed_32(&hub_service_lookout_off, 1);
    /* Line by line: children share the stream and must not write it twice. */
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    if (seconds > 0) test_again(test_emulated() ? 4 * seconds : seconds);
}

void test_again(unsigned seconds) { (void)alarm(seconds + TEST_STANDSTILL); }

int test_end(void) {
    int left = children_kill_all();
    leave_nothing();
    if (left > 0) {
        test_say("%d children were left running", left);
        return 1;
    }
    return 0;
}

void test_skip(const char *reason) {
    test_say("skipped: %s", reason);
    leave_nothing();
    exit(77);
}

void test_say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vprintf(format, arguments);
    va_end(arguments);
    (void)putchar('\n');
    (void)fflush(stdout);
}

void test_doing(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(doing, sizeof doing, format, arguments);
    va_end(arguments);
}

void check_failed(const char *file, int line, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    (void)fprintf(stderr, "%s:%d: %s (pid %d)%s%s\n", file, line, text, (int)getpid(),
                  doing[0] != 0 ? "; " : "", doing);
    leave_nothing();
    _exit(1);
}

void check_unsigned(const char *file, int line, const char *text, unsigned long long seen,
                    const char *relation, unsigned long long wanted, int holds) {
    if (!holds)
        check_failed(file, line, "%s is %llu (%#llx), wanted %s, which is %llu (%#llx)", text, seen,
                     seen, relation, wanted, wanted);
}

#if defined(__SANITIZE_THREAD__) || defined(__clang__)
/* Children of a host (which has a thread of its own) start threads: allowed, and meant. */
const char *__tsan_default_options(void);
__attribute__((visibility("default"))) const char *__tsan_default_options(void) {
    return "die_after_fork=0";
}
#endif

/* ---- helpers --------------------------------------------------------------------------------- */

/* splitmix64: small, and the same everywhere, so a failure can be seen again. */
uint64_t random_next(test_random *r) {
    uint64_t z = (r->state += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

uint64_t random_below(test_random *r, uint64_t below) { return random_next(r) % below; }

void *shared_memory(size_t bytes) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

void shared_memory_free(void *at, size_t bytes) { (void)munmap(at, bytes); }

void test_pause(void) {
    struct timespec pause = {0, 200000};
    (void)nanosleep(&pause, NULL);
}

int test_sanitized(void) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    return 1;
#elif defined(__has_feature)
    return __has_feature(thread_sanitizer) || __has_feature(address_sanitizer);
#else
    return 0;
#endif
}

int test_emulated(void) { return getenv("SHMHUB_C_TEST_RUNNER") != NULL; }

unsigned test_rounds(unsigned rounds) {
    return test_sanitized() || test_emulated() ? rounds / 4 + 1 : rounds;
}

int process_sleeps(pid_t pid) {
    char path[64], line[512];
    (void)snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL) return 0;
    char *got = fgets(line, sizeof line, file);
    (void)fclose(file);
    /* The state follows the name, which is in parentheses and may hold any character. */
    char *state = got != NULL ? strrchr(line, ')') : NULL;
    return state != NULL && state[1] == ' ' && state[2] == 'S';
}

unsigned open_descriptors(void) {
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir != NULL);
    unsigned count = 0;
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir))
        count += entry->d_name[0] != '.';
    (void)closedir(dir);
    return count - 1; /* without the one that looked */
}

void gate_init(gate *g) { CHECK_EQ(pipe(g->ends), 0); }

void gate_open(gate *g) {
    ssize_t put;
    do {
        put = write(g->ends[1], "", 1);
    } while (put < 0 && errno == EINTR);
    CHECK_EQ(put, 1);
}

void gate_wait(gate *g) {
    char byte;
    ssize_t got;
    do {
        got = read(g->ends[0], &byte, 1);
    } while (got < 0 && errno == EINTR);
    CHECK_EQ(got, 1);
}

void gate_fini(gate *g) {
    (void)close(g->ends[0]);
    (void)close(g->ends[1]);
}

const char *temporary_folder(void) {
    if (folder[0] == 0) {
        const char *parent = getenv("SHMHUB_TEST_FOLDER"); /* of who clears up after us */
        (void)snprintf(folder, sizeof folder, "%s/shmhub-test-XXXXXX",
                       parent != NULL ? parent : "/dev/shm");
        if (mkdtemp(folder) == NULL) {
            (void)snprintf(folder, sizeof folder, "/tmp/shmhub-test-XXXXXX");
            CHECK(mkdtemp(folder) != NULL);
        }
    }
    return folder;
}
