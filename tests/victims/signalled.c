/* A program that counts its signals: none is lost, none comes twice, none out of order.
 *
 * `signalled busy|suspend FILE`: a child queues numbered real-time signals for it and a timer of
 * its own expires every millisecond, while it computes, or waits in sigsuspend. Goes on until the
 * first byte of FILE is 1; then prints how many it got of each, and `wrong`. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "registers.h"

enum { MILLISECOND = 1000000 };

static volatile unsigned char *stop;
static volatile long numbered, ticks, wrong, seen, since;
static volatile pid_t sender;

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 * MILLISECOND + time.tv_nsec;
}

static void on_number(int number, siginfo_t *info, void *context)
{
	(void)number, (void)context;
	if (info->si_code != SI_QUEUE || info->si_pid != sender)
		wrong++;
	if (info->si_value.sival_int != numbered++)
		wrong++;
}

/* Expirations that came while the signal waited are in si_overrun (timer_getoverrun(2)). */
static void on_tick(int number, siginfo_t *info, void *context)
{
	(void)number, (void)context;
	ticks += 1 + info->si_overrun;
	if (ticks < (seen - since) / MILLISECOND - 1 || ticks > (now() - since) / MILLISECOND + 1)
		wrong++;
}

/* The child: as many signals as the queue takes, numbered; its exit says nothing. */
static void send(pid_t parent, int report)
{
	struct timespec pause = { 0, MILLISECOND / 4 };
	union sigval value = { .sival_int = 0 };

	while (!*stop) {
		nanosleep(&pause, NULL);
		if (sigqueue(parent, SIGRTMIN, value) == 0)
			value.sival_int++;
	}
	if (write(report, &value.sival_int, sizeof(int)) != sizeof(int))
		_exit(1);
	_exit(0);
}

static void listen_to(int number, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };

	sigaction(number, &action, NULL);
}

static void start_timer(void)
{
	struct sigevent how = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1 };
	struct itimerspec every = { { 0, MILLISECOND }, { 0, MILLISECOND } };
	timer_t timer;

	since = seen = now();
	if (timer_create(CLOCK_MONOTONIC, &how, &timer) || timer_settime(timer, 0, &every, NULL))
		exit(1);
}

int main(int argc, char **argv)
{
	sigset_t block = { 0 }, open_to = { 0 }, after = { 0 };
	int file, report[2], sent = 0;
	long turns = 0;

	if (argc < 3 || (file = open(argv[2], O_RDONLY)) < 0 || pipe(report))
		return 2;
	int suspend = !strcmp(argv[1], "suspend");
	stop = mmap(NULL, 1, PROT_READ, MAP_SHARED, file, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	listen_to(SIGRTMIN, on_number);
	listen_to(SIGRTMIN + 1, on_tick);
	/* In sigsuspend they are let in, and nowhere else. */
	sigemptyset(&block);
	sigaddset(&block, SIGRTMIN);
	sigaddset(&block, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &block, &open_to);
	pid_t parent = getpid();
	if ((sender = fork()) == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		send(parent, report[1]);
	}
	start_timer();
	if (!suspend)
		sigprocmask(SIG_UNBLOCK, &block, NULL);
	puts("ready");
	fflush(stdout);
	while (!*stop) {
		seen = now();
		turns++;
		long before = numbered + ticks;
		if (!suspend)
			wrong += !registers_hold(2000);
		else if (sigsuspend(&open_to) != -1 || errno != EINTR || numbered + ticks == before)
			wrong++;
	}
	while (read(report[0], &sent, sizeof(int)) == -1 && errno == EINTR)
		;
	sigprocmask(SIG_BLOCK, NULL, &after);
	if (suspend ? memcmp(&after, &block, 8) : memcmp(&after, &open_to, 8))
		wrong++;
	/* All that were sent are queued by now, and come as soon as they may. */
	sigprocmask(SIG_UNBLOCK, &block, NULL);
	printf("{\"turns\": %ld, \"sent\": %d, \"numbered\": %ld, \"ticks\": %ld, \"wrong\": %ld}\n",
	       turns, sent, numbered, ticks, wrong);
	return 0;
}
