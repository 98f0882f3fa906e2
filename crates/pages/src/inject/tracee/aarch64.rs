//! Only on aarch64: leads a thread that was interrupted in a call to where it makes the call again.

use super::{Tracee, Trouble};
use crate::inject::arch;

/// The register set that holds the number of the call being entered; -1 means no call.
const NT_ARM_SYSTEM_CALL: usize = 0x404;

impl Tracee {
    /// Bring an interrupted call to the point where it is about to be made again.
    ///
    /// On aarch64, unlike elsewhere, the kernel rewinds an interrupted call before the thread
    /// stops, and remembers by itself how to go on (`do_signal`, arch/arm64/kernel/signal.c). It
    /// forgets that if the thread goes somewhere else. So we let the thread go up to the entry of
    /// the call that it restarts, perhaps with another number (restart_syscall(2)); we skip this
    /// call, and the thread makes it at the end. If a handler runs in between, the call is made
    /// after the handler, where the kernel alone might have said EINTR.
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

    /// Write one of the thread's register sets (NT_...).
    fn set_set(&mut self, set: usize, bytes: &mut [u8]) -> Result<(), Trouble> {
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        self.ask(libc::PTRACE_SETREGSET, set, (&raw mut part) as usize)
    }

    /// Record that the thread has to have these registers in the end, and that it has others now.
    fn keep(&mut self, registers: arch::Registers) {
        self.saved = Some(registers);
        self.changed = true;
    }
}
