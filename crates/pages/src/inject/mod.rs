//! System calls that a running process makes at our word: it is opted in to kernel KSM so.
//!
//! Nothing but the process itself may ask for its memory to be merged (prctl(2)
//! PR_SET_MEMORY_MERGE; process_madvise(2) refuses MADV_MERGEABLE). So one of its threads is
//! stopped with ptrace(2), makes the call, and goes on exactly as it was. Other threads run on.
//!
//! - Nothing is written to its memory, its stack included: the thread is sent to a system call
//!   instruction that is there already, as a rule in the vdso (`place`). A poked instruction would
//!   be seen by the other threads, who run the same text.
//! - The thread that notices least is taken (`candidates`).
//! - All of it is done by a process that lives for one stop (`aside`): the kernel lets a tracee go
//!   when its tracer ends, however that happens, also one that could not be stopped in time; and
//!   if we are killed, that process still brings the stop to its end.
//! - Signals are held back while registers are changed. If that process is killed outright (by
//!   whoever kills all of a group, no memory) in those tens of microseconds, the target is left
//!   with changed registers.

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

/// No more threads than this are tried, the one that notices least first.
const TRIES: usize = 4;
/// So long a thread is tried again that was at a bad moment: another pagemerge that makes it work
/// holds it for some milliseconds, and on a busy host for longer.
const AGAIN: Duration = Duration::from_secs(1);
/// So often it may be passed over because it would notice more than a moment before.
const CHOOSY: u32 = 16;
/// Before the second try no pause, then ever longer ones, up to the longest.
const PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(2);
/// A thread is held for several calls in a row up to this long; then it runs for a while.
const HOLD: Duration = Duration::from_millis(10);
/// ... for this part of the time that it was held: the calls of other threads that map memory or
/// take page faults wait for ours, so the sooner all is over the better.
const RUN: f64 = 0.5;

const PR_SET_MEMORY_MERGE: u64 = 67;
const PR_GET_MEMORY_MERGE: u64 = 68;

/// One system call, with its number in this architecture.
#[derive(Debug, Clone, Copy)]
struct Call {
    number: i64,
    arguments: [u64; 5],
}

/// What came of `prctl`.
#[derive(Debug, Clone, Copy)]
pub struct Merging {
    /// Whether the process's memory was mergeable as a whole before.
    pub before: bool,
    /// How long the thread was held.
    pub held: Duration,
}

/// What came of `madvise`.
#[derive(Debug, Clone, Default)]
pub struct Advised {
    /// 0 or an error number, one a range.
    pub results: Vec<i32>,
    /// Stops of a thread.
    pub stops: u64,
    /// How long a thread was held, all stops together.
    pub held: Duration,
    /// The longest stop.
    pub longest: Duration,
}

/// Say whether process `pid` could be made to do a system call; does nothing to it.
///
/// # Errors
/// `Refused` and why; `Os` with `ESRCH` or `EPERM`.
pub fn check(pid: i32) -> Result<()> {
    refusals::check(pid)?;
    place::find(pid)?;
    candidates::of(pid).map(drop)
}

/// Make all memory of process `pid` mergeable by ksmd, what it maps later too; or undo that, which
/// separates what was merged.
///
/// # Errors
/// `Unsupported` where Linux is older than 6.4 or has no KSM; `Refused` and why; `Os` with `ESRCH`
/// or `EPERM`, or of prctl itself. The process is as it was.
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
/// (address, bytes). It is held for some milliseconds at a time.
///
/// # Errors
/// `Refused` and why, `Os` with `ESRCH` or `EPERM`. What madvise itself says of a range is in the
/// results; a range that is gone meanwhile is `ENOMEM`.
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

/// At least one range, and as many as fit into `HOLD`.
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
            // What was done is done; the rest is for the next stop.
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
/// where it has a system call instruction, as of the last time.
fn stopped<T: Send>(
    pid: i32,
    known: &mut Option<u64>,
    work: impl Fn(&mut Tracee) -> std::result::Result<T, Trouble> + Sync,
) -> Result<(T, Duration)> {
    refusals::check(pid)?;
    // To read the maps of a process that has tens of thousands takes tens of milliseconds.
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
                // A thread that does not stop would not a moment later.
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

/// The tracer is a process for this one stop: its end is what lets go, whatever happens. It has
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
    // A panic has let the target go as every other end does.
    done.ok_or_else(|| Error::Refused {
        pid,
        why: "could not be attached: an error in pagemerge; it runs on as before".into(),
    })
}

/// All signals of this thread held back for as long as it lives.
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
