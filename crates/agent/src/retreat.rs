//! The end of the agent before the process ends: for a call during which there may be no other
//! thread, or for good.

use crate::{all, ending, lock, poke, program};
use pagemerge_pages::PAGE;
use std::sync::atomic::{AtomicBool, Ordering};

/// End this process's agent, and wait until its thread has gone. What is merged stays so. Returns
/// whether there was one.
///
/// libc has every thread of a process change its credentials, and ends the process if one of them
/// may not: the agent's thread lacks what the program has given its own threads alone (capset(2),
/// PR_SET_KEEPCAPS).
pub fn stop() -> bool {
    let thread = {
        let mut state = lock();
        // A process that shares our memory (vfork) has its own credentials, and our agent stays.
        if state.process != std::process::id() as i32 {
            return false;
        }
        let Some(thread) = state.thread.take() else { return false };
        state.ends = true;
        poke(&mut state);
        thread
    };
    thread.join();
    ending::stop_keeping();
    let mut state = lock();
    (state.process, state.agent, state.ends, state.poked) = (0, 0, false, false);
    state.summary.hub = None;
    true
}

/// Whether the program has confined itself: no agent is started any more.
static CONFINED: AtomicBool = AtomicBool::new(false);

/// Returns whether the program has confined itself. Then it may make few calls, and we make none.
#[must_use]
pub fn is_confined() -> bool {
    CONFINED.load(Ordering::Relaxed)
}

/// The program is about to forbid itself system calls, and the agent's would count as its own: give
/// all merged memory back, and end the agent for good. What cannot be given back, for want of
/// descriptors for example, stays merged, and right. A process that shares another's memory (vfork)
/// changes nothing.
pub fn confine() {
    let process = std::process::id() as i32;
    if is_confined() || ![0, process].contains(&lock().process) || all::is_anothers() {
        return;
    }
    all::leave();
    let everything = 0..usize::MAX / PAGE * PAGE;
    let _ = program::restored(&[everything], libc::ENOMEM, true, || Ok(0));
    CONFINED.store(true, Ordering::Relaxed);
    stop();
}

/// Returns whether the calling thread is the only one of the program.
#[must_use]
pub fn is_only_thread() -> bool {
    let Ok(tasks) = rustix::fs::stat(c"/proc/self/task") else { return false };
    let state = lock();
    let agent = state.process == std::process::id() as i32 && state.thread.is_some();
    let ours = usize::from(agent) + usize::from(state.keeper.is_some());
    (tasks.st_nlink as usize).saturating_sub(2 + ours) == 1
}
