/* fsck_dump.c - finding a hub in the core dump of one of its processes.
 *
 * An ELF core of 64 bits: a hub is mapped as a range of metadata, which is
 * dumped, and one of slot data, which is not (MADV_DONTDUMP).  The former begins
 * with the magic, and so does the segment that holds it.  Nothing in the file is
 * believed: every offset is checked against the file's size. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fsck.h"

#ifdef __linux__
#include <elf.h>

typedef struct dump {
    int fd;
    uint64_t size;
    uint64_t table, count; /* program headers */
} dump;

typedef struct dumped {
    uint64_t at, length; /* in the file */
} dumped;

static int read_at(int fd, uint64_t offset, void *into, size_t length) {
    hub_fsck_source source = {hub_fsck_read_fd, fd, NULL, false};
    return hub_fsck_read_fd(&source, offset, into, length);
}

static int open_dump(dump *d, int fd, hub_fault *fault) {
    struct stat st;
    Elf64_Ehdr header;
    if (fstat(fd, &st) < 0)
        return hub_fault_set(fault, -errno, "core dump: %s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return hub_fault_set(fault, HUB_EFORMAT, "not a core dump: not a regular file");
    d->fd = fd;
    d->size = (uint64_t)st.st_size;
    memset(&header, 0, sizeof header);
    if (d->size < sizeof header || read_at(fd, 0, &header, sizeof header) < 0 ||
        memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_ident[EI_DATA] != ELFDATA2LSB || header.e_type != ET_CORE ||
        header.e_phentsize != sizeof(Elf64_Phdr))
        return hub_fault_set(fault, HUB_EFORMAT,
                             "not a core dump of a 64-bit process (ELF, little endian)");
    d->table = header.e_phoff;
    d->count = header.e_phnum;
    if (header.e_phnum == PN_XNUM && header.e_shoff < d->size - sizeof(Elf64_Shdr)) {
        Elf64_Shdr first; /* so many segments that their count lies elsewhere */
        int rc = read_at(fd, header.e_shoff, &first, sizeof first);
        if (rc < 0) return rc;
        d->count = first.sh_info;
    }
    if (d->table > d->size || d->count > (d->size - d->table) / sizeof(Elf64_Phdr))
        return hub_fault_set(fault, HUB_EFORMAT, "truncated core dump: %llu segments announced",
                             (unsigned long long)d->count);
    return 0;
}

/* The segment number `which` of those that begin like a hub: 0, 1 if there is none, or an error. */
static int find_hub(const dump *d, uint32_t which, dumped *ret) {
    for (uint64_t i = 0; i < d->count; i++) {
        Elf64_Phdr segment;
        uint64_t magic = 0;
        int rc = read_at(d->fd, d->table + i * sizeof segment, &segment, sizeof segment);
        if (rc < 0) return rc;
        if (segment.p_type != PT_LOAD || segment.p_filesz < sizeof(hub_header_shm) ||
            segment.p_offset > d->size || segment.p_filesz > d->size - segment.p_offset)
            continue;
        rc = read_at(d->fd, segment.p_offset, &magic, sizeof magic);
        if (rc < 0) return rc;
        if (magic != HUB_MAGIC || which-- > 0) continue;
        ret->at = segment.p_offset;
        ret->length = segment.p_filesz;
        return 0;
    }
    return 1;
}

static int read_dumped(const hub_fsck_source *source, uint64_t offset, void *into,
                       size_t length) {
    const dumped *hub = source->context;
    if (offset > hub->length || length > hub->length - offset) return -ENODATA;
    return read_at(source->fd, hub->at + offset, into, length);
}

static int look_at(int fd, const dumped *hub, hub_fsck_report report, void *context,
                   hub_fsck_totals *ret, hub_fault *fault) {
    _Alignas(8) unsigned char head[sizeof(hub_header_shm) + sizeof(hub_signals_shm) +
                                   HUB_CLASSES_MAX * sizeof(hub_class_shm)];
    hub_geometry geometry;
    hub_fsck_source source = {read_dumped, fd, hub, false};
    int rc = read_dumped(&source, 0, head, sizeof head);
    if (rc == 0) {
        /* The length of the file is not in the dump: the header's word for it has to do. */
        uint64_t total = ((const hub_header_shm *)head)->total_size;
        rc = hub_layout_read(head, total < sizeof head ? 0 : total, &geometry, fault);
        if (rc < 0) return rc;
        if (geometry.data_offset > hub->length) rc = -ENODATA;
    }
    if (rc == 0) rc = hub_fsck_look(&geometry, &source, report, context, ret);
    if (rc == -ENODATA)
        return hub_fault_set(fault, HUB_EFORMAT,
                             "the hub's metadata is not whole in this core dump (%llu bytes)",
                             (unsigned long long)hub->length);
    return rc;
}

int hub_fsck_dump(int fd, uint32_t which, hub_fsck_report report, void *context,
                  hub_fsck_totals *ret, hub_fault *fault) {
    dump d = {0};
    dumped hub = {0};
    int saved = errno;
    int rc = open_dump(&d, fd, fault);
    if (rc == 0) rc = find_hub(&d, which, &hub);
    if (rc == 0)
        rc = look_at(fd, &hub, report, context, ret, fault);
    else if (rc == 1 && which == 0)
        rc = hub_fault_set(fault, HUB_EFORMAT,
                           "no hub in this core dump: its process had none mapped, or shared "
                           "memory is left out of dumps (for a named hub: set bit 3 of "
                           "/proc/PID/coredump_filter)");
    errno = saved;
    return rc;
}

#else

int hub_fsck_dump(int fd, uint32_t which, hub_fsck_report report, void *context,
                  hub_fsck_totals *ret, hub_fault *fault) {
    (void)fd, (void)which, (void)report, (void)context, (void)ret;
    return hub_fault_set(fault, HUB_EUNSUPPORTED, "core dumps of Linux only");
}

#endif
