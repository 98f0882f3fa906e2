/* The memory calls under test, and plain reads and writes of memory. */
#include "executor.h"
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/uio.h>

#define NUMBER(at) value(step->word[at])
#define POINTER(at) ((void *)value(step->word[at]))
#define IS(name) (!strcmp(step->word[0], name))

static void told(struct text *out, long result)
{
	if (result == -1)
		say(out, "errno %d", errno);
	else
		say(out, "%ld", result);
}

/* An address as it can be compared: in the arena, or in a slot, which is made if need be. */
void remember(struct text *out, uintptr_t at, size_t length)
{
	if (at >= ARENA && at < ARENA_END) {
		say(out, "p%lu", (at - ARENA) / PAGE);
		return;
	}
	for (int slot = 0; slot < MOST_SLOTS; slot++)
		if (!slots[slot].length) {
			slots[slot] = (struct slot){at, (length + PAGE - 1) & -PAGE};
			say(out, "s%d", slot);
			return;
		}
	munmap((void *)at, length);
	say(out, "no slot");
}

static void forget(uintptr_t at, size_t length)
{
	for (int slot = 0; slot < MOST_SLOTS; slot++)
		if (at < slots[slot].at + slots[slot].length && at + length > slots[slot].at)
			slots[slot].length = 0;
}

static void map(const struct step *step, struct text *out)
{
	size_t length = NUMBER(2);
	const char *file = step->word[5];
	int fd = !strcmp(file, "file") ? file_fd : !strcmp(file, "shared") ? shared_fd : atoi(file);
	void *made = mmap(POINTER(1), length, NUMBER(3), NUMBER(4), fd, NUMBER(6));

	if (made == MAP_FAILED)
		say(out, "errno %d", errno);
	else
		remember(out, (uintptr_t)made, length);
}

static void remap(const struct step *step, struct text *out)
{
	uintptr_t old = NUMBER(1);
	size_t old_length = NUMBER(2), new_length = NUMBER(3);
	int how = NUMBER(4);
	size_t mappings = mappings_in(old, old_length);
	void *made = mremap((void *)old, old_length, new_length, how, POINTER(5));

	if (made == MAP_FAILED) {
		/* The driver leaves out what differs by how many mappings the kernel makes of memory. */
		say(out, "errno %d", errno);
		if (mappings > 1 && !merged_run)
			say(out, " (several mappings)");
		return;
	}
	if (!(how & MREMAP_DONTUNMAP) && old_length)
		forget(old, old_length);
	remember(out, (uintptr_t)made, new_length);
}

/* MADV_FREE leaves to the kernel when the bytes go. Either is right, so what is there is made one:
 * the page is old or zero, and is written back as it was. Memory that we may not write is left
 * out. */
static void free_lazily(const struct step *step, struct text *out)
{
	static char old[64][PAGE];
	uintptr_t from = NUMBER(1), end;
	size_t length = NUMBER(2), pages = (length + PAGE - 1) / PAGE, whole = racing ? PAGE - 8 : PAGE;

	for (uintptr_t at = from & -PAGE; pages <= 64 && at < from + length; at = end)
		if (protection_of(at, &end) < 0 || (protection_of(at, &end) & 3) != 3 || pages > 64) {
			say(out, "left out");
			return;
		}
	for (size_t page = 0; page < pages && pages <= 64; page++) {
		struct iovec to = {old[page], PAGE}, source = {(void *)(from + page * PAGE), PAGE};

		/* Guarded or watched memory cannot be read, and is left out likewise. */
		if (kernel(SYS_process_vm_readv, getpid(), (long)&to, 1, (long)&source, 1, 0) != PAGE) {
			say(out, "left out");
			return;
		}
	}
	told(out, madvise((void *)from, length, MADV_FREE));
	for (size_t page = 0; page < pages && pages <= 64; page++) {
		uint64_t *now = (uint64_t *)(from + page * PAGE);
		int zero = 1;

		for (size_t at = 0; at < whole / 8; at++)
			zero &= now[at] == 0;
		if (!zero && memcmp(now, old[page], whole))
			say(out, " page %lu is neither old nor zero", page);
		memcpy(now, old[page], whole);
	}
}

