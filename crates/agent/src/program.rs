//! Handles the program's own calls about memory that may be merged: each ends as it would without
//! us.
//!
//! The preload library makes these calls in the program's place. One rule covers them all. First
//! the memory that the call names is made anonymous again, behind a barrier (`restore`). Then the
//! kernel is asked, and its answer goes to the program; the result goes into the table. All of that
//! happens under the agent's lock. Two kinds of call work in another way, because copying for them
//! would cost too much: those that give up memory (`discard`), and mremap (`remap`). Calls that
//! mean the same on a slab's mapping are passed on (`note`).
//!
//! A call whose range has nothing to do with a region (`concerns`) does not come here at all.

mod discard;
mod remap;
mod smaps;
mod userfault;
mod wish;

pub use discard::discard;
pub use remap::{remap, Remap};
pub use smaps::is_shared;
pub(crate) use smaps::suitable;
pub use userfault::{reclaim, taken};
pub use wish::wish;

use crate::gate::{lock, watch_forks, Locked};
use crate::region::{Region, Wish};
use crate::{all, errand, is_confined, start, Config};
use pagemerge_pages::barrier::keep::{Keep, LOCKS_FUTURE};
use pagemerge_pages::barrier::window::Backing;
use pagemerge_pages::{huge, Result, PAGE};
use rustix::mm::{Advice, ProtFlags};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// The result of a system call: its value, or its error number.
pub type Answer = std::result::Result<usize, i32>;

/// The address behind the last page of a range; None if the kernel refuses the range.
#[must_use]
pub fn end_of(start: usize, len: usize) -> Option<usize> {
    start.checked_add(len.checked_next_multiple_of(PAGE)?).filter(|_| start % PAGE == 0)
}

/// Record that the program has mapped anonymous private memory, with the flags of mmap(2).
pub fn mapped(start: usize, len: usize, flags: i32) {
    if let Some(end) = end_of(start, len) {
        let mut state = lock();
        state.extents.insert(start, end);
        state.marks.clear(start, end);
        if flags & libc::MAP_NORESERVE != 0 {
            state.marks.no_reserve(start, end);
        }
        if flags & libc::MAP_LOCKED != 0 {
            state.marks.special(start, end);
        }
        all::more(&mut state, end - start);
    }
}

/// Handles munmap, or a mapping over `[start, end)`; `raw` is the real call. Once it has succeeded,
/// what was there is gone; a call that fails may have changed a part.
///
/// # Errors
/// The error number of `raw`.
pub fn replace(start: usize, end: usize, raw: impl FnOnce() -> Answer) -> Answer {
    let mut state = lock();
    // Under the lock: another thread may be given these addresses as soon as they are free.
    let answer = raw();
    if answer.is_ok() {
        state.extents.remove(start, end);
        state.scattered.remove(start, end);
        state.marks.clear(start, end);
        state.table.forget(start, end);
    } else {
        state.marks.special(start, end);
        believe_kernel(&mut state, start, end);
    }
    answer
}

/// Handles MADV_MERGEABLE: the parts of the range that can be merged become regions, and the agent
/// starts.
///
/// As the kernel does, it passes over memory that cannot be merged without an error. Returns
/// whether some of the range can be merged.
///
/// # Errors
/// `Os` if the agent's thread cannot be started.
pub fn mark(from: usize, end: usize, config: impl FnOnce() -> Config) -> Result<bool> {
    let fit = {
        let mut state = lock();
        // Under the lock, although reading takes long: another thread may change the mappings that
        // it reads.
        let known = state.extents.within(from, end);
        state.marks.refuse(from, end, false);
        let fit = if known.is_empty() { Vec::new() } else { smaps::suitable(&known) };
        make_regions(&mut state, &fit);
        !fit.is_empty()
    };
    if !fit {
        return Ok(false);
    }
    watch_forks(None);
    start(config())?;
    Ok(true)
}

/// Make regions of memory that can be merged, and wake an agent without a hub.
pub(crate) fn make_regions(state: &mut Locked, fit: &[(Range<usize>, Keep, Wish)]) {
    for (range, keep, wish) in fit {
        let huge = wish.is_granted(huge::given());
        let mut at = range.start;
        let old: Vec<Range<usize>> = state
            .table
            .within(range.start, range.end)
            .map(|region| {
                region.set_mergeable(0..region.pages, true);
                region.keep = *keep;
                region.start..region.end()
            })
            .collect();
        for held in old.into_iter().rev() {
            if held.start > at {
                state.table.insert(at, (held.start - at) / PAGE, *keep, huge);
            }
            at = held.end;
        }
        if at < range.end {
            state.table.insert(at, (range.end - at) / PAGE, *keep, huge);
        }
        // Single pages of a huge page can be shared but not freed, and khugepaged would bring
        // zeros back. Blocks that are huge already stay so, and the hub has the blocks made huge of
        // which it merges little. EINVAL: there are no huge pages here.
        // SAFETY: advice about the caller's memory, which changes no byte.
        let _ = unsafe {
            let len = range.len();
            rustix::mm::madvise(range.start as *mut _, len, Advice::LinuxNoHugepage)
        };
    }
    if !fit.is_empty() && state.summary.hub.is_none() {
        crate::poke(state);
    }
}

