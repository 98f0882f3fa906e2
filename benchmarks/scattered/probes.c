/* What Linux answers to each way of putting a frame that is shared in the place of a page without a
 * mapping of its own. Prints one line for each: what was tried, and what came of it.
 *
 * Run as root: `gcc -O2 -o /tmp/probes benchmarks/scattered/probes.c && /tmp/probes [ksm] [FOLDER...]`,
 * with folders on file systems that can share blocks (XFS, Btrfs). The argument `ksm` adds the question that needs ksmd to run; then whoever calls must
 * have /sys/kernel/mm/ksm for itself, and put `run` back.
 */
#include "common.h"
#include <arpa/inet.h>
#include <linux/fs.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#ifndef UFFD_FEATURE_MINOR_SHMEM
#define UFFD_FEATURE_MINOR_SHMEM (1 << 10)
#endif

static const int RW = PROT_READ | PROT_WRITE;

static const char *answer(long result) { return result == -1 ? strerrorname_np(errno) : "done"; }

static char *anonymous(size_t pages) {
    char *made = map(pages * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, NULL);
    madvise(made, pages * PAGE, MADV_NOHUGEPAGE);
    return made;
}

static long move(int uffd, void *to, void *from) {
    struct uffdio_move m = {.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = PAGE};
    return ioctl(uffd, UFFDIO_MOVE, &m);
}

/* UFFDIO_MOVE of pages that are shared already: with a fork, through a file, by ksmd. */
static void moving(int with_ksm) {
    int uffd = userfault(UFFD_FEATURE_MOVE), fd = slab(8);
    char *to = anonymous(8), *from = anonymous(8);
    OR_DIE(watch(uffd, to, 8 * PAGE, UFFDIO_REGISTER_MODE_MISSING));
    for (int i = 0; i < 8; i++) fill(from + i * PAGE, i);
    printf("UFFDIO_MOVE, a page of one's own: %s\n", answer(move(uffd, to, from)));
    int hold[2];
    OR_DIE(pipe(hold));
    pid_t child = OR_DIE(fork());
    if (!child) {
        char byte;
        close(hold[1]);
        _exit((int)read(hold[0], &byte, 1));
    }
    printf("UFFDIO_MOVE, a page that a fork shares: %s\n", answer(move(uffd, to + PAGE, from + PAGE)));
    close(hold[0]), close(hold[1]);
    waitpid(child, NULL, 0);
    char *file = map(8 * PAGE, RW, MAP_PRIVATE, fd, 0, NULL);
    (void)*(volatile char *)file;
    printf("UFFDIO_MOVE, a slab's page out of a private mapping: %s\n",
           answer(move(uffd, to + 2 * PAGE, file)));
    *(volatile char *)file ^= 1;
    printf("UFFDIO_MOVE, a written page out of a private mapping: %s\n",
           answer(move(uffd, to + 2 * PAGE, file)));
    OR_DIE(watch(uffd, file, 8 * PAGE, UFFDIO_REGISTER_MODE_MISSING));
    printf("UFFDIO_MOVE, a page of one's own into a private mapping: %s\n",
           answer(move(uffd, file + 4 * PAGE, from + 4 * PAGE)));
    if (!with_ksm) return;
    char *same = anonymous(64);
    for (int i = 0; i < 64; i++) fill(same + i * PAGE, 77);
    OR_DIE(madvise(same, 64 * PAGE, MADV_MERGEABLE));
    int run = OR_DIE(open("/sys/kernel/mm/ksm/run", O_WRONLY));
    OR_DIE(write(run, "1", 1));
    for (int i = 0; i < 1000 && frame(same) != frame(same + PAGE); i++) usleep(10000);
    printf("UFFDIO_MOVE, a page that ksmd has merged (%s): %s\n",
           frame(same) == frame(same + PAGE) ? "it has" : "it has not",
           answer(move(uffd, to + 3 * PAGE, same)));
}

/* UFFDIO_CONTINUE in a private mapping of a memory file. */
static void minor(void) {
    enum { PAGES = 4096 };
    int fd = slab(PAGES), uffd = userfault(UFFD_FEATURE_MINOR_SHMEM);
    char *view = map(PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0, NULL);
    madvise(view, PAGES * PAGE, MADV_POPULATE_READ);
    char *memory = map(PAGES * PAGE, RW, MAP_PRIVATE, fd, 0, NULL);
    OR_DIE(watch(uffd, memory, PAGES * PAGE, UFFDIO_REGISTER_MODE_MINOR));
    double began = cpu_ns();
    for (size_t i = 0; i < PAGES; i++) {
        struct uffdio_continue c = {.range = {(uintptr_t)memory + i * PAGE, PAGE}};
        OR_DIE(ioctl(uffd, UFFDIO_CONTINUE, &c));
    }
    double ns = (cpu_ns() - began) / PAGES;
    size_t linear = 0;
    for (size_t i = 0; i < PAGES; i++) linear += frame(memory + i * PAGE) == frame(view + i * PAGE);
    memory[0] ^= 1;
    printf("UFFDIO_CONTINUE, private: %zu of %d pages have the frame of their own offset, none another; "
           "%.0f ns a page; a write reaches the file: %s\n",
           linear, PAGES, ns, memory[0] == view[0] ? "yes" : "no");
}

