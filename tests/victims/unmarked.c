/* A program that knows nothing of merging, in ways that are hard for an allocator and a thread that
   somebody else has put into it: unmarked WAY. It prints the same with and without them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define ACCESS (PROT_READ | PROT_WRITE)
#define COUNT(array) (sizeof(array) / sizeof *(array))

extern char **environ;

static void pause_ms(long ms)
{
	struct timespec time = {ms / 1000, ms % 1000 * 1000000};

	while (nanosleep(&time, &time) != 0)
		;
}

/* Memory whose pages are all alike, and which an agent has had time to merge. */
static char *filled(size_t size)
{
	char *made = malloc(size);

	memset(made, 7, size);
	free(malloc(2 * MIB)); /* an agent starts when a large program allocates */
	pause_ms(1200);
	return made;
}

static int is_filled(const char *made, size_t size)
{
	for (size_t at = 0; at < size; at += 512)
		if (made[at] != 7)
			return 0;
	return 1;
}

static int status_of(pid_t child)
{
	int status = -1;

	waitpid(child, &status, 0);
	return status;
}

static void *allocate(void *result)
{
	char *block = malloc(100000), *large = malloc(2 * MIB);

	memset(block, 1, 100000);
	free(block);
	free(large);
	return result;
}

static void at_end(void)
{
	free(malloc(10000));
	free(malloc(300000));
	printf("ends\n"); /* into a buffer that the exit flushes */
}

static void least_stacks(void)
{
	pthread_attr_t attributes;
	int failed = 0;

	pthread_attr_init(&attributes);
	failed += pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN) != 0;
	for (int each = 0; each < 50; each++) {
		pthread_t thread;

		failed += pthread_create(&thread, &attributes, allocate, NULL) != 0;
		pthread_join(thread, NULL);
	}
	printf("failed %d\n", failed);
}

static void thread_ends_last(void)
{
	pthread_t thread;

	atexit(at_end);
	pthread_create(&thread, NULL, allocate, NULL);
	pthread_exit(NULL);
}

static void *fork_and_return(void *result)
{
	fflush(stdout);
	pid_t child = fork();

	if (child != 0) {
		printf("child %x\n", status_of(child));
		return result;
	}
	alarm(20);
	atexit(at_end);
	char *made = malloc(8 * MIB);

	memset(made, 7, 8 * MIB);
	free(malloc(2 * MIB));
	pause_ms(300);
	return result; /* the only thread of this process ends */
}

static void fork_in_thread(void)
{
	pthread_t thread;

	free(malloc(4 * MIB));
	pthread_create(&thread, NULL, fork_and_return, NULL);
	pthread_join(thread, NULL);
}

static volatile sig_atomic_t handled, wrong;

static void on_alarm(int signal)
{
	int errno_before = errno;
	char *made = mmap(NULL, MIB, ACCESS, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)signal;
	if (made == MAP_FAILED || made[0] != 0 || mprotect(made, 4096, PROT_READ) != 0)
		wrong++;
	else
		made[MIB - 1] = 1;
	wrong += munmap(made, MIB) != 0;
	handled++;
	errno = errno_before;
}

static void signals_map(void)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
	char *blocks[20] = {0};

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	for (size_t at = 0; at < 50000 || handled < 500; at++) {
		free(blocks[at % 20]);
		blocks[at % 20] = malloc(1000 + at % 50 * 10000);
		memset(blocks[at % 20], 3, 1000);
	}
	setitimer(ITIMER_REAL, &never, NULL);
	printf("wrong %d\n", wrong);
}

static void limited(void)
{
	struct rlimit limit = {1024 * MIB, 1024 * MIB}, told;
	size_t got = 0;

	setrlimit(RLIMIT_AS, &limit);
	getrlimit(RLIMIT_AS, &told);
	while (malloc(MIB) != NULL)
		got++;
	printf("limit %zu MiB, errno %d\n", (size_t)told.rlim_cur / MIB, errno);
	printf("most of it %d, small blocks %d\n", got > 900, malloc(100) != NULL);
}

static void closes_all(void)
{
	int pair[2];

	free(malloc(4 * MIB));
	close_range(3, ~0U, 0);
	int failed = pipe(pair);
	printf("pipe %d: %d %d\n", failed, pair[0], pair[1]);
	char *made = filled(8 * MIB);
	printf("filled %d, next %d\n", is_filled(made, 8 * MIB), open("/dev/null", O_RDONLY));
	free(made);
}

