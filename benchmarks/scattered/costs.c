/* What it costs to put stable pages in the place of private ones: processor time and mappings a page.
 *
 * `gcc -O2 -o /tmp/costs benchmarks/scattered/costs.c && /tmp/costs [PART OF A NAME]`, as root.
 *
 * Each way runs in a child of its own on 32,768 pages (128 MiB), which needs no more mappings
 * than vm.max_map_count allows by default. All ways end with the same contents,
 * which the child checks, page by page; then it writes a word of every 16th page and checks that the
 * slab has not changed.
 *
 * Prints one line of JSON for each way: ns (a page, system and user), maps (mappings a page),
 * bytes (kernel memory a page for mappings, from /proc/slabinfo), read_ns (the first read of a page).
 */
#include "common.h"

#define PAGES 32768UL
#define BATCH 64UL

static int slab_fd;
static uint32_t *order;
static char *view;

typedef struct { char *memory; const uint32_t *numbers; double ns; } Done;

static const int RW = PROT_READ | PROT_WRITE;

static void put(char *at, size_t slot, size_t pages) {
    map(pages * PAGE, RW, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, slab_fd, slot * PAGE, at);
}

/* One mapping a page, over written anonymous memory: what merging a scattered page takes today,
 * without barrier and comparison. */
static Done over_anonymous(void) {
    char *memory = own_memory(PAGES, order);
    double began = cpu_ns();
    for (size_t i = 0; i < PAGES; i++) put(memory + i * PAGE, order[i], 1);
    return (Done){memory, order, cpu_ns() - began};
}

/* The same from the end to the start. */
static Done over_anonymous_downwards(void) {
    char *memory = own_memory(PAGES, order);
    double began = cpu_ns();
    for (size_t i = PAGES; i-- > 0;) put(memory + i * PAGE, order[i], 1);
    return (Done){memory, order, cpu_ns() - began};
}

/* Batch by batch: what `prepare` does with the place of a batch, and then page by page. */
static Done over_prepared(void (*prepare)(char *at, size_t first)) {
    char *memory = own_memory(PAGES, order);
    double began = cpu_ns();
    for (size_t b = 0; b < PAGES; b += BATCH) {
        char *at = memory + b * PAGE;
        prepare(at, b);
        for (size_t i = 0; i < BATCH; i++) put(at + i * PAGE, order[b + i], 1);
    }
    return (Done){memory, order, cpu_ns() - began};
}

static void reserve(char *at, size_t first) {
    (void)first;
    map(BATCH * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0, at);
}

static void map_slab(char *at, size_t first) {
    put(at, order[first] < PAGES - BATCH ? order[first] : 0, BATCH);
}

static void make_hole(char *at, size_t first) {
    (void)first;
    munmap(at, BATCH * PAGE);
}

/* The pages of a batch are first replaced by one mapping without access, which has no reverse map:
 * what is mapped over it splits a mapping that is cheaper to split. */
static Done over_reserved(void) { return over_prepared(reserve); }

/* The batch is mapped from the slab as a whole first, beginning at the slot of its first page. */
static Done over_slab(void) { return over_prepared(map_slab); }

/* Into a hole: the least that a mapping can cost. (Another thread could take the hole meanwhile.) */
static Done into_hole(void) { return over_prepared(make_hole); }

/* remap_file_pages(2): for MAP_SHARED only, so writes would reach the slab. Here to count mappings. */
static Done remap(void) {
    int fd = OR_DIE(memfd_create("shared", MFD_CLOEXEC));
    char page[PAGE];
    OR_DIE(ftruncate(fd, PAGES * PAGE));
    for (size_t n = 0; n < PAGES; n++) {
        fill(page, n);
        OR_DIE(pwrite(fd, page, PAGE, n * PAGE));
    }
    char *memory = map(PAGES * PAGE, RW, MAP_SHARED, fd, 0, NULL);
    double began = cpu_ns();
    for (size_t i = 0; i < PAGES; i++)
        OR_DIE(syscall(SYS_remap_file_pages, memory + i * PAGE, PAGE, 0, (size_t)order[i], 0));
    return (Done){memory, order, cpu_ns() - began};
}

/* Move a mapping of a page from a view of the slab to its place. */
static Done move_view(void) {
    char *memory = own_memory(PAGES, order);
    char *from = map(PAGES * PAGE, RW, MAP_PRIVATE | MAP_NORESERVE, slab_fd, 0, NULL);
    double began = cpu_ns();
    for (size_t i = 0; i < PAGES; i++) {
        char *page = from + order[i] * PAGE;
        if (mremap(page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, memory + i * PAGE) == MAP_FAILED)
            OR_DIE(-1);
    }
    return (Done){memory, order, cpu_ns() - began};
}

