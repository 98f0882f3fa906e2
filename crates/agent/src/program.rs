//! The program's own calls about memory that is merged: each ends as it would without us.
//!
//! The preload library makes these calls in the program's place. Where the range has nothing to
//! do with a region (`concerns`), it does not come here at all.

use crate::gate::{lock, watch_forks, Locked};
use crate::region::Region;
use crate::{separate, start, Config};
use pagemerge_pages::window::{Backing, Keep};
use pagemerge_pages::{slab, Result, PAGE};
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// From the first byte of the first region to the last of the last, for a look without the lock.
static HULL: (AtomicUsize, AtomicUsize) = (AtomicUsize::new(0), AtomicUsize::new(0));

/// Publish where regions are; called whenever the lock is let go.
pub(crate) fn publish(hull: Range<usize>) {
    HULL.0.store(hull.start, Ordering::Relaxed);
    HULL.1.store(hull.end, Ordering::Relaxed);
}

/// May `[start, start + len)` touch a region?
#[must_use]
pub fn concerns(start: usize, len: usize) -> bool {
    let (first, last) = (HULL.0.load(Ordering::Relaxed), HULL.1.load(Ordering::Relaxed));
    start < last && start.saturating_add(len) > first
}

/// The program has mapped anonymous private memory.
pub fn mapped(start: usize, len: usize) {
    lock().extents.insert(start, start + len.next_multiple_of(PAGE));
}

/// What was at `[start, start + len)` is gone, or about to be.
pub fn unmapped(start: usize, len: usize) {
    let end = start + len.next_multiple_of(PAGE);
    let mut state = lock();
    state.extents.remove(start, end);
    state.table.forget(start, end);
}

/// MADV_MERGEABLE: what of the range can be merged becomes regions, and the agent starts.
///
/// As the kernel does, memory that cannot be merged is passed over in silence.
///
/// # Errors
/// `Os` if the agent's thread cannot be started.
pub fn mark(from: usize, len: usize, config: impl FnOnce() -> Config) -> Result<()> {
    let end = from + len.next_multiple_of(PAGE);
    let known = lock().extents.within(from, end);
    // Outside the lock, because it allocates and reads for long. The memory is the caller's.
    let fit = suitable(&known);
    {
        let mut state = lock();
        for (range, keep) in &fit {
            state.table.split(range.start);
            state.table.split(range.end);
            let mut at = range.start;
            let old: Vec<Range<usize>> = state
                .table
                .touching(range.start, range.end)
                .map(|region| {
                    region.set_mergeable(0..region.pages, true);
                    region.start..region.end()
                })
                .collect();
            for held in old.into_iter().rev() {
                if held.start > at {
                    state.table.insert(at, (held.start - at) / PAGE, *keep);
                }
                at = held.end;
            }
            if at < range.end {
                state.table.insert(at, (range.end - at) / PAGE, *keep);
            }
            // Single pages of a huge page can be shared but not freed, and khugepaged would bring
            // zeros back. EINVAL: there are no huge pages here.
            // SAFETY: advice about the caller's memory, which changes no byte.
            let _ = unsafe {
                let len = range.len();
                rustix::mm::madvise(range.start as *mut _, len, Advice::LinuxNoHugepage)
            };
        }
        if !fit.is_empty() && state.summary.hub.is_none() {
            crate::poke(&mut state);
        }
    }
    if fit.is_empty() {
        return Ok(());
    }
    watch_forks();
    start(config())
}

/// MADV_UNMERGEABLE: the range's pages are its own again, and stay so.
///
/// # Errors
/// `Os` when memory runs out.
pub fn unmark(from: usize, len: usize) -> Result<()> {
    let end = from + len.next_multiple_of(PAGE);
    let mut state = lock();
    for region in state.table.touching(from, end) {
        let pages = region.pages_in(from, end);
        region.set_mergeable(pages, false);
        for run in region.slabbed_runs(from, end) {
            separate(run.start, run.len())?;
        }
    }
    Ok(())
}

