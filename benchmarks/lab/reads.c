/* Reads random words of some memory, and tells what a read takes: nanoseconds of the thread's
 * processor time, and misses of the TLB for data where the processor counts them (perf_event_open(2)). */
#define _GNU_SOURCE
#include <linux/perf_event.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct taken {
    double nanoseconds; /* of a read */
    double misses;      /* of a read; -1: not counted here */
    uint64_t sum;       /* so that no read can be left out */
};

static int counter(void) {
    struct perf_event_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.size = sizeof attr;
    attr.type = PERF_TYPE_HW_CACHE;
    attr.config = PERF_COUNT_HW_CACHE_DTLB | (PERF_COUNT_HW_CACHE_OP_READ << 8) |
                  (PERF_COUNT_HW_CACHE_RESULT_MISS << 16);
    attr.disabled = 1;
    attr.exclude_kernel = 1;
    return (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
}

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

/* `words` is a power of two. With `chained`, where a read goes depends on the one before. */
void reads(const uint64_t *memory, uint64_t words, uint64_t count, int chained, struct taken *taken) {
    uint64_t state = 88172645463325252u, sum = 0, last = 0, mask = words - 1;
    int misses = counter();
    if (misses >= 0)
        ioctl(misses, PERF_EVENT_IOC_ENABLE, 0);
    double began = now();
    for (uint64_t done = 0; done < count; done++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        last = memory[(state + (chained ? last : 0)) & mask];
        sum += last;
    }
    taken->nanoseconds = (now() - began) / (double)count;
    taken->misses = -1;
    taken->sum = sum;
    if (misses >= 0) {
        uint64_t found = 0;
        ioctl(misses, PERF_EVENT_IOC_DISABLE, 0);
        if (read(misses, &found, sizeof found) == sizeof found)
            taken->misses = (double)found / (double)count;
        close(misses);
    }
}
