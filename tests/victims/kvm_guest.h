/* The code that runs inside the virtual machine of kvm.c, and what it shares with the host.
 *
 * A page of the mergeable memory has two halves. The guest writes the first, the device (a thread
 * of the host) the second; a half follows from its key, and key 0 means zeros. What each half must
 * hold is noted in the ledger, which lies in memory that nobody merges. The version of an entry is
 * odd while its half is written: whoever reads the half of another trusts it only if the version
 * was even and stayed the same. x86 keeps the order of loads and of stores, so volatile is enough.
 *
 * A half that its own writer finds changed is a lost write. A half that somebody else finds
 * changed is a stale view. The section `guest` is copied into the machine as a whole: its functions
 * may call each other and nothing else, and use no constants outside of their instructions. */
#include <stdint.h>

enum { PAGE = 4096, WORDS = PAGE / 8, HALF = WORDS / 2, MOST_PAGES = 1 << 14, MOST_CPUS = 2 };
enum { PORT_IDLE = 0xf4, PORT_REST = 0xf5 };
enum command { COMMAND_WRITE = 1, COMMAND_CHECK, COMMAND_RACE };
enum owner { OF_GUEST, GIVEN_UP, GIVEN_BACK }; /* who may use a page: guest, device, guest */

struct half {
	uint32_t version, key;
};

struct entry { /* of the ledger, one a page */
	struct half guest, device;
	uint32_t owner, unused;
};

struct wrong_word {
	uint64_t page, at, wanted, found;
};

struct counts { /* of one processor of the guest, or of the device */
	uint64_t writes;
	uint64_t checked;  /* halves that were read and compared */
	uint64_t lost;     /* own halves with a wrong word */
	uint64_t stale;    /* others' halves with a wrong word */
	uint64_t unzeroed; /* pages that came back from the balloon and were not zero */
	uint64_t balloons; /* pages that came back from the balloon */
	struct wrong_word first;
};

struct control {
	uint32_t command, stop; /* what the guest is to do; end COMMAND_RACE */
	uint32_t kinds;         /* contents that a race chooses from */
	uint32_t balloon;       /* give up pages now and then */
	uint32_t burst;         /* pages between two rests of a race */
	uint32_t cpus;
	uint64_t pages, step, generation; /* COMMAND_WRITE: each step-th page, and its content */
	uint64_t random[MOST_CPUS];
	struct counts counts[MOST_CPUS];
};

#define SHARED static inline __attribute__((always_inline))
#define GUEST static __attribute__((section("guest"), noinline, used, no_stack_protector))

SHARED uint64_t draw(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state >> 8;
}

SHARED uint64_t word(uint64_t key, uint64_t at)
{
	return key == 0 ? 0 : (key * 0x9e3779b97f4a7c15u) ^ (at * 0xc2b2ae3d27d4eb4fu);
}

SHARED uint32_t planned(volatile struct control *control, uint64_t page)
{
	return 1 + page + control->generation * MOST_PAGES;
}

SHARED void write_half(volatile uint64_t *words, volatile struct half *half, uint32_t key)
{
	half->version |= 1;
	half->key = key;
	for (uint64_t at = 0; at < HALF; at++)
		words[at] = word(key, at);
	half->version++;
}

/* The first word that does not follow from the key; HALF if there is none. */
SHARED uint64_t compare(volatile uint64_t *words, uint32_t key, uint64_t *found)
{
	for (uint64_t at = 0; at < HALF; at++)
		if ((*found = words[at]) != word(key, at))
			return at;
	return HALF;
}

SHARED void note(volatile struct counts *counts, uint64_t page, uint64_t at, uint32_t key,
		 uint64_t found)
{
	if (counts->lost + counts->stale + counts->unzeroed)
		return;
	counts->first.page = page;
	counts->first.at = at;
	counts->first.wanted = word(key, at % HALF);
	counts->first.found = found;
}

/* A half that the caller alone writes; a wrong one is put right, so that it counts once. */
SHARED void check_own(volatile struct counts *counts, volatile uint64_t *memory, uint64_t page,
		      uint64_t first, volatile struct half *half)
{
	volatile uint64_t *words = memory + page * WORDS + first;
	uint64_t found, at = compare(words, half->key, &found);

	counts->checked++;
	if (at == HALF)
		return;
	note(counts, page, first + at, half->key, found);
	counts->lost++;
	write_half(words, half, half->key);
}

