//! The agent's looks at memory that the program has not marked: what merging can cope with becomes a
//! region (`all`).

use crate::gate::{lock, Locked};
use crate::{all, program};
use pagemerge_pages::barrier::keep::LOCKS_FUTURE;
use pagemerge_pages::mappings::{Kind, Mappings};
use rustix::io::Errno;
use rustix::time::{clock_gettime_dynamic, ClockId, DynamicClockId};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// When the agent looks.
#[derive(Debug, Default)]
pub struct Looks {
    next: Option<Instant>,
}

impl Looks {
    /// Look, if it is time; returns how long to wait for the next look, if one is due.
    pub fn go(&mut self) -> Option<Duration> {
        if !all::is_on() {
            return None;
        }
        let mut state = lock();
        if state.fresh < all::worth() {
            return None;
        }
        let began = Instant::now();
        let next = *self.next.get_or_insert(began + all::pause(Duration::ZERO, Duration::ZERO));
        if next > began {
            return Some(next - began);
        }
        state.fresh = 0;
        let before = processor_time();
        adopt(&mut state);
        let lasted = began.elapsed();
        let worked =
            processor_time().zip(before).map_or(lasted, |(now, then)| now.saturating_sub(then));
        self.next = Some(Instant::now() + all::pause(worked, lasted));
        None
    }
}

/// The processor time that this thread has taken so far; `None` where the program has forbidden such
/// calls (seccomp(2)).
fn processor_time() -> Option<Duration> {
    let clock = DynamicClockId::Known(ClockId::ThreadCPUTime);
    clock_gettime_dynamic(clock).ok()?.try_into().ok()
}

/// Make regions of all candidates that merging can cope with.
fn adopt(state: &mut Locked) {
    let Ok(mappings) = Mappings::open() else { return };
    // Where a mark was lost, nothing is known for sure any more. And the kernel locks what is
    // mapped from now on (mlockall(2)): what exactly is locked, is not known.
    if state.marks.is_full() || LOCKS_FUTURE.load(Ordering::Relaxed) {
        return;
    }
    let from = all::least();
    let mut found = Vec::new();
    for known in state.extents.within(0, usize::MAX) {
        let mut at = known.start;
        let held = state.table.touching(known.start, known.end).map(|it| it.start..it.end());
        let mut held: Vec<Range<usize>> = held.collect();
        held.reverse();
        for range in held.iter().chain([&(known.end..known.end)]) {
            let free = at..range.start.max(at);
            at = range.end.max(at);
            if free.len() >= from {
                found.push(free);
            }
        }
    }
    let fit = if mappings.at_or_behind(0) == Err(Errno::NOTTY) {
        program::suitable(&found) // before Linux 6.11; slow
    } else {
        let open = found.iter().flat_map(|range| open_parts(&mappings, range));
        open.flat_map(|range| state.marks.plain(&range)).collect()
    };
    let fit: Vec<_> = fit.into_iter().filter(|(range, _, _)| range.len() >= from).collect();
    program::make_regions(state, &fit);
}

/// The parts of a range that are private anonymous memory, readable and writable, as the kernel
/// says.
fn open_parts(mappings: &Mappings, range: &Range<usize>) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let Ok(here) = mappings.at_or_behind(at) else { break };
        let part = here.range.start.max(at)..here.range.end.min(range.end);
        at = here.range.end;
        let fits = here.kind == Kind::Anonymous && here.open && !here.executable;
        if fits && !part.is_empty() {
            match parts.last_mut() {
                Some(last) if last.end == part.start => last.end = part.end,
                _ => parts.push(part),
            }
        }
    }
    parts
}
