/* A program that ill-treats its own mergeable memory and knows what every byte of it must be.
 *
 * Its memory comes in parts. A page holds its key (content and generation), and words that follow
 * from the key; one word may be inverted. What a page must hold is remembered outside of the
 * memory, so that a lost write shows, not only a torn page. Whoever uses a part holds its lock;
 * the agent, which holds none, merges beside that.
 *
 * `main` is the victim of `pagemerge run`; soaker.py loads the same file as a library. All counts,
 * and the first wrong pages, lie in a file shared with the soak: they outlive the victim. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tally.h"

enum { PAGE = 4096, WORDS = PAGE / 8, PARTS = 8, KINDS = 1500, GENERATIONS = 3 };

struct part {
	pthread_mutex_t lock;
	uint64_t *base; /* NULL: there is none now */
	uint64_t *keys; /* what each page must hold; 0: zeros */
	uint16_t *odd;  /* the word that is inverted; 0: none */
	uint64_t pages;
	int merges; /* the program has not asked for the contrary */
	int whole;  /* one mapping, for a kernel that knows nothing of merging */
};

static struct part parts[PARTS];
static struct tally *tally;
static uint64_t serial, pace;
static int stop;

#define COUNT(what, by) __atomic_fetch_add(&tally->what, by, __ATOMIC_RELAXED)

uint64_t draw(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state >> 8;
}

static uint64_t word(uint64_t key, uint64_t at)
{
	return key == 0 ? 0 : at == 0 ? key : (key * 0x9e3779b97f4a7c15u) ^ (at * 0xc2b2ae3d27d4eb4fu);
}

void write_page(uint64_t *page, uint64_t key)
{
	for (uint64_t at = 0; at < WORDS; at++)
		((volatile uint64_t *)page)[at] = word(key, at);
}

/* Contents that every victim may have, or (one of eight, or all) that this one alone has. */
uint64_t draw_key(uint64_t *random, uint64_t page, int private)
{
	uint64_t generation = draw(random) % GENERATIONS;

	if (private || draw(random) % 8 == 0)
		return (0x80000000 | serial << 16 | page) << 32 | generation;
	return (1 + page % KINDS) << 32 | generation;
}

static void failed(const char *what)
{
	int number = errno;

	if (COUNT(failed, 1) == 0)
		snprintf(tally->failure, sizeof tally->failure, "%s: %s", what, strerror(number));
}

static void note_wrong(uint64_t *page, uint64_t at, uint64_t key, uint64_t wanted, const char *during)
{
	uint64_t number = COUNT(wrong, 1), found = page[at];
	struct wrong *it = &tally->first[number % FIRST];

	if (number < FIRST) {
		*it = (struct wrong){ getpid(), (uint64_t)(page + at), key, page[0], wanted, found, "" };
		snprintf(it->during, sizeof it->during, "%s", during);
	}
}

/* Verify pages of a part; a wrong one is noted and put right, so that it counts once. */
static int verify(struct part *part, uint64_t first, uint64_t count, const char *during)
{
	int wrong = 0;

	for (uint64_t page = first; page < first + count; page++) {
		uint64_t *words = part->base + page * WORDS, key = part->keys[page], odd = part->odd[page];
		for (uint64_t at = 0; at < WORDS; at++) {
			uint64_t wanted = word(key, at) ^ (odd && at == odd ? ~0ull : 0);
			if (((volatile uint64_t *)words)[at] == wanted)
				continue;
			note_wrong(words, at, key, wanted, during);
			write_page(words, key);
			part->odd[page] = 0;
			wrong++;
			break;
		}
	}
	COUNT(checked, count);
	return wrong;
}

static void set_zero(struct part *part, uint64_t first, uint64_t count)
{
	memset(part->keys + first, 0, count * sizeof *part->keys);
	memset(part->odd + first, 0, count * sizeof *part->odd);
}

static void rewrite(struct part *part, uint64_t page, uint64_t key)
{
	write_page(part->base + page * WORDS, key);
	part->keys[page] = key;
	part->odd[page] = 0;
}

