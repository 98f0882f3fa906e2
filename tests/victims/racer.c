/* Writers that change random pages of some memory and verify each page before each change.
 *
 * Every page is one writer's. It holds a fill, the same word 512 times, and perhaps one word that
 * differs; both are remembered outside of the memory. In C because a thread of Python changes too
 * few pages a second to meet a merger in the act. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, FILLS = 8 };
enum { STORES = 1, READS = 2, DIRECT = 4, REMOTE = 8 }; /* ways to write */

struct page {
    uint32_t fill, at; /* at == WORDS: no word differs */
    uint64_t value;
};

struct race {
    uint64_t *base;      /* in the process that has the memory */
    struct page *states; /* one for each page */
    uint64_t pages, number, writers, ways;
    int32_t pid; /* whose memory, with REMOTE */
    int32_t file, direct;
    int32_t stop;
    uint64_t writes, lost, failed;
    uint64_t lost_page, lost_at, lost_found, lost_wanted; /* the first */
};

static uint64_t word(uint64_t fill) { return fill * 0x9e3779b97f4a7c15u; }

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state >> 8;
}

static int verify(struct race *race, uint64_t page, const volatile uint64_t *words) {
    const struct page *is = &race->states[page];
    for (uint64_t at = 0; at < WORDS; at++) {
        uint64_t wanted = at == is->at ? is->value : word(is->fill), found = words[at];
        if (found != wanted) {
            if (race->lost++ == 0) {
                race->lost_page = page, race->lost_at = at;
                race->lost_found = found, race->lost_wanted = wanted;
            }
            return 0;
        }
    }
    return 1;
}

static int remote(struct race *race, void *own, uint64_t *theirs, size_t bytes, int write) {
    struct iovec here = {own, bytes}, there = {theirs, bytes};
    ssize_t done = write ? process_vm_writev(race->pid, &here, 1, &there, 1, 0)
                         : process_vm_readv(race->pid, &here, 1, &there, 1, 0);
    race->failed += done != (ssize_t)bytes;
    return done == (ssize_t)bytes;
}

/* Change a page in one of the ways allowed; the kernel writes it in all but STORES. */
static void change(struct race *race, uint64_t page, uint64_t *random) {
    struct page *is = &race->states[page];
    uint64_t *words = race->base + page * WORDS;
    uint32_t fill = next(random) % FILLS, at = next(random) % WORDS;
    uint64_t value = next(random), buffer[WORDS];
    int way = 1 << next(random) % 4, patch = is->at == WORDS && next(random) % 4 == 0;
    if (!(race->ways & way))
        way = race->ways & STORES ? STORES : REMOTE;
    if (way == STORES && patch) {
        ((volatile uint64_t *)words)[at] = value;
    } else if (way == STORES) {
        for (uint64_t i = 0; i < WORDS; i++)
            ((volatile uint64_t *)words)[i] = word(fill);
    } else if (way == REMOTE && patch) {
        if (!remote(race, &value, words + at, 8, 1)) return;
    } else if (way == REMOTE) {
        for (uint64_t i = 0; i < WORDS; i++) buffer[i] = word(fill);
        if (!remote(race, buffer, words, PAGE, 1)) return;
    } else { /* the file holds the fills, a page each */
        int file = way == READS ? race->file : race->direct;
        patch = 0;
        if (pread(file, words, PAGE, (off_t)fill * PAGE) != PAGE) {
            race->failed++;
            return;
        }
    }
    if (patch)
        is->at = at, is->value = value;
    else
        is->fill = fill, is->at = WORDS;
}

/* Race until `stop`: a pass over the pages of this writer would never meet what it left behind,
 * so pages are drawn at random, one of two from an eighth of them. */
void run(struct race *race) {
    uint64_t random = race->number * 77 + 4711, own = race->pages / race->writers, buffer[WORDS];
    while (!__atomic_load_n(&race->stop, __ATOMIC_RELAXED)) {
        uint64_t hot = next(&random) & 1, drawn = next(&random) % (hot ? own / 8 : own);
        uint64_t page = drawn * race->writers + race->number;
        uint64_t *words = race->base + page * WORDS;
        if (race->ways & STORES) {
            verify(race, page, words);
        } else {
            if (!remote(race, buffer, words, PAGE, 0)) continue;
            verify(race, page, buffer);
        }
        change(race, page, &random);
        race->writes++;
    }
}

/* The last word, when all have stopped. */
void check(struct race *race) {
    uint64_t buffer[WORDS];
    for (uint64_t page = race->number; page < race->pages; page += race->writers) {
        uint64_t *words = race->base + page * WORDS;
        if (race->ways & STORES) {
            verify(race, page, words);
        } else if (remote(race, buffer, words, PAGE, 0)) {
            verify(race, page, buffer);
        }
    }
}
