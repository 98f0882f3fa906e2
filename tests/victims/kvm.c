/* A virtual machine whose memory is merged while guest and device write to it.
 *
 * The guest (kvm_guest.h) and the device (kvm_device.h) change their halves of the same pages, and
 * check their own and each other's against a ledger outside of that memory. So a lost write, a stale
 * view of the guest or of the host, and a page that the log of dirty pages misses are all counted.
 *
 * Questions come as JSON lines, one a line; each is answered with all counts, and so is the end of
 * the input. What a question may do stands in `answer`. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include "kvm_guest.h"
#include "kvm_machine.h"
#include "tally.h"

#include "kvm_device.h" /* uses all of them */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned orders = 1, done[MOST_CPUS]; /* commands given; done: and carried out by each */

/* The guest is idle: wait for the next command. */
static void await_command(int cpu)
{
	pthread_mutex_lock(&lock);
	done[cpu] = orders;
	pthread_cond_broadcast(&changed);
	while (done[cpu] == orders)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static void *run_cpu(void *number)
{
	int cpu = (intptr_t)number;
	struct kvm_run *run = machine.run[cpu];
	uint64_t random = cpu + 1;

	for (;;) {
		if (ioctl(machine.cpu[cpu], KVM_RUN, 0) < 0) {
			if (errno != EINTR && errno != EAGAIN)
				die("KVM_RUN");
			continue;
		}
		if (run->exit_reason != KVM_EXIT_IO) {
			fprintf(stderr, "kvm: the guest ended, with exit reason %u\n", run->exit_reason);
			exit(1);
		}
		if (run->io.port == PORT_REST)
			rest(&random);
		else
			await_command(cpu);
	}
}

static void begin(enum command command)
{
	pthread_mutex_lock(&lock);
	control->command = command;
	control->stop = 0;
	orders++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void settle(void)
{
	pthread_mutex_lock(&lock);
	for (uint32_t cpu = 0; cpu < control->cpus; cpu++)
		while (done[cpu] != orders)
			pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

/* What is asked. */

static uint64_t number(const char *line, const char *key, uint64_t otherwise)
{
	char quoted[40];
	const char *at;

	snprintf(quoted, sizeof quoted, "\"%s\":", key);
	at = strstr(line, quoted);
	return at ? strtoull(at + strlen(quoted), NULL, 10) : otherwise;
}

static int says(const char *line, const char *word)
{
	char quoted[40];

	snprintf(quoted, sizeof quoted, "\"%s\"", word);
	return strstr(line, quoted) != NULL;
}

static void start_race(const char *line)
{
	control->kinds = number(line, "kinds", 4);
	control->balloon = says(line, "balloon");
	device.dirty = says(line, "dirty");
	device.remap = says(line, "remap");
	device.forget = says(line, "forget");
	device.keep = says(line, "keep");
	device.stop = 0;
	if (device.dirty)
		begin_log();
	begin(COMMAND_RACE);
	if (pthread_create(&device.thread, NULL, run_device, NULL))
		die("pthread_create");
	device.runs = 1;
}

static void check(void)
{
	begin(COMMAND_CHECK);
	for (uint64_t page = 0; page < machine.pages; page++)
		check_by_host(page);
	settle();
}

/* Guest and device stand still; everything is checked once more. */
static void stop_race(void)
{
	if (!device.runs)
		return;
	control->stop = 1;
	settle();
	__atomic_store_n(&device.stop, 1, __ATOMIC_RELAXED);
	pthread_join(device.thread, NULL);
	device.runs = 0;
	for (uint64_t page = 0; page < machine.pages; page++)
		if (machine.ledger[page].owner == GIVEN_UP)
			discard(page);
	check();
	if (device.dirty) {
		look_at_log();
		set_logging(&machine, 0);
	}
}

static void write_pages(const char *line)
{
	control->generation = number(line, "generation", 0);
	control->step = number(line, "step", 1);
	begin(COMMAND_WRITE);
	for (uint64_t page = 0; page < machine.pages; page += control->step) {
		check_by_host(page);
		write_device_half(page, planned(control, page));
	}
	settle();
}

/* A word of the guest's changes behind its back: for the soak's own test. */
static void corrupt(void)
{
	machine.memory[5] ^= 1;
	check();
}

/* A file from which the device reads its halves by direct I/O; it is opened, and gone. */
static void open_disk(const char *line)
{
	char path[256];
	uint64_t half[HALF];
	const char *at = strstr(line, "\"path\": \"");
	int file = -1;

	if (at && sscanf(at, "\"path\": \"%255[^\"]", path) == 1)
		file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	checked(file, "the disk");
	for (uint64_t key = 0; key <= DEVICE_KINDS; key++) {
		for (uint64_t word_at = 0; word_at < HALF; word_at++)
			half[word_at] = word(key, word_at);
		if (write(file, half, sizeof half) != sizeof half)
			die("write of the disk");
	}
	checked(fsync(file), "fsync");
	device.disk = checked(open(path, O_RDONLY | O_DIRECT | O_CLOEXEC), "O_DIRECT");
	close(file);
	unlink(path);
}

/* Of a range that maps a slab: pages that nobody has written since. */
static uint64_t unwritten(int pagemap, uint64_t from, uint64_t to)
{
	const uint64_t present = 3ull << 62, of_file = 1ull << 61; /* or swapped; proc_pid_pagemap(5) */
	uint64_t entry, pages = 0;

	for (uint64_t at = from; at < to; at += PAGE)
		if (pread(pagemap, &entry, sizeof entry, at / PAGE * sizeof entry) == sizeof entry)
			pages += !(entry & present) || (entry & of_file);
	return pages;
}

/* Pages of the guest's memory that are a slab's, by the kernel's account. */
static uint64_t merged(void)
{
	uint64_t from, to, pages = 0, base = (uint64_t)machine.memory;
	char line[512];
	FILE *maps = fopen("/proc/self/maps", "re");
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	while (maps && fgets(line, sizeof line, maps))
		if (strstr(line, "/memfd:pagemerge-slab") &&
		    sscanf(line, "%lx-%lx", &from, &to) == 2 && from >= base &&
		    to <= base + machine.pages * PAGE)
			pages += unwritten(pagemap, from, to);
	if (maps)
		fclose(maps);
	close(pagemap);
	return pages;
}

static void say_counts(void)
{
	struct counts sum = { 0 };

	if (tally && !device.runs)
		publish();
	for (uint32_t cpu = 0; cpu <= control->cpus; cpu++) {
		volatile struct counts *it = cpu < control->cpus ? &control->counts[cpu] : &device.counts;
		if (it->lost + it->stale + it->unzeroed)
			sum.first = it->first;
		sum.writes += it->writes, sum.checked += it->checked, sum.lost += it->lost;
		sum.stale += it->stale, sum.unzeroed += it->unzeroed, sum.balloons += it->balloons;
	}
	printf("{\"pid\": %d, \"writes\": %lu, \"device_writes\": %lu, \"checked\": %lu, "
	       "\"lost\": %lu, \"stale\": %lu, \"unzeroed\": %lu, \"balloons\": %lu, "
	       "\"logged\": %lu, \"missed_dirty\": %lu, \"merged\": %lu, \"wrong\": %lu, "
	       "\"first\": \"page %lu word %lu: wanted %#lx, found %#lx\"}\n",
	       getpid(), sum.writes, device.counts.writes, sum.checked, sum.lost, sum.stale,
	       sum.unzeroed, sum.balloons, device.logged, device.missed, merged(),
	       sum.lost + sum.stale + sum.unzeroed, sum.first.page, sum.first.at, sum.first.wanted,
	       sum.first.found);
	fflush(stdout);
}

/* {"do": what}: write (generation, step); check; race (milliseconds, or until something else is
 * asked than count; kinds: how many contents; with: balloon, dirty, and the mistakes that must
 * show: remap without a barrier, forget a log, keep what was given up); disk (path); count;
 * corrupt; leave. */
static void answer(const char *line)
{
	int raced = device.runs;

	if (says(line, "leave"))
		_exit(0); /* whatever the others are about to do */
	if (!says(line, "count"))
		stop_race();
	if (says(line, "write"))
		write_pages(line);
	if (says(line, "check"))
		check();
	if (says(line, "disk"))
		open_disk(line);
	if (says(line, "corrupt"))
		corrupt();
	if (says(line, "race")) {
		start_race(line);
		uint64_t milliseconds = number(line, "milliseconds", 0);
		if (milliseconds) {
			usleep(1000 * milliseconds);
			stop_race();
		}
	} else if (tally && raced && !says(line, "count"))
		start_race("\"balloon\" \"dirty\"");
	say_counts();
}

/* Arguments: the tally of a soak, or "-"; a serial number, which counts for nothing; a seed; pages;
 * processors; the longest pause after some writes, in microseconds. Part of a soak, it races. */
int main(int argc, char **argv)
{
	pthread_t thread;
	char line[400];

	if (argc != 7 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		return 2;
	uint64_t pages = strtoull(argv[4], NULL, 10), cpus = strtoull(argv[5], NULL, 10);
	if (pages <= BROKEN_PAGES || pages > MOST_PAGES || cpus < 1 || cpus > MOST_CPUS)
		return 2;
	if (strcmp(argv[1], "-")) {
		int file = open(argv[1], O_RDWR | O_CLOEXEC);
		tally = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		if (tally == MAP_FAILED)
			return 2;
		close(file);
	}
	signal(SIGPIPE, SIG_IGN);
	pause_us = strtoull(argv[6], NULL, 10);
	device.random = strtoull(argv[3], NULL, 10) | 1;
	make_machine(&machine, pages, cpus);
	control = machine.control;
	control->pages = pages, control->cpus = cpus, control->burst = BURST;
	for (uint64_t cpu = 0; cpu < cpus; cpu++) {
		control->random[cpu] = device.random + 2 * (cpu + 1);
		if (pthread_create(&thread, NULL, run_cpu, (void *)cpu))
			die("pthread_create");
	}
	settle(); /* a processor that comes late would take the first command for done */
	if (tally) {
		write_pages("\"step\": 1");
		start_race("\"balloon\" \"dirty\"");
	}
	say_counts();
	while (fgets(line, sizeof line, stdin))
		answer(line);
	stop_race();
	say_counts();
	_exit(0); /* the processors never end */
}
