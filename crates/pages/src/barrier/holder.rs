//! The holder: the task that stops the threads of our process. It traces them, and is none of them.
//!
//! It shares our memory and takes turns with the agent's thread: an order is a value of
//! `Shared::state`, and so is the answer. While threads are stopped any of them may hold the
//! allocator's lock, so nothing here allocates.

use crate::error::{Error, Result};
use crate::trace::ptrace;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::thread::futex;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Threads that have not stopped after this time are in a vfork, or in an uninterruptible sleep.
const DEADLINE: Duration = Duration::from_millis(20);
/// A process with more threads than this is refused.
const MOST_THREADS: usize = 1024;

pub const IDLE: u32 = 0;
pub const STOP: u32 = 1;
pub const STOPPED: u32 = 2;
pub const RESUME: u32 = 3;
pub const FAILED: u32 = 4;

/// What the holder and the agent's thread share; only one of them runs at a time.
pub struct Shared {
    pub state: AtomicU32,
    tasks: OwnedFd,
    process: rustix::process::Pid,
    agent: i32,
    threads: [Thread; MOST_THREADS],
    count: usize,
}

#[derive(Clone, Copy)]
struct Thread {
    id: i32,
    stopped: bool,
    /// The signal that was about to be delivered when the thread stopped; it is given back.
    signal: i32,
}

impl Shared {
    /// Make the data for a holder of the calling thread, which is the one thread that is never
    /// stopped.
    pub fn new() -> Result<Box<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tasks = rustix::fs::open(c"/proc/self/task", flags, Mode::empty())
            .map_err(|errno| Error::os("open of /proc/self/task", errno.raw_os_error()))?;
        Ok(Box::new(Self {
            state: AtomicU32::new(IDLE),
            tasks,
            process: rustix::process::getpid(),
            agent: rustix::thread::gettid().as_raw_nonzero().get(),
            threads: [Thread { id: 0, stopped: false, signal: 0 }; MOST_THREADS],
            count: 0,
        }))
    }
}

/// The holder's main function. It has no thread-local storage of its own: it makes raw system calls
/// only, and errno is safe because the agent's thread waits while the holder works.
pub extern "C" fn hold(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `start` passes a Shared that outlives the holder.
    let shared = unsafe { &mut *argument.cast::<Shared>() };
    // SAFETY: prctl with integers. When the agent's thread ends (exec, exit), the holder ends, too.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    // If the process was killed before that prctl, its end no longer ends us: with its threads
    // gone, all would seem stopped.
    if is_orphan(shared) {
        return 0;
    }
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
            _ => {
                // An exec just before that prctl left us behind, and no thread gives orders any
                // more.
                let patience = futex::Timespec { tv_sec: 60, tv_nsec: 0 };
                let empty = futex::Flags::empty();
                match futex::wait(&shared.state, empty, state, Some(&patience)) {
                    Err(rustix::io::Errno::TIMEDOUT) if state == IDLE => return 0,
                    _ => continue,
                }
            }
        };
        shared.state.store(answer, Ordering::Release);
        let _ = futex::wake(&shared.state, futex::Flags::empty(), 1);
    }
}

/// Returns whether the process that we hold has gone.
fn is_orphan(shared: &Shared) -> bool {
    rustix::process::getppid() != Some(shared.process)
}

/// Stop every thread but the agent's. A stopped thread starts no new ones, so the pass that finds
/// no new thread is the last one.
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

/// Seize and interrupt the threads that are not known yet. Returns false if one may not be traced.
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
        match ptrace(libc::PTRACE_SEIZE, id, 0, 0) {
            Ok(()) => {}
            Err(libc::ESRCH) => continue, // it has ended
            Err(libc::EPERM) if is_zombie(directory, entry.file_name()) => continue,
            Err(_) => return false,
        }
        if shared.count == MOST_THREADS {
            return false; // it is seized but not interrupted: the holder's end lets it go
        }
        shared.threads[shared.count] = Thread { id, stopped: false, signal: 0 };
        shared.count += 1;
        if ptrace(libc::PTRACE_INTERRUPT, id, 0, 0).is_err() {
            shared.count -= 1; // it has ended
        }
    }
    true
}

/// Returns whether a task is a zombie. A main thread that has ended while other threads go on stays
/// in the list, and cannot be traced.
fn is_zombie(tasks: rustix::fd::BorrowedFd<'_>, task: &std::ffi::CStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(task) = rustix::fs::openat(tasks, task, flags | OFlags::DIRECTORY, Mode::empty()) else {
        return true;
    };
    let Ok(stat) = rustix::fs::openat(&task, c"stat", flags, Mode::empty()) else { return true };
    let mut text = [0_u8; 256];
    let Ok(len) = rustix::io::read(&stat, &mut text) else { return true };
    // The state follows the last parenthesis, because a name may contain any character.
    let state = text[..len].iter().rposition(|&byte| byte == b')').and_then(|at| text.get(at + 2));
    matches!(state, None | Some(b'Z' | b'X'))
}

/// Wait until each known thread has stopped or ended. Returns false at the deadline.
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
            // Any stop will do. In a signal-delivery stop we have to give the signal back.
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
            let _ = ptrace(libc::PTRACE_DETACH, thread.id, 0, thread.signal as usize);
        }
    }
    shared.count = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_whose_process_has_gone_before_it_began_ends() {
        let mut shared = Shared::new().unwrap();
        shared.state.store(STOP, Ordering::Release);
        // SAFETY: the child calls nothing but `hold`, which makes raw system calls only.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // The holder's parent is the test, not the process that it is told to hold.
            shared.process = rustix::process::getpid();
            hold((&raw mut *shared).cast());
            // SAFETY: no code of the test runs in the child.
            unsafe { libc::_exit(0) };
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut status = 0;
        loop {
            // SAFETY: waitpid with a pointer to an integer of ours.
            match unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } {
                0 if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                0 => {
                    // SAFETY: our own child.
                    unsafe { libc::kill(child, libc::SIGKILL) };
                    panic!("the holder waits for orders of a process that has gone");
                }
                waited => return assert_eq!((waited, status), (child, 0)),
            }
        }
    }
}
