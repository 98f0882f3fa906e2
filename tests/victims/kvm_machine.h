/* A virtual machine for kvm.c: memory, page tables, and processors that start at CPL 3.
 *
 * The guest never runs at CPL 0: there it would need handlers of its own, and a host that has no
 * hardware virtualisation (PVM) emulates each instruction, whose writes go through the host's own
 * mapping and prove nothing. IOPL 3 lets CPL 3 use the ports by which it calls the host. There
 * are no interrupt handlers: any fault of the guest shuts the machine down, and shows. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Guest physical addresses, which are the linear ones too; offsets into the machine's own part. */
enum { OWN_AT = 0x100000, OWN_SIZE = 0x100000, MEMORY_AT = 0x10000000 };
enum {
	PML4 = 0, PDPT = 0x1000, PD = 0x2000, GDT = 0x3000, IDT = 0x4000, TSS = 0x5000,
	STACKS = 0x6000, CODE = 0x8000, CONTROL = 0x10000, LEDGER = 0x12000
};
enum { SELECT_CODE = 0x10 | 3, SELECT_DATA = 0x18 | 3, SELECT_TASK = 0x20 };

struct machine {
	int system, vm, cpu[MOST_CPUS];
	struct kvm_run *run[MOST_CPUS];
	uint64_t pages, *memory; /* the guest's mergeable memory, as the host maps it */
	char *own;               /* page tables, code, control and ledger: never mergeable */
	volatile struct control *control;
	volatile struct entry *ledger;
};

extern char __start_guest[], __stop_guest[];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int checked(int result, const char *what)
{
	if (result < 0)
		die(what);
	return result;
}

/* What QEMU does to guest memory: merge it, prefer huge pages, leave it out of children. */
static void *map_like_qemu(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die("mmap");
	checked(madvise(memory, bytes, MADV_MERGEABLE), "MADV_MERGEABLE");
	madvise(memory, bytes, MADV_HUGEPAGE); /* a kernel without huge pages refuses it */
	checked(madvise(memory, bytes, MADV_DONTFORK), "MADV_DONTFORK");
	return memory;
}

static void set_memory(struct machine *it, uint32_t slot, uint64_t at, void *memory, uint64_t size,
		       uint32_t flags)
{
	struct kvm_userspace_memory_region region = { slot, flags, at, size, (uintptr_t)memory };

	checked(ioctl(it->vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

/* Begin or end to record which pages the guest writes. */
static void set_logging(struct machine *it, int on)
{
	set_memory(it, 1, MEMORY_AT, it->memory, it->pages * PAGE, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

/* One bit a page: written since the last call. */
static void fetch_log(struct machine *it, void *bits)
{
	struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bits };

	checked(ioctl(it->vm, KVM_GET_DIRTY_LOG, &log), "KVM_GET_DIRTY_LOG");
}

static void fill_own(struct machine *it)
{
	const uint64_t user = 0x67, large = user | 0x80; /* present, writable, user, used */
	uint64_t *gdt = (uint64_t *)(it->own + GDT);
	size_t code = __stop_guest - __start_guest;

	if (CODE + code > CONTROL)
		die("the guest's code is too large");
	*(uint64_t *)(it->own + PML4) = (OWN_AT + PDPT) | user;
	*(uint64_t *)(it->own + PDPT) = (OWN_AT + PD) | user;
	for (uint64_t number = 0; number < 512; number++)
		((uint64_t *)(it->own + PD))[number] = number << 21 | large;
	gdt[SELECT_CODE / 8] = 0x00affb000000ffff; /* 64-bit code, DPL 3 */
	gdt[SELECT_DATA / 8] = 0x00cff3000000ffff;
	gdt[SELECT_TASK / 8] = 0x00008b0000000067 | (uint64_t)(OWN_AT + TSS) << 16;
	memcpy(it->own + CODE, __start_guest, code);
	it->control = (volatile struct control *)(it->own + CONTROL);
	it->ledger = (volatile struct entry *)(it->own + LEDGER);
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, int is_code)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = selector, .type = type,
				     .present = 1, .dpl = 3, .db = !is_code, .s = 1, .l = is_code,
				     .g = 1 };
}

static void set_registers(struct machine *it, int cpu)
{
	struct kvm_sregs s;
	struct kvm_regs r = { 0 };

	checked(ioctl(it->cpu[cpu], KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cs = segment(SELECT_CODE, 0xb, 1);
	s.ss = s.ds = s.es = s.fs = s.gs = segment(SELECT_DATA, 0x3, 0);
	s.tr = (struct kvm_segment){ .base = OWN_AT + TSS, .limit = 0x67, .selector = SELECT_TASK,
				     .type = 0xb, .present = 1 };
	s.ldt = (struct kvm_segment){ .unusable = 1 };
	s.gdt.base = OWN_AT + GDT, s.gdt.limit = 0x2f;
	s.idt.base = OWN_AT + IDT, s.idt.limit = 0xfff;
	s.cr0 = 0x80050033; /* PG, AM, WP, NE, ET, MP, PE */
	s.cr3 = OWN_AT + PML4;
	s.cr4 = 0x620;  /* PAE, OSFXSR, OSXMMEXCPT */
	s.efer = 0xd01; /* NXE, LMA, LME, SCE */
	checked(ioctl(it->cpu[cpu], KVM_SET_SREGS, &s), "KVM_SET_SREGS");

	r.rip = OWN_AT + CODE + ((char *)guest_main - __start_guest);
	r.rsp = OWN_AT + STACKS + (cpu + 1) * PAGE - 8; /* as after a call */
	r.rflags = 0x3202;                              /* IOPL 3, interrupts on */
	r.rdi = OWN_AT + CONTROL, r.rsi = MEMORY_AT, r.rdx = OWN_AT + LEDGER, r.rcx = cpu;
	checked(ioctl(it->cpu[cpu], KVM_SET_REGS, &r), "KVM_SET_REGS");
}

static void add_cpu(struct machine *it, int cpu)
{
	enum { ENTRIES = 256 };
	struct kvm_cpuid2 *known = calloc(1, sizeof *known + ENTRIES * sizeof known->entries[0]);
	int size = checked(ioctl(it->system, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");

	it->cpu[cpu] = checked(ioctl(it->vm, KVM_CREATE_VCPU, cpu), "KVM_CREATE_VCPU");
	known->nent = ENTRIES;
	checked(ioctl(it->system, KVM_GET_SUPPORTED_CPUID, known), "KVM_GET_SUPPORTED_CPUID");
	checked(ioctl(it->cpu[cpu], KVM_SET_CPUID2, known), "KVM_SET_CPUID2");
	free(known);
	it->run[cpu] = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, it->cpu[cpu], 0);
	if (it->run[cpu] == MAP_FAILED)
		die("mmap of a virtual processor");
	set_registers(it, cpu);
}

/* A machine with `pages` pages of mergeable memory; its processors stand at guest_main. */
static void make_machine(struct machine *it, uint64_t pages, int cpus)
{
	it->system = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	it->vm = checked(ioctl(it->system, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	it->pages = pages;
	it->memory = map_like_qemu(pages * PAGE);
	it->own = mmap(NULL, OWN_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (it->own == MAP_FAILED)
		die("mmap");
	fill_own(it);
	set_memory(it, 0, OWN_AT, it->own, OWN_SIZE, 0);
	set_logging(it, 0);
	for (int cpu = 0; cpu < cpus; cpu++)
		add_cpu(it, cpu);
}