static void advise_self(const struct step *step, struct text *out)
{
	static int self = -1;
	struct iovec parts[4];
	int count = 0;

	if (self < 0)
		self = kernel(SYS_pidfd_open, getpid(), 0, 0, 0, 0, 0);
	for (int at = 4; at + 1 < step->words && count < 4; at += 2)
		parts[count++] = (struct iovec){POINTER(at), NUMBER(at + 1)};
	if (!strcmp(step->word[2], "libc"))
		told(out, process_madvise(self, parts, count, NUMBER(1), NUMBER(3)));
	else
		told(out, syscall(SYS_process_madvise, self, parts, count, NUMBER(1), NUMBER(3)));
}

static void name_memory(const struct step *step, struct text *out)
{
	told(out, prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, NUMBER(1), NUMBER(2), "differential"));
}

static void policy(const struct step *step, struct text *out)
{
	int mode = -1;

	if (IS("mbind")) {
		unsigned long nodes = NUMBER(4);

		told(out, syscall(SYS_mbind, POINTER(1), NUMBER(2), NUMBER(3), nodes ? &nodes : NULL,
			nodes ? 64ul : 0ul, NUMBER(5)));
		return;
	}
	told(out, syscall(SYS_get_mempolicy, &mode, NULL, 0, POINTER(1), 2 /* MPOL_F_ADDR */));
	say(out, " mode %d", mode);
}

int memory_call(const struct step *step, struct text *out)
{
	if (IS("mmap"))
		map(step, out);
	else if (IS("munmap")) {
		int result = munmap(POINTER(1), NUMBER(2));

		told(out, result);
		if (!result)
			forget(NUMBER(1), NUMBER(2));
	} else if (IS("mremap"))
		remap(step, out);
	else if (IS("mprotect"))
		told(out, mprotect(POINTER(1), NUMBER(2), NUMBER(3)));
	else if (IS("pkey_mprotect"))
		told(out, pkey_mprotect(POINTER(1), NUMBER(2), NUMBER(3), NUMBER(4)));
	else if (IS("madvise") && NUMBER(3) == MADV_FREE)
		free_lazily(step, out);
	else if (IS("madvise"))
		told(out, madvise(POINTER(1), NUMBER(2), NUMBER(3)));
	else if (IS("sys_madvise"))
		told(out, syscall(SYS_madvise, POINTER(1), NUMBER(2), NUMBER(3)));
	else if (IS("sys_munmap"))
		told(out, syscall(SYS_munmap, POINTER(1), NUMBER(2)));
	else if (IS("sys_mprotect"))
		told(out, syscall(SYS_mprotect, POINTER(1), NUMBER(2), NUMBER(3)));
	else if (IS("pmadvise"))
		advise_self(step, out);
	else if (IS("mlock"))
		told(out, mlock(POINTER(1), NUMBER(2)));
	else if (IS("mlock2"))
		told(out, mlock2(POINTER(1), NUMBER(2), NUMBER(3)));
	else if (IS("munlock"))
		told(out, munlock(POINTER(1), NUMBER(2)));
	else if (IS("mlockall"))
		told(out, mlockall(NUMBER(1)));
	else if (IS("munlockall"))
		told(out, munlockall());
	else if (IS("mseal"))
		told(out, syscall(462, POINTER(1), NUMBER(2), NUMBER(3)));
	else if (IS("msync"))
		told(out, msync(POINTER(1), NUMBER(2), NUMBER(3)));
	else if (IS("mincore")) {
		static unsigned char resident[4096];

		told(out, NUMBER(2) > 4096 * PAGE ? 0 : mincore(POINTER(1), NUMBER(2), resident));
	} else if (IS("remap_file_pages"))
		told(out, remap_file_pages(POINTER(1), NUMBER(2), NUMBER(3), NUMBER(4), NUMBER(5)));
	else if (IS("name"))
		name_memory(step, out);
	else if (IS("prctl_merge")) {
		int set = prctl(67, NUMBER(1), 0, 0, 0);

		say(out, "%d %d", set, prctl(68, 0, 0, 0, 0));
	} else if (IS("mbind") || IS("getpol"))
		policy(step, out);
	else if (IS("pkey_alloc"))
		told(out, pkey_alloc(NUMBER(1), NUMBER(2)));
	else
		return 0;
	return 1;
}

