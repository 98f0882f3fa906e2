/* A program that reshapes memory which was merged, in one of several ways; "ok" at the end, or what went
 * wrong.
 *
 *   reshaper grow      a thread counts in every page while the mapping grows in place
 *   reshaper watch     the same while a userfaultfd of the program's own watches it
 *   reshaper lock      the same while all memory is locked and unlocked
 *   reshaper unseen    some pages are locked by a call that nobody sees, and then given back
 *   reshaper atfork    a handler of fork maps memory, in parent and child
 *   reshaper key       a thread forks from the destructor of its own data
 *   reshaper exit      a handler of the program's end forks
 *   reshaper signal    a timer's handler maps and unmaps memory while memory is marked
 *   reshaper take      pages are moved out by a userfaultfd of the program's own, zeros too
 *   reshaper limit     the mapping grows while the process has no mapping left
 *   reshaper room      there is no address space left for anybody
 *   reshaper files     there is no descriptor left, a call fails half way, and memory is given up
 *   reshaper cancel    a thread that is to be cancelled marks memory first
 *   reshaper last      the first thread ends before the last
 *   reshaper errno     calls that succeed leave errno alone
 *   reshaper constructed
 *                      forks again and again; a library's constructor has marked memory */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 1024, KINDS = 16, MORE = 16, ROUNDS = 6 };

static unsigned char *base;
static unsigned counts[PAGES];
static int stop;
static unsigned long lost, writes;

static void fail(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    _exit(1);
}

static unsigned char *map(void *at, size_t pages, int flags) {
    void *made = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (made == MAP_FAILED)
        fail("mmap");
    return made;
}

static size_t merged(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[1024];
    size_t found = 0;
    unsigned long start, end, first = (uintptr_t)base, last = first + PAGES * (size_t)PAGE;
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

/* Equal pages, marked, and merged. */
static void begin(void) {
    struct timespec tick = {0, 10000000};
    unsigned char *room = map(NULL, 2 * PAGES, MAP_NORESERVE);
    munmap(room, 2 * PAGES * (size_t)PAGE);
    base = map(room, PAGES, MAP_FIXED);
    for (size_t page = 0; page < PAGES; page++)
        memset(base + page * PAGE, 1 + page % KINDS, PAGE);
    if (madvise(base, PAGES * (size_t)PAGE, MADV_MERGEABLE))
        fail("madvise");
    for (int tries = 0; merged() < PAGES * 9 / 10; tries++) {
        if (tries == 3000)
            fail("it was not merged");
        nanosleep(&tick, NULL);
    }
}

static void *count(void *none) {
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
        for (size_t page = 0; page < PAGES; page++) {
            volatile unsigned *word = (volatile unsigned *)(base + page * PAGE + 64);
            lost += counts[page] && *word != counts[page];
            *word = ++counts[page];
            writes++;
        }
    return none;
}

static void grow(void) {
    if (mremap(base, PAGES * (size_t)PAGE, (PAGES + MORE) * (size_t)PAGE, 0) != base)
        fail("mremap");
    for (size_t at = PAGES * (size_t)PAGE; at < (PAGES + MORE) * (size_t)PAGE; at++)
        if (base[at])
            fail("new memory is not zero");
}

static void watch(void) {
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uintptr_t)base, PAGES * (size_t)PAGE}, .mode = UFFDIO_REGISTER_MODE_WP};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
        fail("userfaultfd");
    close(fd);
}

/* UFFDIO_MOVE, Linux 6.8, which older headers lack. */
struct taking {
    uint64_t to, from, len, mode;
    int64_t moved;
};
#define TAKE _IOWR(UFFDIO, 5, struct taking)

/* Is there a page, and not the hole that merging leaves of zeros? */
static int present(size_t page) {
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY);
    if (pread(fd, &entry, 8, ((uintptr_t)base / PAGE + page) * 8) != 8)
        fail("pagemap");
    close(fd);
    return entry >> 63;
}

