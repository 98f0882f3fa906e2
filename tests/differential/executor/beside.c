/* What goes on beside the steps: a racer that writes, a storm of signals, a thread that waits. */
#include "executor.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sys/time.h>

#define NUMBER(at) value(step->word[at])
#define IS(name) (!strcmp(step->word[0], name))

/* Even while no step may change bytes; each destructive step makes it odd and even again, with all
 * steps of a handler inside it. */
static uint64_t epoch;
static int depth;
static int wanted, paused, at_rest;
static pthread_t racer;
static int racer_runs;
static uint64_t turns, lost;
static char first_lost[96];

void change_begins(void)
{
	if (depth++ == 0)
		__atomic_add_fetch(&epoch, 1, __ATOMIC_SEQ_CST);
}

void change_ends(void)
{
	if (--depth == 0)
		__atomic_add_fetch(&epoch, 1, __ATOMIC_SEQ_CST);
}

static void found_lost(const char *what, size_t page, uint64_t want, uint64_t got)
{
	if (!lost++)
		snprintf(first_lost, sizeof first_lost, "page %lu: %s %lu, found %lu", page, what, want, got);
}

struct left {
	uint64_t epoch, value;
};

/* One page: what was left there is there, what is written is read. At rest it is left as zero, so
 * that the page equals others and is merged. `left` is what the page's word was, and when. */
static void race_page(size_t page, struct left *left, int rest)
{
	sigjmp_buf here;
	volatile uint64_t *word = (volatile uint64_t *)(ARENA + page * PAGE + PAGE - 8);
	uint64_t then = __atomic_load_n(&epoch, __ATOMIC_SEQ_CST), old, got;
	int whole = 0;

	landing = &here;
	if (sigsetjmp(here, 0)) {
		landing = NULL;
		left[page].epoch = 1;
		return;
	}
	old = *word;
	whole = left[page].epoch == then && __atomic_load_n(&epoch, __ATOMIC_SEQ_CST) == then;
	if (whole && old != left[page].value)
		found_lost("left", page, left[page].value, old);
	left[page].epoch = 1; /* a fault from here on leaves it unknown */
	*word = ++turns;
	for (volatile int spin = turns % 64; spin > 0; spin--)
		;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	got = *word;
	if (got != turns && !(then & 1) && __atomic_load_n(&epoch, __ATOMIC_SEQ_CST) == then)
		found_lost("wrote", page, turns, got);
	if (rest)
		*word = 0;
	landing = NULL;
	left[page].value = rest ? 0 : turns;
	left[page].epoch = then & 1 ? 1 : then;
}

static void *race(void *unused)
{
	static struct left left[MOST_WINDOW];
	enum { ROUNDS = 48 }; /* then it rests, for long enough to be merged */
	struct timespec tick = {0, 20000}, rest = {0, 12000000};

	(void)unused;
	for (int page = 0; page < MOST_WINDOW; page++)
		left[page].epoch = 1;
	for (unsigned round = 0; __atomic_load_n(&wanted, __ATOMIC_SEQ_CST); round++) {
		while (__atomic_load_n(&paused, __ATOMIC_SEQ_CST)) {
			__atomic_store_n(&at_rest, 1, __ATOMIC_SEQ_CST);
			kernel(SYS_nanosleep, (long)&tick, 0, 0, 0, 0, 0);
		}
		__atomic_store_n(&at_rest, 0, __ATOMIC_SEQ_CST);
		for (size_t page = 0; page < window && page < MOST_WINDOW; page++)
			race_page(page, left, round % ROUNDS == 0);
		if (round % ROUNDS == 0)
			kernel(SYS_nanosleep, (long)&rest, 0, 0, 0, 0, 0);
	}
	return NULL;
}

void racer_pause(void)
{
	struct timespec tick = {0, 10000};

	if (!racer_runs)
		return;
	__atomic_store_n(&at_rest, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&paused, 1, __ATOMIC_SEQ_CST);
	while (!__atomic_load_n(&at_rest, __ATOMIC_SEQ_CST))
		kernel(SYS_nanosleep, (long)&tick, 0, 0, 0, 0, 0);
}

void racer_resume(void)
{
	__atomic_store_n(&paused, 0, __ATOMIC_SEQ_CST);
}

/* In a child the racer does not exist. */
void racer_forked(void)
{
	racer_runs = 0;
}

static void start_racer(struct text *out)
{
	if (racer_runs)
		return;
	racing = wanted = 1;
	paused = 0;
	turns = lost = 0;
	racer_runs = !pthread_create(&racer, NULL, race, NULL);
	say(out, "%d", racer_runs);
}

/* A handler that maps, marks, changes and unmaps memory of its own, in the middle of anything. */
static int storm_faults, storms;