/// MADV_DONTNEED, MADV_FREE: the range reads as zero from now on; `raw` is the real call, for the
/// parts that are not a slab's.
///
/// Fresh memory first: `raw` on a slab's mapping would bring the slots' bytes back.
///
/// # Errors
/// The error number of `raw`.
pub fn discard(
    from: usize,
    len: usize,
    raw: impl Fn(usize, usize) -> std::result::Result<(), i32>,
) -> std::result::Result<(), i32> {
    let end = from + len.next_multiple_of(PAGE);
    let mut state = lock();
    let mut at = from;
    for (run, keep) in slabbed(&mut state, from, end) {
        // SAFETY: the run is the program's, which gives its contents up.
        if unsafe { renew(&run, keep) } {
            set_anonymous(&mut state, &run);
            continue;
        }
        // No room for a mapping: clear the bytes, and keep `raw` away from them.
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(run.start as *mut u8, 0, run.len()) };
        if run.start > at {
            raw(at, run.start - at)?;
        }
        at = run.end;
    }
    if at < end {
        raw(at, end - at)?;
    }
    Ok(())
}

/// Make the range anonymous again, with its contents, and let it not be merged any more: before
/// calls that a slab's mapping would not bear (mremap, userfaultfd, MADV_WIPEONFORK).
///
/// A thread that writes there meanwhile races with the call itself, with or without us. Returns
/// what `join` has to keep, if all of the range was mergeable and alike.
pub fn dissolve(from: usize, len: usize) -> Option<Keep> {
    let end = from + len.next_multiple_of(PAGE);
    let mut state = lock();
    for (run, keep) in slabbed(&mut state, from, end) {
        own(run, keep);
    }
    let alike = state.table.all_alike(from, end);
    state.table.forget(from, end);
    alike.filter(|keep| keep.protection == Keep::default().protection)
}

/// What `join` has to keep, as the kernel tells: None if a range is not all anonymous and alike.
///
/// For memory that the table does not know any more (it was dissolved before, or is a forked
/// copy's), yet merging has left in pieces.
pub fn alike(from: usize, len: usize) -> Option<Keep> {
    let (mut at, end) = (from, from + len.next_multiple_of(PAGE));
    let mut found = None;
    for (part, keep) in suitable(std::slice::from_ref(&(from..end))) {
        if part.start != at || found.is_some_and(|it| it != keep) {
            return None;
        }
        (at, found) = (part.end, Some(keep));
    }
    found.filter(|_| at == end)
}

/// Make one mapping of a range that has been dissolved: what merging has left there is anonymous
/// memory in pieces, which the kernel does not join, and mremap refuses (EFAULT).
pub fn join(from: usize, len: usize, keep: Keep) {
    own(from..from + len.next_multiple_of(PAGE), keep);
}

/// Anonymous memory with the same bytes in the place of a range. Where there is no room it stays
/// as it is, and the call that follows tells the program.
fn own(range: Range<usize>, keep: Keep) {
    let (at, len, none) = (range.start, range.len(), std::ptr::null_mut());
    // SAFETY: fresh memory gets the range's bytes and then its place, under the lock.
    unsafe {
        let Ok(fresh) = rustix::mm::mmap_anonymous(none, len, keep.protection, MapFlags::PRIVATE)
        else {
            return;
        };
        let _ = rustix::mm::madvise(fresh, len, Advice::LinuxNoHugepage);
        for page in (0..len).step_by(PAGE) {
            let from = std::slice::from_raw_parts((at + page) as *const u8, PAGE);
            // What reads as zero stays a hole.
            if !pagemerge_pages::digest::is_zero(from) {
                std::ptr::copy_nonoverlapping(from.as_ptr(), fresh.cast::<u8>().add(page), PAGE);
            }
        }
        keep.apply(fresh, len);
        let moved = rustix::mm::mremap_fixed(fresh, len, len, MremapFlags::MAYMOVE, at as *mut _);
        if moved.is_err() {
            let _ = rustix::mm::munmap(fresh, len);
        }
    }
}

/// mprotect: `raw` is the real call. Merged mappings get the new protection, and memory that
/// cannot be written is left alone.
///
/// # Errors
/// The error number of `raw`.
pub fn protect(
    from: usize,
    len: usize,
    protection: u32,
    raw: impl FnOnce() -> std::result::Result<(), i32>,
) -> std::result::Result<(), i32> {
    let writable = ProtFlags::READ.union(ProtFlags::WRITE);
    let protection = ProtFlags::from_bits_retain(protection);
    change(from, len, raw, |region| {
        region.keep.protection = protection;
        region.set_mergeable(0..region.pages, protection == writable);
    })
}

