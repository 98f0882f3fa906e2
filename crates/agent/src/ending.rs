//! The end of a program whose threads all end before the process does.
//!
//! libc ends a process when its last thread ends, and runs the exit handlers in that thread. The
//! agent's thread never ends, so it looks whether it is the only one left. It cannot run the
//! handlers itself: its descriptor table is not the program's, so what they write would be lost. A
//! second thread, the keeper, holds the program's table and runs them. There is a keeper only where
//! the program may end in this way: after the first thread has called pthread_exit(3), and in a
//! copy that a thread other than the first has forked, where the first thread may return.

use crate::gate::ENDS_BY_THREADS;
use crate::{lock, own};
use rustix::thread::futex;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

/// The process that has a keeper, and the keeper's thread.
static KEPT: AtomicI32 = AtomicI32::new(0);
static KEEPER: AtomicI32 = AtomicI32::new(0);

/// What the keeper is to do.
static TASK: AtomicU32 = AtomicU32::new(WAIT);
const WAIT: u32 = 0;
/// All threads of the program have ended: end the process.
const END: u32 = 1;
/// End alone.
const LEAVE: u32 = 2;

/// The time between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// A thread of the program is about to end by pthread_exit(3). If it is the first thread, the
/// process ends with the last other thread, as libc ends it without us.
pub fn end_with_program() {
    if rustix::thread::gettid() != rustix::process::getpid() {
        return;
    }
    ENDS_BY_THREADS.store(true, Ordering::Relaxed);
    let mut state = lock();
    let own = state.process == rustix::process::getpid().as_raw_nonzero().get();
    crate::poke(&mut state);
    drop(state);
    if own {
        keep();
    }
}

/// Start the keeper, if one is needed and this process has none. Without memory for it, the agent
/// ends the process.
pub(crate) fn keep() {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    if !ENDS_BY_THREADS.load(Ordering::Relaxed) || KEPT.swap(process, Ordering::Relaxed) == process
    {
        return;
    }
    KEEPER.store(0, Ordering::Relaxed);
    let made = own::thread(|| {
        KEEPER.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
        loop {
            match TASK.load(Ordering::Acquire) {
                WAIT => _ = futex::wait(&TASK, futex::Flags::PRIVATE, WAIT, None),
                LEAVE => return,
                _ => end(),
            }
        }
    });
    lock().keeper = made.ok();
}

fn give(task: u32) {
    TASK.store(task, Ordering::Release);
    let _ = futex::wake(&TASK, futex::Flags::PRIVATE, 1);
}

/// End the keeper's thread alone, and wait until it has gone.
pub(crate) fn stop_keeping() {
    let Some(keeper) = lock().keeper.take() else { return };
    give(LEAVE);
    keeper.join();
    TASK.store(WAIT, Ordering::Relaxed);
    KEEPER.store(0, Ordering::Relaxed);
    KEPT.store(0, Ordering::Relaxed);
}

/// Called by the agent's thread: ends the process if all threads of the program have ended. Returns
/// how long to wait until the next look, if there is to be one.
pub(crate) fn pause() -> Option<Duration> {
    if !ENDS_BY_THREADS.load(Ordering::Relaxed) {
        return None;
    }
    if is_alone() {
        if KEEPER.load(Ordering::Relaxed) == 0 {
            end();
        }
        give(END);
    }
    Some(LOOK)
}

/// libc does the same when the last thread ends: the program's exit handlers run.
fn end() {
    // SAFETY: no other thread of the program is left.
    unsafe { libc::exit(0) };
}

/// Returns whether all threads but ours have ended.
fn is_alone() -> bool {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return false };
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let ours = [own, KEEPER.load(Ordering::Relaxed)];
    let mut tasks = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
    tasks.all(|task: i32| ours.contains(&task) || has_ended(task))
}

/// Returns whether a thread has ended. The first thread stays as a zombie until the process ends.
fn has_ended(task: i32) -> bool {
    let stat = std::fs::read(format!("/proc/self/task/{task}/stat")).unwrap_or_default();
    let state = stat.rsplit(|&byte| byte == b')').next().and_then(|rest| rest.get(1));
    stat.is_empty() || matches!(state, Some(b'Z' | b'X'))
}
