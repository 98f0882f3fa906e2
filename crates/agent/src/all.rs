//! Memory that the program has not marked, and that is to be merged nevertheless (`--all`).
//!
//! What the program maps through libc's calls is a candidate (`Extents`). The agent's thread looks
//! from time to time whether there is more of it than before, asks the kernel what kind of memory
//! it is, and makes regions of what merging can cope with (`adopt`). Nothing of that happens inside
//! the program's calls, because they may come from an allocator that holds its own lock; they only
//! add up what is new, and wake the agent.
//!
//! While this is on, every call about memory takes the agent's lock: memory may become a region
//! between a look without the lock and the call.

use crate::extents::Extents;
use crate::region::Wish;
use crate::State;
use pagemerge_pages::barrier::keep::Keep;
use pagemerge_pages::PAGE;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

/// The size in bytes from which mappings are merged; 0: only what the program marks.
static FROM: AtomicUsize = AtomicUsize::new(0);
/// Whether this process has candidates, and no agent.
static WANTED: AtomicBool = AtomicBool::new(false);
/// The process that `WANTED` is about: a process that shares our memory (vfork) starts no agent.
static PROCESS: AtomicI32 = AtomicI32::new(0);

/// Bytes that the program has asked an allocator for since the last look at the memory it has.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
/// Bytes that a program allocates before the kernel is asked again what memory it has.
const ASK: usize = 1 << 16;
/// What a small allocation counts as.
const CALL: usize = 256;
/// A process with less memory than this gets no agent.
const LARGE: usize = 4 << 20;
/// What a small program has in files, libc for example.
const FILES: usize = 4 << 20;
/// Bytes that the program has asked an allocator for, up to the last question to the kernel.
static TOTAL: AtomicUsize = AtomicUsize::new(0);
/// Whoever allocates so many bytes is no small program.
const HUGE: usize = 64 << 20;

/// Whether to look at what is new at once, whatever that costs: tests wait for it.
static EAGER: AtomicBool = AtomicBool::new(false);

/// Candidates of fewer bytes than this in all are not worth an agent, or another look.
const WORTH: usize = 1 << 20;
/// The shortest time between two looks at what is mapped.
const PAUSE: Duration = Duration::from_secs(1);
/// It is also this many times the processor time that the last look took.
const PATIENCE: u32 = 1000;
/// And this many times the time that it lasted: the program's calls about memory wait meanwhile. It
/// lasts long while threads of the program touch new memory, which is when there is more to find.
const FORBEARANCE: u32 = 20;
/// The time between two looks in tests.
const EAGER_PAUSE: Duration = Duration::from_millis(2);

/// From now on, private anonymous mappings of `from` bytes and more are mergeable. `eager`: look at
/// what is new at once.
pub fn merge_all(from: usize, eager: bool) {
    FROM.store(from.max(PAGE), Ordering::Relaxed);
    EAGER.store(eager, Ordering::Relaxed);
    PROCESS.store(own_pid(), Ordering::Relaxed);
    crate::hull::publish(0..usize::MAX); // every call concerns us from now on
}

/// The size in bytes from which mappings are merged.
pub(crate) fn least() -> usize {
    FROM.load(Ordering::Relaxed)
}

/// How many bytes of candidates are worth a look.
pub(crate) fn worth() -> usize {
    if EAGER.load(Ordering::Relaxed) {
        PAGE
    } else {
        WORTH
    }
}

/// The time between two looks at what is mapped, of which the last took so much processor time, and
/// lasted so long.
pub(crate) fn pause(worked: Duration, lasted: Duration) -> Duration {
    if EAGER.load(Ordering::Relaxed) {
        EAGER_PAUSE
    } else {
        PAUSE.max(worked * PATIENCE).max(lasted * FORBEARANCE)
    }
}

/// From now on, only what the program marks is mergeable.
pub(crate) fn leave() {
    WANTED.store(false, Ordering::Relaxed);
    FROM.store(0, Ordering::Relaxed);
}

