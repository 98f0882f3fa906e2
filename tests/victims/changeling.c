/* A process that becomes another after it has connected: changeling FD SOCKET; then lines of stdin
 * say what it does. Executed as anything else ("changeling stay"), it holds a secret and waits.
 * Each holds one page at PLACE. */
#define _GNU_SOURCE
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PLACE ((char *)0x200000000)

static char stack[65536];

static int __attribute__((noreturn)) sleeper(void *unused)
{
	(void)unused;
	for (;;)
		pause();
}

static void say(const char *word)
{
	printf("%s\n", word);
	fflush(stdout);
}

static int become(char *word, char *program)
{
	if (!strcmp(word, "nothing"))
		return 0;
	if (!strcmp(word, "dumpable"))
		return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (!strcmp(word, "user"))
		return setresuid(65534, 65534, 65534) || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (!strcmp(word, "real-user"))
		return setresuid(65534, -1, -1) || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (!strcmp(word, "group"))
		return setresgid(65534, 65534, 65534) || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (!strcmp(word, "groups"))
		return setgroups(1, (gid_t[]){ 7 });
	if (!strcmp(word, "capabilities"))
		return prctl(PR_CAPBSET_DROP, 3, 0, 0, 0);
	if (!strcmp(word, "user-namespace"))
		return unshare(CLONE_NEWUSER) || prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (!strcmp(word, "cgroup-namespace"))
		return unshare(CLONE_NEWCGROUP);
	/* Its address space lives on in another process that shares it. */
	if (!strcmp(word, "share") && clone(sleeper, stack + sizeof(stack), CLONE_VM, NULL) < 0)
		return 1;
	fflush(stdout);
	execl(program, "changeling", "stay", NULL);
	return 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	char line[600], *program;

	if (mmap(PLACE, 4096, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != PLACE)
		return 2;
	if (argc < 3) {
		strcpy(PLACE, "the secret of another program");
		say("another");
		pause();
		return 0;
	}
	strcpy(PLACE, "what everybody may know");
	strncpy(to.sun_path, argv[2], sizeof(to.sun_path) - 1);
	if (connect(atoi(argv[1]), (struct sockaddr *)&to, sizeof(to)))
		return 3;
	say("connected");
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		program = strchr(line, ' ');
		if (program)
			*program++ = 0;
		say(become(line, program) ? "failed" : "done");
	}
	return 0;
}