static void fill(const struct step *step, struct text *out)
{
	sigjmp_buf here;
	volatile size_t page = 0;
	size_t pages = NUMBER(2) / PAGE, whole = racing ? PAGE - 8 : PAGE;
	int number;

	landing = &here;
	number = sigsetjmp(here, 0);
	for (; !number && page < pages; page++)
		memset((char *)NUMBER(1) + page * PAGE, (int)(NUMBER(3) + page * NUMBER(4)) & 255, whole);
	landing = NULL;
	say(out, "%lu%s", page, number == SIGSEGV ? " SEGV" : number ? " BUS" : "");
}

static void touch(const struct step *step, struct text *out)
{
	sigjmp_buf here;
	volatile uint8_t *at = POINTER(1);
	int number, found;

	landing = &here;
	number = sigsetjmp(here, 0);
	if (number) {
		say(out, number == SIGSEGV ? "SEGV" : "BUS");
	} else if (IS("poke")) {
		*at = NUMBER(2);
		say(out, "0");
	} else {
		found = *at;
		say(out, "%d", found);
	}
	landing = NULL;
}

/* The kernel reads or writes the memory for us: a file's bytes into it, its bytes to a pipe, and
 * what another process could do. */
static void transfer(const struct step *step, struct text *out)
{
	static char data[16 * PAGE];
	size_t length = NUMBER(2) < sizeof data ? NUMBER(2) : sizeof data;
	struct iovec own = {data, length}, theirs = {POINTER(1), length};

	if (IS("receive")) {
		told(out, syscall(SYS_pread64, file_fd, POINTER(1), length, 0));
	} else if (IS("send")) {
		uint32_t sum = 0;
		long result = syscall(SYS_pwrite64, shared_fd, POINTER(1), length, 32 * PAGE);

		told(out, result);
		result = kernel(SYS_pread64, shared_fd, (long)data, sizeof data, 32 * PAGE, 0, 0);
		for (long at = 0; at < result - (racing ? result : 0); at++)
			sum = sum * 31 + data[at];
		say(out, " sum %x", sum);
		kernel(SYS_ftruncate, shared_fd, 16 * PAGE, 0, 0, 0, 0);
	} else {
		memset(data, 'v', sizeof data);
		told(out, process_vm_writev(getpid(), &own, 1, &theirs, 1, 0));
	}
}

int access_step(const struct step *step, struct text *out)
{
	if (IS("fill"))
		fill(step, out);
	else if (IS("poke") || IS("peek"))
		touch(step, out);
	else if (IS("receive") || IS("send") || IS("vmwrite"))
		transfer(step, out);
	else if (IS("futex_wake"))
		told(out, syscall(SYS_futex, POINTER(1), FUTEX_WAKE, 1, NULL, NULL, 0));
	else if (IS("futex_wait")) {
		struct timespec soon = {0, 1000000};

		told(out, syscall(SYS_futex, POINTER(1), FUTEX_WAIT, NUMBER(2), &soon, NULL, 0));
	} else
		return 0;
	return 1;
}

void reset_calls(void)
{
	prctl(67, 0, 0, 0, 0);
}
