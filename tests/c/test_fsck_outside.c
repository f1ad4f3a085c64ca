/* test_fsck_outside.c - fsck of hubs that are not ours: whatever the bytes are, it neither reads out
 * of bounds nor runs for ever; live hubs of other processes, remains, core dumps. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fsck.h"
#include "stage.h"

static hub_fsck_finding last;

static void count_one(void *context, const hub_fsck_finding *finding) {
    unsigned *count = context;
    last = *finding;
    CHECK_REL(finding->kind, <, HUB_FSCK_KINDS);
    CHECK(hub_fsck_name(finding->kind)[0] != 0 && hub_fsck_meaning(finding->kind)[0] != 0);
    CHECK(memchr(finding->found, 0, sizeof finding->found) != NULL);
    *count += 1;
}

/* ---- any bytes ---------------------------------------------------------------------------- */

typedef struct picture {
    unsigned char *bytes; /* exactly the metadata: a sanitizer sees what goes beyond */
    uint64_t length;
    uint64_t reads;
} picture;

static int read_picture(const hub_fsck_source *source, uint64_t offset, void *into,
                        size_t length) {
    picture *p = (picture *)source->context;
    CHECK_LE(offset, p->length);
    CHECK_LE(length, p->length - offset);
    memcpy(into, p->bytes + offset, length);
    p->reads++;
    return 0;
}

static void whatever_the_bytes_are(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    const hub_geometry geometry = host->segment.geometry;
    unsigned char *sound = malloc(geometry.data_offset);
    picture p = {malloc(geometry.data_offset), geometry.data_offset, 0};
    CHECK(sound != NULL && p.bytes != NULL);
    CHECK_EQ(pread(hub_session_fd(host), sound, p.length, 0), p.length);
    hub_session_close(host);
    hub_session_unref(host);
    unsigned long long findings = 0;
    for (uint64_t round = 0; round < 10000; round++) {
        test_random r = {round + 1};
        hub_fsck_source source = {read_picture, -1, &p, round % 2 == 0};
        hub_fsck_totals totals;
        unsigned seen = 0;
        memcpy(p.bytes, sound, p.length);
        uint64_t words = round % 3 ? 1 + random_below(&r, 30) : p.length / 8;
        for (uint64_t n = 0; n < words; n++) {
            uint64_t at = round % 3 ? random_below(&r, p.length / 8) * 8 : n * 8;
            uint64_t word = random_below(&r, 3) ? random_next(&r) : random_below(&r, 12);
            if (random_below(&r, 3) == 0) { /* a slot, or a head */
                const hub_class_geometry *c = &geometry.classes[random_below(&r, 3)];
                at = c->meta_offset + random_below(&r, 2ULL * c->max_slots) * 8;
            }
            memcpy(p.bytes + at, &word, 8);
        }
        CHECK_OK(hub_fsck_look(&geometry, &source, count_one, &seen, &totals));
        CHECK_EQ(totals.findings, seen);
        CHECK_EQ(totals.left, seen);
        CHECK_LE(totals.slots, 8 + 4 + 2);
        findings += seen;
    }
    test_say("    10000 pictures, %llu findings, %llu reads", findings,
             (unsigned long long)p.reads);
    CHECK_REL(findings, >, 10000);
    free(p.bytes);
    free(sound);
}

