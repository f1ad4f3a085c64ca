/* fields.h - every word of a hub's metadata, by name: what a liar can write and where.
 *
 * The tables are made of offsetof and sizeof over csrc/layout.h, so a field that is added there and
 * not here leaves a gap that fields_check finds.  Knows the format, nothing of what is done to it.
 */
#ifndef FUZZ_FIELDS_H
#define FUZZ_FIELDS_H

#include "layout.h"

/* What a word means, so that lies can be made that are nearly true. */
enum fuzz_kind {
    KIND_RAW,      /* anything */
    KIND_PAD,      /* explicit padding: nobody reads it */
    KIND_SIZE,     /* bytes, or an offset in the file */
    KIND_COUNT,    /* slots, classes, peers, cells */
    KIND_FLAG,     /* 0 or 1 */
    KIND_BITS,     /* a bit a peer */
    KIND_STACK,    /* { tag:40, index:24 } */
    KIND_CTL,      /* gen, unlinked, state, owner */
    KIND_INDEX,    /* of a slot */
    KIND_PAGES,    /* backed */
    KIND_STATE,    /* { epoch:32, hub_peer_state:32 } */
    KIND_POSITION, /* of a ring */
    KIND_WANT,     /* cells waited for */
    KIND_REF,      /* class:3, index:29 */
    KIND_LENGTH,   /* of a payload */
    KIND_CELLS,    /* of a message */
    KIND_SEQUENCE
};

/* Which struct a field is in; up and down rings are told apart: other sides read them. */
enum fuzz_part {
    PART_HEADER,
    PART_SIGNALS,
    PART_CLASS,
    PART_SLOT,
    PART_HOLDERS,
    PART_PEER,
    PART_HOST_LANE,
    PART_LANE,
    PART_UP,
    PART_UP_CELL,
    PART_DOWN,
    PART_DOWN_CELL,
    PARTS
};

typedef struct fuzz_field {
    enum fuzz_part part;
    const char *name; /* "up.tail" */
    uint32_t offset;  /* in its struct */
    uint32_t size;    /* all of it */
    uint32_t width;   /* of one word: 1, 2, 4, 8 */
    enum fuzz_kind kind;
} fuzz_field;

#define FIELDS_MAX 128

/* The table, and its length. */
const fuzz_field *fields_table(unsigned *ret_count);

/* One struct somewhere in a hub: `subject` is a class, a peer id, or 0; `item` a slot or a cell. */
typedef struct fuzz_place {
    uint64_t at; /* offset in the file */
    uint32_t subject, item;
} fuzz_place;

/* How many structs of this kind a hub has, and the n-th of them. */
uint64_t fields_places(const hub_geometry *g, enum fuzz_part part);
fuzz_place fields_place(const hub_geometry *g, enum fuzz_part part, uint64_t n);
uint64_t fields_part_size(enum fuzz_part part);

/* Does the table name every byte of every struct once, and do the structs cover all of the
 * metadata but what alignment leaves free? NULL, or a sentence about the first byte that is not. */
const char *fields_check(const hub_geometry *g);

#endif
