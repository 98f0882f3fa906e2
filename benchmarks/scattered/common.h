/* What the programs in this folder share: memory with known contents, clocks, and counts of mappings. */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL

/* linux/userfaultfd.h of Linux 6.8, for older headers. */
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
struct uffdio_move {
    uint64_t dst, src, len, mode;
    int64_t move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#endif
#define OR_DIE(x) \
    ({ \
        long long r_ = (long long)(x); \
        if (r_ == -1) { \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #x, strerror(errno)); \
            exit(1); \
        } \
        r_; \
    })

/* Processor time of this process, in nanoseconds. */
static inline double cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

/* The number of mappings of this process. */
static inline long mappings(void) {
    static char buffer[1 << 16];
    int fd = OR_DIE(open("/proc/self/maps", O_RDONLY));
    long lines = 0;
    for (ssize_t got; (got = OR_DIE(read(fd, buffer, sizeof buffer))) > 0;)
        for (ssize_t i = 0; i < got; i++) lines += buffer[i] == '\n';
    close(fd);
    return lines;
}

/* Page number `n` has these bytes; no two numbers have the same. */
static inline void fill(void *page, uint64_t n) {
    uint64_t *words = page, mixed = (n + 1) * 0x9E3779B97F4A7C15ULL;
    for (int i = 0; i < 512; i++) words[i] = mixed ^ (i * 0xD1B54A32D192ED03ULL);
}

/* A permutation of 0..n-1 in which no two neighbours stay neighbours (n > 64). */
static inline uint32_t *shuffled(size_t n, unsigned seed) {
    uint32_t *order = malloc(n * sizeof *order);
    for (size_t i = 0; i < n; i++) order[i] = i;
    uint64_t state = seed * 2654435761ULL + 88172645463325252ULL;
    for (size_t i = n - 1; i > 0; i--) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        size_t j = state % (i + 1);
        uint32_t swap = order[i];
        order[i] = order[j], order[j] = swap;
    }
    return order;
}

/* A sealed memory file of `pages` stable pages; slot n holds page number n. */
static inline int slab(size_t pages) {
    int fd = OR_DIE(memfd_create("pagemerge-slab", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    char page[PAGE];
    OR_DIE(ftruncate(fd, pages * PAGE));
    for (size_t n = 0; n < pages; n++) {
        fill(page, n);
        OR_DIE(pwrite(fd, page, PAGE, n * PAGE));
    }
    OR_DIE(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
    return fd;
}

static inline char *map(size_t len, int protection, int flags, int fd, off_t offset, void *at) {
    char *made = mmap(at, len, protection, flags, fd, offset);
    if (made == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return made;
}

/* Private anonymous memory of small pages, all of them written. */
static inline char *own_memory(size_t pages, const uint32_t *numbers) {
    char *memory = map(pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, NULL);
    madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < pages; i++) fill(memory + i * PAGE, numbers ? numbers[i] : i);
    return memory;
}

static inline int userfault(uint64_t features) {
    int fd = OR_DIE(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    OR_DIE(ioctl(fd, UFFDIO_API, &api));
    return fd;
}

static inline int watch(int uffd, void *at, size_t len, uint64_t mode) {
    struct uffdio_register r = {.range = {(uintptr_t)at, len}, .mode = mode};
    return ioctl(uffd, UFFDIO_REGISTER, &r);
}

static inline int unwatch(int uffd, void *at, size_t len) {
    struct uffdio_range r = {(uintptr_t)at, len};
    return ioctl(uffd, UFFDIO_UNREGISTER, &r);
}

/* The frame of a page of this process; 0: none. Needs CAP_SYS_ADMIN. */
static inline uint64_t frame(const void *at) {
    static int fd = -1;
    if (fd < 0) fd = OR_DIE(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
    uint64_t entry = 0;
    OR_DIE(pread(fd, &entry, 8, (uintptr_t)at / PAGE * 8));
    return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0;
}

/* How many pages are not what they should be. */
static inline size_t wrong(const char *memory, size_t pages, const uint32_t *numbers) {
    char expected[PAGE];
    size_t count = 0;
    for (size_t i = 0; i < pages; i++) {
        fill(expected, numbers ? numbers[i] : i);
        count += memcmp(memory + i * PAGE, expected, PAGE) != 0;
    }
    return count;
}
