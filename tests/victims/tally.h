/* What a victim of the soak counts, in a file that it shares with the soak: as in
 * tests/soak/tally.py, which tells what each count is. */
#include <stdint.h>

enum { FIRST = 8 }; /* wrong pages that are kept with all details */

struct wrong {
	uint64_t pid, address, wanted_key, found_key, wanted, found;
	char during[40];
};

struct tally {
	uint64_t turns, writes, checked, forks, spawns, discards, remaps, unmerges, births, refused;
	uint64_t wrong, failed;
	char failure[112];
	struct wrong first[FIRST];
};
