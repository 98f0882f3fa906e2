//! What the agent's thread has for itself in a process that is not its own: its signals, and its
//! descriptors.

use pagemerge_pages::{Error, Result};
use rustix::fd::{FromRawFd, OwnedFd};
use std::mem::MaybeUninit;

/// The signal that wakes the agent, directed at its thread alone. A real-time one, because the
/// program's own use of it, if any, is directed elsewhere and is not touched.
pub fn wake_signal() -> i32 {
    libc::SIGRTMAX() - 1
}

/// The signal that wakes it where no real-time signal can be queued.
pub const LAST_SIGNAL: i32 = libc::SIGURG;

/// Start the agent's thread, deaf to every signal.
pub fn thread(work: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: plain sigset calls. libc keeps its own two signals out, which setuid() needs.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let started = std::thread::Builder::new().name("pagemerge".into()).spawn(move || {
        // A panic here could leave a barrier up: rather no process than one that hangs.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
            std::process::abort();
        }
    });
    // SAFETY: restores the mask saved above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    started
        .map(|_| ())
        .map_err(|error| Error::os("pthread_create", error.raw_os_error().unwrap_or(0)))
}

/// A descriptor table of our own, so that a program that closes everything cannot hurt us and we
/// keep nothing of its own open. Returns a descriptor that is readable when we were poked.
///
/// # Errors
/// `Os` where the table cannot be left (before Linux 5.9), or the process may open nothing.
pub fn descriptors() -> Result<OwnedFd> {
    // SAFETY: the new table belongs to this thread alone, which has opened nothing yet.
    unsafe {
        let flags = libc::CLOSE_RANGE_UNSHARE;
        if libc::syscall(libc::SYS_close_range, 0_u32, u32::MAX, flags) != 0 {
            return Err(Error::last_os("close_range"));
        }
        for _ in 0..3 {
            libc::open(c"/dev/null".as_ptr(), libc::O_RDWR); // 0, 1, 2
        }
        let mut mask = std::mem::zeroed();
        libc::sigemptyset(&mut mask);
        libc::sigaddset(&mut mask, wake_signal());
        libc::sigaddset(&mut mask, LAST_SIGNAL);
        let fd = libc::signalfd(-1, &mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(Error::last_os("signalfd"));
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
