//! The barrier that stops all other threads of the process for a moment (ptrace(2)).
//!
//! For background merging without userfaultfd, and only where asked for: programs can notice it
//! (docs/safety.md lists how). A thread cannot trace its own process, so a *holder* does: a task
//! that shares our memory without being one of our threads. It is traced to nothing outside:
//! when it ends, however it ends, the kernel lets every thread go.
//!
//! While threads are stopped any of them may hold the allocator's lock: nothing here allocates.

use crate::error::{Error, Result};
use crate::mask::{Mask, WINDOW};
use crate::pins;
use crate::window::{Barrier, Held, Swapped, Window};
use crate::PAGE;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::futex;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Threads that have not stopped by then are in a vfork, or in an uninterruptible sleep.
const DEADLINE: Duration = Duration::from_millis(20);
/// More threads than this are refused.
const MOST_THREADS: usize = 1024;
const STACK: usize = 256 * 1024;

const IDLE: u32 = 0;
const STOP: u32 = 1;
const STOPPED: u32 = 2;
const RESUME: u32 = 3;
const FAILED: u32 = 4;
const ENDED: u32 = 5;

/// What the holder and the agent's thread share; only one of them runs at a time.
struct Shared {
    state: AtomicU32,
    tasks: OwnedFd,
    agent: i32,
    threads: [Thread; MOST_THREADS],
    count: usize,
}

#[derive(Clone, Copy)]
struct Thread {
    id: i32,
    stopped: bool,
    /// A signal that was about to be delivered when the thread stopped; it is given back.
    signal: i32,
}

/// Stops the other threads of this process while a window is compared.
pub struct Parker {
    shared: Box<Shared>,
    stack: *mut libc::c_void,
    holder: i32,
}

impl Parker {
    /// Start a holder for this process. To be called, used and dropped by one thread, which is
    /// the only one that is never stopped.
    ///
    /// # Errors
    /// `Unsupported` if the process may not be traced, or if another process shares its memory;
    /// `Os` if the holder cannot be started.
    pub fn new() -> Result<Self> {
        pins::refuse_mapped()?;
        refuse_sharers()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tasks = rustix::fs::open(c"/proc/self/task", flags, Mode::empty())
            .map_err(|errno| Error::os("open of /proc/self/task", errno.raw_os_error()))?;
        let shared = Box::new(Shared {
            state: AtomicU32::new(IDLE),
            tasks,
            agent: rustix::thread::gettid().as_raw_nonzero().get(),
            threads: [Thread { id: 0, stopped: false, signal: 0 }; MOST_THREADS],
            count: 0,
        });
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let stack = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), STACK, access, MapFlags::PRIVATE)
        }
        .map_err(|errno| Error::os("mmap of a stack", errno.raw_os_error()))?;
        let mut this = Self { shared, stack, holder: 0 };
        this.start()?;
        Ok(this)
    }

    fn start(&mut self) -> Result<()> {
        // No exit signal: the program's own wait() must never see this child.
        let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_UNTRACED;
        let argument: *mut Shared = &mut *self.shared;
        self.shared.state.store(IDLE, Ordering::Release);
        // SAFETY: the stack is ours alone and lives until the holder has been reaped; the holder
        // touches `Shared` only in its turn.
        let pid = unsafe {
            libc::clone(hold, self.stack.wrapping_byte_add(STACK), flags, argument.cast())
        };
        if pid < 0 {
            return Err(Error::last_os("clone of the holder"));
        }
        self.holder = pid;
        // Yama lets a process be traced by whom it names (EINVAL where there is no Yama).
        // SAFETY: prctl with integers.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, pid, 0, 0, 0) };
        Ok(())
    }

    /// Hand the turn to the holder and wait until it has done what `order` says.
    fn order(&self, order: u32) -> u32 {
        let state = &self.shared.state;
        state.store(order, Ordering::Release);
        let _ = futex::wake(state, futex::Flags::empty(), 1);
        loop {
            let now = state.load(Ordering::Acquire);
            if now != order {
                return now;
            }
            let patience = futex::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let _ = futex::wait(state, futex::Flags::empty(), order, Some(&patience));
            if self.has_ended() {
                return FAILED;
            }
        }
    }

    fn has_ended(&self) -> bool {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WCLONE;
        // SAFETY: waitid only asks here; zeroed siginfo means "nobody".
        unsafe {
            libc::waitid(libc::P_PID, self.holder as u32, info.as_mut_ptr(), flags) != 0
                || info.assume_init_ref().si_pid() == self.holder
        }
    }

    fn end(&mut self) {
        if self.holder > 0 {
            self.shared.state.store(ENDED, Ordering::Release);
            let _ = futex::wake(&self.shared.state, futex::Flags::empty(), 1);
            // SAFETY: our own child, which has no exit signal, hence __WCLONE.
            unsafe { libc::waitpid(self.holder, std::ptr::null_mut(), libc::__WCLONE) };
            self.holder = 0;
        }
    }
}