/* The order of the slots: one mapping for 64 pages. */
static Done runs(void) {
    char *memory = own_memory(PAGES, NULL);
    double began = cpu_ns();
    for (size_t b = 0; b < PAGES; b += BATCH) put(memory + b * PAGE, b, BATCH);
    return (Done){memory, NULL, cpu_ns() - began};
}

/* Memory that is a private mapping of the slab, page for page at the same offset, and was written:
 * dropping the private page brings the slot's back. One call a page. */
static Done drop_one(void) {
    char *memory = map(PAGES * PAGE, RW, MAP_PRIVATE | MAP_NORESERVE, slab_fd, 0, NULL);
    for (size_t i = 0; i < PAGES; i++) fill(memory + i * PAGE, i);
    double began = cpu_ns();
    for (size_t i = 0; i < PAGES; i++) {
        size_t page = (i * 40503) % PAGES;
        OR_DIE(madvise(memory + page * PAGE, PAGE, MADV_DONTNEED));
    }
    return (Done){memory, NULL, cpu_ns() - began};
}

/* The same, 512 pages a call of process_madvise(2) (on oneself, Linux 6.13). */
static Done drop_many(void) {
    char *memory = map(PAGES * PAGE, RW, MAP_PRIVATE | MAP_NORESERVE, slab_fd, 0, NULL);
    for (size_t i = 0; i < PAGES; i++) fill(memory + i * PAGE, i);
    static struct iovec parts[512];
    int pidfd = OR_DIE(syscall(SYS_pidfd_open, getpid(), 0));
    double began = cpu_ns();
    for (size_t b = 0; b < PAGES; b += 1024)
        for (size_t odd = 0; odd < 2; odd++) {
            for (size_t i = 0; i < 512; i++)
                parts[i] = (struct iovec){memory + (b + 2 * i + odd) * PAGE, PAGE};
            OR_DIE(syscall(SYS_process_madvise, pidfd, parts, 512UL, MADV_DONTNEED, 0));
        }
    return (Done){memory, NULL, cpu_ns() - began};
}

/* The same behind the write-protect barrier, with comparison: a whole merge but for the search for
 * pins. `gap`: only every gap-th page is equal to its slot, so each would be a mapping of its own. */
