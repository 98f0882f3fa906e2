/*
 * Lays out memory page by page, as its words say, and waits; for tests that compare bytes.
 *
 *   UID      the first word: become that user, and let its other processes look at us
 *   p3       the next page holds content 3; content 0 is zeros that were written
 *   u        the next page holds what no other page holds
 *   h        the next page is left untouched: a hole
 *   r        the next page is read and never written: the kernel's page of zeros
 *   n3       the next page holds content 3, and nobody may access it any more (PROT_NONE)
 *   w5=3     page 5, counted from 0, holds content 3 from now on
 *   s3       the next page of shared memory holds content 3
 *   f3       the next page of a file mapped privately is overwritten by content 3
 *   g        the next page of that file is read only
 *   F        a child is forked, which shares all pages with us and stays as it is
 *
 * The environment's LAYOUT_FILE names the file. Prints the pids of all of it on one line when
 * ready, its own first, and ends with its input; its children end with it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 1024 };

static void insist(int right, const char *what)
{
	if (!right) {
		perror(what);
		exit(1);
	}
}

static void write_content(volatile char *page, long content)
{
	volatile long *words = (volatile long *)page;

	for (int at = 0; at < PAGE / (int)sizeof(long); at++)
		words[at] = content;
}

static volatile char *mapped(int flags, int file)
{
	volatile char *found =
		mmap(NULL, (long)PAGES * PAGE, PROT_READ | PROT_WRITE, flags, file, 0);

	insist(found != MAP_FAILED, "mmap");
	return found;
}

static pid_t stay(void)
{
	pid_t child = fork();

	insist(child >= 0, "fork");
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		for (;;)
			pause();
	}
	return child;
}

int main(int count, char **words)
{
	volatile char *memory, *shared, *file;
	int at = 0, shared_at = 0, file_at = 0, descriptor;
	char rest;

	insist(count > 1, "words");
	descriptor = open(getenv("LAYOUT_FILE"), O_RDONLY | O_CLOEXEC);
	insist(descriptor >= 0, "LAYOUT_FILE");
	insist(setresgid(atoi(words[1]), atoi(words[1]), atoi(words[1])) == 0, "setresgid");
	insist(setresuid(atoi(words[1]), atoi(words[1]), atoi(words[1])) == 0, "setresuid");
	insist(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0, "PR_SET_DUMPABLE");
	memory = mapped(MAP_PRIVATE | MAP_ANONYMOUS, -1);
	insist(madvise((void *)memory, (long)PAGES * PAGE, MADV_NOHUGEPAGE) == 0, "NOHUGEPAGE");
	shared = mapped(MAP_SHARED | MAP_ANONYMOUS, -1);
	file = mapped(MAP_PRIVATE, descriptor);
	setvbuf(stdout, NULL, _IOFBF, PAGE);
	printf("%d", getpid());
	for (int word = 2; word < count; word++) {
		long content = atol(words[word] + 1);
		volatile char *page = memory + (long)at * PAGE;
		char *equals = strchr(words[word], '=');

		switch (words[word][0]) {
		case 'p':
			write_content(page, content);
			at++;
			break;
		case 'u':
			write_content(page, ((long)getpid() << 32) + word);
			at++;
			break;
		case 'h':
			at++;
			break;
		case 'r':
			insist(*page == 0, "a page of zeros");
			at++;
			break;
		case 'n':
			write_content(page, content);
			insist(mprotect((void *)page, PAGE, PROT_NONE) == 0, "mprotect");
			at++;
			break;
		case 'w':
			insist(equals != NULL, "w");
			write_content(memory + content * PAGE, atol(equals + 1));
			break;
		case 's':
			write_content(shared + (long)shared_at++ * PAGE, content);
			break;
		case 'f':
			write_content(file + (long)file_at++ * PAGE, content);
			break;
		case 'g':
			insist(file[(long)file_at++ * PAGE] >= 0, "the file");
			break;
		case 'F':
			printf(" %d", stay());
			break;
		default:
			insist(0, words[word]);
		}
	}
	printf("\n");
	fflush(stdout);
	insist(read(0, &rest, 1) == 0, "read");
	return 0;
}
