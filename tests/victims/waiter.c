/* A program that waits or computes in one of several ways, and counts what each system call says.
 *
 * `waiter KIND FILE`: says "ready", goes on until the first byte of FILE is 1, then prints what it
 * counted as JSON: `turns` done, `eintr` (calls that ended so), `again` (futexes whose word had
 * changed before they waited, which is Linux's rule when a wait is made again), `wrong` (anything
 * that must not be). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "registers.h"

enum { MILLISECOND = 1000000, WAIT = 10 };

struct counts {
	long turns, eintr, again, wrong;
};

static volatile unsigned char *stop;

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 * MILLISECOND + time.tv_nsec;
}

/* Book a wait of WAIT ms that said `result`: it was to say `wanted`, and not before its time. */
static void book(struct counts *counts, long result, long wanted, long since)
{
	int error = errno;

	counts->turns++;
	if (result == -1 && error == EINTR)
		counts->eintr++;
	else if (result != wanted || now() - since < (WAIT - 1) * MILLISECOND)
		counts->wrong++;
}

static void *sleeping(void *argument)
{
	struct timespec time = { 0, WAIT * MILLISECOND };

	while (!*stop) {
		long since = now();
		book(argument, nanosleep(&time, NULL), 0, since);
	}
	return NULL;
}

static void *polling(void *argument)
{
	int queue = epoll_create1(0), never = eventfd(0, 0);
	struct epoll_event event = { .events = EPOLLIN };

	epoll_ctl(queue, EPOLL_CTL_ADD, never, &event);
	while (!*stop) {
		long since = now();
		book(argument, epoll_wait(queue, &event, 1, WAIT), 0, since);
	}
	return NULL;
}

/* Waits without a timeout; a timer ends each. */
static void *polling_endlessly(void *argument)
{
	struct itimerspec every = { { 0, WAIT * MILLISECOND }, { 0, WAIT * MILLISECOND } };
	int queue = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, 0);
	struct epoll_event event = { .events = EPOLLIN };
	struct counts *counts = argument;
	uint64_t ticks;
	long since = now(), all = 0;

	timerfd_settime(timer, 0, &every, NULL);
	epoll_ctl(queue, EPOLL_CTL_ADD, timer, &event);
	while (!*stop) {
		book(counts, epoll_wait(queue, &event, 1, -1), 1, 0);
		long before = now();
		if (read(timer, &ticks, sizeof(ticks)) != sizeof(ticks))
			counts->wrong++;
		all += ticks;
		if (all < (before - since) / (WAIT * MILLISECOND) - 1 ||
		    all > (now() - since) / (WAIT * MILLISECOND) + 1)
			counts->wrong++;
	}
	return NULL;
}

/* Reads numbers from a pipe that a child writes: each comes once, whole, in order. */
static void *reading(void *argument)
{
	struct timespec pause = { 0, MILLISECOND };
	struct counts *counts = argument;
	long number, wanted = 0;
	int ends[2];

	if (pipe(ends))
		exit(1);
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (number = 0;; number++) {
			nanosleep(&pause, NULL);
			if (write(ends[1], &number, sizeof(number)) != sizeof(number))
				_exit(1);
		}
	}
	while (!*stop) {
		long got = read(ends[0], &number, sizeof(number));
		book(counts, got, sizeof(number), 0);
		if (got == sizeof(number) && number != wanted++)
			counts->wrong++;
	}
	return NULL;
}

static unsigned word;

static void *waking(void *argument)
{
	struct timespec pause = { 0, MILLISECOND };

	while (!*(volatile int *)argument) {
		nanosleep(&pause, NULL);
		__atomic_add_fetch(&word, 1, __ATOMIC_SEQ_CST);
		syscall(SYS_futex, &word, FUTEX_WAKE, 1 << 30);
	}
	return NULL;
}

/* Waits on a futex: without end, woken by another thread, and until a time of its own. */
static void *futexes(void *argument)
{
	struct timespec time = { 0, WAIT * MILLISECOND };
	struct counts *counts = argument;
	pthread_t waker;
	unsigned still = 7;
	int done = 0;

	pthread_create(&waker, NULL, waking, &done);
	while (!*stop) {
		unsigned seen = __atomic_load_n(&word, __ATOMIC_SEQ_CST);
		long result = syscall(SYS_futex, &word, FUTEX_WAIT, seen, NULL);

		counts->turns++;
		/* A wake may be for the change that was seen already: then nothing is to be said of it. */
		if (result == -1 && errno == EAGAIN) {
			counts->again++;
			counts->wrong += __atomic_load_n(&word, __ATOMIC_SEQ_CST) == seen;
		} else if (result) {
			counts->wrong++;
		}
		long since = now();
		result = syscall(SYS_futex, &still, FUTEX_WAIT, still, &time);
		book(counts, result == -1 && errno == ETIMEDOUT ? 0 : result, 0, since);
	}
	*(volatile int *)&done = 1;
	pthread_join(waker, NULL);
	return NULL;
}

static void *computing(void *argument)
{
	struct counts *counts = argument;

	while (!*stop) {
		counts->turns++;
		counts->wrong += !registers_hold(20000);
	}
	return NULL;
}

static const struct {
	const char *name;
	void *(*run)(void *);
} kinds[] = {
	{ "nanosleep", sleeping }, { "epoll", polling }, { "epoll-endless", polling_endlessly },
	{ "pipe", reading }, { "futex", futexes }, { "busy", computing },
};
enum { KINDS = sizeof(kinds) / sizeof(*kinds) };

/* A thread of each kind but the one that forks. */
static void all_at_once(struct counts *total)
{
	struct counts counts[KINDS] = { 0 };
	pthread_t threads[KINDS];

	for (int kind = 0; kind < KINDS; kind++)
		if (kinds[kind].run != reading)
			pthread_create(&threads[kind], NULL, kinds[kind].run, &counts[kind]);
	for (int kind = 0; kind < KINDS; kind++) {
		if (kinds[kind].run == reading)
			continue;
		pthread_join(threads[kind], NULL);
		total->turns += counts[kind].turns;
		total->eintr += counts[kind].eintr;
		total->again += counts[kind].again;
		total->wrong += counts[kind].wrong;
	}
}

int main(int argc, char **argv)
{
	struct counts counts = { 0 };
	sigset_t before = { 0 }, after = { 0 }; /* the kernel fills in eight bytes */
	int file;

	if (argc < 3 || (file = open(argv[2], O_RDONLY)) < 0)
		return 2;
	stop = mmap(NULL, 1, PROT_READ, MAP_SHARED, file, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigprocmask(SIG_BLOCK, NULL, &before);
	puts("ready");
	fflush(stdout);
	if (!strcmp(argv[1], "threads"))
		all_at_once(&counts);
	for (int kind = 0; kind < KINDS; kind++)
		if (!strcmp(argv[1], kinds[kind].name))
			kinds[kind].run(&counts);
	sigprocmask(SIG_BLOCK, NULL, &after);
	counts.wrong += memcmp(&before, &after, sizeof(before)) != 0;
	printf("{\"turns\": %ld, \"eintr\": %ld, \"again\": %ld, \"wrong\": %ld}\n", counts.turns,
	       counts.eintr, counts.again, counts.wrong);
	return 0;
}