static void storm(int number)
{
	char *made;
	sigjmp_buf *outer = landing;
	int kept = errno, emptied;

	(void)number;
	landing = NULL;
	made = mmap((void *)STORM_ZONE, 8 * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	storms++;
	if (made == (char *)STORM_ZONE) {
		memset(made, 'q', 8 * PAGE);
		storm_faults += storms % 4 == 0 && madvise(made, 8 * PAGE, MADV_MERGEABLE) != 0;
		storm_faults += mprotect(made + PAGE, PAGE, PROT_READ) != 0;
		/* After mlockall(MCL_FUTURE) it may not be emptied. */
		emptied = madvise(made + 2 * PAGE, PAGE, MADV_DONTNEED) == 0;
		storm_faults += !emptied && errno != EINVAL;
		storm_faults += made[0] != 'q' || made[PAGE] != 'q' || made[2 * PAGE] != (emptied ? 0 : 'q');
		storm_faults += munmap(made, 8 * PAGE) != 0;
	} else {
		storm_faults++;
	}
	landing = outer;
	errno = kept;
}

static void set_storm(long microseconds)
{
	struct itimerval every = {{0, microseconds}, {0, microseconds}};
	struct sigaction action = {.sa_handler = storm, .sa_flags = SA_RESTART};

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

/* A thread that waits on a word of the arena until a later step wakes it. */
static struct waiter {
	pthread_t thread;
	uint32_t *word;
	uint32_t value;
	int runs, id, result;
} waiter;

static void *wait_there(void *unused)
{
	struct timespec limit = {5, 0};

	(void)unused;
	__atomic_store_n(&waiter.id, (int)kernel(SYS_gettid, 0, 0, 0, 0, 0, 0), __ATOMIC_SEQ_CST);
	waiter.result = kernel(SYS_futex, (long)waiter.word, FUTEX_WAIT, waiter.value, (long)&limit, 0, 0);
	__atomic_store_n(&waiter.id, 0, __ATOMIC_SEQ_CST);
	return NULL;
}

static int is_asleep(int id)
{
	char path[64], state[256] = "";
	long fd;

	snprintf(path, sizeof path, "/proc/self/task/%d/stat", id);
	fd = kernel(SYS_openat, AT_FDCWD, (long)path, O_RDONLY, 0, 0, 0);
	if (fd < 0)
		return 1;
	kernel(SYS_read, fd, (long)state, sizeof state - 1, 0, 0, 0);
	kernel(SYS_close, fd, 0, 0, 0, 0, 0);
	return strstr(state, ") S ") != NULL;
}

static void block(const struct step *step, struct text *out)
{
	struct timespec tick = {0, 50000};
	sigjmp_buf here;

	if (waiter.runs)
		return;
	waiter.word = (uint32_t *)NUMBER(1);
	landing = &here;
	if (sigsetjmp(here, 0)) {
		landing = NULL;
		say(out, "fault");
		return;
	}
	waiter.value = *(volatile uint32_t *)waiter.word;
	landing = NULL;
	waiter.id = -1;
	waiter.runs = !pthread_create(&waiter.thread, NULL, wait_there, NULL);
	for (int id; (id = __atomic_load_n(&waiter.id, __ATOMIC_SEQ_CST)) < 0 || (id && !is_asleep(id));)
		kernel(SYS_nanosleep, (long)&tick, 0, 0, 0, 0, 0);
}

static void release(struct text *out)
{
	if (!waiter.runs)
		return;
	say(out, "%ld ", syscall(SYS_futex, waiter.word, FUTEX_WAKE, 1, NULL, NULL, 0));
	pthread_join(waiter.thread, NULL);
	waiter.runs = 0;
	say(out, "%d", waiter.result);
}

int beside_step(const struct step *step, struct text *out)
{
	if (IS("race"))
		start_racer(out);
	else if (IS("storm"))
		set_storm(NUMBER(1));
	else if (IS("futex_block"))
		block(step, out);
	else if (IS("futex_release"))
		release(out);
	else
		return 0;
	return 1;
}

void reset_beside(struct text *out)
{
	struct itimerval never = {{0, 0}, {0, 0}};

	setitimer(ITIMER_REAL, &never, NULL);
	if (waiter.runs) {
		say(out, "waiter ");
		release(out);
		flush(out);
	}
	if (racer_runs) {
		__atomic_store_n(&wanted, 0, __ATOMIC_SEQ_CST);
		pthread_join(racer, NULL);
		racer_runs = 0;
		say(out, "racer lost %lu %s", lost, lost ? first_lost : "");
		flush(out);
	}
	if (storm_faults) {
		say(out, "storm %d faults", storm_faults);
		flush(out);
	}
	storm_faults = 0;
}
