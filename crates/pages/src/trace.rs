//! ptrace(2) as it is: one request, one thread, and the error number.

use std::result::Result;

/// Make `request` of `thread`; what `address` and `data` mean depends on the request.
///
/// The caller vouches for addresses of ours among them: each call that passes one says so.
pub fn ptrace(request: u32, thread: i32, address: usize, data: usize) -> Result<(), i32> {
    // SAFETY: the kernel checks the numbers; memory of ours is named by callers that own it.
    let done = unsafe {
        libc::syscall(libc::SYS_ptrace, request as usize, thread as usize, address, data)
    };
    if done >= 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
