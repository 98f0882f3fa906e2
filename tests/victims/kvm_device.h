/* The device of kvm.c's machine: a thread that writes through our own mapping, as the emulated
 * devices of QEMU do, or by direct I/O. It checks its own halves and the guest's, discards what the
 * guest gives up, and compares the log of dirty pages with what the guest has written. */
#include <pthread.h>
#include <time.h>

enum { BURST = 16, BROKEN_PAGES = 64, DEVICE_KINDS = 2, LOG_EVERY = 20000 /* microseconds */ };

static struct machine machine;
static volatile struct control *control;
static uint64_t pause_us;
static struct tally *tally; /* of a soak; NULL: there is none */

static struct {
	pthread_t thread;
	int runs, stop;
	int dirty;                  /* check the log of dirty pages, too */
	int remap, forget, keep;    /* mistakes that must show, see `answer` */
	int disk;                   /* read by O_DIRECT in place of stores; -1: none */
	uint64_t random;
	struct counts counts;
	uint64_t logged, missed;    /* writes that had to be in the log, and those that were not */
	uint32_t after[MOST_PAGES]; /* versions of the guest's halves after the last log */
	uint64_t bits[MOST_PAGES / 64];
} device = { .disk = -1 };

static void rest(uint64_t *random)
{
	if (pause_us)
		usleep(draw(random) % pause_us);
}

static void write_device_half(uint64_t page, uint32_t key)
{
	volatile uint64_t *words = machine.memory + page * WORDS + HALF;
	volatile struct half *half = &machine.ledger[page].device;
	const size_t size = HALF * sizeof *words;

	device.counts.writes++;
	if (device.disk < 0 || key > DEVICE_KINDS) {
		write_half(words, half, key);
		return;
	}
	half->version |= 1;
	half->key = key;
	if (pread(device.disk, (void *)words, size, key * size) != (ssize_t)size)
		die("read of the disk");
	half->version++;
}

static void check_by_host(uint64_t page)
{
	volatile struct entry *entry = machine.ledger + page;

	if (entry->owner != OF_GUEST)
		return;
	check_own(&device.counts, machine.memory, page, HALF, &entry->device);
	check_other(&device.counts, machine.memory, page, 0, &entry->guest);
}

/* The guest has given up a page: its memory goes, and the page is the guest's again. */
static void discard(uint64_t page)
{
	volatile struct half *half = &machine.ledger[page].device;

	half->version |= 1;
	half->key = 0;
	if (!device.keep)
		checked(madvise(machine.memory + page * WORDS, PAGE, MADV_DONTNEED), "MADV_DONTNEED");
	half->version++;
	machine.ledger[page].owner = GIVEN_BACK;
}

/* Each write of the guest that began after the last log and ended before this one is in it. */
static void look_at_log(void)
{
	static uint32_t before[MOST_PAGES];

	for (uint64_t page = 0; page < machine.pages; page++)
		before[page] = machine.ledger[page].guest.version;
	if (device.forget && device.logged)
		fetch_log(&machine, device.bits);
	fetch_log(&machine, device.bits);
	for (uint64_t page = 0; page < machine.pages; page++) {
		uint32_t first = device.after[page] + device.after[page] % 2;
		if (before[page] - first < 2 || before[page] < first)
			continue;
		device.logged++;
		device.missed += !(device.bits[page / 64] >> page % 64 & 1);
	}
	for (uint64_t page = 0; page < machine.pages; page++)
		device.after[page] = machine.ledger[page].guest.version;
}

static void begin_log(void)
{
	set_logging(&machine, 1);
	fetch_log(&machine, device.bits);
	for (uint64_t page = 0; page < machine.pages; page++)
		device.after[page] = machine.ledger[page].guest.version;
}

/* What no merger may do: copy pages and put the copy in their place, while all may write. */
static void replace_without_barrier(void)
{
	uint64_t first = draw(&device.random) % (machine.pages - BROKEN_PAGES);
	size_t size = BROKEN_PAGES * PAGE;
	void *at = machine.memory + first * WORDS;
	void *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (copy == MAP_FAILED)
		die("mmap");
	memcpy(copy, at, size);
	usleep(100);
	if (mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) != at)
		die("mremap");
}

static void publish(void)
{
	uint64_t least = ~0ull, sum[4] = { 0 };

	for (uint32_t cpu = 0; cpu <= control->cpus; cpu++) {
		volatile struct counts *it = cpu < control->cpus ? &control->counts[cpu] : &device.counts;
		uint64_t wrong = it->lost + it->stale + it->unzeroed;
		least = it->checked < least ? it->checked : least;
		sum[0] += it->writes, sum[1] += it->checked, sum[2] += it->balloons;
		if (wrong)
			tally->first[sum[3] % FIRST] = (struct wrong){
				getpid(), (uint64_t)(machine.memory + it->first.page * WORDS + it->first.at),
				0, 0, it->first.wanted, it->first.found,
				"guest and device" };
		sum[3] += wrong;
	}
	tally->turns = least; /* a sign of life of each */
	tally->writes = sum[0], tally->checked = sum[1], tally->discards = sum[2];
	tally->wrong = sum[3];
	if (device.missed)
		strcpy(tally->failure, "KVM_GET_DIRTY_LOG: a page that the guest wrote is not in it");
	tally->failed = device.missed;
}

static void device_turn(void)
{
	for (int left = BURST; left; left--) {
		uint64_t page = draw(&device.random) % machine.pages;
		if (machine.ledger[page].owner == GIVEN_UP)
			discard(page);
		check_by_host(page);
		if (machine.ledger[page].owner == OF_GUEST)
			write_device_half(page, 1 + draw(&device.random) % DEVICE_KINDS);
	}
	if (device.remap)
		replace_without_barrier();
	if (tally)
		publish();
	rest(&device.random);
}

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000ull + now.tv_nsec / 1000;
}

static void *run_device(void *unused)
{
	uint64_t logged = now_us();

	while (!__atomic_load_n(&device.stop, __ATOMIC_RELAXED)) {
		device_turn();
		if (device.dirty && now_us() - logged > LOG_EVERY) {
			look_at_log();
			logged = now_us();
		}
	}
	return unused;
}