impl Barrier for Parker {
    fn most_pages(&self) -> usize {
        WINDOW
    }

    fn raise(&mut self, _: &Window<'_>, planned: &Mask) -> Result<Held> {
        if self.order(STOP) != STOPPED {
            // Whoever could not be stopped is still marked; the holder's end clears that.
            self.end();
            self.start()?;
            return Err(Error::os("stop of all threads", libc::EAGAIN));
        }
        let found = pins::find();
        if !matches!(found, Ok(None)) {
            self.order(RESUME); // before anything is allocated
            return Err(found.map_or_else(|error| error, |what| pins::pinned(what.unwrap_or(""))));
        }
        Ok(Held { pages: *planned, ..Held::default() })
    }

    fn bytes(&self, window: &Window<'_>, page: usize) -> *const u8 {
        (window.start + page * PAGE) as *const u8
    }

    fn lower(&mut self, _: &Window<'_>, _: &Mask, _: &Swapped) -> Result<()> {
        match self.order(RESUME) {
            IDLE => Ok(()),
            _ => Err(Error::os("resume of all threads", libc::ESRCH)),
        }
    }
}

impl Drop for Parker {
    fn drop(&mut self) {
        self.end();
        // SAFETY: the holder has been reaped, so nobody is on this stack.
        let _ = unsafe { rustix::mm::munmap(self.stack, STACK) };
    }
}

/// Refuse if a process that is not one of our threads shares our memory: it is not stopped.
fn refuse_sharers() -> Result<()> {
    const KCMP_VM: i32 = 1;
    let own = std::process::id() as i32;
    let entries = std::fs::read_dir("/proc")
        .map_err(|error| Error::os("read of /proc", error.raw_os_error().unwrap_or(0)))?;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // SAFETY: kcmp only compares; the last two arguments are unused for KCMP_VM.
        let same = unsafe { libc::syscall(libc::SYS_kcmp, own, pid, KCMP_VM, 0, 0) == 0 };
        if pid != own && same {
            return Err(Error::Unsupported(format!(
                "process {pid} shares this process's memory without being one of its threads, \
                 so it cannot be parked"
            )));
        }
    }
    Ok(())
}

/// The holder's whole life. It has no thread-local storage of its own: raw system calls only,
/// and errno is safe because the agent's thread waits while this one works.
extern "C" fn hold(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `start` passes a Shared that outlives the holder.
    let shared = unsafe { &mut *argument.cast::<Shared>() };
    // SAFETY: prctl with integers. The agent's thread ends (exec, exit): so do we.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    loop {
        let state = shared.state.load(Ordering::Acquire);
        let answer = match state {
            STOP if stop_all(shared) => STOPPED,
            STOP => {
                resume_all(shared);
                FAILED
            }
            RESUME => {
                resume_all(shared);
                IDLE
            }
            ENDED => return 0,
            _ => {
                let _ = futex::wait(&shared.state, futex::Flags::empty(), state, None);
                continue;
            }
        };
        shared.state.store(answer, Ordering::Release);
        let _ = futex::wake(&shared.state, futex::Flags::empty(), 1);
    }
}

