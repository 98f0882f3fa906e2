//! Starts a hub from inside a program that is not ours, without leaving a trace in it.
//!
//! The hub must not be the program's child: no SIGCHLD, no zombie, nothing for the program's wait()
//! to find. So a first child without an exit signal starts the hub as a second child, and ends.

use pagemerge_pages::{room, Error, Result};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::CString;
use std::path::Path;

const STACK: usize = 64 * 1024;

/// The data that the children read; the parent waits for them (CLONE_VFORK), so it stays valid.
struct Order {
    path: *const libc::c_char,
    argv: *const *const libc::c_char,
    stack: *mut libc::c_void,
    claim: i32,
}

/// Whether it is this process that starts the hub.
#[derive(Debug)]
pub enum Claim {
    /// Another process is starting a hub at this socket, or its hub has not ended yet.
    Taken,
    /// We start it. The hub holds the lock as long as it lives; `None`: there is no lock to hold.
    Ours(Option<OwnedFd>),
}

/// Claim the start of a hub at `socket`. All clients of a hub that was killed look for the next one
/// at the same moment: if each of them started one, all these processes together would take more
/// memory than the hub, when memory is short.
#[must_use]
pub fn claim(socket: &Path) -> Claim {
    let mut path = socket.as_os_str().to_owned();
    path.push(".start");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::RUSR | Mode::WUSR;
    // The folder may not exist yet, or not be ours; then the hub's own lock decides, later.
    let Ok(lock) = rustix::fs::open(path.as_os_str(), flags | OFlags::NONBLOCK, mode) else {
        return Claim::Ours(None);
    };
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Claim::Ours(Some(lock)),
        Err(Errno::WOULDBLOCK) => Claim::Taken,
        Err(_) => Claim::Ours(None),
    }
}

/// Start `command` (absolute path first) in a session of its own, without waiting for it. It
/// inherits the lock of the `claim`.
///
/// # Errors
/// `Os` if no process can be started. Only the hub's socket shows whether the command runs.
pub fn detached(command: &[CString], claim: Option<&OwnedFd>) -> Result<()> {
    let Some(path) = command.first() else {
        return Err(Error::Hub("no command to start a hub with".into()));
    };
    let mut argv: Vec<*const libc::c_char> = command.iter().map(|word| word.as_ptr()).collect();
    argv.push(std::ptr::null());
    let stacks = room::map(2 * STACK, ProtFlags::READ | ProtFlags::WRITE, MapFlags::empty())
        .map_err(|errno| Error::os("mmap of a stack", errno.raw_os_error()))?;
    let top = stacks.wrapping_byte_add(2 * STACK);
    let mut order = Order {
        path: path.as_ptr(),
        argv: argv.as_ptr(),
        stack: stacks.wrapping_byte_add(STACK),
        claim: claim.map_or(-1, AsRawFd::as_raw_fd),
    };
    // SAFETY: each child has a stack of its own and calls nothing but async-signal-safe
    // functions; CLONE_VFORK keeps us here until the first has ended.
    let pid = unsafe {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK;
        let pid = libc::clone(first, top, flags, (&raw mut order).cast());
        if pid > 0 {
            libc::waitpid(pid, std::ptr::null_mut(), libc::__WCLONE);
        }
        room::unmap(stacks, 2 * STACK);
        pid
    };
    if pid < 0 {
        return Err(Error::last_os("clone"));
    }
    Ok(())
}

extern "C" fn first(order: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `detached` passes an Order; the second child's stack is unused until now.
    unsafe {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(second, (*order.cast::<Order>()).stack, flags, order);
    }
    0
}

extern "C" fn second(order: *mut libc::c_void) -> libc::c_int {
    extern "C" {
        static environ: *const *const libc::c_char;
    }
    // SAFETY: async-signal-safe calls on memory that `detached` keeps alive.
    unsafe {
        let order = &*order.cast::<Order>();
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        // The agent's thread blocks all signals; the hub must not inherit that.
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        if order.claim >= 0 {
            libc::fcntl(order.claim, libc::F_SETFD, 0); // in this child's own table
        }
        libc::execve(order.path, order.argv, environ);
    }
    127
}
