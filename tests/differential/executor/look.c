/* What memory is like: mappings, permissions, bytes, flags. */
#include "executor.h"
#include <sys/ioctl.h>

/* PROCMAP_QUERY, Linux 6.11 (include/uapi/linux/fs.h). */
struct query {
	uint64_t size, flags, at, start, end, vma_flags, page_size, offset, inode;
	uint32_t major, minor, name_size, id_size;
	uint64_t name, id;
};
#define QUERY _IOWR('f', 17, struct query)
enum { READABLE = 1, WRITABLE = 2, EXECUTABLE = 4, SHARED = 8, OR_NEXT = 16 };

struct mapping {
	uintptr_t start, end;
	unsigned access;
	int file, slab;
};

static int maps = -1;
uint64_t merged_pages;
char ignored_flags[256] = " ";

/* Anew in a forked child: the descriptor belongs to the memory of who opened it. */
void open_maps(void)
{
	if (maps >= 0)
		kernel(SYS_close, maps, 0, 0, 0, 0, 0);
	maps = kernel(SYS_openat, AT_FDCWD, (long)"/proc/self/maps", O_RDONLY | O_CLOEXEC, 0, 0, 0);
}

/* The mapping at an address, or the next one. */
static int mapping_at(uintptr_t at, struct mapping *found)
{
	char name[256] = "";
	struct query query = {.size = sizeof query, .flags = OR_NEXT, .at = at,
		.name = (uintptr_t)name, .name_size = sizeof name};
	long result = kernel(SYS_ioctl, maps, QUERY, (long)&query, 0, 0, 0);

	if (result == -ENAMETOOLONG) {
		query.name_size = 0, query.name = 0;
		result = kernel(SYS_ioctl, maps, QUERY, (long)&query, 0, 0, 0);
	}
	if (result < 0)
		return 0;
	found->start = query.start, found->end = query.end;
	found->access = query.vma_flags & 15;
	found->slab = strstr(name, "pagemerge-slab") != NULL;
	found->file = query.inode != 0 && !found->slab;
	return 1;
}

/* What may be done at an address (PROT_), and how far; -1 if there is no mapping. */
int protection_of(uintptr_t at, uintptr_t *end)
{
	struct mapping mapping;

	if (!mapping_at(at, &mapping) || mapping.start > at)
		return -1;
	*end = mapping.end;
	return mapping.access & 7;
}

size_t mappings_in(uintptr_t from, size_t length)
{
	struct mapping mapping;
	size_t count = 0;
	uintptr_t at = from;

	while (at < from + length && mapping_at(at, &mapping) && mapping.start < from + length) {
		count++;
		at = mapping.end;
	}
	return count;
}

/* A page in a few letters: zeros, one byte throughout, or a hash; S or B if it cannot be read. */
static uint32_t digest(uintptr_t page, int write)
{
	sigjmp_buf here;
	volatile uint64_t *words = (volatile uint64_t *)page;
	int count = racing ? PAGE / 8 - 1 : PAGE / 8, fault;
	uint64_t a = 1, b = 2, first, same = 1;

	landing = &here;
	fault = sigsetjmp(here, 0);
	if (fault) {
		landing = NULL;
		return fault == SIGBUS ? 2 : 1;
	}
	if (write) /* the same byte: what is tried is whether it may be written */
		__atomic_fetch_or((uint8_t *)page, 0, __ATOMIC_RELAXED);
	first = words[0];
	for (int at = 0; at < count; at++) {
		uint64_t word = words[at];

		same &= word == first;
		a = (a ^ word) * 0x9e3779b97f4a7c15u;
		b = (b + word) * 0xc2b2ae3d27d4eb4fu + (a >> 29);
	}
	landing = NULL;
	if (same && first == (first & 255) * 0x0101010101010101u)
		return 256 + (first & 255);
	return (uint32_t)((a ^ b) >> 32) | 1u << 31;
}

static void tell_page(struct text *out, uint32_t digest)
{
	if (digest == 256)
		say(out, "0");
	else if (digest > 256 && digest < 512)
		say(out, "=%02x", digest - 256);
	else if (digest == 1 || digest == 2)
		say(out, digest == 1 ? "SEGV" : "BUS");
	else
		say(out, "%08x", digest);
}

static void look_at(struct text *out, const char *name, uintptr_t from, size_t pages, int probe)
{
	struct mapping mapping;
	uintptr_t at = from, end = from + pages * PAGE;
	uintptr_t run = 0;
	uint32_t last = 0;
	int last_kind = -1;

	while (at < end && mapping_at(at, &mapping) && mapping.start < end) {
		int kind = mapping.access | mapping.file << 4;

		for (at = mapping.start > at ? mapping.start : at; at < mapping.end && at < end; at += PAGE) {
			uint32_t now = digest(at, probe);

			if (run && now == last && kind == last_kind)
				continue;
			if (run) {
				tell_page(out, last);
				say(out, "*%lu", (at - run) / PAGE);
			}
			run = at, last = now, last_kind = kind;
			say(out, " %s%lu:%c%c%c%c%s", name, (at - from) / PAGE, kind & 1 ? 'r' : '-',
				kind & 2 ? 'w' : '-', kind & 4 ? 'x' : '-', kind & 8 ? 's' : 'p',
				kind & 16 ? "f:" : ":");
		}
		if (run) { /* a hole may follow */
			struct mapping next;

			if (at >= end || !mapping_at(at, &next) || next.start > at) {
				tell_page(out, last);
				say(out, "*%lu", (at - run) / PAGE);
				run = 0;
			}
		}
	}
}