static void take(void) {
    struct timespec tick = {0, 10000000};
    unsigned char *to = map(NULL, PAGES, 0);
    int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.range = {(uintptr_t)to, PAGES * (size_t)PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range))
        fail("userfaultfd");
    /* All of the address space is refused, and at once. */
    struct taking all = {(uintptr_t)to, (uintptr_t)base, 1ul << 46, 0, 0};
    if (ioctl(fd, TAKE, &all) == 0)
        fail("all of the address space");
    if (errno == ENOTTY)
        return;
    struct uffdio_register every = {.range = {(uintptr_t)base, 1ul << 46}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(fd, UFFDIO_REGISTER, &every) == 0)
        fail("all of the address space");
    for (size_t page = 0; page < PAGES; page += KINDS)
        memset(base + page * PAGE, 0, PAGE);
    for (int tries = 0; tries < 3000 && present(PAGES - KINDS); tries++)
        nanosleep(&tick, NULL);
    for (size_t page = 0; page < PAGES; page++) {
        struct taking one = {(uintptr_t)to + page * PAGE, (uintptr_t)base + page * PAGE, PAGE, 0, 0};
        while (ioctl(fd, TAKE, &one))
            if (errno != EAGAIN)
                fail("UFFDIO_MOVE");
        for (size_t at = 0; at < PAGE; at++)
            if (to[page * PAGE + at] != (page % KINDS ? 1 + page % KINDS : 0))
                fail("a byte is wrong");
    }
    for (size_t at = 0; at < PAGES * (size_t)PAGE; at++)
        if (base[at])
            fail("old bytes");
}

static void lock(void) {
    if (mlockall(MCL_CURRENT) || munlockall())
        fail("mlockall");
}

static void beside(void (*reshape)(void)) {
    for (int round = 0; round < ROUNDS; round++) {
        struct timespec moment = {0, 3000000};
        pthread_t thread;
        begin();
        memset(counts, 0, sizeof counts);
        stop = 0;
        if (pthread_create(&thread, NULL, count, NULL))
            fail("pthread_create");
        nanosleep(&moment, NULL);
        reshape();
        nanosleep(&moment, NULL);
        __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
        pthread_join(thread, NULL);
        munmap(base, (PAGES + MORE) * (size_t)PAGE);
    }
    if (lost)
        printf("%lu of %lu writes lost\n", lost, writes);
}

static void once(void) { munmap(map(NULL, 1, 0), PAGE); }

static void born(void) {
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (!child)
        _exit(base && base[0] != 1);
    int status;
    if (waitpid(child, &status, 0) != child || status)
        fail("the child");
}

static void forget(void *none) {
    (void)none;
    born();
}

static void *keyed(void *key) {
    pthread_setspecific(*(pthread_key_t *)key, key);
    return NULL;
}

static void tick(int number) {
    int kept = errno;
    (void)number;
    once();
    errno = kept;
}

static void storm(void) {
    struct itimerval every = {{0, 200}, {0, 200}};
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    for (int round = 0; round < 2000; round++) {
        unsigned char *some = map(NULL, 64, 0);
        memset(some, 1, 64 * PAGE);
        if (madvise(some, 64 * PAGE, MADV_MERGEABLE) || madvise(some, 64 * PAGE, MADV_DONTNEED) || some[5 * PAGE])
            fail("madvise");
        munmap(some, 64 * PAGE);
    }
    memset(&every, 0, sizeof every);
    setitimer(ITIMER_REAL, &every, NULL);
}