static Done drop_protected(size_t batch) {
    char *memory = map(PAGES * PAGE, RW, MAP_PRIVATE | MAP_NORESERVE, slab_fd, 0, NULL);
    for (size_t i = 0; i < PAGES; i++) fill(memory + i * PAGE, i);
    int uffd = userfault(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED |
                         UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
    static struct iovec parts[1024];
    int pidfd = OR_DIE(syscall(SYS_pidfd_open, getpid(), 0));
    OR_DIE(watch(uffd, memory, PAGES * PAGE, UFFDIO_REGISTER_MODE_WP));
    double began = cpu_ns();
    for (size_t b = 0; b < PAGES; b += batch) {
        struct uffdio_writeprotect wp = {{(uintptr_t)memory + b * PAGE, batch * PAGE},
                                         UFFDIO_WRITEPROTECT_MODE_WP};
        OR_DIE(ioctl(uffd, UFFDIO_WRITEPROTECT, &wp));
        size_t equal = 0;
        for (size_t i = 0; i < batch; i++)
            if (memcmp(memory + (b + i) * PAGE, view + (b + i) * PAGE, PAGE) == 0)
                parts[equal++] = (struct iovec){memory + (b + i) * PAGE, PAGE};
        OR_DIE(syscall(SYS_process_madvise, pidfd, parts, equal, MADV_DONTNEED, 0));
        wp.mode = 0;
        OR_DIE(ioctl(uffd, UFFDIO_WRITEPROTECT, &wp));
    }
    double ns = cpu_ns() - began;
    close(uffd);
    return (Done){memory, NULL, ns};
}

static Done drop_protected_512(void) { return drop_protected(512); }

/* Anonymous memory becomes a private mapping of the slab, 64 pages at a time, and the pages that differ
 * (one in `gap`) are copied into it. The pages are moved away first, as the barrier does, and compared.
 * The new mapping is made and filled aside and takes its place by one call, so no thread can see it
 * half filled. UFFDIO_COPY, because a write there would fill a hole of the slab first. */
static Done convert(size_t gap) {
    const size_t batch = 64;
    uint32_t *numbers = malloc(PAGES * sizeof *numbers);
    for (size_t i = 0; i < PAGES; i++) numbers[i] = gap && i % gap == 0 ? PAGES + i : i;
    char *memory = own_memory(PAGES, numbers);
    char *scratch = map(batch * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, NULL);
    char *aside = map(batch * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, NULL);
    int uffd = userfault(UFFD_FEATURE_MOVE);
    madvise(scratch, batch * PAGE, MADV_NOHUGEPAGE);
    OR_DIE(watch(uffd, scratch, batch * PAGE, UFFDIO_REGISTER_MODE_MISSING));
    double began = cpu_ns();
    for (size_t b = 0; b < PAGES; b += batch) {
        char *at = memory + b * PAGE;
        OR_DIE(watch(uffd, at, batch * PAGE, UFFDIO_REGISTER_MODE_MISSING));
        struct uffdio_move move = {.dst = (uintptr_t)scratch, .src = (uintptr_t)at, .len = batch * PAGE};
        OR_DIE(ioctl(uffd, UFFDIO_MOVE, &move));
        uint64_t differ = 0;
        for (size_t i = 0; i < batch; i++)
            if (memcmp(scratch + i * PAGE, view + (b + i) * PAGE, PAGE)) differ |= 1ULL << i;
        if (differ) {
            put(aside, b, batch);
            OR_DIE(watch(uffd, aside, batch * PAGE, UFFDIO_REGISTER_MODE_MISSING));
            for (size_t i = 0; i < batch; i++)
                if (differ >> i & 1) {
                    struct uffdio_copy copy = {.dst = (uintptr_t)aside + i * PAGE,
                                               .src = (uintptr_t)scratch + i * PAGE, .len = PAGE};
                    OR_DIE(ioctl(uffd, UFFDIO_COPY, &copy));
                }
            OR_DIE(unwatch(uffd, aside, batch * PAGE));
            if (mremap(aside, batch * PAGE, batch * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED)
                OR_DIE(-1);
        } else {
            put(at, b, batch);
        }
        struct uffdio_range range = {(uintptr_t)at, batch * PAGE};
        OR_DIE(ioctl(uffd, UFFDIO_WAKE, &range));
        OR_DIE(madvise(scratch, batch * PAGE, MADV_DONTNEED));
    }
    return (Done){memory, numbers, cpu_ns() - began};
}

static Done convert_all_equal(void) { return convert(0); }
static Done convert_one_in_8_differs(void) { return convert(8); }
static Done convert_one_in_2_differs(void) { return convert(2); }

/* Where the bytes of slots are read, to compare them: a view of the slab that is there already, one
 * that is mapped for every 1,024 pages of a plan, or pread(2). */
enum reading { KEPT, MAPPED_ANEW, PREAD };

/* The same memory merged as today: one mapping for each run of equal pages, gaps moved back. */
static Done split(size_t gap, const uint32_t *places, enum reading reading) {
    const size_t batch = 64;
    uint32_t *numbers = malloc(PAGES * sizeof *numbers);
    for (size_t i = 0; i < PAGES; i++)
        numbers[i] = gap && i % gap == 0 ? PAGES + i : places ? places[i] : i;
    char *memory = own_memory(PAGES, numbers), *now = view, buffer[PAGE];
    char *scratch = map(batch * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, NULL);
    int uffd = userfault(UFFD_FEATURE_MOVE);
    madvise(scratch, batch * PAGE, MADV_NOHUGEPAGE);
    OR_DIE(watch(uffd, scratch, batch * PAGE, UFFDIO_REGISTER_MODE_MISSING));
    double began = cpu_ns();
    for (size_t b = 0; b < PAGES; b += batch) {
        char *at = memory + b * PAGE;
        if (reading == MAPPED_ANEW && b % 1024 == 0) {
            if (now != view) munmap(now, PAGES * PAGE);
            now = map(PAGES * PAGE, PROT_READ, MAP_PRIVATE, slab_fd, 0, NULL);
        }
        OR_DIE(watch(uffd, at, batch * PAGE, UFFDIO_REGISTER_MODE_MISSING));
        struct uffdio_move move = {.dst = (uintptr_t)scratch, .src = (uintptr_t)at, .len = batch * PAGE};
        OR_DIE(ioctl(uffd, UFFDIO_MOVE, &move));
        for (size_t i = 0, end; i < batch; i = end) {
            size_t slot = places ? places[b + i] : b + i;
            for (end = i; end < batch && (end == i || !places); end++) {
                char *bytes = now + (slot + end - i) * PAGE;
                if (reading == PREAD)
                    OR_DIE(pread(slab_fd, bytes = buffer, PAGE, (slot + end - i) * PAGE));
                if (memcmp(scratch + end * PAGE, bytes, PAGE)) break;
            }
            if (end > i) {
                put(at + i * PAGE, slot, end - i);
            } else {
                move = (struct uffdio_move){.dst = (uintptr_t)at + i * PAGE,
                                            .src = (uintptr_t)scratch + i * PAGE, .len = PAGE};
                OR_DIE(ioctl(uffd, UFFDIO_MOVE, &move));
                end = i + 1;
            }
        }
        OR_DIE(unwatch(uffd, at, batch * PAGE));
        OR_DIE(madvise(scratch, batch * PAGE, MADV_DONTNEED));
    }
    return (Done){memory, numbers, cpu_ns() - began};
}

static Done split_all_equal(void) { return split(0, NULL, KEPT); }
static Done split_one_in_8_differs(void) { return split(8, NULL, KEPT); }
static Done split_one_in_2_differs(void) { return split(2, NULL, KEPT); }
static Done split_scattered(void) { return split(0, order, KEPT); }
static Done split_scattered_mapped_anew(void) { return split(0, order, MAPPED_ANEW); }
static Done split_scattered_pread(void) { return split(0, order, PREAD); }

static long objects_bytes(void) {
    static const char *const caches[] = {"vm_area_struct ", "anon_vma ", "anon_vma_chain ", "maple_node ", "vma_lock "};
    FILE *file = fopen("/proc/slabinfo", "r");
    char line[512];
    long bytes = 0, active, all, size;
    while (file && fgets(line, sizeof line, file))
        for (size_t i = 0; i < sizeof caches / sizeof *caches; i++)
            if (!strncmp(line, caches[i], strlen(caches[i])) &&
                sscanf(line + strlen(caches[i]), "%ld %ld %ld", &active, &all, &size) == 3)
                bytes += active * size;
    if (file) fclose(file);
    return bytes;
}

static void child(const char *name, Done (*way)(void)) {
    long maps = mappings(), bytes = objects_bytes();
    Done done = way();
    maps = mappings() - maps, bytes = objects_bytes() - bytes;
    double began = cpu_ns();
    volatile char sum = 0;
    for (size_t i = 0; i < PAGES; i++) sum += done.memory[i * PAGE];
    double read_ns = (cpu_ns() - began) / PAGES;
    size_t bad = wrong(done.memory, PAGES, done.numbers);
    for (size_t i = 0; i < PAGES; i += 16) done.memory[i * PAGE] ^= 1;
    size_t leaked = wrong(view, PAGES, NULL);
    printf("{\"way\": \"%s\", \"ns\": %.0f, \"maps\": %.3f, \"bytes\": %.0f, \"read_ns\": %.0f, "
           "\"wrong\": %zu, \"leaked\": %zu}\n",
           name, done.ns / PAGES, (double)maps / PAGES, (double)bytes / PAGES, read_ns, bad, leaked);
    fflush(stdout);
    _exit(bad || leaked);
}

#define WAY(f) {#f, f}
int main(int count, char **words) {
    static const struct { const char *name; Done (*way)(void); } ways[] = {
        WAY(over_anonymous), WAY(over_anonymous_downwards), WAY(over_reserved), WAY(over_slab),
        WAY(into_hole), WAY(remap), WAY(move_view), WAY(runs), WAY(drop_one), WAY(drop_many),
        WAY(drop_protected_512), WAY(convert_all_equal), WAY(convert_one_in_8_differs),
        WAY(convert_one_in_2_differs), WAY(split_all_equal), WAY(split_one_in_8_differs),
        WAY(split_one_in_2_differs), WAY(split_scattered),
        WAY(split_scattered_mapped_anew), WAY(split_scattered_pread)};
    slab_fd = slab(PAGES);
    order = shuffled(PAGES, 1);
    view = map(PAGES * PAGE, PROT_READ, MAP_SHARED, slab_fd, 0, NULL);
    madvise(view, PAGES * PAGE, MADV_POPULATE_READ);
    int bad = 0;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (count > 1 && !strstr(ways[i].name, words[1])) continue;
        pid_t pid = OR_DIE(fork());
        if (!pid) child(ways[i].name, ways[i].way);
        int status;
        OR_DIE(waitpid(pid, &status, 0));
        bad |= status != 0;
        if (status) fprintf(stderr, "%s: status %d\n", ways[i].name, status);
    }
    return bad;
}