/// Returns whether this process only shares another's memory (vfork).
pub(crate) fn is_anothers() -> bool {
    is_on() && PROCESS.load(Ordering::Relaxed) != own_pid()
}

/// Returns whether unmarked memory is merged.
#[must_use]
pub fn is_on() -> bool {
    least() != 0
}

/// Called when the program asks an allocator for `bytes` bytes. Returns whether an agent should be
/// started now: to one thread only.
#[inline]
pub fn wants_agent(bytes: usize) -> bool {
    WANTED.load(Ordering::Relaxed) && takes_up(bytes)
}

/// An agent is worth it for a process that has some memory. Mappings do not tell: an allocator
/// maps more than it needs. So the kernel is asked whenever the program has allocated so much more.
#[cold]
fn takes_up(bytes: usize) -> bool {
    let bytes = bytes.max(CALL);
    let eager = EAGER.load(Ordering::Relaxed);
    let allocated = ALLOCATED.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
    if !eager && allocated < ASK || PROCESS.load(Ordering::Relaxed) != own_pid() {
        return false;
    }
    ALLOCATED.store(0, Ordering::Relaxed);
    TOTAL.fetch_add(allocated, Ordering::Relaxed);
    (eager || is_large()) && WANTED.swap(false, Ordering::Relaxed)
}

/// Returns whether this process has `LARGE` bytes of its own, as far as that can be known without a
/// descriptor: a thread of the program may close it, or fork while it is open. Pages that the
/// process has touched tell, or if they were huge, what it has allocated; what is resident rules
/// out that most was given back at once.
fn is_large() -> bool {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the struct; if it does not, it is zero.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let touched = usage.ru_minflt as usize * PAGE;
    let much = touched >= LARGE || TOTAL.load(Ordering::Relaxed) >= HUGE;
    much && usage.ru_maxrss as usize * 1024 >= LARGE + FILES
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Record that there may be `bytes` bytes more that can be merged.
pub(crate) fn more(state: &mut State, bytes: usize) {
    if !is_on() || bytes < least() {
        return;
    }
    let before = state.fresh;
    state.fresh = before.saturating_add(bytes);
    if before < worth() && state.fresh >= worth() {
        call(state);
    }
}

/// Wake the agent, or ask for one.
fn call(state: &mut State) {
    if state.process == 0 {
        WANTED.store(true, Ordering::Relaxed);
    } else {
        crate::poke(state);
    }
}

/// A forked copy has no agent; if its parent had memory that was merged, the copy has it, too.
pub(crate) fn inherit(state: &State) {
    PROCESS.store(own_pid(), Ordering::Relaxed);
    let has = state.fresh >= worth() || state.table.iter().next().is_some();
    WANTED.store(is_on() && has, Ordering::Relaxed);
}

/// What the program has asked for memory that is no region: a region must keep it.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    no_reserve: Extents,
    dont_fork: Extents,
    dont_dump: Extents,
    /// What merging cannot cope with, or what is not known.
    special: Extents,
    /// What the program does not want merged.
    refused: Extents,
    /// Where the program wants huge pages, and where it wants none. If one of these marks is lost,
    /// the memory is merged as if the program had said nothing.
    huge: Extents,
    small: Extents,
}

impl Marks {
    /// The program has mapped `[start, end)` anew, or unmapped it.
    pub fn clear(&mut self, start: usize, end: usize) {
        let wishes = [&mut self.huge, &mut self.small];
        wishes.into_iter().for_each(|marks| marks.remove(start, end));
        self.all().into_iter().for_each(|marks| marks.remove(start, end));
    }

    /// The program has mapped `[start, end)` with MAP_NORESERVE.
    pub fn no_reserve(&mut self, start: usize, end: usize) {
        self.no_reserve.insert(start, end);
    }

    /// The program has given advice that a mapping keeps.
    pub fn advise(&mut self, start: usize, end: usize, advice: i32) {
        match advice {
            libc::MADV_DONTFORK => self.dont_fork.insert(start, end),
            libc::MADV_DOFORK => self.dont_fork.remove(start, end),
            libc::MADV_DONTDUMP => self.dont_dump.insert(start, end),
            libc::MADV_DODUMP => self.dont_dump.remove(start, end),
            libc::MADV_NORMAL => {}
            _ => self.special(start, end),
        }
    }

