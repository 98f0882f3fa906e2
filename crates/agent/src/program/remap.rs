//! Handles mremap: it moves mappings as they are, merged or not, so nothing is restored for it.
//!
//! The kernel resizes one mapping only (EFAULT), and merging has split one mapping into several.
//! And a slab's mapping must not grow: the rest of the slab would appear behind it. So where a
//! range was merged, its parts are moved one by one. The last part grows, or fresh memory is added
//! behind it if it is a slab's mapping.

use super::smaps::{self, Memory};
use super::{believe_kernel, end_of, restore, slabbed, Answer};
use crate::gate::{lock, Locked};
use pagemerge_pages::barrier::window::{Backing, Keep};
use pagemerge_pages::{raw, PAGE};
use rustix::mm::{MapFlags, ProtFlags};
use std::ops::Range;

const KNOWN: i32 = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;

/// The end of a process's memory (TASK_SIZE with four levels of page tables).
const MOST: usize = (1 << 47) - PAGE;

/// The arguments of mremap(2).
#[derive(Debug, Clone, Copy)]
pub struct Remap {
    /// The address now.
    pub old: usize,
    /// The length now, in bytes.
    pub old_len: usize,
    /// The length wanted, in bytes.
    pub new_len: usize,
    /// MREMAP_MAYMOVE and so on.
    pub flags: i32,
    /// The address wanted, with MREMAP_FIXED.
    pub new: usize,
}

impl Remap {
    /// The system call itself.
    fn ask(&self) -> Answer {
        let Self { old, old_len, new_len, flags, new } = *self;
        let call = [old, old_len, new_len, flags as usize, new, 0];
        // SAFETY: the program's own call.
        unsafe { raw::syscall(libc::SYS_mremap, call) }
    }

    fn has(&self, flag: i32) -> bool {
        self.flags & flag != 0
    }

    /// The old and the new range, if the kernel would not refuse the call at once (mremap(2)).
    fn lawful(&self) -> Option<(Range<usize>, Range<usize>)> {
        let old = self.old..end_of(self.old, self.old_len)?;
        let to = if self.has(libc::MREMAP_FIXED) { self.new } else { self.old };
        let new = to..end_of(to, self.new_len)?;
        let fixed = self.has(libc::MREMAP_FIXED);
        let apart = !fixed || new.end <= old.start || old.end <= new.start;
        let moves = self.has(libc::MREMAP_MAYMOVE);
        // The kernel judges ranges beyond the end of a process's memory.
        let flags =
            old.end.max(new.end) <= MOST && self.flags & !KNOWN == 0 && (moves || self.flags == 0);
        let stays = !self.has(libc::MREMAP_DONTUNMAP) || old.len() == new.len();
        (flags && apart && stays && !old.is_empty() && !new.is_empty()).then_some((old, new))
    }
}

/// Handles mremap(2).
///
/// # Errors
/// The errors of the call; ENOMEM if a page that a device may be about to write is in the way.
pub fn remap(asked: Remap) -> Answer {
    go(&mut lock(), asked)
}

fn go(state: &mut Locked, asked: Remap) -> Answer {
    let Some((old, new)) = asked.lawful() else {
        // The kernel will refuse the call, as far as we know; but it may first empty the place
        // wanted.
        let everything = usize::MAX / PAGE * PAGE;
        let end = end_of(asked.old, asked.old_len).unwrap_or(everything);
        if !restore(state, asked.old, end) {
            return Err(libc::ENOMEM);
        }
        let answer = asked.ask();
        believe_kernel(state, 0, everything);
        return answer;
    };
    let alike = state.table.all_alike(old.start, old.end);
    let merged = slabbed(state, old.start, old.end).is_none_or(|runs| !runs.is_empty());
    let left = old.start..old.start + new.len();
    let shrinks = old.len() > new.len();
    if shrinks && alike.is_some() && merged {
        return shrink(state, asked, &old, left.end);
    }
    let fixed = asked.has(libc::MREMAP_FIXED);
    let empties = asked.has(libc::MREMAP_DONTUNMAP);
    // The memory that DONTUNMAP leaves behind reads as zero; a slab's mapping would not. And the
    // kernel must judge memory of which only a part is ours.
    if merged && (empties || alike.is_none()) && !restore(state, old.start, old.end) {
        return Err(libc::ENOMEM);
    }
    // Only now, because restoring may have left the memory in more pieces.
    if shrinks && scattered(state, &left) {
        return shrink(state, asked, &old, left.end);
    }
    let answer = match alike {
        Some(_) if merged && !empties => by_parts(state, &asked, &old, &new),
        _ => match asked.ask() {
            Err(libc::EFAULT) if scattered(state, &old) => by_parts(state, &asked, &old, &new),
            answer => answer,
        },
    };
    match answer {
        Ok(at) if alike.is_some() => {
            note(state, &old, at..at + new.len(), alike.filter(|_| empties));
        }
        // The call failed, perhaps after it had unmapped what was there; or it has moved memory of
        // several kinds, and what lay in between is where it was.
        _ => {
            let kept = old.start..old.end.min(old.start + new.len());
            let pieces = if answer.is_ok() { pieces_of(state, &kept) } else { Vec::new() };
            believe_kernel(state, old.start, old.end);
            let at = answer.unwrap_or(new.start);
            if fixed || answer.is_ok() {
                believe_kernel(state, at, at + new.len());
            }
            for piece in pieces {
                let start = piece.start - old.start + at;
                state.scattered.insert(start, start + piece.len());
            }
        }
    }
    answer
}