/* What needs one more mapping may fail. What it must not do is to show what is not the program's. */
static void limit(void) {
    unsigned char *away = mmap(NULL, 200000ul * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (unsigned long at = 0; at < 100000; at++)
        if (syscall(SYS_mprotect, away + 2 * at * PAGE, PAGE, PROT_READ))
            break;
    void *grown = mremap(base, PAGES * (size_t)PAGE, (PAGES + MORE) * (size_t)PAGE, 0);
    for (size_t at = PAGES * (size_t)PAGE; grown == base && at < (PAGES + MORE) * (size_t)PAGE; at++)
        if (base[at])
            fail("new memory is not zero");
    int answer = madvise(base, PAGES / 2 * (size_t)PAGE, MADV_DONTNEED);
    for (size_t page = 0; page < PAGES; page++)
        if (base[page * PAGE] != (!answer && page < PAGES / 2 ? 0 : 1 + page % KINDS))
            fail("a page is wrong");
}

static void room(void) {
    struct rlimit none = {1 << 20, 1 << 20};
    if (setrlimit(RLIMIT_AS, &none))
        fail("setrlimit");
    for (size_t page = 0; page < PAGES; page += 2) {
        char *at = (char *)base + page * PAGE;
        if (madvise(at, PAGE, MADV_DONTNEED) && errno != ENOMEM && errno != EAGAIN)
            fail("madvise");
        if (mprotect(at, PAGE, PROT_READ) && errno != ENOMEM)
            fail("mprotect");
        if (mremap(at, PAGE, PAGE, MREMAP_MAYMOVE) != at)
            fail("mremap");
    }
    for (size_t page = 1; page < PAGES; page += 2)
        if (base[page * PAGE] != 1 + page % KINDS)
            fail("a page is wrong");
}

static void files(void) {
    while (dup(0) >= 0)
        ;
    /* Behind the mapping is a hole. */
    if (!mprotect(base, (PAGES + 1) * (size_t)PAGE, PROT_READ) || errno != ENOMEM)
        fail("mprotect over a hole");
    if (mprotect(base, PAGES * (size_t)PAGE, PROT_READ | PROT_WRITE) || madvise(base, PAGES * (size_t)PAGE, MADV_DONTNEED))
        fail("madvise");
    for (size_t at = 0; at < PAGES * (size_t)PAGE; at++)
        if (base[at])
            fail("old bytes");
}

static void *cancelled(void *none) {
    unsigned char *some = map(NULL, 64, 0);
    pthread_cancel(pthread_self());
    if (madvise(some, 64 * PAGE, MADV_MERGEABLE))
        fail("madvise");
    pthread_testcancel();
    return none;
}

static void cancel(void) {
    pthread_t thread;
    void *answer = NULL;
    if (pthread_create(&thread, NULL, cancelled, NULL) || pthread_join(thread, &answer) || answer != PTHREAD_CANCELED)
        fail("it was not cancelled");
}

static void *outlive(void *none) {
    struct timespec moment = {0, 200000000};
    nanosleep(&moment, NULL);
    puts("ok");
    return none;
}

static void last(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, outlive, NULL))
        fail("pthread_create");
    pthread_exit(NULL);
}

static void quiet(void) {
    errno = EXDEV;
    if (madvise(base, PAGE, MADV_DONTNEED) || mlock(base, 4 * PAGE) || munlock(base, 4 * PAGE) ||
        madvise(base, 8 * PAGE, MADV_UNMERGEABLE) || mprotect(base, PAGE, PROT_READ) || munmap(base, PAGE) || errno != EXDEV)
        fail("errno");
}

static long lock_unseen(void *at, size_t len) {
    long answer = SYS_mlock;
#if defined(__x86_64__)
    __asm__ volatile("syscall" : "+a"(answer) : "D"(at), "S"(len) : "rcx", "r11", "memory");
#else
    answer = mlock(at, len);
#endif
    return answer;
}

static void unseen(void) {
    enum { FIRST = 10, LAST = 13, ALL = 64 };
    if (lock_unseen(base + FIRST * PAGE, (LAST + 1 - FIRST) * PAGE) || madvise(base, ALL * PAGE, MADV_UNMERGEABLE))
        fail("lock and madvise");
    for (size_t page = 0; page < ALL; page++) {
        int locked = msync(base + page * PAGE, PAGE, MS_INVALIDATE) && errno == EBUSY;
        if (locked != (page >= FIRST && page <= LAST) || base[page * PAGE + 77] != 1 + page % KINDS) {
            printf("page %zu is locked: %d, its byte: %d\n", page, locked, base[page * PAGE + 77]);
            _exit(1);
        }
    }
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    setvbuf(stdout, NULL, _IONBF, 0);
#define IS(name) (!strcmp(what, name))
    if (IS("grow") || IS("watch") || IS("lock")) {
        beside(IS("grow") ? grow : IS("watch") ? watch : lock);
    } else if (IS("atfork")) {
        pthread_atfork(once, once, once);
        begin();
        pthread_atfork(once, once, once);
        born();
    } else if (IS("key")) {
        pthread_key_t key;
        pthread_t thread;
        begin();
        if (pthread_key_create(&key, forget) || pthread_create(&thread, NULL, keyed, &key))
            fail("pthread_create");
        pthread_join(thread, NULL);
    } else if (IS("exit")) {
        begin();
        atexit(born);
    } else if (IS("signal")) {
        storm();
    } else if (IS("constructed")) {
        for (int round = 0; round < 500; round++)
            born();
    } else {
        begin();
        (IS("limit")    ? limit
         : IS("files")  ? files
         : IS("cancel") ? cancel
         : IS("last")   ? last
         : IS("errno")  ? quiet
         : IS("take")   ? take
         : IS("unseen") ? unseen
                        : room)();
    }
    if (!lost)
        puts("ok");
    return lost != 0;
}