/// Handles MADV_UNMERGEABLE: the range's pages are its own again, and stay so. `raw` is the real
/// call.
///
/// # Errors
/// EAGAIN if the pages cannot be restored now; the error number of `raw`.
pub fn unmark(from: usize, end: usize, raw: impl FnOnce() -> Answer) -> Answer {
    let mut state = lock();
    for region in state.table.touching(from, end) {
        let pages = region.pages_in(from, end);
        region.set_mergeable(pages, false);
    }
    state.marks.refuse(from, end, true);
    if !restore(&mut state, from, end) {
        return Err(libc::EAGAIN);
    }
    raw()
}

/// Handles a call that needs merged memory to be anonymous: makes it so, and then makes `raw`, the
/// real call. `leave`: if the call succeeds, the memory is special, and is not merged any more.
///
/// # Errors
/// `busy` if the memory cannot be restored now; the error number of `raw`.
pub fn restored(
    ranges: &[Range<usize>],
    busy: i32,
    leave: bool,
    raw: impl FnOnce() -> Answer,
) -> Answer {
    let mut state = lock();
    for range in ranges {
        if !restore(&mut state, range.start, range.end) {
            return Err(busy);
        }
    }
    let answer = raw();
    for Range { start, end } in ranges {
        state.marks.special(*start, *end);
        match answer {
            // ENOMEM: the mapped parts of the range are special nevertheless (madvise(2)).
            Ok(_) | Err(libc::ENOMEM) if leave => dismiss(&mut state, *start, *end),
            _ => believe_kernel(&mut state, *start, *end),
        }
    }
    answer
}

/// Handles mprotect; `raw` is the real call. Merged mappings get the new protection, and memory
/// that cannot be written is left alone.
///
/// # Errors
/// The error number of `raw`.
pub fn protect(from: usize, end: usize, protection: u32, raw: impl FnOnce() -> Answer) -> Answer {
    let protection = ProtFlags::from_bits_truncate(protection);
    let mut state = lock();
    let answer = raw();
    if answer.is_ok() {
        state.table.within(from, end).for_each(|region| region.keep.protection = protection);
        if protection == Keep::default().protection {
            all::more(&mut state, end - from);
        }
    } else {
        // A part may have the new protection: the part before a hole, for example.
        believe_kernel(&mut state, from, end);
    }
    answer
}

/// Handles advice that a mapping keeps (MADV_DONTFORK, RANDOM and so on); `raw` is the real call.
///
/// # Errors
/// The error number of `raw`.
pub fn advise(from: usize, end: usize, advice: i32, raw: impl FnOnce() -> Answer) -> Answer {
    let mut state = lock();
    let answer = raw();
    state.marks.advise(from, end, advice);
    match answer {
        // ENOMEM: the mapped parts have got the advice nevertheless (madvise(2)).
        Ok(_) | Err(libc::ENOMEM) => {
            state.table.within(from, end).for_each(|region| match advice {
                libc::MADV_DONTFORK => region.keep.dont_fork = true,
                libc::MADV_DOFORK => region.keep.dont_fork = false,
                libc::MADV_DONTDUMP => region.keep.dont_dump = true,
                libc::MADV_DODUMP => region.keep.dont_dump = false,
                libc::MADV_RANDOM => region.keep.read_ahead = Some(Advice::Random),
                libc::MADV_SEQUENTIAL => region.keep.read_ahead = Some(Advice::Sequential),
                libc::MADV_NORMAL => region.keep.read_ahead = None,
                _ => {}
            });
        }
        Err(_) => believe_kernel(&mut state, from, end),
    }
    answer
}

/// Handles a call that changes what mappings keep in a way that its arguments do not tell: the
/// kernel is asked.
///
/// # Errors
/// The error number of `raw`.
pub fn noted(ranges: &[Range<usize>], raw: impl FnOnce() -> Answer) -> Answer {
    let mut state = lock();
    let answer = raw();
    for range in ranges {
        state.marks.special(range.start, range.end);
        believe_kernel(&mut state, range.start, range.end);
    }
    answer
}

