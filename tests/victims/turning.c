/* turning FD: turns its memory into a mapping of file FD and back, again and again: pages that were
 * there a moment ago belong to the file when somebody reads them. Lets ksmd merge all its memory, if
 * the kernel can. Says "ready" first.
 *
 * turning FD lock: touches the file, of which two reads must fail and the third must never be
 * answered. The kernel waits for it with the lock of this process's memory held (filemap_fault in
 * Linux mm/filemap.c gives it up at the first attempt only); another thread wants that lock for
 * itself, so that everybody else waits for it, too. Says "ready" then.
 *
 * turning FD exec: writes to the file, whose writes must never be answered, through a shared mapping,
 * and executes itself: execve(2) waits for the write when it gives up the old memory, and who reads
 * stat waits for that. Says "ready" just before. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define SIZE (32UL << 20)
#define PAGE 4096
#define SET_MEMORY_MERGE 67

static void *map(void *at, int file)
{
	int access = file < 0 ? PROT_READ | PROT_WRITE : PROT_READ;
	int flags = MAP_PRIVATE | (at ? MAP_FIXED : 0) | (file < 0 ? MAP_ANONYMOUS : 0);
	void *made = mmap(at, SIZE, access, flags, file, 0);

	if (made == MAP_FAILED)
		_exit(3);
	return made;
}

static void *touch(void *memory)
{
	return (void *)(long)*(volatile char *)memory;
}

static void say(void)
{
	if (write(1, "ready\n", 6) != 6)
		_exit(4);
}

int main(int count, char **words)
{
	pthread_t thread;
	char *memory;
	int file;

	if (count < 2)
		return 2;
	file = atoi(words[1]);
	if (count > 2 && words[2][0] == 'e') {
		memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
		if (memory == MAP_FAILED)
			return 7;
		*(volatile char *)memory = 1;
		say();
		execl("/proc/self/exe", "turning", words[1], "again", NULL);
		return 8;
	}
	if (count > 2) {
		if (pthread_create(&thread, NULL, touch, map(NULL, file)))
			return 5;
		usleep(500000);
		say();
		map(NULL, -1);
		return 6; /* nobody held the lock */
	}
	prctl(SET_MEMORY_MERGE, 1, 0, 0, 0);
	memory = map(NULL, -1);
	say();
	for (;;) {
		memory = map(memory, -1);
		for (long at = 0; at < (long)SIZE; at += PAGE)
			*(long *)(memory + at) = at * 31 + 1;
		usleep(2000);
		map(memory, file);
		usleep(1500);
	}
}
