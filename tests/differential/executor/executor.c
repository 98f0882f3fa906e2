/* The executor's life: read a program, carry it out, put everything back, read the next. */
#include "executor.h"
#include <stdarg.h>
#include <sys/prctl.h>

struct slot slots[MOST_SLOTS];
size_t window = 96;
int merged_run, racing, quiet_ms = 60, file_fd = -1, shared_fd = -1;
__thread sigjmp_buf *landing;
static struct step steps[MOST_STEPS];
static char source[1 << 17];

/* A system call that no library sees: what the executor does for itself is no part of the test. */
long kernel(long number, long a, long b, long c, long d, long e, long f)
{
	long result;
#ifdef __x86_64__
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "=a"(result)
		: "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		: "rcx", "r11", "memory");
#else
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0)
		: "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	result = x0;
#endif
	return result;
}

void say(struct text *text, const char *form, ...)
{
	va_list values;
	int room = MOST_TEXT - text->length - 2, took;

	if (room <= 0)
		return;
	va_start(values, form);
	took = vsnprintf(text->data + text->length, room, form, values);
	va_end(values);
	text->length += took < room ? took : room - 1;
}

void flush(struct text *text)
{
	text->data[text->length++] = '\n';
	for (int done = 0; done < text->length;) {
		long wrote = kernel(SYS_write, 1, (long)text->data + done, text->length - done, 0, 0, 0);

		if (wrote == -EINTR)
			continue;
		if (wrote <= 0)
			_exit(3);
		done += wrote;
	}
	text->length = 0;
}

uint64_t milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ul + now.tv_nsec / 1000000;
}

/* Where a fault was expected it leads back there; any other ends us as it would any program. */
static void on_fault(int number)
{
	if (landing)
		siglongjmp(*landing, number);
	signal(number, SIG_DFL);
	raise(number);
}

static void watch_faults(void)
{
	/* Not deferred and no mask to put back: a fault costs no system call beyond its own. */
	struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

/* Files that programs may map: their contents are the same for each program. */
static void fill_file(int fd, int seed)
{
	static char page[PAGE];

	for (int number = 0; number < 16; number++) {
		memset(page, 'A' + (number + seed) % 4, PAGE);
		kernel(SYS_pwrite64, fd, (long)page, PAGE, number * PAGE, 0, 0);
	}
}

static void reset_files(void)
{
	if (file_fd < 0) {
		file_fd = memfd_create("differential", MFD_CLOEXEC);
		shared_fd = memfd_create("differential", MFD_CLOEXEC);
	}
	kernel(SYS_ftruncate, shared_fd, 0, 0, 0, 0, 0);
	kernel(SYS_ftruncate, file_fd, 16 * PAGE, 0, 0, 0, 0);
	kernel(SYS_ftruncate, shared_fd, 16 * PAGE, 0, 0, 0, 0);
	fill_file(file_fd, 0);
	fill_file(shared_fd, 2);
}

/* By libc: the agent has to see that the memory goes. */
static void reset(void)
{
	munlockall();
	reset_watching();
	reset_calls();
	munmap((void *)ARENA, ARENA_END - ARENA);
	for (int slot = 0; slot < MOST_SLOTS; slot++) {
		if (slots[slot].length)
			munmap((void *)slots[slot].at, slots[slot].length);
		slots[slot].length = 0;
	}
	racing = 0;
	window = 96;
	reset_files();
}

static char *next_line(void)
{
	static char buffer[1 << 16];
	static int have, at;
	static char line[4096];
	int length = 0;

	for (;;) {
		if (at == have) {
			long got = kernel(SYS_read, 0, (long)buffer, sizeof buffer, 0, 0, 0);

			if (got == -EINTR)
				continue;
			if (got <= 0)
				_exit(0); /* the driver has gone */
			have = got, at = 0;
		}
		if (buffer[at] == '\n') {
			at++;
			line[length] = 0;
			return line;
		}
		if (length < (int)sizeof line - 1)
			line[length++] = buffer[at];
		at++;
	}
}

/* A program up to "end". Lines that start with ">" are steps of the step before them. */
static int read_program(void)
{
	int count = 0;
	size_t used = 0;

	for (;;) {
		char *line = next_line(), *rest;
		struct step *step = &steps[count];
		size_t length = strlen(line) + 1;

		if (!strcmp(line, "end"))
			return count;
		if (count == MOST_STEPS || used + length > sizeof source)
			_exit(4);
		memcpy(source + used, line, length);
		step->words = 0;
		step->sub = source[used] == '>';
		for (char *word = strtok_r(source + used + step->sub, " ", &rest);
		     word && step->words < MOST_WORDS; word = strtok_r(NULL, " ", &rest))
			step->word[step->words++] = word;
		used += length;
		count += step->words > 0;
	}
}

static void finish(void)
{
	static struct text out;

	reset_beside(&out);
	say(&out, "last look ");
	look(&out, 0);
	flush(&out);
	say(&out, "last flags ");
	flags(&out);
	flush(&out);
	say(&out, "last write ");
	look(&out, 1);
	flush(&out);
	reset();
	say(&out, "done %lu", merged_pages);
	flush(&out);
	merged_pages = 0;
}

/* Somebody who holds each of the common pages twice for as long as the driver lives. */
static int be_peer(void)
{
	char *made = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char end;

	for (int page = 0; page < 32; page++)
		memset(made + page * PAGE, 'a' + page % 16, PAGE);
	madvise(made, 32 * PAGE, MADV_MERGEABLE);
	let_start();
	while (kernel(SYS_read, 0, (long)&end, 1, 0, 0, 0) > 0)
		;
	return 0;
}

int main(int count, char **arguments)
{
	static struct text out;

	if (count > 1 && !strcmp(arguments[1], "--spawned"))
		return 7;
	if (count > 1 && !strcmp(arguments[1], "--peer"))
		return be_peer();
	if (count > 1)
		quiet_ms = atoi(arguments[1]);
	if (count > 2)
		snprintf(ignored_flags, sizeof ignored_flags, " %s ", arguments[2]);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	merged_run = getenv("PAGEMERGE_SOCKET") != NULL;
	watch_faults();
	open_maps();
	reset();
	say(&out, "ready %d", getpid());
	flush(&out);
	for (;;) {
		int many = read_program();

		run_steps(steps, many, "");
		finish();
	}
}