void soak_lock(int number) { pthread_mutex_lock(&parts[number].lock); }
void soak_unlock(int number) { pthread_mutex_unlock(&parts[number].lock); }

/* Another memory takes the place of a part's; the caller holds the lock. `keys`: what it holds. */
void soak_set(int number, uint64_t *base, uint64_t pages, const uint64_t *keys)
{
	struct part *part = &parts[number];

	free(part->keys);
	free(part->odd);
	part->base = base;
	part->pages = pages;
	part->keys = calloc(pages + 1, sizeof *part->keys);
	part->odd = calloc(pages + 1, sizeof *part->odd);
	part->merges = part->whole = 1;
	if (keys)
		memcpy(part->keys, keys, pages * sizeof *keys);
}

/* Fill a part: runs that all victims have, or (one of four) contents of its own. */
void soak_fill(int number, uint64_t *random)
{
	struct part *part = &parts[number];
	uint64_t generation = draw(random) % GENERATIONS;
	int private = draw(random) % 4 == 0;

	for (uint64_t page = 0; page < part->pages; page++) {
		uint64_t id = private ? 0x80000000 | serial << 16 | page : 1 + page % KINDS;
		rewrite(part, page, page % 16 ? id << 32 | generation : 0);
	}
}

/* All pages of a part, if it has any; the caller holds the lock. */
int soak_verify(int number, const char *during)
{
	struct part *part = &parts[number];
	return part->base ? verify(part, 0, part->pages, during) : 0;
}

int soak_check(void)
{
	int wrong = 0;

	for (int number = 0; number < PARTS; number++) {
		soak_lock(number);
		wrong += soak_verify(number, "a check of everything");
		soak_unlock(number);
	}
	return wrong;
}

/* In a forked child, whose parent held the part's lock: right, changeable, and right again. */
int soak_child(int number, uint64_t random, int may_discard)
{
	struct part *part = &parts[number];

	alarm(100); /* a child that hangs is a child that dies */
	int wrong = verify(part, 0, part->pages, "a forked child's first look");
	for (uint64_t page = 0; page < part->pages; page += 1 + draw(&random) % 4)
		rewrite(part, page, draw_key(&random, page, 0));
	if (may_discard) {
		uint64_t first = draw(&random) % part->pages, count = part->pages - first;
		if (madvise(part->base + first * WORDS, count * PAGE, MADV_DONTNEED))
			failed("MADV_DONTNEED in a forked child");
		set_zero(part, first, count);
	}
	return wrong + verify(part, 0, part->pages, "a forked child that writes");
}

/* Wait for a child that must end well. */
void soak_wait(int pid, const char *what)
{
	int status = 0, done;

	do
		done = waitpid(pid, &status, 0);
	while (done < 0 && errno == EINTR);
	if (done != pid || status) {
		errno = done == pid ? ECHILD : errno;
		failed(what);
	}
}

/* A thread that rewrites random pages, each verified before, until the victim ends. */
void soak_write(uint64_t random)
{
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		for (int step = 0; step < 64; step++) {
			int number = draw(&random) % PARTS;
			struct part *part = &parts[number];
			soak_lock(number);
			if (part->base) {
				uint64_t hot = draw(&random) % 4, drawn = draw(&random);
				uint64_t page = drawn % (hot ? 1 + part->pages / 8 : part->pages);
				verify(part, page, 1, "writing");
				if (draw(&random) % 8 == 0) {
					rewrite(part, page, 0);
				} else if (draw(&random) % 4 == 0 && !part->odd[page]) {
					uint64_t at = 2 + draw(&random) % (WORDS - 2);
					volatile uint64_t *words = part->base + page * WORDS;
					words[at] = ~word(part->keys[page], at);
					part->odd[page] = at;
				} else {
					rewrite(part, page, draw_key(&random, page, 0));
				}
				COUNT(writes, 1);
			}
			soak_unlock(number);
		}
		COUNT(turns, 1);
		if (pace)
			usleep(draw(&random) % pace);
	}
}