static void loses_rights(void)
{
	char *before = filled(8 * MIB);
	int failed = setgid(65534) + setuid(65534);
	char *after = filled(8 * MIB);

	printf("failed %d, user %d\n", failed, (int)getuid());
	printf("filled %d %d\n", is_filled(before, 8 * MIB), is_filled(after, 8 * MIB));
	printf("dumpable %d\n", prctl(PR_GET_DUMPABLE));
	free(before);
	free(after);
}

/* The kernel refuses both to a process of several threads. */
static void own_namespace(void)
{
	char *made = filled(8 * MIB);
	int mounts = open("/proc/self/ns/mnt", O_RDONLY);
	int joined = setns(mounts, CLONE_NEWNS), left = unshare(CLONE_NEWUSER);

	printf("joined %d, left %d\n", joined, left);
	printf("filled %d\n", is_filled(made, 8 * MIB));
	free(made);
}

/* Threads hand blocks over to each other, and end; meanwhile the first thread forks. */
static _Atomic(char *) boxes[64];
static atomic_int stop, damaged;
static pthread_key_t key;

static void swap(unsigned *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	size_t size = *seed >> 12 & 3 ? 100 + (*seed >> 20) : 200000;
	char *made = malloc(size);

	memset(made, (char)size, size);
	memcpy(made, &size, sizeof size);
	made = atomic_exchange(&boxes[*seed >> 8 & 63], made);
	if (made == NULL)
		return;
	memcpy(&size, made, sizeof size);
	damaged += made[sizeof size] != (char)size || made[size - 1] != (char)size;
	free(made);
}

static void *busy(void *seed)
{
	unsigned own = (unsigned)(size_t)seed;

	while (!stop)
		swap(&own);
	return NULL;
}

static void *brief(void *seed)
{
	unsigned own = (unsigned)(size_t)seed;

	pthread_setspecific(key, malloc(100));
	for (int each = 0; each < 20; each++)
		swap(&own);
	return NULL;
}

static void *come_and_go(void *seed)
{
	for (size_t next = (size_t)seed; !stop; next++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, brief, (void *)next) == 0)
			pthread_join(thread, NULL);
	}
	return NULL;
}

static void free_and_allocate(void *block)
{
	free(block);
	free(malloc(5000));
}

static void around_fork(void)
{
	free(malloc(300000));
}

static void forks_of_threads(void)
{
	void *(*const work[])(void *) = {busy, busy, come_and_go, come_and_go};
	pthread_t threads[COUNT(work)];
	char *argv[] = {"/bin/true", NULL};
	unsigned seed = 1;
	int failed = 0;

	pthread_key_create(&key, free_and_allocate);
	pthread_atfork(around_fork, around_fork, around_fork);
	for (size_t at = 0; at < COUNT(work); at++)
		pthread_create(&threads[at], NULL, work[at], (void *)(at + 1));
	for (int each = 0; each < 25; each++) {
		pid_t child = fork();

		if (child == 0) {
			alarm(20);
			for (int at = 0; at < 300; at++)
				swap(&seed);
			brief((void *)1);
			_exit(damaged != 0);
		}
		failed += status_of(child) != 0;
		failed += posix_spawn(&child, argv[0], NULL, NULL, argv, environ) != 0;
		failed += status_of(child) != 0;
	}
	stop = 1;
	for (size_t at = 0; at < COUNT(work); at++)
		pthread_join(threads[at], NULL);
	printf("failed %d, damaged %d\n", failed, damaged);
}

static const struct {
	const char *name;
	void (*go)(void);
} WAYS[] = {
	{"closes all", closes_all},
	{"fork in thread", fork_in_thread},
	{"forks of threads", forks_of_threads},
	{"least stacks", least_stacks},
	{"limited", limited},
	{"loses rights", loses_rights},
	{"own namespace", own_namespace},
	{"signals map", signals_map},
	{"thread ends last", thread_ends_last},
};

int main(int argc, char **argv)
{
	for (size_t at = 0; argc == 2 && at < COUNT(WAYS); at++)
		if (strcmp(argv[1], WAYS[at].name) == 0) {
			WAYS[at].go();
			return 0;
		}
	return 2;
}