/* A broken header is no hub, or a hub; never a crash. */
static void whatever_the_header_is(void) {
    const char *folder = temporary_folder();
    char path[256];
    (void)snprintf(path, sizeof path, "%s/other", folder);
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    unsigned char head[4096];
    CHECK_EQ(pread(hub_session_fd(host), head, sizeof head, 0), sizeof head);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK_GE(fd, 0);
    CHECK_OK(ftruncate(fd, (off_t)host->segment.geometry.total_size));
    unsigned refused = 0;
    for (uint64_t round = 0; round < test_rounds(2000); round++) {
        test_random r = {round + 1};
        unsigned char changed[sizeof head];
        hub_fsck_totals totals;
        hub_fault fault = {0, ""};
        unsigned seen = 0;
        memcpy(changed, head, sizeof head);
        for (uint64_t n = random_below(&r, 6); n > 0; n--)
            changed[random_below(&r, random_below(&r, 2) ? 128 : sizeof head)] =
                (unsigned char)random_next(&r);
        CHECK_EQ(pwrite(fd, changed, sizeof changed, 0), sizeof changed);
        int rc = hub_fsck(fd, count_one, &seen, &totals, &fault);
        if (rc == HUB_EFORMAT) {
            CHECK(fault.text[0] != 0);
            refused++;
        } else {
            CHECK_OK_FAULT(rc, fault);
        }
        rc = hub_fsck_repair(path, count_one, &seen, &totals, &fault);
        CHECK(rc == 0 || rc == HUB_EFORMAT);
        if (rc == 0 && totals.left > 0)
            FAIL("round %llu: left is %s, class %d, slot %d, peer %d: %s",
                 (unsigned long long)round, hub_fsck_name(last.kind), last.class_index, last.index,
                 last.peer_id, last.found);
    }
    CHECK_REL(refused, >, 0);
    CHECK_OK(close(fd));
    CHECK_OK(unlink(path));
    host_close(host);
}

/* ---- live ones ------------------------------------------------------------------------------ */

static int talk(peer_side *me) {
    hub_frame frame;
    while (hub_recv(me->transport, &frame, soon()) == 0) {
        if (frame.slot.data != NULL) CHECK_OK(hub_slot_free(me->session, &frame.slot));
        send_pattern(me->transport, frame.length, frame.message.message_id);
    }
    return 0;
}

typedef struct look_at {
    int fd;
    gate *over;
} look_at;

static int look_for_ever(void *argument) {
    look_at *at = argument;
    for (unsigned round = 0; round < test_rounds(3000); round++) {
        hub_fsck_totals totals;
        hub_fault fault = {0, ""};
        unsigned seen = 0;
        CHECK_OK_FAULT(hub_fsck(at->fd, count_one, &seen, &totals, &fault), fault);
        CHECK_EQ(seen, 0);
        CHECK_EQ(totals.live, 1);
    }
    return 0;
}

static void nothing_is_found_in_a_hub_at_work(void) {
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    peer p, victim;
    peer_start(host, &p, true, talk, NULL);
    look_at at = {hub_session_fd(host), NULL};
    pid_t looker = child_start(look_for_ever, &at);
    test_random r = {3};
    for (unsigned round = 0; round < test_rounds(1500); round++) {
        hub_frame frame;
        send_pattern(p.transport, random_below(&r, 40000), round + 1);
        receive(p.transport, &frame);
        check_pattern(host, &frame);
        frame_free(host, &frame);
        if (round % 50 == 0) { /* lives come and go */
            peer_start(host, &victim, true, talk, NULL);
            send_pattern(victim.transport, 900, 1);
            receive(victim.transport, &frame);
            peer_kill(host, &victim);
            frame_free(host, &frame);
        }
        (void)hub_session_trim(host);
    }
    child_ok(looker);
    peer_kill(host, &p);
    host_close(host);
}

/* ---- remains --------------------------------------------------------------------------------- */

typedef struct doomed {
    char path[256];
    gate ready;
} doomed;

/* A host with slots of its own, and a peer that outlives it if it is told to. */
static int be_doomed(void *argument) {
    doomed *d = argument;
    hub_config config = config_tiny();
    hub_session *host;
    hub_fault fault = {0, ""};
    CHECK_OK_FAULT(hub_host_create(d->path, &config, &host, &fault), fault);
    hub_slot slot;
    for (int i = 0; i < 3; i++) {
        CHECK_OK(hub_pool_alloc(&host->pool, 1000, &slot));
        memset(slot.data, 0xAB, 1000);
    }
    hub_link *link;
    int fd;
    CHECK_OK(hub_host_add_peer(host, "gone", &link, &fd));
    hub_store_relaxed_64(&host->pool.classes[1].meta[2].ctl, hub_ctl_make(7, HUB_RING, 999));
    hub_store_relaxed_32(&host->pool.classes[2].meta[0].next, 77);
    hub_store_relaxed_64(&hub_session_signals(host)->pool_waiters, UINT64_MAX);
    gate_open(&d->ready);
    for (;;) (void)pause();
    return 0;
}

