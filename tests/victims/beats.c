/* Marks memory as mergeable, all pages of a few contents, and notes the longest time that it did not come
 * to do anything. `whole`: one mapping of 200 MB; `pieces`: 20,000 mappings of a page with holes between.
 * Says "ready", and at the end of its input {"gap_us": ..., "wrong": ..., "handled": ...}. */
#define _GNU_SOURCE
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

enum { PAGE = 4096, LARGE = 51200, PIECES = 20000, CONTENTS = 5 };

static volatile long handled;

static void handle(int signal)
{
	(void)signal;
	handled++;
}

static long microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

int main(int count, char **words)
{
	int pieces = count > 1 && !strcmp(words[1], "pieces");
	size_t step = pieces ? 2 : 1, pages = pieces ? 2 * PIECES : LARGE;
	char *memory =
		mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct pollfd input = {.fd = 0, .events = POLLIN};
	struct itimerval often = {{0, 10000}, {0, 10000}};
	long last, longest = 0, wrong = 0;

	if (memory == MAP_FAILED)
		return 1;
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t page = 0; page < pages; page += step)
		memset(memory + page * PAGE, 1 + page % CONTENTS, PAGE);
	if (madvise(memory, pages * PAGE, MADV_MERGEABLE))
		return 1;
	for (size_t page = 1; pieces && page < pages; page += step)
		if (munmap(memory + page * PAGE, PAGE))
			return 1;
	signal(SIGALRM, handle);
	setitimer(ITIMER_REAL, &often, NULL);
	puts("ready");
	fflush(stdout);
	last = microseconds();
	while (poll(&input, 1, 1) <= 0) {
		/* What every program does now and then: it maps memory, and writes there. */
		char *more = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		long now;

		if (more == MAP_FAILED)
			return 1;
		more[0] = 1;
		munmap(more, PAGE);
		now = microseconds();
		longest = now - last > longest ? now - last : longest;
		last = now;
	}
	for (size_t page = 0; page < pages; page += step)
		for (size_t at = page * PAGE; at < (page + 1) * PAGE; at++)
			wrong += memory[at] != (char)(1 + page % CONTENTS);
	printf("{\"gap_us\": %ld, \"wrong\": %ld, \"handled\": %ld}\n", longest, wrong, handled);
	return 0;
}
