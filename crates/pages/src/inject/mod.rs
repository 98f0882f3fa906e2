//! Makes a running process do system calls: this opts it in to kernel KSM.
//!
//! Only the process itself may ask for its memory to be merged (prctl(2) PR_SET_MEMORY_MERGE;
//! process_madvise(2) refuses MADV_MERGEABLE). So one of its threads is stopped with ptrace(2),
//! makes the call, and goes on exactly as it was. Other threads run on.
//!
//! - Nothing is written to its memory, its stack included: the thread is sent to a system call
//!   instruction that is there already, usually in the vdso (`place`). The other threads, which run
//!   the same text, would see a poked instruction.
//! - The thread that notices least is taken (`candidates`).
//! - A process that lives for one stop does all of it (`aside`): the kernel lets a tracee go when
//!   its tracer ends, however that happens, including a tracee that could not be stopped in time.
//!   And if we are killed, that process still brings the stop to its end.
//! - Signals are held back while registers are changed. If that process is killed outright (because
//!   a whole group of processes is killed, or memory runs out) in those tens of microseconds, the
//!   target is left with changed registers.

#[cfg(target_arch = "aarch64")]
#[path = "arch_aarch64.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "arch_x86_64.rs"]
mod arch;
mod aside;
mod candidates;
mod place;
mod refusals;
mod separate;
mod sequences;
mod tracee;
mod trouble;

use crate::error::{Error, Result};
use aside::aside;
use candidates::Candidate;
pub use separate::{separate, Separated};
use std::time::{Duration, Instant};
use tracee::Tracee;
use trouble::Trouble;

/// At most this many threads are tried, in order of how little they notice.
const TRIES: usize = 4;
/// How long a thread that was at a bad moment is tried again: another pagemerge that makes it work
/// holds it for some milliseconds, and for longer on a busy host.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a thread may be passed over because it would notice more than a moment before.
const CHOOSY: u32 = 16;
/// There is no pause before the second try; then pauses grow, up to the longest.
const PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(2);
/// A thread is held for several calls in a row up to this long; then it runs for a while.
const HOLD: Duration = Duration::from_millis(10);
/// How long the thread then runs, as a part of the time that it was held: calls of other threads
/// that map memory or take page faults wait for ours, so it is better to be done with all calls
/// soon.
const RUN: f64 = 0.5;

const PR_SET_MEMORY_MERGE: u64 = 67;
const PR_GET_MEMORY_MERGE: u64 = 68;

/// One system call, with its number in this architecture.
#[derive(Debug, Clone, Copy)]
struct Call {
    number: i64,
    arguments: [u64; 5],
}

/// The result of `prctl`.
#[derive(Debug, Clone, Copy)]
pub struct Merging {
    /// Whether the process's memory was mergeable as a whole before.
    pub before: bool,
    /// How long the thread was held.
    pub held: Duration,
}

/// The result of `madvise`.
#[derive(Debug, Clone, Default)]
pub struct Advised {
    /// 0 or an error number for each range.
    pub results: Vec<i32>,
    /// The number of times that a thread was stopped.
    pub stops: u64,
    /// How long a thread was held, over all stops.
    pub held: Duration,
    /// The longest stop.
    pub longest: Duration,
}

/// Check whether process `pid` could be made to do a system call; does nothing to it.
///
/// # Errors
/// `Refused` with the reason; `Os` with `ESRCH` or `EPERM`.
pub fn check(pid: i32) -> Result<()> {
    refusals::check(pid)?;
    place::find(pid)?;
    candidates::of(pid).map(drop)
}

/// Make all memory of process `pid` mergeable by ksmd, including memory that it maps later; or undo
/// that, which separates what was merged.
///
/// # Errors
/// `Unsupported` where Linux is older than 6.4 or has no KSM; `Refused` with the reason; `Os` with
/// `ESRCH` or `EPERM`, or with the error of prctl itself. Then the process is as it was.
pub fn prctl(pid: i32, on: bool) -> Result<Merging> {
    let get = Call { number: libc::SYS_prctl, arguments: [PR_GET_MEMORY_MERGE, 0, 0, 0, 0] };
    let set =
        Call { number: libc::SYS_prctl, arguments: [PR_SET_MEMORY_MERGE, u64::from(on), 0, 0, 0] };
    let (before, held) = stopped(pid, &mut None, move |tracee| {
        let before = tracee.call(&get)?;
        if before < 0 || before == i64::from(on) {
            return Ok(before);
        }
        match tracee.call(&set)? {
            0 => Ok(before),
            failed => Ok(failed),
        }
    })?;
    if before == -i64::from(libc::EINVAL) {
        let why = "this kernel cannot merge whole processes: it needs Linux 6.4 with CONFIG_KSM";
        return Err(Error::Unsupported(why.into()));
    }
    if before < 0 {
        return Err(Error::os("prctl(PR_SET_MEMORY_MERGE)", -before as i32).of_pid(pid));
    }
    Ok(Merging { before: before != 0, held })
}

