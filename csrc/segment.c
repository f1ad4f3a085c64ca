/* segment.c - files, locks, seals and mappings of a hub's memory. */
#define _GNU_SOURCE
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "resource_limits.h"

#ifdef __linux__

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static void close_fd(int *fd) {
    if (*fd >= 0) (void)close(*fd);
    *fd = -1;
}

static void segment_zero(hub_segment *s) {
    memset(s, 0, sizeof *s);
    s->fd = s->lock_fd = -1;
}

/* ---- making one ------------------------------------------------------------ */

static int make_anonymous(hub_segment *s, hub_fault *fault) {
    int fd = memfd_create("shmhub", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) fd = memfd_create("shmhub", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return hub_fault_set(fault, errno == ENOSYS ? HUB_EUNSUPPORTED : -errno,
                             "creating an anonymous hub: memfd_create: %s", strerror(errno));
    s->fd = fd;
    return 0;
}

/* An unnamed file in the directory of `path`, so that a crash before publishing leaves nothing. */
static int make_unnamed(hub_segment *s, const char *path, hub_fault *fault) {
    char *copy = strdup(path);
    if (copy == NULL) return -ENOMEM;
    const char *folder = dirname(copy);
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int rc = 0;
    if (fd < 0)
        rc = hub_fault_set(fault, -errno, "creating a hub at '%.120s': in its folder: %s%s", path,
                           strerror(errno),
                           errno == EOPNOTSUPP || errno == EISDIR
                               ? "; choose a folder on tmpfs (/dev/shm), ext4, xfs or btrfs"
                               : "");
    free(copy);
    if (rc < 0) return rc;
    s->fd = fd;
    /* The lock lies on an open file description of its own: nobody inherits it with s->fd. */
    char self[64];
    (void)snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    s->lock_fd = open(self, O_RDWR | O_CLOEXEC);
    if (s->lock_fd < 0 || flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return hub_fault_set(fault, -errno, "creating a hub at '%.120s': locking: %s", path,
                             strerror(errno));
    s->path = strdup(path);
    if (s->path == NULL) return -ENOMEM;
    struct stat st;
    if (fstat(fd, &st) < 0) return -errno;
    s->device = (uint64_t)st.st_dev;
    s->inode = (uint64_t)st.st_ino;
    return 0;
}

static int map_whole(hub_segment *s) {
    void *at = mmap(NULL, s->geometry.total_size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (at == MAP_FAILED) return -errno;
    s->base = at;
    (void)madvise(s->base + s->geometry.data_offset,
                  s->geometry.total_size - s->geometry.data_offset, MADV_DONTDUMP);
    return 0;
}

/* Halve the room to grow; false when there is none left. */
static bool shrink_growth(hub_config *config) {
    bool changed = false;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < config->class_count; i++) {
        hub_class_config c = config->classes[i];
        uint32_t room = c.max_slots - c.slots;
        if (room > 0) {
            c.max_slots = c.slots + room / 2;
            changed = true;
        }
        if (c.max_slots > 0) config->classes[kept++] = c;
    }
    config->class_count = kept;
    return changed && kept > 0;
}

/* Size and map; where address space is limited, with less room to grow. */
static int size_and_map(hub_segment *s, const hub_config *wanted, hub_fault *fault) {
    hub_config config = *wanted;
    uint64_t space = hub_limits_address_space();
    for (;;) {
        int rc = hub_layout_compute(&config, &s->geometry, fault);
        if (rc < 0) return rc;
        uint64_t total = s->geometry.total_size;
        rc = -ENOMEM;
        /* Half the address space at most: the process has other uses for the rest. */
        if (total <= space / 2) {
            /* Before the kernel is asked: it answers with SIGXFSZ, which ends a process. */
            if (total > hub_limits_file_size())
                return hub_fault_set(fault, -EFBIG,
                                     "creating a hub of %llu bytes: RLIMIT_FSIZE is lower; raise it "
                                     "or configure fewer or smaller slots",
                                     (unsigned long long)total);
            if (ftruncate(s->fd, (off_t)total) < 0)
                return hub_fault_set(fault, -errno,
                                     "creating a hub of %llu bytes: ftruncate: %s",
                                     (unsigned long long)total, strerror(errno));
            rc = map_whole(s);
        }
        if (rc == 0) return 0;
        if (rc != -ENOMEM) return hub_fault_set(fault, rc, "creating a hub: mmap: %s", strerror(-rc));
        if (!shrink_growth(&config))
            return hub_fault_set(fault, -ENOMEM,
                                 "creating a hub: not enough address space for %llu bytes; raise "
                                 "RLIMIT_AS or configure fewer or smaller slots",
                                 (unsigned long long)total);
        s->limited = 1;
    }
}

static int back_metadata(hub_segment *s, hub_fault *fault) {
    const hub_geometry *g = &s->geometry;
    int rc = hub_segment_back(s, 0, g->blocks_offset);
    for (uint32_t i = 0; rc == 0 && i < g->class_count; i++) {
        const hub_class_geometry *c = &g->classes[i];
        if (c->slots == 0) continue;
        rc = hub_segment_back(s, c->meta_offset, (uint64_t)c->slots * sizeof(hub_slot_shm));
        if (rc == 0) rc = hub_segment_back(s, c->holders_offset, (uint64_t)c->slots * 8);
    }
    if (rc < 0)
        return hub_fault_set(fault, rc,
                             "creating a hub: no memory for its bookkeeping (%llu bytes at most); "
                             "the file system or the memory limit is full",
                             (unsigned long long)g->data_offset);
    return 0;
}

int hub_segment_create(hub_segment *s, const char *path, const hub_config *wanted,
                       hub_fault *fault) {
    segment_zero(s);
    hub_config config = *wanted;
    if (config.max_bytes == 0) {
        uint64_t memory = hub_limits_memory();
        config.max_bytes = memory / 4 > (1ULL << 20) ? memory / 4 : 1ULL << 20;
    }
    int rc = path == NULL ? make_anonymous(s, fault) : make_unnamed(s, path, fault);
    if (rc == 0) rc = size_and_map(s, &config, fault);
    if (rc == 0) rc = back_metadata(s, fault);
    if (rc == 0) {
        struct timespec now;
        (void)clock_gettime(CLOCK_REALTIME, &now);
        hub_layout_write(s->base, &s->geometry, (int32_t)getpid(),
                         (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec);
    }
    if (rc < 0) hub_segment_fini(s);
    return rc;
}

/* ---- named hubs: taking the name ------------------------------------------- */

/* Hold the lock of the hub at `path` if nobody does: its descriptor, or what is wrong. */
static int lock_stale(const char *path, hub_fault *fault) {
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        if (errno == ELOOP)
            return hub_fault_set(fault, -ELOOP, "'%.120s' is a symbolic link; a hub is never made "
                                 "or removed through one", path);
        return hub_fault_set(fault, -errno, "opening '%.120s': %s", path, strerror(errno));
    }
    struct stat ours, named;
    hub_header_shm header;
    int rc = 0;
    memset(&header, 0, sizeof header);
    if (fstat(fd, &ours) < 0) {
        rc = -errno;
    } else if (!S_ISREG(ours.st_mode) ||
               pread(fd, &header, sizeof header, 0) < (ssize_t)sizeof header ||
               header.magic.value != HUB_MAGIC) {
        rc = hub_fault_set(fault, HUB_EFORMAT, "'%.120s' exists and is not a hub; it is left alone: "
                           "remove it or choose another path", path);
    } else if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        rc = errno == EWOULDBLOCK
                 ? hub_fault_set(fault, HUB_EEXISTS, "a live hub is at '%.120s' (host pid %d)", path,
                                 header.host_pid)
                 : hub_fault_set(fault, -errno, "locking '%.120s': %s", path, strerror(errno));
    } else if (lstat(path, &named) < 0 || named.st_ino != ours.st_ino ||
               named.st_dev != ours.st_dev) {
        rc = -ENOENT; /* somebody else replaced it meanwhile: not ours to touch */
    }
    if (rc < 0) {
        (void)close(fd);
        return rc;
    }
    return fd;
}

/* Only the holder of a stale hub's lock unlinks it, and only after seeing that the name still
 * leads to it; linking never replaces. So no live hub can be unlinked by a racer. */
static int take_name(hub_segment *s, hub_fault *fault) {
    char self[64];
    (void)snprintf(self, sizeof self, "/proc/self/fd/%d", s->fd);
    for (int attempt = 0; attempt < 100; attempt++) {
        if (linkat(AT_FDCWD, self, AT_FDCWD, s->path, AT_SYMLINK_FOLLOW) == 0) return 0;
        if (errno != EEXIST)
            return hub_fault_set(fault, -errno, "creating a hub at '%.120s': %s", s->path,
                                 strerror(errno));
        int stale = lock_stale(s->path, fault);
        if (stale == -ENOENT) continue;
        if (stale < 0) return stale;
        (void)unlink(s->path);
        (void)close(stale);
    }
    return hub_fault_set(fault, HUB_EEXISTS, "creating a hub at '%.120s': others keep taking the "
                         "name", s->path);
}

int hub_segment_publish(hub_segment *s, hub_fault *fault) {
    hub_layout_publish(s->base);
    if (s->path == NULL) {
        /* Peers inherit this descriptor, and with it the position: whoever writes to it by mistake
         * (a program that is no plugin, to every descriptor it has) would write over the header.
         * At the end of a file that may not grow it gets EPERM. Nobody else uses the position. */
        if (lseek(s->fd, 0, SEEK_END) < 0)
            return hub_fault_set(fault, -errno, "positioning the hub: %s", strerror(errno));
        if (fcntl(s->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
            return hub_fault_set(fault, -errno, "sealing the hub: %s", strerror(errno));
        return 0;
    }
    int rc = take_name(s, fault);
    if (rc < 0) {
        free(s->path); /* the name is not ours: fini must not unlink it */
        s->path = NULL;
    }
    return rc;
}

void hub_segment_unlink(hub_segment *s) {
    struct stat named;
    if (s->path == NULL || s->lock_fd < 0) return;
    if (lstat(s->path, &named) == 0 && (uint64_t)named.st_ino == s->inode &&
        (uint64_t)named.st_dev == s->device)
        (void)unlink(s->path);
    close_fd(&s->lock_fd);
}

int hub_segment_unlink_if_stale(const char *path, hub_fault *fault) {
    int fd = lock_stale(path, fault);
    if (fd == HUB_EEXISTS) return 0;
    if (fd < 0) return fd;
    int rc = unlink(path) < 0 ? hub_fault_set(fault, -errno, "removing '%.120s': %s", path,
                                              strerror(errno))
                              : 1;
    (void)close(fd);
    return rc;
}

int hub_segment_locked(int fd) {
    char self[64];
    (void)snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    int other = open(self, O_RDONLY | O_CLOEXEC);
    if (other < 0) return 0;
    int held = flock(other, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    (void)close(other);
    return held;
}

/* ---- opening one ------------------------------------------------------------ */

/* Map what s->fd is, and believe it only if it is a hub. */
static int map_existing(hub_segment *s, const char *path, hub_fault *fault) {
    struct stat st;
    if (fstat(s->fd, &st) < 0)
        return hub_fault_set(fault, -errno, "opening the hub '%.120s': %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return hub_fault_set(fault, HUB_EFORMAT, "'%.120s' is not a hub: not a regular file", path);
    if ((uint64_t)st.st_size < sizeof(hub_header_shm))
        return hub_fault_set(fault, HUB_EFORMAT,
                             "'%.120s' is not a hub: %lld bytes are shorter than a header (256 bytes)",
                             path, (long long)st.st_size);
    void *at = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (at == MAP_FAILED)
        return hub_fault_set(fault, -errno, "mapping the hub '%.120s' (%lld bytes): %s%s", path,
                             (long long)st.st_size, strerror(errno),
                             errno == ENOMEM ? "; raise RLIMIT_AS" : "");
    hub_fault why = {0, ""};
    int rc = hub_layout_read(at, (uint64_t)st.st_size, &s->geometry, &why);
    if (rc < 0) {
        (void)munmap(at, (size_t)st.st_size);
        return hub_fault_set(fault, rc, "'%.60s': %.170s", path, why.text);
    }
    s->base = at;
    (void)madvise(s->base + s->geometry.data_offset,
                  s->geometry.total_size - s->geometry.data_offset, MADV_DONTDUMP);
    return 0;
}

int hub_segment_open(hub_segment *s, const char *path, hub_fault *fault) {
    segment_zero(s);
    s->fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (s->fd < 0)
        return hub_fault_set(fault, -errno, "opening the hub '%.120s': %s%s", path, strerror(errno),
                             errno == ENOENT ? " (has the host closed it, or was the descriptor "
                                               "not passed on?)"
                                             : "");
    /* Its own position, which nobody uses either: see hub_segment_publish. */
    (void)lseek(s->fd, 0, SEEK_END);
    int rc = map_existing(s, path, fault);
    if (rc == 0) {
        s->path = strdup(path);
        if (s->path == NULL) rc = -ENOMEM;
    }
    if (rc < 0) hub_segment_fini(s);
    return rc;
}

/* A write lease is given only if no other open file leads to this inode, and a mapping keeps its
 * file open. It is given back at once: who opens a hub without a host touches nothing of it. */
static bool nobody_else_has(int fd) {
    /* Were it broken meanwhile, the signal shall be one that is ignored by default. */
    if (fcntl(fd, F_SETSIG, SIGURG) < 0 || fcntl(fd, F_SETLEASE, F_WRLCK) < 0) return false;
    (void)fcntl(fd, F_SETLEASE, F_UNLCK);
    return true;
}

int hub_segment_open_stale(hub_segment *s, const char *path, bool *ret_alone, hub_fault *fault) {
    segment_zero(s);
    int fd = lock_stale(path, fault);
    if (fd < 0) return fd;
    s->fd = fd;
    bool alone = nobody_else_has(fd);
    int rc = map_existing(s, path, fault);
    if (rc < 0)
        hub_segment_fini(s);
    else
        *ret_alone = alone;
    return rc;
}

int hub_segment_view(hub_segment *s, int fd, hub_fault *fault) {
    segment_zero(s);
    struct stat st;
    if (fstat(fd, &st) < 0)
        return hub_fault_set(fault, -errno, "inspecting a hub: %s", strerror(errno));
    /* The header and the class table first: they say how much more there is. */
    uint64_t head = sizeof(hub_header_shm) + sizeof(hub_signals_shm) +
                    HUB_CLASSES_MAX * sizeof(hub_class_shm);
    unsigned char *copy = calloc(1, head);
    if (copy == NULL) return -ENOMEM;
    int rc = 0;
    ssize_t got = pread(fd, copy, head, 0);
    if (got < 0)
        rc = hub_fault_set(fault, -errno, "inspecting a hub: %s", strerror(errno));
    else
        rc = hub_layout_read(copy, (uint64_t)st.st_size < (uint64_t)got ? 0 : (uint64_t)st.st_size,
                             &s->geometry, fault);
    free(copy);
    if (rc < 0) return rc;
    s->base = calloc(1, s->geometry.data_offset);
    if (s->base == NULL) return -ENOMEM;
    uint64_t at = 0;
    while (at < s->geometry.data_offset) {
        got = pread(fd, s->base + at, s->geometry.data_offset - at, (off_t)at);
        if (got <= 0) {
            rc = hub_fault_set(fault, got < 0 ? -errno : HUB_EFORMAT, "inspecting a hub: truncated");
            hub_segment_view_fini(s);
            return rc;
        }
        at += (uint64_t)got;
    }
    s->fd = fd;
    return 0;
}

void hub_segment_view_fini(hub_segment *s) {
    free(s->base);
    segment_zero(s);
}

void hub_segment_close_fds(hub_segment *s) {
    close_fd(&s->fd);
    close_fd(&s->lock_fd);
}

void hub_segment_fini(hub_segment *s) {
    hub_segment_unlink(s);
    if (s->base != NULL) (void)munmap(s->base, s->geometry.total_size);
    s->base = NULL;
    hub_segment_close_fds(s);
    free(s->path);
    s->path = NULL;
}

/* ---- memory ------------------------------------------------------------------ */

int hub_segment_back(const hub_segment *s, uint64_t offset, uint64_t length) {
    int saved = errno, rc;
    do {
        rc = fallocate(s->fd, 0, (off_t)offset, (off_t)length) < 0 ? -errno : 0;
    } while (rc == -EINTR);
    errno = saved;
    if (rc == -ENOSPC || rc == -EDQUOT || rc == -ENOMEM) return HUB_ENOSPC;
    return rc;
}

int hub_segment_punch(const hub_segment *s, uint64_t offset, uint64_t length) {
    int saved = errno, rc;
    do {
        rc = fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                       (off_t)length) < 0
                 ? -errno
                 : 0;
    } while (rc == -EINTR);
    errno = saved;
    return rc;
}

uint64_t hub_segment_usage(const hub_segment *s) {
    int saved = errno;
    struct stat st;
    uint64_t bytes = fstat(s->fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
    errno = saved;
    return bytes;
}

void hub_segment_populate(const hub_segment *s, uint64_t offset, uint64_t length) {
    int saved = errno;
    uint64_t first = offset & ~(uint64_t)(HUB_PAGE - 1);
    (void)madvise(s->base + first, offset + length - first, MADV_POPULATE_WRITE);
    errno = saved;
}

#else /* not Linux: the format and the protocols are portable, making a hub is not yet */

int hub_segment_create(hub_segment *s, const char *path, const hub_config *config,
                       hub_fault *fault) {
    (void)path, (void)config;
    memset(s, 0, sizeof *s);
    s->fd = s->lock_fd = -1;
    return hub_fault_set(fault, HUB_EUNSUPPORTED, "creating a hub needs Linux (memfd, fallocate)");
}
int hub_segment_publish(hub_segment *s, hub_fault *fault) {
    (void)s;
    return hub_fault_set(fault, HUB_EUNSUPPORTED, "creating a hub needs Linux");
}
int hub_segment_open(hub_segment *s, const char *path, hub_fault *fault) {
    (void)path;
    memset(s, 0, sizeof *s);
    s->fd = s->lock_fd = -1;
    return hub_fault_set(fault, HUB_EUNSUPPORTED, "opening a hub needs Linux");
}
int hub_segment_view(hub_segment *s, int fd, hub_fault *fault) {
    (void)s, (void)fd;
    return hub_fault_set(fault, HUB_EUNSUPPORTED, "inspecting a hub needs Linux");
}
void hub_segment_view_fini(hub_segment *s) { (void)s; }
void hub_segment_unlink(hub_segment *s) { (void)s; }
void hub_segment_close_fds(hub_segment *s) { (void)s; }
void hub_segment_fini(hub_segment *s) { (void)s; }
int hub_segment_back(const hub_segment *s, uint64_t offset, uint64_t length) {
    (void)s, (void)offset, (void)length;
    return HUB_EUNSUPPORTED;
}
int hub_segment_punch(const hub_segment *s, uint64_t offset, uint64_t length) {
    (void)s, (void)offset, (void)length;
    return HUB_EUNSUPPORTED;
}
uint64_t hub_segment_usage(const hub_segment *s) {
    (void)s;
    return 0;
}
int hub_segment_open_stale(hub_segment *s, const char *path, bool *ret_alone, hub_fault *fault) {
    (void)s, (void)path, (void)ret_alone;
    return hub_fault_set(fault, HUB_EUNSUPPORTED, "needs Linux");
}
void hub_segment_populate(const hub_segment *s, uint64_t offset, uint64_t length) {
    (void)s, (void)offset, (void)length;
}
int hub_segment_unlink_if_stale(const char *path, hub_fault *fault) {
    (void)path;
    return hub_fault_set(fault, HUB_EUNSUPPORTED, "needs Linux");
}
int hub_segment_locked(int fd) {
    (void)fd;
    return 0;
}

#endif
