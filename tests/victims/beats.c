/* Marks memory of many small mappings, all pages of a few contents, and notes the longest time that it
 * did not come to do anything. Says "ready", and at the end of its input {"gap_us": ..., "wrong": ...}. */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE = 4096, MAPPINGS = 10000, CONTENTS = 5 };

static long microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

int main(void)
{
	size_t size = 2UL * MAPPINGS * PAGE;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct pollfd input = {.fd = 0, .events = POLLIN};
	long last, longest = 0, wrong = 0;

	if (memory == MAP_FAILED)
		return 1;
	madvise(memory, size, MADV_NOHUGEPAGE);
	for (size_t page = 0; page < size / PAGE; page++)
		memset(memory + page * PAGE, 1 + page % CONTENTS, PAGE);
	for (size_t page = 0; page < size / PAGE; page += 2)
		if (mprotect(memory + page * PAGE, PAGE, PROT_READ))
			return 1;
	if (madvise(memory, size, MADV_MERGEABLE))
		return 1;
	puts("ready");
	fflush(stdout);
	last = microseconds();
	while (poll(&input, 1, 1) == 0) {
		/* What every program does now and then: it maps memory, and writes there. */
		char *more = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		long now;

		more[0] = 1;
		munmap(more, PAGE);
		now = microseconds();
		longest = now - last > longest ? now - last : longest;
		last = now;
	}
	for (size_t at = 0; at < size; at++)
		wrong += memory[at] != (char)(1 + at / PAGE % CONTENTS);
	printf("{\"gap_us\": %ld, \"wrong\": %ld}\n", longest, wrong);
	return 0;
}