/// Stop every thread but the agent's; a stopped thread starts no new ones, so a pass that finds
/// nobody new is the last.
fn stop_all(shared: &mut Shared) -> bool {
    let deadline = Instant::now() + DEADLINE;
    shared.count = 0;
    loop {
        let known = shared.count;
        if !interrupt_new(shared) || !wait_for_stops(shared, deadline) {
            return false;
        }
        if shared.count == known {
            return true;
        }
    }
}

/// Seize and interrupt the threads not yet known. False if one may not be traced.
fn interrupt_new(shared: &mut Shared) -> bool {
    if rustix::fs::seek(&shared.tasks, SeekFrom::Start(0)).is_err() {
        return false;
    }
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let directory = shared.tasks.as_raw_fd();
    // SAFETY: the descriptor stays open as long as Shared lives.
    let directory = unsafe { rustix::fd::BorrowedFd::borrow_raw(directory) };
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let Ok(entry) = entry else { return false };
        let Some(id) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let known = shared.threads[..shared.count].iter().any(|thread| thread.id == id);
        if id == shared.agent || known {
            continue;
        }
        match ptrace(libc::PTRACE_SEIZE, id, 0) {
            Ok(()) => {}
            Err(libc::ESRCH) => continue, // it has ended
            Err(libc::EPERM) if is_zombie(directory, entry.file_name()) => continue,
            Err(_) => return false,
        }
        if shared.count == MOST_THREADS {
            return false; // seized and never interrupted: the holder's end lets it go
        }
        shared.threads[shared.count] = Thread { id, stopped: false, signal: 0 };
        shared.count += 1;
        if ptrace(libc::PTRACE_INTERRUPT, id, 0).is_err() {
            shared.count -= 1; // it has ended
        }
    }
    true
}

/// A main thread that has ended while others go on stays in the list, and cannot be traced.
fn is_zombie(tasks: rustix::fd::BorrowedFd<'_>, task: &std::ffi::CStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(task) = rustix::fs::openat(tasks, task, flags | OFlags::DIRECTORY, Mode::empty()) else {
        return true;
    };
    let Ok(stat) = rustix::fs::openat(&task, c"stat", flags, Mode::empty()) else { return true };
    let mut text = [0_u8; 256];
    let Ok(len) = rustix::io::read(&stat, &mut text) else { return true };
    // The state follows the last parenthesis: a name may contain any character.
    let state = text[..len].iter().rposition(|&byte| byte == b')').and_then(|at| text.get(at + 2));
    matches!(state, None | Some(b'Z' | b'X'))
}

/// Wait until each known thread has stopped or ended. False at the deadline.
fn wait_for_stops(shared: &mut Shared, deadline: Instant) -> bool {
    let mut at = 0;
    while at < shared.count {
        let thread = &mut shared.threads[at];
        if thread.stopped {
            at += 1;
            continue;
        }
        let mut status = 0;
        // SAFETY: waitpid with a pointer to an integer of ours.
        let waited = unsafe { libc::waitpid(thread.id, &mut status, libc::__WALL | libc::WNOHANG) };
        if waited == thread.id && libc::WIFSTOPPED(status) {
            thread.stopped = true;
            // Any stop will do. In a signal-delivery stop the signal is ours to give back.
            let event = status >> 16;
            thread.signal = if event == 0 { libc::WSTOPSIG(status) } else { 0 };
        } else if waited != 0 {
            shared.count -= 1; // it has ended
            shared.threads[at] = shared.threads[shared.count];
        } else if Instant::now() > deadline {
            return false;
        } else {
            rustix::thread::sched_yield();
        }
    }
    true
}

fn resume_all(shared: &mut Shared) {
    for thread in &shared.threads[..shared.count] {
        if thread.stopped {
            // ESRCH: it was killed meanwhile.
            let _ = ptrace(libc::PTRACE_DETACH, thread.id, thread.signal as usize);
        }
    }
    shared.count = 0;
}

fn ptrace(request: u32, thread: i32, data: usize) -> std::result::Result<(), i32> {
    // SAFETY: these requests take integers only.
    if unsafe { libc::syscall(libc::SYS_ptrace, request as usize, thread as usize, 0, data) } == 0 {
        return Ok(());
    }
    Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
