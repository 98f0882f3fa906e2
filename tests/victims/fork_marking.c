/* One thread marks memory all the time, which has the agent's library allocate, while the other
 * forks: each child must be able to call it, too. Ends with 0, or with 1 if a child hangs or
 * fails. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64, FORKS = 2000, PATIENCE = 10000 /* milliseconds */ };

static char *memory;

static void *mark_for_ever(void *nothing)
{
	while (!madvise(memory, PAGES * PAGE, MADV_MERGEABLE))
		continue;
	return nothing;
}

static int live(void)
{
	return mprotect(memory + PAGE, PAGE, PROT_READ) ||
	       mprotect(memory + PAGE, PAGE, PROT_READ | PROT_WRITE) ||
	       madvise(memory, PAGES * PAGE, MADV_DONTNEED);
}

static int ends_well(pid_t child)
{
	int status;

	for (int waited = 0; waited < PATIENCE; waited++) {
		if (waitpid(child, &status, WNOHANG) == child)
			return status == 0;
		usleep(1000);
	}
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	return 0;
}

int main(void)
{
	pthread_t thread;

	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || madvise(memory, PAGES * PAGE, MADV_MERGEABLE) ||
	    pthread_create(&thread, NULL, mark_for_ever, NULL))
		return 1;
	for (int i = 0; i < FORKS; i++) {
		pid_t child = fork();
		if (child == 0)
			_exit(live());
		if (!ends_well(child))
			return 1;
	}
	return 0;
}
