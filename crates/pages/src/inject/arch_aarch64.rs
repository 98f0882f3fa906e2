//! Registers and system calls of aarch64.

use super::Call;

/// The general registers as ptrace(2) gives them (NT_PRSTATUS).
pub type Registers = libc::user_regs_struct;

/// The system call instruction, `svc #0`.
pub const INSTRUCTION: &[u8] = &[0x01, 0x00, 0x00, 0xd4];
/// What an address of one has to be a multiple of.
pub const ALIGNMENT: usize = 4;

/// `registers`, changed so that the thread makes `call` at `place`.
pub fn calling(registers: &Registers, call: &Call, place: u64) -> Registers {
    let mut changed = *registers;
    changed.pc = place;
    changed.regs[..call.arguments.len()].copy_from_slice(&call.arguments);
    changed.regs[8] = call.number as u64;
    // No single step of the program's own, no branch target to check.
    changed.pstate &= !((1 << 21) | (3 << 10));
    changed
}

/// What a call returned, at its end.
pub const fn result(registers: &Registers) -> i64 {
    registers.regs[0] as i64
}

/// Where the next instruction is.
pub const fn counter(registers: &Registers) -> u64 {
    registers.pc
}

/// Nothing: the first argument of a call that has answered EINTR is lost here.
pub fn forgive(_registers: &mut Registers) {}

/// See `forgive`.
pub const fn is_forgiven(_number: i64, _arguments: &[u64; 6]) -> bool {
    false
}

/// Calls of this architecture only that a stop does not show in.
pub const PATIENT: &[i64] = &[];
/// Likewise those that a stop may show in.
pub const TOUCHY: &[i64] = &[];
