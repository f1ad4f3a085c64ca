/* plugin.c - what this plugin offers; serve.c does the rest. */
#include "serve.h"

#include <string.h>

/* A large image never moves: what the host wrote is changed in place and handed back. */
static void invert(call *c, const argument *arguments)
{
    for (uint64_t i = 0; i < arguments[0].length; i++)
        arguments[0].data[i] = (unsigned char)~arguments[0].data[i];
    answer_argument(c, &arguments[0]);
}

static void count(call *c, const argument *arguments)
{
    int64_t byte = arguments[1].number, found = 0;
    if (byte < 0 || byte > 255) {
        answer_error(c, "ValueError", "a byte is a number from 0 to 255");
        return;
    }
    for (uint64_t i = 0; i < arguments[0].length; i++)
        found += arguments[0].data[i] == byte;
    answer_int(c, found);
}

static void repeat(call *c, const argument *arguments)
{
    unsigned char data[4096];
    const int64_t most = sizeof data, times = arguments[1].number;
    const uint64_t length = arguments[0].length;
    if (times < 0 || times > most || length > (uint64_t)(times > 0 ? most / times : most)) {
        answer_error(c, "OverflowError", "that is more than 4096 bytes");
        return;
    }
    for (int64_t i = 0; i < times; i++)
        memcpy(data + (uint64_t)i * length, arguments[0].data, length);
    answer_bytes(c, data, (size_t)times * length);
}

static const method METHODS[] = {
    {"invert", "(pixels: bytes) -> bytes", "Each byte's complement.", 1, "b", invert},
    {"count", "(data: bytes, byte: int) -> int", "How often a byte occurs.", 1, "bi", count},
    {"repeat", "(data: bytes, times: int) -> bytes", "The data several times.", 1, "bi", repeat},
};

int main(int argc, char **argv)
{
    return serve(argc, argv, METHODS, sizeof METHODS / sizeof *METHODS);
}
