/* Merging without a mapping a page, on a file system whose files are memory: XFS with shared blocks on
 * persistent memory, mounted with `-o dax=always`. Memory of the process is a private mapping of a file of
 * its own; merging a page has that file share the block of the stable page (FICLONERANGE), and drops the
 * private page (MADV_DONTNEED).
 *
 * Any machine has persistent memory if it boots with `memmap=320M!512M`:
 *   mkfs.xfs -m reflink=1 /dev/pmem0 && mount -o dax=always /dev/pmem0 /mnt
 *   gcc -O2 -static -o /tmp/dax benchmarks/scattered/dax.c && /tmp/dax /mnt
 */
#include "common.h"
#include <linux/fs.h>

#define PAGES 2048UL

static int create(const char *folder, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return OR_DIE(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600));
}

int main(int count, char **words) {
    if (count != 2) return fprintf(stderr, "usage: dax FOLDER\n"), 2;
    const int rw = PROT_READ | PROT_WRITE;
    int stable = create(words[1], "stable"), file = create(words[1], "process");
    char page[PAGE];
    for (size_t n = 0; n < PAGES; n++) {
        fill(page, n);
        OR_DIE(pwrite(stable, page, PAGE, n * PAGE));
    }
    OR_DIE(fsync(stable));
    OR_DIE(ftruncate(file, PAGES * PAGE));
    uint32_t *order = shuffled(PAGES, 1);
    char *memory = map(PAGES * PAGE, rw, MAP_PRIVATE, file, 0, NULL);
    char *view = map(PAGES * PAGE, PROT_READ, MAP_SHARED, stable, 0, NULL);
    for (size_t i = 0; i < PAGES; i++) fill(memory + i * PAGE, order[i]);

    long maps = mappings();
    double began = cpu_ns();
    for (size_t i = 0; i < PAGES; i++) {
        struct file_clone_range range = {stable, order[i] * PAGE, PAGE, i * PAGE};
        OR_DIE(ioctl(file, FICLONERANGE, &range));
    }
    double cloning = cpu_ns() - began;
    began = cpu_ns();
    for (size_t i = 0; i < PAGES; i++) OR_DIE(madvise(memory + i * PAGE, PAGE, MADV_DONTNEED));
    double dropping = cpu_ns() - began;
    size_t bad = wrong(memory, PAGES, order), same = 0;
    volatile char sum = 0;
    for (size_t i = 0; i < PAGES; i++) {
        sum += memory[i * PAGE] + view[order[i] * PAGE];
        same += frame(memory + i * PAGE) == frame(view + order[i] * PAGE);
    }
    printf("%zu of %zu pages have the frame of their slot, with %+ld mappings; %zu are wrong\n", same, PAGES,
           mappings() - maps, bad);
    for (size_t i = 0; i < PAGES; i++) memory[i * PAGE] ^= 1;
    size_t changed = wrong(view, PAGES, NULL);
    for (size_t i = 0; i < PAGES; i++) {
        OR_DIE(pread(file, page, PAGE, i * PAGE));
        changed += wrong(page, 1, order + i);
    }
    printf("after all were written, %zu stable pages have changed\n", changed);

    int memfd = slab(PAGES);
    char *other = own_memory(PAGES, order);
    began = cpu_ns();
    for (size_t i = 0; i < PAGES; i++)
        map(PAGE, rw, MAP_PRIVATE | MAP_FIXED, memfd, order[i] * PAGE, other + i * PAGE);
    printf("ns a page: %.0f to share the block, %.0f to drop the page; a mapping takes %.0f here\n",
           cloning / PAGES, dropping / PAGES, (cpu_ns() - began) / PAGES);
    return bad || changed || same != PAGES;
}
