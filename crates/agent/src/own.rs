//! What the agent's thread has for itself inside a process of another program: its signals and its
//! descriptors.

use crate::gate::Quiet;
use pagemerge_pages::{room, scheduling, Error, Result, PAGE};
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::Arc;

/// The signal that wakes the agent, directed at its thread alone. It is a real-time signal, because
/// the program's own use of it, if any, is directed at other threads and is not affected.
pub fn wake_signal() -> i32 {
    libc::SIGRTMAX() - 1
}

/// The signal that wakes the agent where no real-time signal can be queued.
pub const LAST_SIGNAL: i32 = libc::SIGURG;

/// Bytes of the agent's stack, without the guard page below it.
const STACK: usize = 1 << 20;

/// A thread of ours, which another thread can wait for.
#[derive(Debug)]
pub struct Thread {
    handle: libc::pthread_t,
    stack: usize,
    /// Its number, as the kernel has it, once it runs.
    task: Arc<AtomicI32>,
}

impl Thread {
    /// Wait for the end of the thread. Its stack is ours again.
    pub fn join(self) {
        // SAFETY: this is the only value that names the thread, which has been told to end.
        unsafe {
            libc::pthread_join(self.handle, std::ptr::null_mut());
            // libc waits until the thread needs its stack no more; to the kernel it is a thread of
            // the process for some microseconds more.
            let (process, task) = (libc::getpid(), self.task.load(Ordering::Relaxed));
            while libc::syscall(libc::SYS_tgkill, process, task, 0) == 0 {
                rustix::thread::sched_yield();
            }
            room::unmap(self.stack as *mut _, STACK + PAGE);
        }
    }
}

/// Start a thread of ours, with every signal blocked, on a stack in our own room.
pub fn thread(work: impl FnOnce() + Send + 'static) -> Result<Thread> {
    let os = |errno: rustix::io::Errno| Error::os("mmap of a stack", errno.raw_os_error());
    let stack = room::map(STACK + PAGE, ProtFlags::READ | ProtFlags::WRITE, MapFlags::empty())
        .map_err(os)?;
    let task = Arc::new(AtomicI32::new(0));
    let own = Arc::clone(&task);
    let work: Box<Box<dyn FnOnce() + Send>> = Box::new(Box::new(move || {
        own.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
        work();
    }));
    let work = Box::into_raw(work);
    let mut thread = MaybeUninit::uninit();
    let mut attributes = MaybeUninit::uninit();
    let _quiet = Quiet::now();
    // SAFETY: only the thread uses the stack until it is joined; `work` belongs to it, too.
    let failed = unsafe {
        let _ = rustix::mm::mprotect(stack, PAGE, MprotectFlags::empty());
        let attributes = attributes.as_mut_ptr();
        libc::pthread_attr_init(attributes);
        libc::pthread_attr_setstack(attributes, stack.wrapping_byte_add(PAGE), STACK);
        let failed = libc::pthread_create(thread.as_mut_ptr(), attributes, begin, work.cast());
        libc::pthread_attr_destroy(attributes);
        if failed != 0 {
            drop(Box::from_raw(work));
            room::unmap(stack, STACK + PAGE);
        }
        failed
    };
    if failed == 0 {
        // SAFETY: pthread_create has written it.
        let handle = unsafe { thread.assume_init() };
        return Ok(Thread { handle, stack: stack as usize, task });
    }
    Err(Error::os("pthread_create", failed))
}

extern "C" fn begin(work: *mut libc::c_void) -> *mut libc::c_void {
    // SAFETY: `thread` passes its box, and only once; the name is a C string.
    let work = unsafe {
        libc::prctl(libc::PR_SET_NAME, c"pagemerge".as_ptr());
        Box::from_raw(work.cast::<Box<dyn FnOnce() + Send>>())
    };
    // A panic here could leave a barrier raised: no process is better than one that hangs.
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        std::process::abort();
    }
    std::ptr::null_mut()
}

/// Have threads of the program, and of others, take the processor from this thread as soon as they
/// wake up. Its share of the processor stays the same, because it holds what they wait for. Under a
/// filter of system calls (seccomp(2)) all stays as it is: a filter may kill for such a call.
pub fn give_way() {
    let is_free = std::fs::read("/proc/thread-self/status")
        .is_ok_and(|status| status.split(|&byte| byte == b'\n').any(|line| line == b"Seccomp:\t0"));
    if is_free {
        let _ = scheduling::lengthen_slice(0, true);
    }
}

/// Give this thread a descriptor table of its own, so that a program that closes everything does
/// not harm the agent, and the agent keeps nothing of the program's open. Returns a descriptor that
/// is readable when the agent has been poked.
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
