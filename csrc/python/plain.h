/* plain.h - plain data to bytes (plain_write.c) and back (plain_read.c): None, bool,
 * int, float, str, bytes, bytearray, memoryview, list, tuple, dict; exactly these
 * types, nothing derived.  And, between those that trust each other anyway, numpy's
 * arrays of numbers, which a pickle would say in ten times the time.
 *
 * Knows nothing of messages.  One tag byte (below 0x80, where a pickle begins with
 * 0x80), then numbers in little-endian order:
 *
 *   N T F             None, True, False
 *   i                 int: 8 bytes        I   length u32, two's complement
 *   f                 float: 8 bytes      s   length u32, UTF-8 (lone surrogates pass)
 *   b a m             bytes, bytearray, memoryview of bytes: length u32, data
 *   M                 memoryview: format u8, dimensions u8, u64 each, length u32, data
 *   B A V             the same three, large: index u32 into the buffers beside
 *   W                 memoryview: format, dimensions, u64 each, index u32
 *   n                 ndarray: length u8 of dtype.str, it, dimensions u8, u64 each,
 *                     index u32
 *   t l d             tuple, list (count u32, items), dict (count u32, key and value)
 *
 * Decoding trusts nothing: lengths and counts are compared with what is left before
 * anything is allocated, depth is bounded, every byte must be used. */
#ifndef HUB_PYTHON_PLAIN_H
#define HUB_PYTHON_PLAIN_H

#include "state.h"

#include <string.h>

#define BND_PLAIN_DEPTH_MAX 64
#define BND_PLAIN_DIMENSIONS_MAX 16
#define BND_PLAIN_DTYPE_MAX 8 /* bytes of an array's dtype.str */

/* A dtype of plain numbers, by its str: "<f8", "|u1". */
static inline bool bnd_plain_dtype_fits(const char *text, size_t length)
{
    if (length < 3 || length > BND_PLAIN_DTYPE_MAX || memchr("<>|=", text[0], 4) == NULL ||
        memchr("biufc", text[1], 5) == NULL)
        return false;
    for (size_t i = 2; i < length; i++)
        if (text[i] < '0' || text[i] > '9')
            return false;
    return true;
}

#endif
