/* cover_layout.c - libFuzzer: what somebody finds who opens a file that says it is a hub.
 *
 * The input is the beginning of the file; its length is what the header says, or what the input
 * says. Opening, viewing and inspecting refuse it with a sentence, or give a geometry that lies
 * within the file. FUZZ_SEEDS=folder writes the first inputs there: true headers. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "seeds.h"
#include "session.h"

#define HEAD \
    (sizeof(hub_header_shm) + sizeof(hub_signals_shm) + HUB_CLASSES_MAX * sizeof(hub_class_shm))
#define FILE_MOST (64ULL << 20) /* longer ones are read, not made: inspecting copies the metadata */

#define DEMAND(condition) \
    do {                  \
        if (!(condition)) abort(); \
    } while (0)

static void demand_sound(const hub_geometry *g, uint64_t file_size) {
    DEMAND(g->total_size == file_size && g->data_offset < g->total_size);
    DEMAND(g->class_count >= 1 && g->class_count <= HUB_CLASSES_MAX);
    DEMAND(g->max_peers >= 2 && g->max_peers <= HUB_PEERS_MAX);
    DEMAND(g->ring_capacity >= 8 && (g->ring_capacity & (g->ring_capacity - 1)) == 0);
    DEMAND(hub_block_offset(g, g->max_peers - 1) + g->block_stride <= g->data_offset);
    for (uint32_t k = 0; k < g->class_count; k++) {
        const hub_class_geometry *c = &g->classes[k];
        DEMAND(c->slots <= c->max_slots && c->max_slots <= HUB_SLOTS_MAX);
        DEMAND(c->meta_offset + (uint64_t)c->max_slots * sizeof(hub_slot_shm) <= g->data_offset);
        DEMAND(c->holders_offset + (uint64_t)c->max_slots * 8 <= g->data_offset);
        DEMAND(c->data_offset >= g->data_offset && c->slot_stride >= c->slot_size);
        DEMAND(c->data_offset + (uint64_t)c->max_slots * c->slot_stride <= g->total_size);
    }
}

static void open_as_a_file(const unsigned char *head, uint64_t size) {
    char path[64];
    hub_fault fault = {0, ""};
    hub_session *session;
    int fd = memfd_create("mutated", MFD_CLOEXEC);
    DEMAND(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    uint64_t length = size < HEAD ? size : HEAD;
    DEMAND(pwrite(fd, head, length, 0) == (ssize_t)length);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int rc = hub_peer_open(path, 1, &session, &fault);
    DEMAND(rc == 0 || fault.text[0] != 0);
    if (rc == 0) {
        demand_sound(&session->segment.geometry, size);
        hub_session_close(session);
        hub_session_unref(session);
    }
    hub_inspection *look = malloc(sizeof *look);
    DEMAND(look != NULL);
    (void)hub_inspect(fd, look, &fault);
    free(look);
    (void)close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 8) return 0;
    unsigned char *head = calloc(1, HEAD); /* its end is where ASan watches */
    DEMAND(head != NULL);
    uint64_t file_size;
    memcpy(&file_size, data, 8);
    data += 8;
    size -= 8;
    memcpy(head, data, size < HEAD ? size : HEAD);
    if (file_size == 0) file_size = ((const hub_header_shm *)head)->total_size;
    hub_geometry g;
    hub_fault fault = {0, ""};
    /* Only what is there may be looked at: a short file in a short block. */
    unsigned char *exact = malloc(file_size < HEAD ? (size_t)file_size + 1 : HEAD);
    DEMAND(exact != NULL);
    memcpy(exact, head, file_size < HEAD ? file_size : HEAD);
    int rc = hub_layout_read(exact, file_size, &g, &fault);
    DEMAND(rc == 0 || fault.text[0] != 0);
    if (rc == 0) demand_sound(&g, file_size);
    free(exact);
    if (file_size <= FILE_MOST) open_as_a_file(head, file_size);
    free(head);
    return 0;
}

static void write_seed(const char *folder, unsigned number, const hub_config *config) {
    hub_geometry g;
    unsigned char input[8 + HEAD];
    memset(input, 0, sizeof input);
    if (hub_layout_compute(config, &g, NULL) < 0) return;
    hub_layout_write(input + 8, &g, 1, 1);
    hub_layout_publish(input + 8);
    seeds_write(folder, number, input, sizeof input);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *folder = getenv("FUZZ_SEEDS");
    hub_config config;
    (void)argc, (void)argv;
    if (folder == NULL) return 0;
    hub_config_default(&config);
    config.max_bytes = 1 << 30;
    write_seed(folder, 0, &config);
    for (uint32_t classes = 1; classes <= 4; classes++) { /* small enough to be made as files */
        config.class_count = classes;
        config.max_peers = 1 + classes;
        config.ring_capacity = 8u << classes;
        for (uint32_t k = 0; k < classes; k++) {
            config.classes[k].slots = k;
            config.classes[k].max_slots = 2 + k;
        }
        write_seed(folder, classes, &config);
    }
    exit(0);
}
