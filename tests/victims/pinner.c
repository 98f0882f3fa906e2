/* Writes that arrive late in pages that may be merged meanwhile.
 *
 *   pinner
 *       maps pages of few contents, marks them, and says "ready PID ADDRESS". Then it answers lines:
 *       "merged" with how many pages map a slab; "fill PAGE VALUE" and "check PAGE VALUE" with "ok" or
 *       "wrong": all bytes of a page are VALUE.
 *   pinner write PID ADDRESS VALUE
 *       writes a page of that process by process_vm_writev(2). Its source comes with the next line of
 *       stdin only: until then the page is pinned. Says "pinned" before, and "written" afterwards. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 512, KINDS = 8 };

static unsigned char *map(size_t pages) {
    void *made = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return made == MAP_FAILED ? NULL : made;
}

static unsigned long merged(const unsigned char *base) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[1024];
    unsigned long found = 0, start, end, first = (uintptr_t)base, last = first + PAGES * (size_t)PAGE;
    while (maps && fgets(line, sizeof line, maps)) {
        if (!strstr(line, "pagemerge-slab") || sscanf(line, "%lx-%lx", &start, &end) != 2)
            continue;
        start = start < first ? first : start;
        end = end > last ? last : end;
        found += end > start ? (end - start) / PAGE : 0;
    }
    if (maps)
        fclose(maps);
    return found;
}

static int target(void) {
    unsigned char *base = map(PAGES);
    char line[256], what[16];
    unsigned page, value;
    if (!base)
        return 1;
    for (size_t page = 0; page < PAGES; page++)
        memset(base + page * PAGE, 'a' + page % KINDS, PAGE);
    if (madvise(base, PAGES * (size_t)PAGE, MADV_MERGEABLE))
        return 1;
    printf("ready %d %lx\n", getpid(), (unsigned long)base);
    while (fgets(line, sizeof line, stdin)) {
        int words = sscanf(line, "%15s %u %u", what, &page, &value);
        if (words == 1 && !strcmp(what, "merged")) {
            printf("%lu\n", merged(base));
        } else if (words == 3 && page < PAGES && !strcmp(what, "fill")) {
            memset(base + page * (size_t)PAGE, (int)value, PAGE);
            puts("ok");
        } else if (words == 3 && page < PAGES) {
            const unsigned char *bytes = base + page * (size_t)PAGE;
            int wrong = 0;
            for (int at = 0; at < PAGE; at++)
                wrong |= bytes[at] != value;
            puts(wrong ? "wrong" : "ok");
        }
    }
    return 0;
}

static struct late {
    pid_t pid;
    void *there;
    unsigned char *source;
    ssize_t done;
} late;

static void *write_late(void *none) {
    struct iovec from = {late.source, PAGE}, to = {late.there, PAGE};
    late.done = process_vm_writev(late.pid, &from, 1, &to, 1, 0);
    return none;
}

static int writer(char **argv) {
    unsigned char *bytes = map(1);
    struct uffdio_api api = {.api = UFFD_API};
    int watch = syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffd_msg fault;
    pthread_t thread;
    late.pid = atoi(argv[0]);
    late.there = (void *)strtoul(argv[1], NULL, 16);
    late.source = map(1);
    if (!bytes || !late.source || watch < 0 || ioctl(watch, UFFDIO_API, &api))
        return 77;
    struct uffdio_register range = {.range = {(uintptr_t)late.source, PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    memset(bytes, atoi(argv[2]), PAGE);
    if (ioctl(watch, UFFDIO_REGISTER, &range) || pthread_create(&thread, NULL, write_late, NULL))
        return 77;
    /* The kernel has pinned the other page before it looks at its source. */
    if (read(watch, &fault, sizeof fault) != sizeof fault || puts("pinned") < 0 || getchar() == EOF)
        return 1;
    struct uffdio_copy copy = {.dst = (uintptr_t)late.source, .src = (uintptr_t)bytes, .len = PAGE};
    if (ioctl(watch, UFFDIO_COPY, &copy) || pthread_join(thread, NULL) || late.done != PAGE)
        return 1;
    puts("written");
    return 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    return argc == 5 && !strcmp(argv[1], "write") ? writer(argv + 2) : target();
}