void look(struct text *out, int probe)
{
	look_at(out, "", ARENA, window, probe);
	for (int slot = 0; slot < MOST_SLOTS; slot++) {
		char name[8];

		if (!slots[slot].length)
			continue;
		snprintf(name, sizeof name, "s%d:", slot);
		look_at(out, name, slots[slot].at,
			slots[slot].length / PAGE < 64 ? slots[slot].length / PAGE : 64, probe);
	}
}

/* A stretch of pages with the same flags, not told yet. */
static struct stretch {
	uintptr_t start, end;
	char flags[128];
} stretch;

static void tell_stretch(struct text *out)
{
	if (stretch.end > stretch.start)
		say(out, " %lu-%lu:%s", (stretch.start - ARENA) / PAGE, (stretch.end - ARENA) / PAGE,
			stretch.flags);
	stretch.start = stretch.end = 0;
}

/* The flags of one of the arena's mappings (smaps, VmFlags), less those to be ignored. */
static void note_flags(struct text *out, uintptr_t start, uintptr_t end, const char *line)
{
	char kept[128] = "", name[8];
	uintptr_t limit = ARENA + window * PAGE;

	if (start >= limit || end <= ARENA)
		return;
	start = start < ARENA ? ARENA : start;
	end = end > limit ? limit : end;
	for (const char *at = line; at[0] && at[1]; at += at[2] ? 3 : 2) {
		snprintf(name, sizeof name, " %.2s ", at);
		if (!strstr(ignored_flags, name))
			memcpy(kept + strlen(kept), name + 1, 2);
	}
	if (start != stretch.end || strcmp(kept, stretch.flags)) {
		tell_stretch(out);
		stretch.start = start;
		snprintf(stretch.flags, sizeof stretch.flags, "%s", kept);
	}
	stretch.end = end;
}

void flags(struct text *out)
{
	static char data[1 << 20];
	int fd = kernel(SYS_openat, AT_FDCWD, (long)"/proc/self/smaps", O_RDONLY | O_CLOEXEC, 0, 0, 0);
	size_t have = 0;
	uintptr_t start = 0, end = 0;
	char *rest;

	for (;;) {
		long got = kernel(SYS_read, fd, (long)data + have, sizeof data - 1 - have, 0, 0, 0);

		if (got <= 0)
			break;
		have += got;
	}
	kernel(SYS_close, fd, 0, 0, 0, 0, 0);
	data[have] = 0;
	for (char *line = strtok_r(data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		if (!strncmp(line, "VmFlags: ", 9))
			note_flags(out, start, end, line + 9);
		else if (line[0] < 'A' || line[0] > 'Z')
			sscanf(line, "%lx-%lx", &start, &end);
	}
	tell_stretch(out);
}

static size_t merged_now(size_t *could)
{
	struct mapping mapping;
	size_t merged = 0;
	uintptr_t at = ARENA;

	*could = 0;
	while (mapping_at(at, &mapping) && mapping.start < NOWHERE) {
		if (mapping.slab)
			merged += (mapping.end - mapping.start) / PAGE;
		else if (!mapping.file && !(mapping.access & 8))
			*could += (mapping.end - mapping.start) / PAGE;
		at = mapping.end;
	}
	for (int slot = 0; slot < MOST_SLOTS; slot++) {
		uintptr_t end = slots[slot].at + slots[slot].length;

		if (!slots[slot].length)
			continue;
		for (at = slots[slot].at; at < end && mapping_at(at, &mapping) && mapping.start < end;
		     at = mapping.end)
			if (mapping.slab)
				merged += ((mapping.end < end ? mapping.end : end) - mapping.start) / PAGE;
	}
	return merged;
}

/* Where memory is merged that nobody marks, an agent starts in a call of malloc or free. */
void let_start(void)
{
	void *volatile made = malloc(1);

	free(made);
}

/* Wait until the hub has merged what it can: until nothing has changed for a while. */
void settle(void)
{
	struct timespec tick = {0, 1000000};
	uint64_t changed = milliseconds(), begun = changed;
	size_t could, now = merged_now(&could), first = now;

	let_start();
	while (merged_run && could > 0 && milliseconds() < changed + quiet_ms &&
	       milliseconds() < begun + 20 * quiet_ms) {
		size_t then = now;

		kernel(SYS_nanosleep, (long)&tick, 0, 0, 0, 0, 0);
		now = merged_now(&could);
		if (now != then)
			changed = milliseconds();
	}
	if (now > first)
		merged_pages += now - first;
}

/* A while in which the hub may begin something, and need not be done. */
void nap(long microseconds)
{
	struct timespec time = {0, microseconds * 1000};
	size_t could, first = merged_now(&could), now;

	let_start();
	kernel(SYS_nanosleep, (long)&time, 0, 0, 0, 0, 0);
	now = merged_now(&could);
	if (now > first)
		merged_pages += now - first;
}