void soak_start(struct tally *shared, uint64_t number, uint64_t pause)
{
	tally = shared;
	serial = number;
	pace = pause;
	for (int part = 0; part < PARTS; part++)
		pthread_mutex_init(&parts[part].lock, NULL);
}

void soak_stop(void) { __atomic_store_n(&stop, 1, __ATOMIC_RELAXED); }

/* Break a byte behind the accounts: what the soak's own test wants to see reported. */
void soak_corrupt(void)
{
	soak_lock(0);
	((unsigned char *)parts[0].base)[5 * PAGE + 1000] ^= 0x10;
	soak_unlock(0);
}

/* ---- From here on: the program of `pagemerge run`. ---- */

/* Under `run --all` the program marks nothing. */
static int mark(void *at, size_t size)
{
	return getenv("PAGEMERGE_FROM") ? 0 : madvise(at, size, MADV_MERGEABLE);
}

static void map_part(int number, uint64_t pages, uint64_t *random)
{
	void *base = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (base == MAP_FAILED || mark(base, pages * PAGE)) {
		failed("new memory");
		_exit(3);
	}
	soak_set(number, base, pages, NULL);
	soak_fill(number, random);
}

/* Discarded memory reads as zero, in the middle of a part that is merged. What MADV_FREE is given
 * may also be as it was until it is written: Linux takes such pages when it likes. */
static void discard(struct part *part, uint64_t first, uint64_t count, uint64_t *random)
{
	int lazy = draw(random) % 2;

	if (madvise(part->base + first * WORDS, count * PAGE, lazy ? MADV_FREE : MADV_DONTNEED))
		failed("a discard");
	if (!lazy)
		set_zero(part, first, count);
	for (uint64_t page = first; lazy && page < first + count; page++) {
		uint64_t *words = part->base + page * WORDS, *key = &part->keys[page];
		uint16_t *odd = &part->odd[page];
		if (*key ? words[0] == 0 : *odd && words[*odd] == 0)
			*key = *odd = 0;
		verify(part, page, 1, "MADV_FREE");
		rewrite(part, page, 0);
	}
	COUNT(discards, 1);
}

/* mprotect: nobody may write then, the kernel included; and back. */
static void protect(struct part *part, uint64_t first, uint64_t count)
{
	static int zeros = -1;
	void *start = part->base + first * WORDS;

	if (zeros < 0)
		zeros = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	if (mprotect(start, count * PAGE, PROT_READ))
		failed("mprotect to read");
	if (read(zeros, (char *)start + 100, 1) != -1) {
		errno = 0;
		failed("memory that was protected could be written");
		rewrite(part, first, 0);
	}
	verify(part, first, count, "mprotect");
	if (mprotect(start, count * PAGE, PROT_READ | PROT_WRITE))
		failed("mprotect to write");
	COUNT(remaps, 1);
}

/* mremap: elsewhere and back in size; what was grown is zero, not the rest of a slab. */
static void move(struct part *part, int fixed)
{
	size_t size = part->pages * PAGE;
	char *moved;

	if (!part->whole)
		return; /* EFAULT is right then, mremap(2) */
	if (fixed) {
		char *room = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		moved = mremap(part->base, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, room);
	} else {
		moved = mremap(part->base, size, size + PAGE, MREMAP_MAYMOVE);
	}
	if (moved == MAP_FAILED) {
		failed("mremap");
		return;
	}
	part->base = (uint64_t *)moved;
	if (!fixed) {
		for (uint64_t at = 0; at < WORDS; at++)
			if (part->base[part->pages * WORDS + at]) {
				note_wrong(part->base + part->pages * WORDS, at, 0, 0, "growing by mremap");
				break;
			}
		if (munmap(moved + size, PAGE))
			failed("munmap of a page");
	}
	COUNT(remaps, 1);
}