    /// The program has said whether it wants huge pages.
    pub fn wish(&mut self, start: usize, end: usize, wish: Wish) {
        if is_on() {
            self.huge.remove(start, end);
            self.small.remove(start, end);
            match wish {
                Wish::None => {}
                Wish::Huge => self.huge.insert(start, end),
                Wish::Small => self.small.insert(start, end),
            }
        }
    }

    /// Memory of another kind now.
    pub fn special(&mut self, start: usize, end: usize) {
        if is_on() {
            self.special.insert(start, end);
        }
    }

    /// Record whether the program wants `[start, end)` merged.
    pub fn refuse(&mut self, start: usize, end: usize, refused: bool) {
        if refused && is_on() {
            self.refused.insert(start, end);
        } else {
            self.refused.remove(start, end);
        }
    }

    /// What a forked copy does not have.
    pub fn missing(&self) -> Vec<Range<usize>> {
        self.dont_fork.within(0, usize::MAX)
    }

    /// Returns whether a mark has been lost, because there were too many.
    pub fn is_full(&mut self) -> bool {
        self.all().iter().any(|marks| marks.is_full())
    }

    fn all(&mut self) -> [&mut Extents; 5] {
        [
            &mut self.no_reserve,
            &mut self.dont_fork,
            &mut self.dont_dump,
            &mut self.special,
            &mut self.refused,
        ]
    }

    /// The parts of `range` that can be merged, as far as we know, what each must keep, and what
    /// the program has said about huge pages there.
    pub fn plain(&self, range: &Range<usize>) -> Vec<(Range<usize>, Keep, Wish)> {
        let mut parts = Vec::new();
        for part in self.special.without(range) {
            parts.extend(self.refused.without(&part));
        }
        let kept = [&self.no_reserve, &self.dont_fork, &self.dont_dump, &self.huge, &self.small];
        let mut edges: Vec<usize> = kept.iter().flat_map(|marks| marks.edges()).collect();
        edges.sort_unstable();
        let mut found = Vec::new();
        for part in parts {
            let mut at = part.start;
            let inside = edges.iter().filter(|&&edge| edge > part.start && edge < part.end);
            for &end in inside.chain([&part.end]) {
                if end > at {
                    let keep = Keep {
                        no_reserve: self.no_reserve.has(at),
                        dont_fork: self.dont_fork.has(at),
                        dont_dump: self.dont_dump.has(at),
                        ..Keep::default()
                    };
                    let wish = match (self.huge.has(at), self.small.has(at)) {
                        (true, _) => Wish::Huge,
                        (_, true) => Wish::Small,
                        _ => Wish::None,
                    };
                    found.push((at..end, keep, wish));
                }
                at = end;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_had_to_wait_puts_off_the_next_one_for_less_than_one_that_worked() {
        let ms = Duration::from_millis;
        assert_eq!(pause(ms(0), ms(30)), PAUSE);
        assert_eq!(pause(ms(5), ms(30)), ms(5_000));
        assert_eq!(pause(ms(1), ms(200)), ms(4_000));
    }

    #[test]
    fn small_mappings_call_nobody() {
        let mut state = State::default();
        merge_all(1 << 16, false);
        more(&mut state, 1 << 15);
        assert_eq!((state.fresh, wants_agent(ASK)), (0, false));
        more(&mut state, 1 << 19);
        assert!(!wants_agent(ASK));
        let large = vec![1_u8; 2 * LARGE];
        assert!(large.iter().all(|&byte| byte == 1));
        more(&mut state, 1 << 19);
        assert!(!wants_agent(ASK - CALL));
        assert!(wants_agent(1) && !wants_agent(ASK));
        more(&mut state, 1 << 20);
        assert!(!wants_agent(ASK), "it has been called already");
        FROM.store(0, Ordering::Relaxed);
    }
}
