/* Registers that have to hold what is in them while a program computes: general, vector, the carry
 * flag, and the 128 bytes below the stack (the red zone of the x86-64 ABI). */
#ifndef REGISTERS_H
#define REGISTERS_H

#include <string.h>

#ifdef __x86_64__
enum { GENERAL = 12, VECTORS = 16 * 32, BELOW = 3 * 8 };

struct file {
	unsigned long general[GENERAL];
	unsigned char vectors[VECTORS];
	unsigned long below[3];
	unsigned long carry;
};

/* Load all from `in` (ymm where `wide`), count `turns` down, store all in `out`. */
void spin(const struct file *in, struct file *out, long turns, int wide);

__asm__(
	".text\n.globl spin\n.type spin,@function\nspin:\n"
	"push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\npush %rcx\n"
	"test %ecx, %ecx\njz 1f\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\nvmovdqu 96+32*\\n(%rdi), %ymm\\n\n.endr\n"
	"1:\n"
	"mov 0(%rdi), %rax\nmov 8(%rdi), %rbx\nmov 16(%rdi), %rcx\nmov 24(%rdi), %rbp\n"
	"mov 32(%rdi), %r8\nmov 40(%rdi), %r9\nmov 48(%rdi), %r10\nmov 56(%rdi), %r11\n"
	"mov 64(%rdi), %r12\nmov 72(%rdi), %r13\nmov 80(%rdi), %r14\nmov 88(%rdi), %r15\n"
	"mov %rax, -8(%rsp)\nmov %rbx, -64(%rsp)\nmov %rcx, -128(%rsp)\n"
	"stc\n"
	"2: dec %rdx\njnz 2b\n"
	"setc 632(%rsi)\n"
	"mov %rax, 0(%rsi)\nmov %rbx, 8(%rsi)\nmov %rcx, 16(%rsi)\nmov %rbp, 24(%rsi)\n"
	"mov %r8, 32(%rsi)\nmov %r9, 40(%rsi)\nmov %r10, 48(%rsi)\nmov %r11, 56(%rsi)\n"
	"mov %r12, 64(%rsi)\nmov %r13, 72(%rsi)\nmov %r14, 80(%rsi)\nmov %r15, 88(%rsi)\n"
	"mov -8(%rsp), %rax\nmov %rax, 608(%rsi)\nmov -64(%rsp), %rax\nmov %rax, 616(%rsi)\n"
	"mov -128(%rsp), %rax\nmov %rax, 624(%rsi)\n"
	"pop %rcx\ntest %ecx, %ecx\njz 3f\n"
	".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\nvmovdqu %ymm\\n, 96+32*\\n(%rsi)\n.endr\n"
	"vzeroupper\n"
	"3:\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"
	".size spin,.-spin\n");

/* True if all registers hold through `turns` turns. */
static int registers_hold(long turns)
{
	static unsigned long seed = 0x9e3779b97f4a7c15;
	int wide = __builtin_cpu_supports("avx");
	struct file in, out;

	memset(&in, 0, sizeof(in));
	memset(&out, 0, sizeof(out));
	for (size_t at = 0; at < GENERAL; at++)
		in.general[at] = (seed = seed * 6364136223846793005 + 1);
	for (size_t at = 0; wide && at < VECTORS; at++)
		in.vectors[at] = seed >> (at % 56) ^ at;
	memcpy(in.below, in.general, sizeof(in.below));
	in.carry = 1;
	spin(&in, &out, turns, wide);
	return !memcmp(&in, &out, sizeof(in));
}
#else
static int registers_hold(long turns)
{
	volatile double sum = 0;

	for (long turn = 0; turn < turns; turn++)
		sum += turn;
	return sum == (double)(turns - 1) * turns / 2;
}
#endif
#endif
