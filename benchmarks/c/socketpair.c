/* socketpair.c - 64 bytes to and fro over a blocking AF_UNIX socketpair: what a wake-up costs.
 *
 *   blocking  read and write, nothing else; not tied to cores, as a program would run
 * Nanoseconds a round trip. */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench.h"

#define PAYLOAD 64

static void move(int fd, unsigned char *payload, ssize_t (*call)(int, void *, size_t))
{
    if (call(fd, payload, PAYLOAD) != PAYLOAD)
        bench_fail("socketpair");
}

static ssize_t write_all(int fd, void *bytes, size_t length)
{
    return write(fd, bytes, length);
}

static void answer(int fd, uint64_t count)
{
    unsigned char payload[PAYLOAD];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint64_t i = 0; i < count; i++) {
        move(fd, payload, read);
        move(fd, payload, write_all);
    }
    _exit(0);
}

static void ask(int fd, uint64_t count)
{
    unsigned char payload[PAYLOAD] = {1};
    for (uint64_t i = 0; i < count; i++) {
        move(fd, payload, write_all);
        move(fd, payload, read);
    }
}

int main(int argc, char **argv)
{
    struct bench bench;
    int ends[2];
    bench_open(&bench, argc, argv);
    uint64_t warm = bench.count / 10 + 1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        bench_fail("socketpair");
    bench.child = fork();
    if (bench.child < 0)
        bench_fail("fork");
    if (bench.child == 0)
        answer(ends[1], bench.count + warm);
    close(ends[1]);
    ask(ends[0], warm);
    uint64_t begin = bench_now();
    ask(ends[0], bench.count);
    bench_print(bench_now() - begin, bench.count);
    bench_join(&bench);
    return 0;
}
