//! Restartable sequences (rseq(2)): code that the kernel sends elsewhere if it was interrupted.
//!
//! A thread that is stopped inside a sequence must go on from its abort handler. The kernel decides
//! that when the thread returns to user mode, by where the thread is then. If it is somewhere else,
//! as in our calls, the sequence counts as left, and would go on unharmed when we put the thread
//! back. So a thread inside one is let go, and tried again: a sequence is a few instructions.

use super::arch;
use super::trouble::Trouble;
use crate::trace::ptrace;

const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: u32 = 0x4211;

/// The kernel's answer (include/uapi/linux/ptrace.h).
#[repr(C)]
#[derive(Default)]
struct Configuration {
    area: u64,
    size: u32,
    signature: u32,
    flags: u32,
    pad: u32,
}

/// The offset in the area where it names the thread's sequence (include/uapi/linux/rseq.h).
const SEQUENCE: u64 = 8;

/// Refuse a thread that is inside a restartable sequence. `read` reads its memory.
pub fn check(
    thread: i32,
    registers: &arch::Registers,
    read: impl Fn(u64, &mut [u8]) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let mut found = Configuration::default();
    let data = (&raw mut found) as usize;
    let size = size_of::<Configuration>();
    // On kernels that do not tell (before 5.13), programs do not use sequences, as a rule.
    if ptrace(PTRACE_GET_RSEQ_CONFIGURATION, thread, size, data).is_err() || found.area == 0 {
        return Ok(());
    }
    let mut address = [0_u8; 8];
    read(found.area + SEQUENCE, &mut address)?;
    let address = u64::from_ne_bytes(address);
    if address == 0 {
        return Ok(());
    }
    // struct rseq_cs: version and flags, start, length, abort handler.
    let mut sequence = [0_u8; 24];
    if read(address, &mut sequence).is_err() {
        return Ok(()); // The kernel would kill the thread for that, so it is not in use.
    }
    let word = |at: usize| {
        let bytes = sequence.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        u64::from_ne_bytes(bytes.unwrap_or_default())
    };
    if arch::counter(registers).wrapping_sub(word(8)) < word(16) {
        return Err(Trouble::Again("is always inside a restartable sequence (rseq)".into()));
    }
    Ok(())
}

/// The kernel's answer (include/uapi/linux/ptrace.h).
#[repr(C)]
#[derive(Default)]
struct Dispatch {
    mode: u64,
    selector: u64,
    offset: u64,
    len: u64,
}

/// Refuse a thread whose system calls are sent to a handler of its own (as Wine does): ours would
/// be sent there, too. Kernels that do not tell (before 6.4) have no PR_SET_MEMORY_MERGE either.
pub fn refuse_dispatch(thread: i32) -> Result<(), Trouble> {
    let mut found = Dispatch::default();
    let data = (&raw mut found) as usize;
    let size = size_of::<Dispatch>();
    let request = PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG;
    if ptrace(request, thread, size, data).is_ok() && found.mode != 0 {
        let why = "has its system calls sent to a handler of its own (prctl(2), \
                   PR_SET_SYSCALL_USER_DISPATCH; Wine?)";
        return Err(Trouble::Stuck(why.into()));
    }
    Ok(())
}
