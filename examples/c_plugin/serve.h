/* serve.h - a plugin of shmhub in C: serves the calls of a host, one after the other.
 *
 * Speaks what docs/rpc-protocol.md describes, with codec "plain" and without streams, callbacks
 * and arguments by name.  Knows nothing of the methods.  A copy of serve.[ch] and a table of
 * methods make a plugin. */
#ifndef SERVE_H
#define SERVE_H

#include <stddef.h>
#include <stdint.h>

#define ARGUMENTS_MAX 8

typedef struct argument {
    char kind;           /* 'N' None, 'T' 'F' bool, 'i' int, 'f' float, 's' str, 'b' bytes-like */
    int64_t number;      /* 'i' */
    double real;         /* 'f' */
    unsigned char *data; /* 's' (UTF-8, not terminated), 'b': yours to change until you answer */
    uint64_t length;
} argument;

typedef struct call call;

/* Answers once with one of answer_*; a method that does not answers None. */
typedef struct method {
    const char *name, *signature, *doc;
    int idempotent;      /* running it twice does no harm */
    const char *takes;   /* the arguments' kinds, such as "bi" */
    void (*function)(call *, const argument *arguments);
} method;

void answer_int(call *, int64_t number);
void answer_bytes(call *, const void *data, size_t length); /* copied */
/* The same bytes that came: without a copy if they lie in shared memory. */
void answer_argument(call *, const argument *);
/* Raised at the caller, as the built-in exception `type`. */
void answer_error(call *, const char *type, const char *text);

/* Serve until the host says goodbye or is gone; the exit status. */
int serve(int argc, char **argv, const method *methods, size_t count);

#endif
