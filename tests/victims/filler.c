/* Mergeable memory that is filled at a given speed: filler PAGES SEED BYTES_PER_SECOND [PROMISED].
 *
 * Of 32 pages one is this program's own (SEED), 15 are zeros, and 16 are the same in every one.
 * PROMISED pages are mapped, if that is more, and never touched. It talks in JSON lines: "fill" fills the memory, "check" counts pages that are not as written.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { PAGE = 4096, WORDS = PAGE / 8, AT_ONCE = 64 };

static uint64_t seed;

static void page_of(size_t number, uint64_t *page)
{
	uint64_t word = number % 32 == 0 ? seed << 32 | number : 1 + number;

	if (number % 32 >= 17) {
		memset(page, 0, PAGE);
		return;
	}
	for (int index = 0; index < WORDS; index++)
		page[index] = word * 0x9E3779B97F4A7C15 + index;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec * 1e-9;
}

static void fill(uint64_t *memory, size_t pages, double speed)
{
	double began = now();

	for (size_t number = 0; number < pages; number++) {
		page_of(number, memory + number * WORDS);
		if (number % AT_ONCE == AT_ONCE - 1) {
			double ahead = began + number * PAGE / speed - now();
			struct timespec pause = { ahead, (ahead - (long)ahead) * 1e9 };

			if (ahead > 0)
				nanosleep(&pause, NULL);
		}
	}
}

static size_t check(const uint64_t *memory, size_t pages)
{
	static uint64_t wanted[WORDS];
	size_t wrong = 0;

	for (size_t number = 0; number < pages; number++) {
		page_of(number, wanted);
		wrong += memcmp(wanted, memory + number * WORDS, PAGE) != 0;
	}
	return wrong;
}

int main(int count, char **words)
{
	char line[256];
	size_t pages = count >= 4 ? strtoul(words[1], NULL, 10) : 0;
	size_t promised = count == 5 ? strtoul(words[4], NULL, 10) : pages;
	uint64_t *memory = mmap(NULL, promised * PAGE, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (pages == 0 || promised < pages || memory == MAP_FAILED)
		return 1;
	madvise(memory, promised * PAGE, MADV_NOHUGEPAGE);
	if (madvise(memory, promised * PAGE, MADV_MERGEABLE) != 0)
		return 1;
	seed = strtoul(words[2], NULL, 10);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("{}");
	while (fgets(line, sizeof(line), stdin)) {
		if (strstr(line, "\"fill\""))
			fill(memory, pages, strtod(words[3], NULL));
		printf("{\"wrong\": %zu}\n", check(memory, pages));
	}
	return 0;
}
