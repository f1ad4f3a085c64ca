/* bench.c - see bench.h */
#include "bench.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void bench_fail(const char *what)
{
    perror(what);
    _exit(1);
}

uint64_t bench_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void map_shared(struct bench *bench)
{
    void *memory = mmap(NULL, sizeof(struct bench_shared), PROT_READ | PROT_WRITE, MAP_SHARED,
                        bench->shared_fd, 0);
    if (memory == MAP_FAILED)
        bench_fail("mmap");
    bench->shared = memory;
}

/* First process: QUESTION COUNT. Second: QUESTION COUNT second FD [extra ...]. */
void bench_open(struct bench *bench, int argc, char **argv)
{
    memset(bench, 0, sizeof *bench);
    if (argc < 3) {
        fprintf(stderr, "usage: %s QUESTION COUNT\n", argv[0]);
        _exit(2);
    }
    bench->question = argv[1];
    bench->count = strtoull(argv[2], NULL, 10);
    if (bench->count == 0)
        bench_fail("COUNT");
    if (argc > 4) {
        bench->second = 1;
        bench->shared_fd = atoi(argv[4]);
        for (int i = 0; i < BENCH_EXTRA && 5 + i < argc; i++)
            bench->extra[i] = argv[5 + i];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    } else {
        bench->shared_fd = memfd_create("shmhub-bench", 0); /* inherited by the second process */
        if (bench->shared_fd < 0 ||
            ftruncate(bench->shared_fd, (off_t)sizeof(struct bench_shared)) < 0)
            bench_fail("memfd");
    }
    map_shared(bench);
}

void bench_start_second(struct bench *bench, const char *const *extra)
{
    char count[24], descriptor[12];
    char *argv[6 + BENCH_EXTRA];
    int used = 0;
    snprintf(count, sizeof count, "%llu", (unsigned long long)bench->count);
    snprintf(descriptor, sizeof descriptor, "%d", bench->shared_fd);
    argv[used++] = (char *)"second";
    argv[used++] = (char *)bench->question;
    argv[used++] = count;
    argv[used++] = (char *)"second";
    argv[used++] = descriptor;
    for (int i = 0; extra != NULL && i < BENCH_EXTRA && extra[i] != NULL; i++)
        argv[used++] = (char *)extra[i];
    argv[used] = NULL;
    bench->child = fork();
    if (bench->child < 0)
        bench_fail("fork");
    if (bench->child == 0) {
        execv("/proc/self/exe", argv);
        _exit(127);
    }
}

void bench_meet(struct bench *bench, uint32_t step)
{
    uint64_t left = BENCH_PATIENCE;
    atomic_fetch_add(&bench->shared->arrived, 1);
    while (atomic_load(&bench->shared->arrived) < 2 * step) {
        if (--left == 0)
            bench_fail("the other side does not come");
        bench_relax();
    }
}

void bench_join(struct bench *bench)
{
    int status = 0;
    if (waitpid(bench->child, &status, 0) < 0)
        bench_fail("waitpid");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "the second process failed (status %d)\n", status);
        _exit(1);
    }
}

void bench_print(uint64_t nanoseconds, uint64_t operations)
{
    printf("%.3f\n", (double)nanoseconds / (double)operations);
}