static void toggle(struct part *part)
{
	part->merges = !part->merges;
	if (madvise(part->base, part->pages * PAGE, part->merges ? MADV_MERGEABLE : MADV_UNMERGEABLE))
		failed("MADV_MERGEABLE or UNMERGEABLE");
	COUNT(unmerges, 1);
}

/* Other memory is mapped over the middle of a part, as QEMU does. */
static void overlay(struct part *part, uint64_t first, uint64_t count)
{
	void *at = part->base + first * WORDS;
	void *made = mmap(at, count * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	if (made != at || (part->merges && mark(at, count * PAGE)))
		failed("mmap(MAP_FIXED)");
	set_zero(part, first, count);
	part->whole = 0;
	COUNT(remaps, 1);
}

static void spawn(uint64_t *random)
{
	extern char **environ;
	char *argv[] = { "true", NULL };
	pid_t child;

	if (draw(random) % 2) {
		child = vfork();
		if (child == 0) {
			execv("/bin/true", argv);
			_exit(1);
		}
	} else if (posix_spawn(&child, "/bin/true", NULL, NULL, argv, environ)) {
		child = -1;
	}
	soak_wait(child, "a spawned program");
	COUNT(spawns, 1);
}

static void fork_child(int number, uint64_t *random)
{
	pid_t child = fork();

	if (child == 0)
		_exit(soak_child(number, *random, 1) != 0);
	soak_wait(child, "a forked child");
	COUNT(forks, 1);
}

static void operate(int number, uint64_t *random)
{
	struct part *part = &parts[number];
	uint64_t first = draw(random) % part->pages;
	uint64_t count = 1 + draw(random) % (part->pages - first);

	verify(part, 0, part->pages, "a look before a call");
	switch (draw(random) % 16) {
	case 0: case 1: case 2: discard(part, first, count, random); break;
	case 3: case 4: protect(part, first, count); break;
	case 5: move(part, draw(random) % 2); break;
	case 6: toggle(part); break;
	case 7: overlay(part, first, count); break;
	case 8: case 9: fork_child(number, random); break;
	case 10: spawn(random); break;
	case 11: {
		uint64_t pages = part->pages;
		if (munmap(part->base, pages * PAGE))
			failed("munmap");
		map_part(number, pages, random);
		COUNT(births, 1);
		break;
	}
	default: soak_fill(number, random); break;
	}
	verify(part, 0, part->pages, "a look after a call");
}

static void *operator(void *seed)
{
	uint64_t random = (uint64_t)seed;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		int number = draw(&random) % PARTS;
		soak_lock(number);
		operate(number, &random);
		soak_unlock(number);
		COUNT(turns, 1);
		usleep(20000 + draw(&random) % 200000);
	}
	return NULL;
}

static void *writer(void *seed)
{
	soak_write((uint64_t)seed);
	return NULL;
}

/* Arguments: the tally, serial number, seed, pages of a part, writers, pause in microseconds. */
int main(int argc, char **argv)
{
	if (argc != 7 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		return 2;
	int file = open(argv[1], O_RDWR | O_CLOEXEC);
	uint64_t random = strtoull(argv[3], NULL, 10), pages = strtoull(argv[4], NULL, 10);
	void *shared = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	char line[200];

	if (shared == MAP_FAILED)
		return 2;
	close(file);
	soak_start(shared, strtoull(argv[2], NULL, 10), strtoull(argv[6], NULL, 10));
	for (int number = 0; number < PARTS; number++)
		map_part(number, pages, &random);
	pthread_t thread;
	if (pthread_create(&thread, NULL, operator, (void *)draw(&random)))
		return 2;
	for (int count = atoi(argv[5]); count > 0; count--)
		if (pthread_create(&thread, NULL, writer, (void *)draw(&random)))
			return 2;
	printf("{\"pid\": %d}\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		if (strstr(line, "\"corrupt\""))
			soak_corrupt();
		if (strstr(line, "\"leave\""))
			_exit(0); /* whatever the others are about to do */
		printf("{\"wrong\": %d}\n", soak_check());
		fflush(stdout);
	}
	_exit(0);
}
