/* seeds.h - first inputs of a coverage-guided fuzzer: files in a folder. */
#ifndef FUZZ_SEEDS_H
#define FUZZ_SEEDS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static inline void seeds_write(const char *folder, unsigned number, const void *data, size_t size) {
    char path[512];
    (void)snprintf(path, sizeof path, "%s/seed-%02u", folder, number);
    FILE *file = fopen(path, "wbe");
    if (file == NULL || fwrite(data, 1, size, file) != size || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

#endif
