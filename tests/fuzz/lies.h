/* lies.h - what a liar writes into a word: random values, and values that are nearly true. */
#ifndef FUZZ_LIES_H
#define FUZZ_LIES_H

#include "check.h"
#include "fields.h"

/* One word to be changed. */
typedef struct fuzz_word {
    const fuzz_field *field;
    unsigned number; /* of the field in the table */
    fuzz_place place;
    uint64_t at; /* offset in the file */
} fuzz_word;

/* A word of that field in that place; of an array any element. */
fuzz_word lies_word(test_random *r, unsigned field, fuzz_place place);
uint64_t lies_read(const unsigned char *base, const fuzz_word *word);
void lies_write(unsigned char *base, const fuzz_word *word, uint64_t value);
/* Another value than it has now. `base`: of the hub, to steal true values from. */
uint64_t lies_value(test_random *r, const hub_geometry *g, const unsigned char *base,
                    const fuzz_word *word);

#endif
