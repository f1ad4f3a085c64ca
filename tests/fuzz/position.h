/* position.h - where a fuzzer is: said before any failed check, sanitizer report or hang, so that
 * it can be gone to again. */
#ifndef FUZZ_POSITION_H
#define FUZZ_POSITION_H

/* From here on each step must be over within that many seconds. */
void position_begin(unsigned seconds);
/* The next step: what it is. Kept, not printed (FUZZ_TRACE=1 prints each). */
void position_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
