/* Children in each of the ways there are, and handlers of signals: each carries out steps. */
#include "executor.h"
#include <spawn.h>
#include <sys/wait.h>

#define IS(name) (!strcmp(list->word[0], name))
enum { CHILD_PATIENCE = 4000 };

int in_child;
static struct step *handler_steps;
static int handler_count;
static char handler_prefix[64];

static void on_signal(int number)
{
	(void)number;
	run_steps(handler_steps, handler_count, handler_prefix);
}

static void handle(struct step *subs, int count, const char *prefix)
{
	struct sigaction action = {.sa_handler = on_signal};

	handler_steps = subs;
	handler_count = count;
	snprintf(handler_prefix, sizeof handler_prefix, "%s", prefix);
	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
}

static void await(struct text *out, long child)
{
	struct timespec tick = {0, 100000};
	uint64_t limit = milliseconds() + CHILD_PATIENCE;
	int status = 0;
	long result;

	if (child < 0) {
		say(out, "errno %d", errno);
		return;
	}
	while ((result = kernel(SYS_wait4, child, (long)&status, WNOHANG, 0, 0, 0)) == 0) {
		if (milliseconds() > limit) {
			kernel(SYS_kill, child, SIGKILL, 0, 0, 0, 0);
			kernel(SYS_wait4, child, (long)&status, 0, 0, 0, 0);
			say(out, "hung ");
			break;
		}
		kernel(SYS_nanosleep, (long)&tick, 0, 0, 0, 0, 0);
	}
	say(out, "status %x", status);
}

/* What a child does, which has no racer and no agent. */
static void be_child(struct step *subs, int count, const char *prefix, int shares)
{
	in_child++;
	if (!shares) {
		racer_forked();
		open_maps();
	}
	for (int at = 0; at < count; at++)
		subs[at].sub = 0;
	run_steps(subs, count, prefix);
	if (shares) /* who waits for us goes on with our memory */
		in_child--;
	kernel(SYS_exit_group, 0, 0, 0, 0, 0, 0);
}

static void be_parent(struct step *subs, int count)
{
	for (int at = 0; at < count; at++)
		subs[at].sub = 1;
}

static long spawn(void)
{
	char *arguments[] = {"executor", "--spawned", NULL};
	extern char **environ;
	pid_t child;
	int result = posix_spawn(&child, "/proc/self/exe", NULL, NULL, arguments, environ);

	if (result)
		errno = result;
	return result ? -1 : child;
}

int child_step(struct step *list, int count, const char *prefix, struct text *out)
{
	struct step *subs = list + 1;
	long child;

	if (IS("signal")) {
		for (int at = 1; at < count; at++)
			list[at].sub = 0;
		handle(subs, count - 1, prefix);
		be_parent(subs, count - 1);
		return 1;
	}
	if (IS("spawn")) {
		await(out, spawn());
		return 1;
	}
	if (!IS("fork") && !IS("_Fork") && !IS("clone") && !IS("vfork"))
		return 0;
	racer_pause(); /* what a child finds must not depend on how far the racer was */
	if (IS("vfork")) {
		child = vfork();
		if (child == 0)
			be_child(subs, count - 1, prefix, 1);
		be_parent(subs, count - 1);
	} else {
		child = IS("fork") ? fork() : IS("_Fork") ? _Fork()
			: syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
		if (child == 0)
			be_child(subs, count - 1, prefix, 0);
	}
	racer_resume();
	await(out, child);
	return 1;
}