/// As the kernel does: the surplus goes first, and the rest is moved, or stays.
fn shrink(state: &mut Locked, asked: Remap, old: &Range<usize>, cut: usize) -> Answer {
    if asked.has(libc::MREMAP_FIXED) {
        // Before anything is cut off: the place may be sealed.
        let new = reserve(asked.new_len, Some(asked.new))?;
        let new = new..new + (cut - old.start);
        state.table.forget(new.start, new.end);
        state.extents.remove(new.start, new.end);
        if let Err(errno) = unmap(&(cut..old.end)) {
            let _ = unmap(&new);
            return Err(errno);
        }
    } else {
        unmap(&(cut..old.end))?;
    }
    state.table.forget(cut, old.end);
    state.extents.remove(cut, old.end);
    state.scattered.remove(cut, old.end);
    if !asked.has(libc::MREMAP_FIXED) {
        return Ok(old.start);
    }
    go(state, Remap { old_len: cut - old.start, ..asked })
}

/// Returns whether merging may be the reason why the kernel takes a range for several mappings. The
/// kernel judges sealed memory.
fn scattered(state: &mut Locked, range: &Range<usize>) -> bool {
    // A forked copy without a table does not know.
    let ours = state.orphan
        || state.table.touching(range.start, range.end).next().is_some()
        || !state.scattered.within(range.start, range.end).is_empty();
    let alike = |parts: Vec<Memory>| {
        let first = &parts[0];
        parts.len() > 1 && !first.is_sealed && parts.iter().all(|it| it.kind == first.kind)
    };
    ours && parts_of(range).is_ok_and(alike)
}

/// Where in a range merging may have split one mapping into several.
fn pieces_of(state: &mut Locked, range: &Range<usize>) -> Vec<Range<usize>> {
    let mut pieces = state.scattered.within(range.start, range.end);
    let regions = state.table.touching(range.start, range.end);
    pieces.extend(regions.map(|it| it.start.max(range.start)..it.end().min(range.end)));
    pieces
}

/// The mappings of a range without holes.
fn parts_of(range: &Range<usize>) -> Result<Vec<Memory>, i32> {
    let parts = smaps::memory(range.start, range.end).ok_or(libc::ENOMEM)?;
    if parts.iter().map(|part| part.range.len()).sum::<usize>() != range.len() {
        return Err(libc::EFAULT); // there is a hole, or memory that is not private
    }
    Ok(parts)
}

/// Record that a range of one kind is at `new` now; `left`: and that it has left empty memory
/// behind.
fn note(state: &mut Locked, old: &Range<usize>, new: Range<usize>, left: Option<Keep>) {
    let kept = old.len().min(new.len());
    if kept < old.len() {
        state.table.forget(old.start + kept, old.end);
        state.extents.remove(old.start + kept, old.end);
        state.scattered.remove(old.start + kept, old.end);
    }
    if new.start == old.start {
        grow(state, old.end, new.end);
        return;
    }
    let known = !state.extents.within(old.start, old.end).is_empty();
    state.table.forget(new.start, new.end);
    state.table.relocate(old.start, old.start + kept, new.start);
    state.extents.remove(new.start, new.end);
    match left {
        Some(keep) => state.table.insert(old.start, old.len() / PAGE, keep, false),
        None => state.extents.remove(old.start, old.end),
    }
    if known {
        state.extents.insert(new.start, new.end);
    }
    grow(state, new.start + kept, new.end);
}

/// Memory that is added behind mergeable memory is mergeable, too.
fn grow(state: &mut Locked, from: usize, end: usize) {
    let before = state.table.holding(from - PAGE, from).map(|region| (region.keep, region.huge));
    if let (Some((keep, huge)), true) = (before, from < end) {
        state.table.forget(from, end);
        state.table.insert(from, (end - from) / PAGE, keep, huge);
        state.extents.insert(from, end);
    }
}

