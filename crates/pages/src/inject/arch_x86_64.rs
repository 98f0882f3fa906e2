//! Registers and system calls of x86-64.

use super::Call;

/// The general registers as ptrace(2) gives them (NT_PRSTATUS).
pub type Registers = libc::user_regs_struct;

/// The system call instruction.
pub const INSTRUCTION: &[u8] = &[0x0f, 0x05];
/// The alignment of a system call instruction, in bytes: it may lie anywhere.
pub const ALIGNMENT: usize = 1;

/// Linux, include/linux/errno.h: restart if no handler runs, else EINTR.
const ERESTARTNOHAND: i64 = 514;
const TRAP_FLAG: u64 = 0x100;

/// Returns `registers`, changed so that the thread makes `call` at `place`.
pub fn calling(registers: &Registers, call: &Call, place: u64) -> Registers {
    let mut changed = *registers;
    let [first, second, third, fourth, fifth] = call.arguments;
    changed.rip = place;
    changed.rax = call.number as u64;
    // This is not a call that the kernel could restart before the thread makes ours.
    changed.orig_rax = u64::MAX;
    (changed.rdi, changed.rsi, changed.rdx) = (first, second, third);
    (changed.r10, changed.r8) = (fourth, fifth);
    changed.eflags &= !TRAP_FLAG;
    changed
}

/// The result of a call, at its end.
pub const fn result(registers: &Registers) -> i64 {
    registers.rax as i64
}

/// The address of the next instruction.
pub const fn counter(registers: &Registers) -> u64 {
    registers.rip
}

/// Let the kernel restart some interrupted calls. A few calls answer EINTR after any stop, even if
/// no handler ran, where others are restarted (signal(7)). Those that wait without end and have
/// done nothing yet may as well be restarted by the kernel, with its rule for the others: EINTR if
/// a handler does run.
pub fn forgive(registers: &mut Registers) {
    if registers.rax as i64 != -i64::from(libc::EINTR) {
        return;
    }
    let endless = match registers.orig_rax as i64 {
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => (registers.r10 as i32) < 0,
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop => registers.r10 == 0,
        libc::SYS_rt_sigtimedwait => registers.rdx == 0,
        libc::SYS_io_getevents => registers.r8 == 0,
        libc::SYS_semop => true,
        _ => false,
    };
    if endless {
        registers.rax = -ERESTARTNOHAND as u64;
    }
}

/// Returns whether `forgive` restarts the call with these numbers, which come from
/// /proc/PID/syscall.
pub fn is_forgiven(number: i64, arguments: &[u64; 6]) -> bool {
    // SAFETY: a structure of integers.
    let mut registers: Registers = unsafe { std::mem::zeroed() };
    registers.rax = -i64::from(libc::EINTR) as u64;
    registers.orig_rax = number as u64;
    (registers.rdi, registers.rsi, registers.rdx) = (arguments[0], arguments[1], arguments[2]);
    (registers.r10, registers.r8) = (arguments[3], arguments[4]);
    forgive(&mut registers);
    registers.rax as i64 == -ERESTARTNOHAND
}

/// Calls that exist on this architecture only, and that do not show a stop.
pub const PATIENT: &[i64] = &[libc::SYS_poll, libc::SYS_select, libc::SYS_pause];
/// Calls that exist on this architecture only, and that may show a stop.
pub const TOUCHY: &[i64] = &[libc::SYS_epoll_wait];
