//! Does work in a separate process that shares our memory and outlives us if we are killed.
//!
//! The kernel lets a tracee go when its tracer ends, with whatever registers it has at that moment.
//! So the tracer is not this process, which another process may kill, but a child for this one
//! stop: it brings the stop to its end, whatever happens to us. It is no thread of ours, so that a
//! thread of ours that waits for children is not told of its tracee either; and it has no exit
//! signal, so that no thread is told of its end.
//!
//! The calling thread sleeps until the child has ended (CLONE_VFORK), and lends it its thread-local
//! storage: allocation and errno work as if this thread did the work.

use crate::error::{Error, Result};
use rustix::mm::{MapFlags, ProtFlags};
use std::panic::{catch_unwind, AssertUnwindSafe};

const STACK: usize = 512 * 1024;

struct Errand<'a, T> {
    work: &'a (dyn Fn() -> T + Sync),
    done: Option<T>,
}

/// Let a separate process do `work`; returns None if it panicked or was killed.
///
/// # Errors
/// `Os` if no process can be started.
pub fn aside<T: Send>(work: &(dyn Fn() -> T + Sync)) -> Result<Option<T>> {
    let mut errand = Errand { work, done: None };
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let stack = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), STACK, access, MapFlags::PRIVATE)
    }
    .map_err(|errno| Error::os("mmap of a stack", errno.raw_os_error()))?;
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_VFORK
        | libc::CLONE_UNTRACED;
    let argument: *mut Errand<'_, T> = &mut errand;
    // SAFETY: the stack is the child's alone. This thread does not go on before the child has
    // ended, so the child has the errand and the thread-local storage to itself.
    let pid =
        unsafe { libc::clone(run::<T>, stack.wrapping_byte_add(STACK), flags, argument.cast()) };
    let failed = Error::last_os("clone of a tracer");
    if pid > 0 {
        // SAFETY: waits for our own child, which has no exit signal, hence __WCLONE.
        unsafe {
            while libc::waitpid(pid, std::ptr::null_mut(), libc::__WCLONE) < 0
                && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
            {}
        }
    }
    // SAFETY: no thread runs on this stack any more.
    let _ = unsafe { rustix::mm::munmap(stack, STACK) };
    if pid < 0 {
        return Err(failed);
    }
    Ok(errand.done)
}

extern "C" fn run<T>(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `aside` passes an errand of this type, and does not touch it meanwhile.
    let errand = unsafe { &mut *argument.cast::<Errand<'_, T>>() };
    let work = errand.work;
    errand.done = catch_unwind(AssertUnwindSafe(work)).ok();
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_does_it_and_can_allocate() {
        let done = aside(&|| (std::process::id(), vec![7_u8; 1 << 20])).unwrap().unwrap();
        assert_ne!(done.0, std::process::id());
        assert!(done.1.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn a_panic_is_no_end_of_ours() {
        let done: Option<()> = aside(&|| panic!("on purpose")).unwrap();
        assert!(done.is_none());
    }
}
