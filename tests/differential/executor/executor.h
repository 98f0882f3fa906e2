/* A process that carries out programs of memory calls and says what came of each step.
 *
 * The driver writes a program to our input, one step a line, and "end"; we answer with one line a
 * step. The same binary runs bare and under `pagemerge run`: what it says must be the same.
 *
 * Calls under test go through libc's symbols, or through its syscall(), because that is where a
 * program's calls are met. Everything of our own goes straight to the kernel (`kernel`). */
#ifndef EXECUTOR_H
#define EXECUTOR_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define ARENA 0x100000000000ul   /* nothing else is near: results are comparable */
#define ARENA_END (ARENA + (2ul << 40))
#define STORM_ZONE 0x180000000000ul /* where the storm's handler maps memory */
#define NOWHERE 0x200000000000ul /* the address of a slot that holds nothing */

enum { MOST_STEPS = 256, MOST_WORDS = 16, MOST_SLOTS = 4, MOST_WINDOW = 2048, MOST_TEXT = 65536 };

struct step {
	int words, sub; /* sub: a step of the one before, for its child or handler */
	char *word[MOST_WORDS];
};

struct text { /* one line of our answer */
	int length;
	char data[MOST_TEXT];
};

struct slot { /* memory where the kernel chose to have it */
	uintptr_t at;
	size_t length;
};

extern struct slot slots[MOST_SLOTS];
extern size_t window;   /* pages of the arena that are looked at */
extern int merged_run;  /* we run under the agent */
extern int racing;      /* the last word of each page belongs to the racer */
extern int quiet_ms;    /* how long nothing may change before `settle` is content */
extern int file_fd, shared_fd; /* files to map, with known contents */
extern __thread sigjmp_buf *landing; /* where a fault leads, if one is expected */

long kernel(long number, long a, long b, long c, long d, long e, long f);
void say(struct text *text, const char *form, ...) __attribute__((format(printf, 2, 3)));
void flush(struct text *text);
uint64_t milliseconds(void);

/* steps.c: what words mean */
uint64_t value(const char *word);
void run_steps(struct step *steps, int count, const char *prefix);
int is_destructive(const struct step *step);

/* calls.c, watching.c: each returns 0 if the step is not one of its own */
int memory_call(const struct step *step, struct text *out);
int access_step(const struct step *step, struct text *out);
int watching_step(const struct step *step, struct text *out);
void reset_calls(void);
void reset_watching(void);
void remember(struct text *out, uintptr_t at, size_t length);

/* look.c: what memory is like */
void look(struct text *out, int probe);
void flags(struct text *out);
void let_start(void);
void settle(void);
void nap(long microseconds);
void open_maps(void);
size_t mappings_in(uintptr_t from, size_t length);
int protection_of(uintptr_t at, uintptr_t *end);
extern uint64_t merged_pages;
extern char ignored_flags[256];

/* beside.c: what goes on beside the steps */
int beside_step(const struct step *step, struct text *out);
void racer_pause(void);
void racer_resume(void);
void change_begins(void);
void change_ends(void);
void racer_forked(void);
void reset_beside(struct text *out);

/* children.c */
int child_step(struct step *steps, int count, const char *prefix, struct text *out);
extern int in_child;
#endif
