//! Registers and system calls of aarch64.

use super::Call;

/// The general registers as ptrace(2) gives them (NT_PRSTATUS).
pub type Registers = libc::user_regs_struct;

/// The system call instruction, `svc #0`.
pub const INSTRUCTION: &[u8] = &[0x01, 0x00, 0x00, 0xd4];
/// The alignment of a system call instruction, in bytes.
pub const ALIGNMENT: usize = 4;

/// Returns `registers`, changed so that the thread makes `call` at `place`.
pub fn calling(registers: &Registers, call: &Call, place: u64) -> Registers {
    let mut changed = *registers;
    changed.pc = place;
    changed.regs[..call.arguments.len()].copy_from_slice(&call.arguments);
    changed.regs[8] = call.number as u64;
    // Switch off a single step of the program's own, and the check of a branch target.
    changed.pstate &= !((1 << 21) | (3 << 10));
    changed
}

/// The result of a call, at its end.
pub const fn result(registers: &Registers) -> i64 {
    registers.regs[0] as i64
}

/// The address of the next instruction.
pub const fn counter(registers: &Registers) -> u64 {
    registers.pc
}

/// Does nothing: here the first argument of a call that has answered EINTR is lost.
pub fn forgive(_registers: &mut Registers) {}

/// See `forgive`.
pub const fn is_forgiven(_number: i64, _arguments: &[u64; 6]) -> bool {
    false
}

/// Calls that exist on this architecture only, and that do not show a stop.
pub const PATIENT: &[i64] = &[];
/// Calls that exist on this architecture only, and that may show a stop.
pub const TOUCHY: &[i64] = &[];
