//! aarch64 only: a thread that was interrupted in a call is led to where it makes the call again.

use super::{Tracee, Trouble};
use crate::inject::arch;

/// The register set that holds the number of the call being entered; -1: none.
const NT_ARM_SYSTEM_CALL: usize = 0x404;

impl Tracee {
    /// An interrupted call, at the point where it is about to be made again.
    ///
    /// Unlike elsewhere the kernel rewinds an interrupted call before the thread stops, and remembers
    /// by itself how to go on (`do_signal`, arch/arm64/kernel/signal.c). It forgets that if the thread
    /// goes somewhere else. So it is let go up to the entry of the call that it restarts, perhaps with
    /// another number (restart_syscall(2)); this one is skipped, and made at the end. Should a handler
    /// run in between, the call is made after it, where the kernel alone might have said EINTR.
    pub fn settle(&mut self) -> Result<(), Trouble> {
        let mut instruction = [0_u8; 4];
        let here = self.registers()?;
        self.read(here.pc, &mut instruction)?;
        if instruction != *arch::INSTRUCTION || !self.enter()? {
            return Ok(());
        }
        let mut before = self.registers()?;
        before.pc -= arch::INSTRUCTION.len() as u64;
        self.set_set(NT_ARM_SYSTEM_CALL, &mut (-1_i32).to_ne_bytes())?;
        self.keep(before);
        self.leave()
    }

    /// Write one of its register sets (NT_...).
    fn set_set(&mut self, set: usize, bytes: &mut [u8]) -> Result<(), Trouble> {
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        self.ask(libc::PTRACE_SETREGSET, set, (&raw mut part) as usize)
    }

    /// From here on these are the registers that it is to have in the end, and it has others.
    fn keep(&mut self, registers: arch::Registers) {
        self.saved = Some(registers);
        self.changed = true;
    }
}
