/* A userfaultfd of the program's own. Faults that nobody serves are SIGBUS, never a wait. */
#include "executor.h"
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#define NUMBER(at) value(step->word[at])
#define IS(name) (!strcmp(step->word[0], name))

/* Linux 6.8; older headers do not have it. */
struct move {
	uint64_t to, from, length, mode;
	int64_t moved;
};
#define MOVE _IOWR(UFFDIO, 0x05, struct move)

static int watch = -1;

static void told(struct text *out, int result, long long done)
{
	if (result)
		say(out, "errno %d", errno);
	else
		say(out, "0");
	if (done != -1)
		say(out, " done %lld", done);
}

static void open_watch(const struct step *step, struct text *out)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS | NUMBER(1)};

	if (watch >= 0)
		close(watch);
	watch = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	told(out, watch < 0 || ioctl(watch, UFFDIO_API, &api), -1);
}

static void copy(const struct step *step, struct text *out)
{
	static char page[16 * PAGE] __attribute__((aligned(4096)));
	struct uffdio_copy copy = {.dst = NUMBER(1), .src = (uintptr_t)page, .len = NUMBER(2)};
	int result;

	if (copy.len > sizeof page)
		copy.len = sizeof page;
	memset(page, NUMBER(3), sizeof page);
	if (racing)
		return;
	result = ioctl(watch, UFFDIO_COPY, &copy);
	told(out, result, copy.copy);
}

int watching_step(const struct step *step, struct text *out)
{
	if (IS("uffd_open")) {
		open_watch(step, out);
	} else if (IS("uffd_close")) {
		told(out, close(watch), -1);
		watch = -1;
	} else if (IS("uffd_register")) {
		struct uffdio_register ask = {{NUMBER(1), NUMBER(2)}, NUMBER(3), 0};

		told(out, ioctl(watch, UFFDIO_REGISTER, &ask), -1);
	} else if (IS("uffd_unregister")) {
		struct uffdio_range ask = {NUMBER(1), NUMBER(2)};

		told(out, ioctl(watch, UFFDIO_UNREGISTER, &ask), -1);
	} else if (IS("uffd_copy")) {
		copy(step, out);
	} else if (IS("uffd_zero")) {
		struct uffdio_zeropage ask = {{NUMBER(1), NUMBER(2)}, 0, 0};
		int result = ioctl(watch, UFFDIO_ZEROPAGE, &ask);

		told(out, result, ask.zeropage);
	} else if (IS("uffd_move")) {
		struct move ask = {NUMBER(1), NUMBER(2), NUMBER(3), NUMBER(4), 0};
		int result = ioctl(watch, MOVE, &ask);

		told(out, result, ask.moved);
	} else if (IS("uffd_protect")) {
		struct uffdio_writeprotect ask = {{NUMBER(1), NUMBER(2)}, NUMBER(3)};

		told(out, ioctl(watch, UFFDIO_WRITEPROTECT, &ask), -1);
	} else {
		return 0;
	}
	return 1;
}

void reset_watching(void)
{
	if (watch >= 0)
		close(watch);
	watch = -1;
}