/// Give `advice` (MADV_MERGEABLE or MADV_UNMERGEABLE) on ranges of memory of process `pid`
/// (address, bytes). A thread of it is held for some milliseconds at a time.
///
/// # Errors
/// `Refused` with the reason, `Os` with `ESRCH` or `EPERM`. The results hold madvise's own answer
/// for each range; `ENOMEM` for a range that has gone meanwhile.
pub fn madvise(pid: i32, ranges: &[(u64, u64)], advice: i32) -> Result<Advised> {
    let (mut all, mut place) = (Advised::default(), None);
    let mut rest = ranges;
    while !rest.is_empty() {
        let (results, held) = stopped(pid, &mut place, |tracee| advise(tracee, rest, advice))?;
        rest = rest.get(results.len()..).unwrap_or_default();
        all.results.extend(results);
        all.stops += 1;
        all.held += held;
        all.longest = all.longest.max(held);
        if !rest.is_empty() {
            std::thread::sleep(held.mul_f64(RUN));
        }
    }
    Ok(all)
}

/// Advise at least one range, and as many as fit into `HOLD`.
fn advise(
    tracee: &mut Tracee,
    ranges: &[(u64, u64)],
    advice: i32,
) -> std::result::Result<Vec<i32>, Trouble> {
    let until = Instant::now() + HOLD;
    let mut results = Vec::new();
    for &(start, bytes) in ranges {
        let arguments = [start, bytes, advice as u64, 0, 0];
        match tracee.call(&Call { number: libc::SYS_madvise, arguments }) {
            Ok(result) => results.push(-result as i32),
            // The ranges so far are done; the rest is for the next stop.
            Err(Trouble::Again(_)) if !results.is_empty() => break,
            Err(trouble) => return Err(trouble),
        }
        if Instant::now() > until {
            break;
        }
    }
    Ok(results)
}

/// Stop one thread of process `pid`, let `work` make it do calls, and let it go as it was. `known`:
/// the address of its system call instruction, as of the last time.
fn stopped<T: Send>(
    pid: i32,
    known: &mut Option<u64>,
    work: impl Fn(&mut Tracee) -> std::result::Result<T, Trouble> + Sync,
) -> Result<(T, Duration)> {
    refusals::check(pid)?;
    // Reading the maps of a process that has tens of thousands takes tens of milliseconds.
    let place = match known.filter(|&place| place::is_still(pid, place)) {
        Some(place) => place,
        None => *known.insert(place::find(pid)?),
    };
    let mut last = String::from("has no thread left");
    let until = Instant::now() + AGAIN;
    for turn in 0.. {
        let mut again = false;
        for candidate in candidates::of(pid)?.iter().take(TRIES) {
            if turn < CHOOSY && !candidate.is_still(pid) {
                again = true;
                break;
            }
            match in_a_process_of_its_own(pid, candidate, place, &work)? {
                Ok(done) => return Ok(done),
                Err(Trouble::Fatal(error)) => return Err(error),
                // A thread that does not stop now would not stop a moment later.
                Err(Trouble::Stuck(why)) => last = why,
                Err(Trouble::Again(why)) => {
                    last = why;
                    again = true;
                    break;
                }
            }
        }
        if !again || Instant::now() > until {
            break;
        }
        std::thread::sleep((PAUSE * turn).min(LONGEST_PAUSE));
    }
    Err(Error::Refused { pid, why: last })
}

type Attempt<T> = std::result::Result<(T, Duration), Trouble>;

/// The tracer is a process for this one stop: its end lets the target go, whatever happens. It has
/// all signals blocked, and so has this thread while it waits.
fn in_a_process_of_its_own<T: Send>(
    pid: i32,
    candidate: &Candidate,
    place: u64,
    work: &(impl Fn(&mut Tracee) -> std::result::Result<T, Trouble> + Sync),
) -> Result<Attempt<T>> {
    let _held = Signals::hold();
    let done = aside(&|| {
        let mut tracee = Tracee::seize(pid, candidate.thread, place)?;
        tracee.stop()?;
        let since = Instant::now();
        let result = work(&mut tracee);
        tracee.release()?;
        result.map(|result| (result, since.elapsed()))
    })?;
    // A panic has let the target go, as every other end does.
    done.ok_or_else(|| Error::Refused {
        pid,
        why: "could not be attached: an error in pagemerge; it runs on as before".into(),
    })
}

/// Holds back all signals of this thread for as long as this value lives.
struct Signals(libc::sigset_t);

impl Signals {
    fn hold() -> Self {
        // SAFETY: both are signal sets of ours, which the calls fill in.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            Self(before)
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: the set is the one that pthread_sigmask gave us.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}
