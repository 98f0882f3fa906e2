// A companion of the program under test: it marks memory of its own before main() starts.
//
// SELFTESTS_IDLE: one page with contents that nobody else has, so that the agent is started and
// merges nothing. Otherwise: pairs of equal pages, which the agent merges and a thread rewrites all
// the time; main() starts when the first of them has been merged.
// SELFTESTS_ALONE: the same without a word to the kernel or the agent, as a control.

#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define PAIRS 32
#define TURN 2000000  // nanoseconds between two rewrites: slower than the hub looks at the rest
#define PATIENCE 2500 // turns that main() waits for the first merge

#ifndef MADV_MERGEABLE
#define MADV_MERGEABLE 12
#endif

static volatile char *buffer;

static void turn(void) {
    struct timespec pause = {.tv_nsec = TURN};
    nanosleep(&pause, NULL);
}

static void fill(int pair, unsigned round) {
    for (int half = 0; half < 2; half++) {
        volatile unsigned *page = (volatile unsigned *)(buffer + (2 * pair + half) * PAGE);
        for (unsigned word = 0; word < PAGE / sizeof *page; word++)
            page[word] = (round << 8 | pair) + word;
    }
}

static void *rewrite(void *nothing) {
    for (unsigned round = 1;; round++)
        for (int pair = 0; pair < PAIRS; pair++) {
            fill(pair, round);
            turn();
        }
    return nothing;
}

static int merged(void) {
    char line[512];
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    if (!maps)
        return 0;
    while (!found && fgets(line, sizeof line, maps))
        found = strstr(line, "pagemerge-slab") != NULL;
    fclose(maps);
    return found;
}

static void start_thread(void) {
    // The program's signals are the program's: none may arrive in this thread.
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, NULL, rewrite, NULL) == 0)
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

__attribute__((constructor)) static void start(void) {
    int idle = getenv("SELFTESTS_IDLE") != NULL, alone = getenv("SELFTESTS_ALONE") != NULL;
    size_t size = idle ? PAGE : 2 * PAIRS * PAGE;
    buffer = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        return;
    if (idle) {
        *(volatile unsigned long *)buffer = (unsigned long)buffer ^ getpid();
    } else {
        for (int pair = 0; pair < PAIRS; pair++)
            fill(pair, 0);
    }
    if (!alone && madvise((void *)buffer, size, MADV_MERGEABLE))
        fprintf(stderr, "# companion: memory could not be marked\n");
    if (idle)
        return;
    for (int turns = 0; !alone && !merged(); turns++) {
        if (turns == PATIENCE) {
            fprintf(stderr, "# companion: nothing was merged, so the agent is not active\n");
            break;
        }
        turn();
    }
    start_thread();
}
