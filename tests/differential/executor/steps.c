/* What words mean, and one step after the other. */
#include "executor.h"

/* Words: pN page N of the arena, nN the length of N pages, sK:N page N of slot K, each with "+B"
 * or "-B" bytes; else a number. */
uint64_t value(const char *word)
{
	char *rest;
	uint64_t found;

	if (*word == 'p') {
		found = ARENA + strtol(word + 1, &rest, 10) * PAGE;
	} else if (*word == 'n') {
		found = strtol(word + 1, &rest, 10) * PAGE;
	} else if (*word == 's') {
		long slot = strtol(word + 1, &rest, 10) % MOST_SLOTS;
		long page = *rest == ':' ? strtol(rest + 1, &rest, 10) : 0;

		found = (slots[slot].length ? slots[slot].at : NOWHERE) + page * PAGE;
	} else {
		return *word == '-' ? (uint64_t)strtoll(word, NULL, 0) : strtoull(word, NULL, 0);
	}
	return *rest ? found + strtol(rest, NULL, 10) : found;
}

static int one_of(const char *word, const char *list)
{
	char sought[64];

	snprintf(sought, sizeof sought, " %s ", word);
	return strstr(list, sought) != NULL;
}

/* May the step change bytes, or where they are? The racer is told, because then its words may. */
int is_destructive(const struct step *step)
{
	const char *op = step->word[0];

	if (!strcmp(op, "madvise"))
		return one_of(step->word[3], " 4 8 9 24 102 103 ");
	if (!strcmp(op, "pmadvise"))
		return one_of(step->word[1], " 4 8 9 24 102 103 ");
	if (!strcmp(op, "mremap"))
		return value(step->word[4]) != 0 || value(step->word[2]) == 0 ||
			value(step->word[2]) > value(step->word[3]);
	return !one_of(op, " mprotect pkey_mprotect mlock mlock2 munlock mlockall munlockall msync mincore"
		" peek mbind getpol name look flags settle nap futex_wake futex_wait prctl_merge"
		" uffd_open uffd_register uffd_unregister send ");
}

/* A length behind a slot ends with it at the latest: what comes after is the executor's own. */
static void stay_inside(struct step *step, char *room)
{
	for (int at = 0; at + 1 < step->words; at++) {
		const char *word = step->word[at], *length = step->word[at + 1];
		const struct slot *slot = &slots[(word[1] - '0') & (MOST_SLOTS - 1)];

		if (word[0] != 's' || word[1] < '0' || word[1] > '9' || length[0] != 'n')
			continue;
		if (slot->length && value(length) > slot->length) {
			snprintf(room, 24, "n%lu", slot->length / PAGE);
			step->word[at + 1] = room;
		}
		return;
	}
}

static void run_step(struct step *step, int subs, const char *prefix, int number)
{
	struct text out; /* on the stack: a handler's steps run inside of a step */
	char deeper[64], room[24];
	struct step own = *step; /* may be changed, and is then ours alone */
	const char *op = step->word[0];
	int changes = is_destructive(step);

	stay_inside(&own, room);
	out.length = 0;
	say(&out, "%s%d %s ", prefix, number, op);
	snprintf(deeper, sizeof deeper, "%s%d/", prefix, number);
	if (changes)
		change_begins();
	if (!strcmp(op, "look")) {
		racer_pause();
		look(&out, 0);
		racer_resume();
	} else if (!strcmp(op, "flags")) {
		flags(&out);
	} else if (!strcmp(op, "settle")) {
		if (!in_child)
			settle();
	} else if (!strcmp(op, "nap")) {
		if (merged_run && !in_child)
			nap(value(step->word[1]));
	} else if (!strcmp(op, "window")) {
		window = value(step->word[1]);
	} else if (!memory_call(&own, &out) && !access_step(&own, &out) &&
		   !watching_step(step, &out) && !beside_step(step, &out) &&
		   !child_step(step, subs + 1, deeper, &out)) {
		say(&out, "unknown");
	}
	if (changes)
		change_ends();
	flush(&out);
}

void run_steps(struct step *list, int count, const char *prefix)
{
	for (int number = 0, told = 0; number < count; told++) {
		int subs = 0;

		while (number + 1 + subs < count && list[number + 1 + subs].sub)
			subs++;
		run_step(&list[number], subs, prefix, told);
		number += 1 + subs;
	}
}
