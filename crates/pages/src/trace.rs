//! A thin wrapper of ptrace(2): one request, one thread, and the error number.

use std::result::Result;

/// Make `request` of `thread`; the meaning of `address` and `data` depends on the request.
///
/// The caller guarantees that addresses of ours among them are valid: each call that passes one
/// says so.
pub fn ptrace(request: u32, thread: i32, address: usize, data: usize) -> Result<(), i32> {
    // SAFETY: the kernel checks the numbers; callers that name memory of ours own it.
    let done = unsafe {
        libc::syscall(libc::SYS_ptrace, request as usize, thread as usize, address, data)
    };
    if done >= 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// Returns whether a thread that we trace has ended. Its parent still gets to know how.
pub fn has_ended(thread: i32) -> bool {
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: waitid with a structure of ours, whose fields are integers and addresses; the kernel
    // fills in which thread has ended.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let failed = libc::waitid(libc::P_PID, thread as u32, &mut info, how) != 0;
        // A stop is reported as well, though not asked for.
        let ends = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED];
        failed || (info.si_pid() != 0 && ends.contains(&info.si_code))
    }
}
