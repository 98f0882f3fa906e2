// A companion of the program under test: marks each private anonymous mapping that it makes.
//
// It stands before the agent's library, so the agent sees the program's call and then ours. Calls
// that change memory wait for a moment first, so that what the program wrote has been merged by
// then; a process waits for BUDGET in all. SELFTESTS_ALONE: waits, and marks nothing, as a control.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>

#define PAUSE 100  // milliseconds: two looks of the hub that the tests use
#define BUDGET 6000
#define MOST (1ul << 30) // bytes: address space that a program only reserves is not marked

#ifndef MADV_MERGEABLE
#define MADV_MERGEABLE 12
#endif

static int spent;

static int alone(void) {
    return getenv("SELFTESTS_ALONE") != NULL;
}

static void pause_once(void) {
    int before = errno;
    struct timespec moment = {.tv_nsec = PAUSE * 1000000};
    if (__atomic_add_fetch(&spent, PAUSE, __ATOMIC_RELAXED) <= BUDGET)
        nanosleep(&moment, NULL);
    errno = before;
}

// The next definition: the agent's, or libc's where there is no agent.
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void *mmap(void *addr, size_t size, int prot, int flags, int fd, off_t offset) {
    if (flags & MAP_FIXED)
        pause_once();
    void *made = NEXT(mmap)(addr, size, prot, flags, fd, offset);
    int plain = (flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) == MAP_PRIVATE;
    if (made != MAP_FAILED && plain && size <= MOST && !(flags & MAP_HUGETLB) && !alone()) {
        int before = errno;
        NEXT(madvise)(made, size, MADV_MERGEABLE);
        errno = before;
    }
    return made;
}

void *mmap64(void *addr, size_t size, int prot, int flags, int fd, off_t offset) {
    return mmap(addr, size, prot, flags, fd, offset);
}

int madvise(void *addr, size_t size, int advice) {
    pause_once();
    return NEXT(madvise)(addr, size, advice);
}

int mprotect(void *addr, size_t size, int prot) {
    pause_once();
    return NEXT(mprotect)(addr, size, prot);
}

int munmap(void *addr, size_t size) {
    pause_once();
    return NEXT(munmap)(addr, size);
}

int mlock(const void *addr, size_t size) {
    pause_once();
    return NEXT(mlock)(addr, size);
}

void *mremap(void *addr, size_t size, size_t wanted, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    void *target = va_arg(rest, void *); // whatever is there, if the flags say that it is not
    va_end(rest);
    pause_once();
    return NEXT(mremap)(addr, size, wanted, flags, target);
}
