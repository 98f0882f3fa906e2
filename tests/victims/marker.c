/* An unmodified program that marks memory as mergeable, as QEMU does, and then does all that a
 * program may do to its memory. It reads commands, one a line, and answers "ok" or what is wrong. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 4096, KINDS = 50 };

static unsigned char *memory;
static unsigned char wanted[PAGES]; /* what each page is filled with */
static int pages = PAGES;

static void fill(int first, int count, int shift)
{
	for (int page = first; page < first + count; page++) {
		wanted[page] = (page + shift) % KINDS;
		memset(memory + (size_t)page * PAGE, wanted[page], PAGE);
	}
}

/* The first wrong page, or -1. */
static int wrong(void)
{
	for (int page = 0; page < pages; page++)
		for (int at = 0; at < PAGE; at++)
			if (memory[(size_t)page * PAGE + at] != wanted[page])
				return page;
	return -1;
}

static int discard(int advice)
{
	int first = PAGES / 4, count = PAGES / 4;

	memset(wanted + first, 0, count);
	return madvise(memory + (size_t)first * PAGE, (size_t)count * PAGE, advice);
}

/* The child must see the same bytes, without an agent, and discard them rightly. */
static int in_child(void)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		if (wrong() >= 0 || discard(MADV_DONTNEED) || wrong() >= 0)
			_exit(1);
		fill(0, PAGES / 2, 7);
		_exit(wrong() >= 0);
	}
	return waitpid(child, &status, 0) != child || status;
}

/* Again and again while it is merged: what is protected cannot be written, by the kernel neither. */
static int guard(void)
{
	size_t half = (size_t)PAGES / 2 * PAGE;
	int zeros = open("/dev/zero", O_RDONLY), bad = 0;

	for (int round = 0; round < 1500; round++) {
		if (round % 100 == 0)
			fill(0, PAGES, round / 100);
		usleep(round * 7 % 2000);
		if (mprotect(memory, half, PROT_READ))
			return 1;
		for (int page = 0; page < PAGES / 2; page += 8) {
			char *at = (char *)memory + (size_t)page * PAGE;
			if (read(zeros, at, 1) == 1)
				bad++, *at = wanted[page];
		}
		if (mprotect(memory, half, PROT_READ | PROT_WRITE))
			return 1;
	}
	close(zeros);
	return bad;
}

/* Children that no handler of pthread_atfork knows of, over and over: each is a snapshot. */
static int in_raw_children(int times)
{
	for (int turn = 0; turn < times; turn++) {
		fill(0, PAGES / 2, turn);
		pid_t child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
		int status;

		if (child == 0)
			_exit(wrong() >= 0);
		if (waitpid(child, &status, 0) != child || status)
			return 1;
	}
	return 0;
}

/* A process that shares our memory without being one of our threads; it writes for ever. */
static int sharer(void *stop)
{
	for (int shift = 0; !*(volatile int *)stop; shift++)
		fill(0, PAGES / 4, shift);
	return 0;
}

static int share(int on)
{
	static unsigned char stack[1 << 16] __attribute__((aligned(16)));
	static pid_t child;
	static int stop;
	int status;

	stop = !on;
	if (on)
		return (child = clone(sharer, stack + sizeof(stack), CLONE_VM | SIGCHLD, &stop)) < 0;
	return waitpid(child, &status, 0) != child || status;
}

/* Children that borrow our memory and write to it; we wait in the kernel meanwhile. */
static int in_vfork_children(int times)
{
	for (volatile int turn = 0; turn < times; turn++) {
		pid_t child = vfork();
		int status;

		if (child == 0) {
			fill(0, PAGES, turn);
			_exit(wrong() >= 0);
		}
		if (waitpid(child, &status, 0) != child || status)
			return 1;
	}
	return 0;
}

static int own_userfaultfd(int on)
{
	static int descriptor;

	if (!on)
		return close(descriptor);
	descriptor = syscall(SYS_userfaultfd, O_CLOEXEC);
	return descriptor < 0;
}

static int obey(const char *command)
{
	size_t half = (size_t)PAGES / 2 * PAGE;

	if (!strcmp(command, "check"))
		return 0;
	if (!strcmp(command, "fill"))
		return fill(0, PAGES, 3), 0;
	if (!strcmp(command, "discard"))
		return discard(MADV_DONTNEED);
	if (!strcmp(command, "free"))
		return discard(MADV_FREE);
	if (!strcmp(command, "fork"))
		return in_child();
	if (!strcmp(command, "fork_raw"))
		return in_raw_children(100);
	if (!strcmp(command, "share") || !strcmp(command, "alone"))
		return share(*command == 's');
	if (!strcmp(command, "vfork"))
		return in_vfork_children(100);
	if (!strcmp(command, "watch") || !strcmp(command, "unwatch"))
		return own_userfaultfd(*command == 'w');
	if (!strcmp(command, "unmerge"))
		return madvise(memory, 2 * half, MADV_UNMERGEABLE);
	if (!strcmp(command, "protect"))
		/* Not at a round number of pages: no window ends there by itself. */
		return mprotect(memory, half + 5 * PAGE, PROT_READ) || wrong() >= 0 ||
		       mprotect(memory, half + 5 * PAGE, PROT_READ | PROT_WRITE);
	if (!strcmp(command, "guard"))
		return guard();
	if (!strcmp(command, "move")) {
		unsigned char *moved = mremap(memory, 2 * half, 2 * half + PAGE, MREMAP_MAYMOVE);

		if (moved == MAP_FAILED)
			return 1;
		memory = moved;
		return memory[2 * half] != 0; /* what was grown is zero, not the rest of a slab */
	}
	if (!strcmp(command, "move in a child")) {
		int status = 1;
		pid_t child = fork();

		if (child == 0)
			_exit(obey("move") || obey("check"));
		return child < 0 || waitpid(child, &status, 0) != child || status;
	}
	if (!strcmp(command, "unmap")) {
		pages = PAGES / 2;
		return munmap(memory + half, half);
	}
	return 1;
}

int main(void)
{
	size_t size = (size_t)PAGES * PAGE;
	char command[64];

	/* As QEMU: reserve, then map in the middle of it. */
	unsigned char *reserved = mmap(NULL, size + 2 * PAGE, PROT_NONE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	memory = mmap(reserved + PAGE, size, PROT_READ | PROT_WRITE,
		      MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || madvise(memory, size, MADV_MERGEABLE) ||
	    madvise(memory, size, MADV_HUGEPAGE))
		return 1;
	fill(0, PAGES, 0);
	puts("ready");
	fflush(stdout);
	while (fgets(command, sizeof(command), stdin)) {
		command[strcspn(command, "\n")] = 0;
		/* While it is shared nobody can tell what is right. */
		int failed = obey(command), page = strcmp(command, "share") ? wrong() : -1;

		if (failed || page >= 0)
			printf("%s: failed %d, page %d is wrong\n", command, failed, page);
		else
			puts("ok");
		fflush(stdout);
	}
	return 0;
}