/* mremap of single pages: when does the number of mappings stay the same? */
static void moved_mappings(void) {
    char *one = anonymous(64), *two = anonymous(64), *spare = anonymous(1);
    for (int i = 0; i < 64; i++) fill(one + i * PAGE, i), fill(two + i * PAGE, 100 + i);
    long before = mappings();
    OR_DIE(mremap(one + 9 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, two + 30 * PAGE) == MAP_FAILED ? -1 : 0);
    printf("mremap, an anonymous page into other anonymous memory: %+ld mappings\n", mappings() - before);
    char *three = anonymous(64);
    for (int i = 0; i < 64; i++) fill(three + i * PAGE, i);
    before = mappings();
    OR_DIE(mremap(three + 9 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, spare) == MAP_FAILED ? -1 : 0);
    OR_DIE(mremap(spare, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, three + 9 * PAGE) == MAP_FAILED ? -1 : 0);
    printf("mremap, away and back to its own place: %+ld mappings (one is the spare page's)\n", mappings() - before);
    int fd = slab(64);
    char *file = map(64 * PAGE, RW, MAP_PRIVATE, fd, 0, NULL);
    before = mappings();
    map(PAGE, RW, MAP_PRIVATE | MAP_FIXED, fd, 9 * PAGE, file + 9 * PAGE);
    printf("mmap, a slot where its neighbours expect it: %+ld mappings\n", mappings() - before);
    map(PAGE, RW, MAP_PRIVATE | MAP_FIXED, fd, 40 * PAGE, file + 9 * PAGE);
    printf("mmap, another slot there: %+ld mappings\n", mappings() - before);
    printf("remap_file_pages, private: %s\n",
           answer(syscall(SYS_remap_file_pages, file, PAGE, 0, 5UL, 0)));
}

/* Blocks shared by FICLONERANGE: do their pages in the page cache share a frame? */
static void reflink(const char *folder) {
    char path[512], page[PAGE];
    snprintf(path, sizeof path, "%s/probe-reflink", folder);
    int fd = OR_DIE(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600));
    unlink(path);
    fill(page, 1);
    OR_DIE(pwrite(fd, page, PAGE, 0));
    OR_DIE(ftruncate(fd, 2 * PAGE));
    fsync(fd);
    struct file_clone_range range = {.src_fd = fd, .src_offset = 0, .src_length = PAGE, .dest_offset = PAGE};
    long cloned = ioctl(fd, FICLONERANGE, &range);
    printf("FICLONERANGE in %s: %s", folder, answer(cloned));
    if (cloned == 0) {
        char *file = map(2 * PAGE, RW, MAP_PRIVATE, fd, 0, NULL);
        int equal = memcmp(file, file + PAGE, PAGE) == 0;
        printf("; both offsets have %s bytes and %s frame", equal ? "the same" : "other",
               frame(file) == frame(file + PAGE) ? "one" : "each its");
    }
    printf("\n");
    close(fd);
}

/* Pages of a pipe, duplicated by tee(2), sent through a TCP socket, and mapped where they arrive:
 * one frame at two places of one mapping. */
static void tcp(void) {
    int listening = OR_DIE(socket(AF_INET, SOCK_STREAM, 0)), sending = OR_DIE(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof name;
    int segment = PAGE + 12; /* a segment carries a whole page */
    setsockopt(listening, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    OR_DIE(bind(listening, (void *)&name, len));
    OR_DIE(getsockname(listening, (void *)&name, &len));
    OR_DIE(listen(listening, 1));
    OR_DIE(connect(sending, (void *)&name, len));
    int receiving = OR_DIE(accept(listening, NULL, NULL)), first[2], second[2];
    OR_DIE(pipe(first)), OR_DIE(pipe(second));
    char page[PAGE];
    fill(page, 5);
    OR_DIE(write(first[1], page, PAGE));
    OR_DIE(tee(first[0], second[1], PAGE, 0));
    long sent = splice(first[0], NULL, sending, NULL, PAGE, 0);
    sent += splice(second[0], NULL, sending, NULL, PAGE, 0);
    usleep(100000);
    char *memory = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, receiving, 0);
    struct tcp_zerocopy_receive z = {.address = (uintptr_t)memory, .length = 2 * PAGE};
    len = sizeof z;
    long mapped = memory == MAP_FAILED ? -1 : getsockopt(receiving, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &z, &len);
    printf("TCP_ZEROCOPY_RECEIVE, a page sent twice: %s, %ld bytes sent, %u mapped", answer(mapped), sent, z.length);
    if (mapped == 0 && z.length == 2 * PAGE) {
        printf("; %s frame at two places of one mapping", frame(memory) == frame(memory + PAGE) ? "one" : "not one");
        printf("; mprotect for writing: %s", answer(mprotect(memory, 2 * PAGE, RW)));
    }
    char *writable = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, receiving, 0);
    printf("; a private mapping that can be written: %s\n", answer(writable == MAP_FAILED ? -1 : 0));
}

int main(int count, char **words) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    moving(count > 1 && !strcmp(words[1], "ksm"));
    minor();
    moved_mappings();
    reflink("/dev/shm");
    for (int i = 1; i < count; i++)
        if (words[i][0] == '/') reflink(words[i]);
    tcp();
    return 0;
}