/// Handles mlock, munlock and the like, for a range or (None) for all memory; `raw` is the real
/// call.
///
/// Locked memory belongs to the program alone, page by page, so it is restored first. Where that
/// fails, locking it also separates its pages from the slab. `future`: whether the kernel locks
/// what is mapped from now on, if the call changes that.
///
/// # Errors
/// The error number of `raw`.
pub fn lock_memory(
    range: Option<Range<usize>>,
    on: bool,
    future: Option<bool>,
    raw: impl FnOnce() -> Answer,
) -> Answer {
    let Range { start, end } = range.unwrap_or(0..usize::MAX / PAGE * PAGE);
    let mut state = lock();
    if on {
        restore(&mut state, start, end);
        state.marks.special(start, end);
    }
    let answer = raw();
    if let (Ok(_), Some(future)) = (answer, future) {
        LOCKS_FUTURE.store(future, Ordering::Relaxed);
    }
    if on {
        if answer.is_ok() {
            state.table.within(start, end).for_each(|region| region.keep.locked = true);
        }
        believe_kernel(&mut state, start, end); // it may have locked a part, or in its own way
    } else if answer.is_ok() {
        state.table.within(start, end).for_each(|region| region.keep.locked = false);
    }
    answer
}

/// Make the range anonymous again, with its contents, behind a barrier. Returns false if a part
/// could not be made anonymous, and still maps a slab.
fn restore(state: &mut Locked, from: usize, end: usize) -> bool {
    let Some(runs) = slabbed(state, from, end) else { return false };
    if runs.is_empty() {
        return true;
    }
    if is_confined() {
        return false; // the errand's calls could end the program
    }
    let reader = state.summary.hub.unwrap_or(0);
    let restored = errand::restore(runs, state.agent, reader).unwrap_or_default();
    for range in &restored {
        state.table.correct(range.start, range.end, Backing::Anonymous);
    }
    if state.orphan {
        return slabbed(state, from, end).is_some_and(|left| left.is_empty());
    }
    !state.table.touching(from, end).any(|it| !it.slabbed_runs(from, end).is_empty())
}

/// Memory that is special now is no region any more; but merging may have split it into several
/// mappings.
fn dismiss(state: &mut Locked, from: usize, end: usize) {
    let scattered: Vec<Range<usize>> =
        state.table.within(from, end).map(|region| region.start..region.end()).collect();
    scattered.iter().for_each(|it| state.scattered.insert(it.start, it.end));
    state.table.forget(from, end);
}

/// The runs of a range that are mapped from slabs, in order of address; None if they cannot be
/// found out.
fn slabbed(state: &mut Locked, from: usize, end: usize) -> Option<Vec<errand::Run>> {
    if state.orphan {
        return smaps::slabs(from, end); // a forked copy without a table: the kernel knows
    }
    let runs_of = |region: &mut Region| {
        let keep = region.keep;
        let runs = region.slabbed_runs(from, end).into_iter();
        runs.rev().map(|run| (run, keep)).collect::<Vec<_>>()
    };
    let mut runs: Vec<errand::Run> = state.table.touching(from, end).flat_map(runs_of).collect();
    runs.reverse();
    Some(runs)
}

/// Take over what the kernel says, after a call that failed and may have changed a part, or that
/// has moved memory of which we know little.
fn believe_kernel(state: &mut Locked, from: usize, end: usize) {
    if state.table.iter().next().is_none() {
        return;
    }
    let Some(memory) = smaps::memory(from, end) else {
        // As far as we know, what mapped a slab still does; but nothing more is merged there.
        for region in state.table.within(from, end) {
            region.set_mergeable(0..region.pages, false);
        }
        return;
    };
    let mut at = from;
    for part in memory {
        state.table.forget(at, part.range.start);
        state.extents.remove(at, part.range.start);
        if part.fit {
            for region in state.table.within(part.range.start, part.range.end) {
                region.keep = part.keep;
                region.correct(0..region.pages, part.backing);
            }
            if part.backing == Backing::Slab {
                // This leaves out the agent's own views of slabs.
                for range in state.extents.within(part.range.start, part.range.end) {
                    track(state, range, part.keep);
                }
            }
        } else {
            dismiss(state, part.range.start, part.range.end);
        }
        at = part.range.end;
    }
    state.table.forget(at, end);
    state.extents.remove(at, end);
}

/// Memory that maps a slab must be known, or it would show the slab's bytes when it is given up.
fn track(state: &mut Locked, range: Range<usize>, keep: Keep) {
    let known: Vec<Range<usize>> = state
        .table
        .touching(range.start, range.end)
        .map(|region| region.start..region.end())
        .collect();
    let mut at = range.start;
    for held in known.iter().rev().chain([&(range.end..range.end)]) {
        if held.start > at {
            let pages = (held.start - at) / PAGE;
            state.table.insert(at, pages, keep, false);
            if let Some(region) = state.table.holding(at, held.start) {
                region.set_backing(0..pages, Backing::Slab);
            }
        }
        at = held.end;
    }
}
