/* A library whose constructor marks memory: it may run before the preloaded library's own. */
#define _GNU_SOURCE
#include <stddef.h>
#include <sys/mman.h>

__attribute__((constructor)) static void mark(void) {
    void *made = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made != MAP_FAILED)
        madvise(made, 1 << 20, MADV_MERGEABLE);
}