static void check_refilled(const char *path) {
    hub_segment segment;
    hub_pool *pool = calloc(1, sizeof *pool);
    hub_slot slots[8];
    CHECK_OK(hub_segment_open(&segment, path, NULL));
    hub_pool_init(pool, &segment, 0,
                  (hub_lane_shm *)(segment.base + segment.geometry.host_lane_offset));
    static const struct { uint64_t size; uint32_t slots; } classes[] = {
        {1000, 8}, {16000, 4}, {1000000, 2}};
    for (uint32_t k = 0; k < 3; k++) {
        uint32_t count = arena_take_all(pool, classes[k].size, k, slots, 8);
        CHECK_EQ(count, classes[k].slots);
        for (uint32_t i = 0; i < count; i++)
            CHECK_OK(hub_pool_free(pool, slots[i].ref, slots[i].gen));
    }
    hub_pool_flush(pool);
    hub_pool_fini(pool);
    free(pool);
    hub_segment_fini(&segment);
}

static void remains_are_repaired_by_path(void) {
    doomed *d = shared_memory(sizeof *d);
    hub_fsck_totals totals;
    hub_fault fault = {0, ""};
    unsigned seen = 0;
    (void)snprintf(d->path, sizeof d->path, "%s/hub", temporary_folder());
    gate_init(&d->ready);
    pid_t host = child_start(be_doomed, d);
    gate_wait(&d->ready);
    CHECK_RC(hub_fsck_repair(d->path, count_one, &seen, &totals, &fault), HUB_EEXISTS);
    CHECK(strstr(fault.text, "live hub") != NULL);
    child_kill(host);
    /* Somebody looks on: a surviving peer could. Then only what nobody can have is freed. */
    int fd = open(d->path, O_RDWR | O_CLOEXEC);
    CHECK_GE(fd, 0);
    CHECK_OK_FAULT(hub_fsck(fd, count_one, &seen, &totals, &fault), fault);
    CHECK_EQ(seen, totals.left);
    CHECK_EQ(totals.findings, 3);
    CHECK_OK_FAULT(hub_fsck_repair(d->path, count_one, &seen, &totals, &fault), fault);
    CHECK_EQ(totals.live, 1);
    CHECK_EQ(totals.reclaimed, 0);
    CHECK_EQ(totals.mended, 3);
    CHECK_EQ(totals.left, 0);
    /* Nobody has it any more: everything is. */
    CHECK_OK(close(fd));
    CHECK_OK_FAULT(hub_fsck_repair(d->path, count_one, &seen, &totals, &fault), fault);
    CHECK_EQ(totals.live, 0);
    CHECK_EQ(totals.reclaimed, 3);
    CHECK_EQ(totals.left, 0);
    CHECK_EQ(totals.off_list, 0);
    check_refilled(d->path);
    /* It is still the remains of a hub, and a new host takes the name. */
    hub_config config = config_tiny();
    hub_session *next;
    CHECK_OK_FAULT(hub_host_create(d->path, &config, &next, &fault), fault);
    host_close(next);
    gate_fini(&d->ready);
}

/* ---- core dumps ------------------------------------------------------------------------------ */

typedef struct core_file {
    Elf64_Ehdr header;
    Elf64_Phdr segments[3];
    unsigned char memory[];
} core_file;