/// MADV_DONTFORK, DOFORK, DONTDUMP or DODUMP; `raw` is the real call.
///
/// # Errors
/// The error number of `raw`.
pub fn advise(
    from: usize,
    len: usize,
    advice: i32,
    raw: impl FnOnce() -> std::result::Result<(), i32>,
) -> std::result::Result<(), i32> {
    change(from, len, raw, |region| match advice {
        libc::MADV_DONTFORK => region.keep.dont_fork = true,
        libc::MADV_DOFORK => region.keep.dont_fork = false,
        libc::MADV_DONTDUMP => region.keep.dont_dump = true,
        libc::MADV_DODUMP => region.keep.dont_dump = false,
        _ => {}
    })
}

/// Make a call that changes what mappings are, and note it: under the lock, because a merge in
/// between would map pages as they were before.
fn change(
    from: usize,
    len: usize,
    raw: impl FnOnce() -> std::result::Result<(), i32>,
    note: impl Fn(&mut Region),
) -> std::result::Result<(), i32> {
    let end = from + len.next_multiple_of(PAGE);
    let mut state = lock();
    raw()?;
    state.table.split(from);
    state.table.split(end);
    state.table.touching(from, end).for_each(note);
    Ok(())
}

/// Fresh zero memory in the place of a run.
///
/// # Safety
/// The run's contents must be given up.
unsafe fn renew(run: &Range<usize>, keep: Keep) -> bool {
    let (at, len) = (run.start as *mut libc::c_void, run.len());
    let fixed = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: by the caller.
    unsafe {
        let renewed = rustix::mm::mmap_anonymous(at, len, keep.protection, fixed).is_ok();
        if renewed {
            keep.apply(at, len);
            let _ = rustix::mm::madvise(at, len, Advice::LinuxNoHugepage);
        }
        renewed
    }
}

fn set_anonymous(state: &mut Locked, run: &Range<usize>) {
    for region in state.table.touching(run.start, run.end) {
        let pages = region.pages_in(run.start, run.end);
        region.set_backing(pages, Backing::Anonymous);
    }
}

/// The runs of a range that are mapped from slabs.
fn slabbed(state: &mut Locked, from: usize, end: usize) -> Vec<(Range<usize>, Keep)> {
    if !state.orphan {
        let table = &mut state.table;
        return table
            .touching(from, end)
            .flat_map(|it| it.slabbed_runs(from, end).into_iter().map(|run| (run, it.keep)))
            .collect();
    }
    // A forked copy without a table: the kernel knows.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let runs = maps.lines().filter(|line| line.contains(slab::NAME)).filter_map(range_of);
    runs.map(|run| (run.start.max(from)..run.end.min(end), Keep::default()))
        .filter(|(run, _)| !run.is_empty())
        .collect()
}

/// The addresses at the start of a line of maps or smaps.
fn range_of(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

/// The parts of `known` that merging bears, with what it must keep: private, anonymous, readable
/// and writable, not locked, not watched by a userfaultfd, not wiped on fork (smaps, proc(5)).
fn suitable(known: &[Range<usize>]) -> Vec<(Range<usize>, Keep)> {
    const UNFIT: [&str; 9] = ["sh", "io", "pf", "ht", "lo", "wf", "um", "uw", "gd"];
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let (mut fit, mut mapping) = (Vec::new(), None);
    for line in smaps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let has = |flag| flags.split_whitespace().any(|it| it == flag);
            let Some(range): Option<Range<usize>> = mapping.take() else { continue };
            if UNFIT.into_iter().any(has) {
                continue;
            }
            let keep = Keep { dont_fork: has("dc"), dont_dump: has("dd"), ..Keep::default() };
            let parts = known
                .iter()
                .map(|it| it.start.max(range.start)..it.end.min(range.end))
                .filter(|part| !part.is_empty());
            fit.extend(parts.map(|part| (part, keep)));
        } else if let Some(range) = range_of(line) {
            let mut fields = line.split_whitespace().skip(1);
            let (access, inode) = (fields.next(), fields.nth(2));
            mapping = (access == Some("rw-p") && inode == Some("0")).then_some(range);
        }
    }
    fit
}
