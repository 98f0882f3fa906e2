/* Calls malloc's family with usual and with odd arguments, and prints what each returns: the same
   with every allocator that behaves as glibc's. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GIB ((size_t)1 << 30)
#define COUNT(array) (sizeof(array) / sizeof *(array))

static const size_t ALIGNMENTS[] = {
	0, 1, 2, 3, 4, 7, 8, 12, 16, 24, 48, 64, 4096, 1 << 16, 1 << 20, 1 << 22, 1 << 25, GIB,
	(size_t)1 << 62, (size_t)1 << 63, SIZE_MAX,
};
static const size_t SIZES[] = {0, 1, 8, 24, 100, 5000, 1 << 20, 5 << 20, SIZE_MAX / 2, SIZE_MAX};

/* Whether there is a block, and why not. The block is written and freed. */
static void tell(const char *what, void *block, size_t size) {
	int why = block ? 0 : errno;
	printf("%s %zu: %s, errno %d", what, size, block ? "a block" : "none", why);
	if (block != NULL) {
		size_t usable = malloc_usable_size(block), some = size < 5000 ? size : 5000;
		printf(", %s", usable >= size ? "large enough" : "too small");
		memset(block, 1, some);
		printf(", %s", (uintptr_t)block % 16 ? "misaligned" : "aligned");
	}
	printf("\n");
	free(block);
}

static void aligned(size_t alignment, size_t size) {
	void *block = NULL;
	errno = 99;
	int answer = posix_memalign(&block, alignment, size);
	printf("posix_memalign %zu %zu: %d, errno %d", alignment, size, answer, errno);
	if (answer == 0 && block != NULL)
		printf(", %s", (uintptr_t)block % alignment ? "misaligned" : "aligned");
	printf("\n");
	free(block);
	errno = 0;
	tell("memalign", memalign(alignment, size), size);
	errno = 0;
	tell("aligned_alloc", aligned_alloc(alignment, size), size);
}

/* Small blocks of each size, by each function: aligned to 16 bytes, and zero from calloc. */
static void small(void) {
	int misaligned = 0, dirty = 0;
	for (size_t size = 0; size < 2000; size++) {
		char *blocks[] = {malloc(size), calloc(1, size), realloc(NULL, size),
						  realloc(malloc(100), size + 1)};
		for (size_t at = 0; at < size; at++)
			dirty += blocks[1][at] != 0;
		for (size_t at = 0; at < COUNT(blocks); at++) {
			misaligned += (uintptr_t)blocks[at] % 16 != 0;
			memset(blocks[at], 5, malloc_usable_size(blocks[at]));
		}
		for (size_t at = 0; at < COUNT(blocks); at++)
			free(blocks[at]);
	}
	printf("misaligned %d, dirty %d\n", misaligned, dirty);
}

/* Blocks of gigabytes, of which only a little is touched. */
static void large(void) {
	char *block = malloc(GIB);
	memset(block, 7, 5000);
	block[GIB - 1] = 8;
	printf("usable: %d\n", malloc_usable_size(block) >= GIB);
	block = realloc(block, 2 * GIB);
	printf("grown: %d %d\n", block[4999], block[GIB - 1]);
	block = realloc(block, 100);
	printf("shrunk: %d\n", block[99]);
	free(block);
	block = calloc(3, GIB);
	printf("zero: %d\n", block[2 * GIB]);
	free(block);
	tell("more than there is", malloc((size_t)1 << 46), (size_t)1 << 46);
}

int main(void) {
	static const size_t odd[] = {0, 1, 1 << 20, SIZE_MAX, SIZE_MAX - 4096, SIZE_MAX / 2 + 1};
	for (size_t at = 0; at < COUNT(odd); at++) {
		errno = 0;
		tell("malloc", malloc(odd[at]), odd[at]);
		errno = 0;
		tell("calloc", calloc(3, odd[at]), odd[at]);
		errno = 0;
		tell("valloc", valloc(odd[at]), odd[at]);
		errno = 0;
		tell("pvalloc", pvalloc(odd[at]), odd[at]);
		errno = 0;
		tell("realloc of null", realloc(NULL, odd[at]), odd[at]);
	}
	for (size_t at = 0; at < COUNT(ALIGNMENTS); at++)
		for (size_t of = 0; of < COUNT(SIZES); of++)
			aligned(ALIGNMENTS[at], SIZES[of]);
	char *block = malloc(100);
	memset(block, 7, 100);
	errno = 0;
	printf("realloc too large: %d, errno %d\n", realloc(block, SIZE_MAX) == NULL, errno);
	printf("reallocarray overflows: %d, errno %d\n", !reallocarray(block, SIZE_MAX, 3), errno);
	printf("kept: %d\n", block[99]);
	errno = 55;
	printf("realloc to nothing: %d, errno %d\n", realloc(block, 0) == NULL, errno);
	free(malloc(10 << 20));
	free(NULL);
	printf("errno %d, usable of null %zu\n", errno, malloc_usable_size(NULL));
	malloc_trim(0);
	small();
	large();
	return 0;
}
