//! Reads and writes our own memory so that a page which the program has taken away is an error and
//! not a signal.
//!
//! A program may take memory away from us at any moment, by calls that we do not see: guard pages,
//! protection keys, a raw mprotect or munmap. A plain load would end the program by SIGSEGV.
//! Instead the kernel copies, through `/proc/self/mem`, which reads memory that the program itself
//! may not read now (PROT_NONE), and does not wait for a page that a userfaultfd of ours holds
//! back. Where that file cannot be opened (an undumpable process, no /proc), process_vm_readv(2)
//! copies.

use crate::raw;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// A way to our own memory.
#[derive(Debug)]
pub struct Soft {
    memory: Option<OwnedFd>,
}

impl Soft {
    /// Open it; this never fails. At worst it cannot read what the program itself may not read.
    #[must_use]
    pub fn open() -> Self {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Self { memory: rustix::fs::open(c"/proc/self/mem", flags, Mode::empty()).ok() }
    }

    /// Copy all of `into.len()` bytes from `address`; returns false if some of it cannot be read.
    #[must_use]
    pub fn read(&self, address: usize, into: &mut [u8]) -> bool {
        let mut done = 0;
        while done < into.len() {
            let rest = &mut into[done..];
            let at = address + done;
            let copied = self
                .memory
                .as_ref()
                .map_or(0, |memory| rustix::io::pread(memory, &mut *rest, at as u64).unwrap_or(0));
            let copied = if copied > 0 { copied } else { vm_read(at, rest) };
            if copied == 0 {
                return false;
            }
            done += copied;
        }
        true
    }

    /// Write all of `bytes` at `address`, whatever its protection; returns false if some of it
    /// could not be written.
    #[must_use]
    pub fn write(&self, address: usize, bytes: &[u8]) -> bool {
        let mut done = 0;
        while done < bytes.len() {
            let (at, rest) = (address + done, &bytes[done..]);
            let copied = self
                .memory
                .as_ref()
                .map_or(0, |memory| rustix::io::pwrite(memory, rest, at as u64).unwrap_or(0));
            let copied = if copied > 0 { copied } else { vm_write(at, rest) };
            if copied == 0 {
                return false;
            }
            done += copied;
        }
        true
    }
}

/// Copy a value from a pointer that a caller passed. Returns None if it cannot be read; then the
/// kernel has to answer the call.
#[must_use]
pub fn peek<const SIZE: usize>(address: usize) -> Option<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    (vm_read(address, &mut bytes) == SIZE).then_some(bytes)
}

/// Write bytes to a caller's pointer; returns false if they cannot be written.
#[must_use]
pub fn poke(address: usize, bytes: &[u8]) -> bool {
    vm_write(address, bytes) == bytes.len()
}

/// The number of bytes that one process_vm_readv of ourselves reads; 0 if none.
fn vm_read(address: usize, into: &mut [u8]) -> usize {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: into.len() };
    // SAFETY: the kernel writes only into `into`, and checks the other address.
    unsafe { transfer(libc::SYS_process_vm_readv, &local, &remote) }
}

/// The same for writing.
fn vm_write(address: usize, bytes: &[u8]) -> usize {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
    // SAFETY: the kernel only reads `bytes`; the caller may write the memory at `address`.
    unsafe { transfer(libc::SYS_process_vm_writev, &local, &remote) }
}

/// # Safety
/// The same requirements as for the call.
unsafe fn transfer(call: libc::c_long, local: &libc::iovec, remote: &libc::iovec) -> usize {
    let (local, remote) = (std::ptr::from_ref(local), std::ptr::from_ref(remote));
    let own = std::process::id() as usize;
    // SAFETY: the caller guarantees both elements; one element each.
    unsafe { raw::syscall(call, [own, local as usize, 1, remote as usize, 1, 0]) }.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE;
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

    #[test]
    fn memory_that_was_taken_away_is_no_signal() {
        let (none, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping of three pages, of which the last is given back at once.
        let base = unsafe {
            let base = rustix::mm::mmap_anonymous(none, 3 * PAGE, access, MapFlags::PRIVATE);
            let base = base.unwrap();
            std::ptr::write_bytes(base.cast::<u8>(), 7, 2 * PAGE);
            rustix::mm::munmap(base.wrapping_byte_add(2 * PAGE), PAGE).unwrap();
            rustix::mm::mprotect(base.wrapping_byte_add(PAGE), PAGE, MprotectFlags::empty())
                .unwrap();
            base as usize
        };
        let mut bytes = [0; PAGE];
        for soft in [Soft::open(), Soft { memory: None }] {
            assert!(soft.read(base, &mut bytes) && bytes == [7; PAGE]);
            assert!(!soft.read(base + 2 * PAGE, &mut bytes), "nothing is mapped there");
            assert!(soft.write(base, &[8; PAGE]));
            assert!(soft.read(base, &mut bytes) && bytes == [8; PAGE]);
            assert!(soft.write(base, &[7; PAGE]));
            assert!(!soft.write(base + 2 * PAGE, &[8; PAGE]));
        }
        assert!(Soft::open().read(base + PAGE, &mut bytes), "PROT_NONE is read nevertheless");
        assert!(bytes == [7; PAGE]);
    }
}