/// Do what the kernel would do with one mapping, for a range that has become several and does not
/// shrink. If it fails, the range is where it was.
fn by_parts(state: &mut Locked, asked: &Remap, old: &Range<usize>, new: &Range<usize>) -> Answer {
    let fixed = asked.has(libc::MREMAP_FIXED);
    let stays = !fixed && !asked.has(libc::MREMAP_DONTUNMAP);
    if new.len() == old.len() && stays {
        return Ok(old.start);
    }
    let parts = parts_of(old)?;
    let last = parts.last().ok_or(libc::EFAULT)?;
    let more = new.len() - old.len();
    if stays {
        match extend(last, more) {
            Ok(()) => return Ok(old.start),
            Err(libc::ENOMEM) if asked.has(libc::MREMAP_MAYMOVE) => {}
            Err(errno) => return Err(errno),
        }
    }
    let place = reserve(new.len(), fixed.then_some(new.start))?;
    if fixed {
        state.table.forget(new.start, new.end);
        state.extents.remove(new.start, new.end);
    }
    let to = place..place + new.len();
    let flags = (asked.flags & libc::MREMAP_DONTUNMAP) | libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let moved = if last.backing == Backing::Slab {
        fresh(&(to.start + old.len()..to.end), last.keep, MapFlags::FIXED)
            .and_then(|()| shift(&parts, to.start, flags, 0))
    } else {
        shift(&parts, to.start, flags, more)
    };
    if let Err(errno) = moved {
        let _ = unmap(&to);
        return Err(errno);
    }
    Ok(to.start)
}

/// Add `more` bytes behind a part. ENOMEM: there is no room, or no memory.
fn extend(part: &Memory, more: usize) -> Result<(), i32> {
    let (Range { start, end }, len) = (part.range.clone(), part.range.len());
    if part.backing == Backing::Slab {
        return match fresh(&(end..end + more), part.keep, MapFlags::FIXED_NOREPLACE) {
            Err(libc::EEXIST) => Err(libc::ENOMEM),
            done => done,
        };
    }
    let grown = Remap { old: start, old_len: len, new_len: len + more, flags: 0, new: 0 };
    grown.ask().map(|_| ())
}

/// Move each of the mappings, or none; the last one grows by `more` bytes as it moves.
fn shift(parts: &[Memory], to: usize, flags: i32, more: usize) -> Result<(), i32> {
    let go = |old: usize, old_len: usize, new_len: usize, new: usize| {
        Remap { old, old_len, new_len, flags, new }.ask().map(|_| ())
    };
    let first = parts.first().map_or(0, |part| part.range.start);
    // One by one: Linux 6.17 moves several at once, but stops half way at a mapping that it cannot
    // move.
    for (done, part) in parts.iter().enumerate() {
        let (at, len) = (part.range.start, part.range.len());
        let more = if done + 1 == parts.len() { more } else { 0 };
        let Err(errno) = go(at, len, len + more, at - first + to) else { continue };
        for part in &parts[..done] {
            let (at, len) = (part.range.start, part.range.len());
            if go(at - first + to, len, len, at).is_err() {
                // The program's bytes cannot be brought back: no process is better than one with
                // wrong bytes.
                // SAFETY: it ends the process.
                unsafe { libc::abort() };
            }
        }
        return Err(errno);
    }
    Ok(())
}

/// Reserve address space, so that no other mapping gets it.
fn reserve(len: usize, at: Option<usize>) -> Answer {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    let flags = if at.is_some() { flags | MapFlags::FIXED } else { flags };
    let place = at.unwrap_or(0) as *mut libc::c_void;
    // SAFETY: it maps at an address of the kernel's choice, or over memory that the program
    // replaces.
    unsafe { rustix::mm::mmap_anonymous(place, len, ProtFlags::empty(), flags) }
        .map(|made| made as usize)
        .map_err(|errno| errno.raw_os_error())
}

/// Map fresh memory that keeps what its neighbour keeps.
fn fresh(range: &Range<usize>, keep: Keep, place: MapFlags) -> Result<(), i32> {
    if range.is_empty() {
        return Ok(());
    }
    let (at, len) = (range.start as *mut libc::c_void, range.len());
    // SAFETY: it maps where nothing is mapped, or over a reservation of ours.
    unsafe {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | place;
        let made = rustix::mm::mmap_anonymous(at, len, ProtFlags::empty(), flags)
            .map_err(|errno| errno.raw_os_error())?;
        if made != at {
            // This kernel does not know FIXED_NOREPLACE (before 4.17).
            let _ = rustix::mm::munmap(made, len);
            return Err(libc::EEXIST);
        }
        keep.renew(at, len).map_err(|errno| {
            let _ = rustix::mm::munmap(at, len);
            errno.raw_os_error()
        })
    }
}

fn unmap(range: &Range<usize>) -> Result<(), i32> {
    if range.is_empty() {
        return Ok(());
    }
    // SAFETY: the program's own memory, which the program gives up, or a reservation of ours.
    unsafe { rustix::mm::munmap(range.start as *mut _, range.len()) }
        .map_err(|errno| errno.raw_os_error())
}
