/* position.c - see position.h.  Linked with --wrap for what is called of check.h. */
#define _GNU_SOURCE
#include "position.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"

static char text[400];
static size_t length;
static unsigned limit;
static int trace;

static void tell(void) {
    ssize_t put = write(STDERR_FILENO, text, length);
    (void)put;
}

/* A core dump shows where. */
static void hung(int number) {
    static const char hangs[] = "hangs: ";
    (void)number;
    ssize_t put = write(STDERR_FILENO, hangs, sizeof hangs - 1);
    (void)put;
    tell();
    abort();
}

/* Called by ASan before it ends the program. */
void __asan_on_error(void);
__attribute__((visibility("default"))) void __asan_on_error(void) { tell(); }

_Noreturn void __real_check_failed(const char *file, int line, const char *format, ...);
_Noreturn void __wrap_check_failed(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
_Noreturn void __wrap_check_failed(const char *file, int line, const char *format, ...) {
    char why[512];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    tell();
    __real_check_failed(file, line, "%s", why);
}

void __real_check_unsigned(const char *file, int line, const char *said, unsigned long long seen,
                           const char *relation, unsigned long long wanted, int holds);
void __wrap_check_unsigned(const char *file, int line, const char *said, unsigned long long seen,
                           const char *relation, unsigned long long wanted, int holds);
void __wrap_check_unsigned(const char *file, int line, const char *said, unsigned long long seen,
                           const char *relation, unsigned long long wanted, int holds) {
    if (!holds) tell();
    __real_check_unsigned(file, line, said, seen, relation, wanted, holds);
}

void position_begin(unsigned seconds) {
    limit = seconds;
    trace = getenv("FUZZ_TRACE") != NULL;
    (void)signal(SIGALRM, hung);
}

void position_note(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(text, sizeof text - 1, format, arguments);
    va_end(arguments);
    if (n < 0) n = 0;
    if (n > (int)sizeof text - 2) n = (int)sizeof text - 2;
    text[n] = '\n';
    length = (size_t)n + 1;
    if (trace) tell();
    if (limit > 0) (void)alarm(limit + TEST_STANDSTILL);
}
