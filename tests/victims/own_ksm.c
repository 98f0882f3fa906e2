/* Says whether kernel KSM merges all of this process. */
#include <stdio.h>
#include <string.h>

int main(void)
{
	char line[128];
	FILE *said = fopen("/proc/self/ksm_stat", "r");

	while (said && fgets(line, sizeof(line), said))
		if (strstr(line, "merge_any"))
			fputs(line, stdout);
	return !said;
}
