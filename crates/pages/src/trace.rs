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

/// Has a thread that we trace ended? Whose child it is still gets to know how.
pub fn has_ended(thread: i32) -> bool {
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: waitid with a structure of ours, whose fields are integers and addresses; the kernel
    // fills in who has ended.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let failed = libc::waitid(libc::P_PID, thread as u32, &mut info, how) != 0;
        // A stop is told as well, though not asked for.
        let ends = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED];
        failed || (info.si_pid() != 0 && ends.contains(&info.si_code))
    }
}
