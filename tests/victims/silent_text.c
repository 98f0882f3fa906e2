/* Maps the file whose descriptor is argv[1] as its program text, below all others, and gives up its
 * vdso: whoever looks for an instruction in it looks there first. Says "ready", and waits. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#define LOWEST ((void *)0x10000) /* vm.mmap_min_addr */

int main(int count, char **words)
{
	void *text;

	if (count != 2)
		return 2;
	text = mmap(LOWEST, 1 << 20, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, atoi(words[1]), 0);
	if (text == MAP_FAILED)
		return 3;
	munmap((void *)(uintptr_t)getauxval(AT_SYSINFO_EHDR), 8192);
	if (write(1, "ready\n", 6) != 6)
		return 4;
	for (;;)
		pause();
}