/* A half that somebody else may write meanwhile. */
SHARED void check_other(volatile struct counts *counts, volatile uint64_t *memory, uint64_t page,
			uint64_t first, volatile struct half *half)
{
	uint32_t version = half->version, key = half->key;
	uint64_t found, at = compare(memory + page * WORDS + first, key, &found);

	if (version % 2 || half->version != version)
		return;
	counts->checked++;
	if (at == HALF)
		return;
	note(counts, page, first + at, key, found);
	counts->stale++;
}

SHARED void out(uint16_t port)
{
	__asm__ volatile("outb %%al, %%dx" : : "a"(0), "d"(port) : "memory");
}

/* The guest's own code from here on. */

GUEST void guest_check(volatile struct counts *counts, volatile uint64_t *memory,
		       volatile struct entry *entry, uint64_t page, int own)
{
	if (entry->owner != OF_GUEST)
		return;
	if (own)
		check_own(counts, memory, page, 0, &entry->guest);
	else
		check_other(counts, memory, page, 0, &entry->guest);
	check_other(counts, memory, page, HALF, &entry->device);
}

/* A page that the device has discarded, and not touched since, is zero. Then it is in use again. */
GUEST void guest_take_back(volatile struct counts *counts, volatile uint64_t *memory,
			   volatile struct entry *entry, uint64_t page, uint32_t key)
{
	uint64_t found = 0, at = 0;

	while (at < WORDS && (found = memory[page * WORDS + at]) == 0)
		at++;
	if (at < WORDS) {
		note(counts, page, at, 0, found);
		counts->unzeroed++;
	}
	counts->balloons++;
	write_half(memory + page * WORDS, &entry->guest, key);
	entry->owner = OF_GUEST;
}

GUEST void guest_touch(volatile struct control *control, volatile struct counts *counts,
		       volatile uint64_t *memory, volatile struct entry *entry, uint64_t page,
		       uint64_t random)
{
	uint32_t key = 1 + random / 64 % control->kinds;

	if (entry->owner == GIVEN_BACK) {
		guest_take_back(counts, memory, entry, page, key);
	} else if (entry->owner == OF_GUEST) {
		guest_check(counts, memory, entry, page, 1);
		if (control->balloon && random % 64 == 0) {
			entry->guest.version |= 1; /* until it is taken back */
			entry->guest.key = 0;
			entry->owner = GIVEN_UP;
			return;
		}
		write_half(memory + page * WORDS, &entry->guest, key);
	} else {
		return;
	}
	counts->writes++;
}

GUEST void guest_race(volatile struct control *control, volatile uint64_t *memory,
		      volatile struct entry *ledger, uint64_t cpu)
{
	volatile struct counts *counts = &control->counts[cpu];
	uint64_t random = control->random[cpu];

	while (!control->stop) {
		for (uint64_t left = control->burst; left; left--) {
			uint64_t page = draw(&random) % control->pages;
			if (page % control->cpus == cpu)
				guest_touch(control, counts, memory, ledger + page, page, draw(&random));
			else
				guest_check(counts, memory, ledger + page, page, 0);
		}
		out(PORT_REST);
	}
	control->random[cpu] = random;
}

/* COMMAND_CHECK and COMMAND_WRITE: each page of this processor once. */
GUEST void guest_sweep(volatile struct control *control, volatile uint64_t *memory,
		       volatile struct entry *ledger, uint64_t cpu, uint32_t command)
{
	volatile struct counts *counts = &control->counts[cpu];

	for (uint64_t page = cpu; page < control->pages; page += control->cpus) {
		volatile struct entry *entry = ledger + page;
		uint32_t key = planned(control, page);
		if (entry->owner == GIVEN_BACK)
			guest_take_back(counts, memory, entry, page, key);
		guest_check(counts, memory, entry, page, 1);
		if (command != COMMAND_WRITE || page % control->step)
			continue;
		write_half(memory + page * WORDS, &entry->guest, key);
		counts->writes++;
	}
}

/* Where each processor starts: rdi, rsi, rdx and rcx hold the arguments. */
GUEST void guest_main(volatile struct control *control, volatile uint64_t *memory,
		      volatile struct entry *ledger, uint64_t cpu)
{
	for (;;) {
		out(PORT_IDLE); /* the host goes on when there is a command */
		if (control->command == COMMAND_RACE)
			guest_race(control, memory, ledger, cpu);
		else
			guest_sweep(control, memory, ledger, cpu, control->command);
	}
}