/* As the kernel writes it: a note, something else's memory, the hub's metadata and not its data. */
static core_file *make_core(const unsigned char *metadata, uint64_t length, size_t *ret_size) {
    *ret_size = sizeof(core_file) + 4096 + length;
    core_file *core = calloc(1, *ret_size);
    CHECK(core != NULL);
    memcpy(core->header.e_ident, ELFMAG, SELFMAG);
    core->header.e_ident[EI_CLASS] = ELFCLASS64;
    core->header.e_ident[EI_DATA] = ELFDATA2LSB;
    core->header.e_type = ET_CORE;
    core->header.e_phoff = offsetof(core_file, segments);
    core->header.e_phentsize = sizeof(Elf64_Phdr);
    core->header.e_phnum = 3;
    core->segments[0].p_type = PT_NOTE;
    core->segments[1].p_type = PT_LOAD;
    core->segments[1].p_offset = sizeof *core;
    core->segments[1].p_filesz = 4096;
    core->segments[2].p_type = PT_LOAD;
    core->segments[2].p_offset = sizeof *core + 4096;
    core->segments[2].p_filesz = length;
    memcpy(core->memory + 4096, metadata, length);
    return core;
}

static int fsck_core(int fd, const core_file *core, size_t size, uint32_t which,
                     hub_fsck_totals *ret, hub_fault *fault) {
    unsigned seen = 0;
    CHECK_OK(ftruncate(fd, 0));
    CHECK_EQ(pwrite(fd, core, size, 0), size);
    return hub_fsck_dump(fd, which, count_one, &seen, ret, fault);
}

static void core_dumps_are_read(void) {
    char path[256];
    (void)snprintf(path, sizeof path, "%s/other", temporary_folder());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK_GE(fd, 0);
    hub_config config = config_tiny();
    hub_session *host = host_open(&config);
    uint64_t length = host->segment.geometry.data_offset;
    unsigned char *metadata = malloc(length);
    hub_store_relaxed_32(&host->pool.classes[0].meta[1].backed, 999);
    CHECK_EQ(pread(hub_session_fd(host), metadata, length, 0), length);
    size_t size;
    core_file *core = make_core(metadata, length, &size);
    hub_fsck_totals totals;
    hub_fault fault = {0, ""};
    CHECK_OK_FAULT(fsck_core(fd, core, size, 0, &totals, &fault), fault);
    CHECK_EQ(totals.findings, 1);
    CHECK_EQ(totals.slots, 14);
    CHECK_RC(fsck_core(fd, core, size, 1, &totals, &fault), 1);
    CHECK_RC(fsck_core(fd, core, sizeof(Elf64_Ehdr), 0, &totals, &fault), HUB_EFORMAT);
    CHECK_RC(fsck_core(fd, core, size - length / 2, 0, &totals, &fault), HUB_EFORMAT);
    memset(core->memory + 4096, 0, 8);
    CHECK_RC(fsck_core(fd, core, size, 0, &totals, &fault), HUB_EFORMAT);
    CHECK(strstr(fault.text, "no hub") != NULL);
    memcpy(core->memory + 4096, metadata, 8);
    for (uint64_t round = 0; round < test_rounds(3000); round++) {
        test_random r = {round + 1};
        core_file *changed = malloc(size);
        memcpy(changed, core, size);
        for (uint64_t n = 1 + random_below(&r, 4); n > 0; n--)
            ((unsigned char *)changed)[random_below(&r, random_below(&r, 2) ? sizeof *core
                                                                             : size)] =
                (unsigned char)random_next(&r);
        int rc = fsck_core(fd, changed, size, (uint32_t)random_below(&r, 2), &totals, &fault);
        CHECK(rc == 0 || rc == 1 || rc == HUB_EFORMAT || rc == -EINVAL);
        free(changed);
    }
    free(core);
    free(metadata);
    CHECK_OK(close(fd));
    CHECK_OK(unlink(path));
    hub_session_close(host);
    hub_session_unref(host);
}

int main(void) {
    test_begin(280);
    (void)temporary_folder();
    RUN(whatever_the_bytes_are);
    RUN(whatever_the_header_is);
    RUN(nothing_is_found_in_a_hub_at_work);
    RUN(remains_are_repaired_by_path);
    RUN(core_dumps_are_read);
    return test_end();
}
