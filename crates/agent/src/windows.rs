//! The windows of a plan: what is to be merged in each, and what has come of it.

use crate::region::Region;
use pagemerge_pages::barrier::keep::{is_locked, Keep};
use pagemerge_pages::barrier::window::{Backing, Outcome, Piece, Window};
use pagemerge_pages::wire::{Merged, Run, OWN};
use pagemerge_pages::PAGE;
use std::ops::Range;

/// The result of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// Pages that were left alone, by reason.
    pub report: Merged,
    /// One bit for each planned page, in order: set if the page is now what was planned.
    pub bits: Vec<u8>,
}

impl Applied {
    pub fn set(&mut self, index: usize) {
        self.bits[index / 8] |= 1 << (index % 8);
    }

    /// Returns whether planned page `index` is now what was planned.
    pub fn has(&self, index: usize) -> bool {
        self.bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }
}

/// A part of a run that lies in one window.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub run: Run,
    /// Number of its first page in the plan.
    pub index: usize,
}

impl Part {
    /// The numbers of its pages in the plan.
    pub fn indices(&self) -> Range<usize> {
        self.index..self.index + self.run.pages as usize
    }

    /// Returns what of it lies in a range.
    fn within(&self, range: &Range<u64>) -> Option<Self> {
        let Self { run, index } = *self;
        let (from, to) = (run.address.max(range.start), end_of(&run).min(range.end));
        let pages = (to.checked_sub(from)? / PAGE as u64) as u32;
        let skipped = ((from - run.address) / PAGE as u64) as u32;
        let run = Run { pages, ..behind(run, skipped) };
        (pages > 0).then_some(Self { run, index: index + skipped as usize })
    }
}

/// The address behind the last page of a run.
pub fn end_of(run: &Run) -> u64 {
    run.address + u64::from(run.pages) * PAGE as u64
}

/// What is left of a run behind its first pages.
pub fn behind(run: Run, pages: u32) -> Run {
    let moves = run.slab != 0 && run.slab != OWN;
    Run {
        address: run.address + u64::from(pages) * PAGE as u64,
        slot: run.slot.wrapping_add(if moves { pages } else { 0 }),
        pages: run.pages - pages,
        ..run
    }
}

/// The fewest pages between locked ones for which a barrier is worth its cost.
const FEWEST: usize = 8;

/// Cut a window where memory is locked (mlock(2)): returns the windows between.
pub fn unlocked(parts: &[Part]) -> Vec<Vec<Part>> {
    let range = parts[0].run.address..end_of(&parts[parts.len() - 1].run);
    let free = |range: &Range<u64>| !is_locked(&(range.start as usize..range.end as usize));
    if free(&range) {
        return vec![parts.to_vec()];
    }
    let pages: Vec<_> = range.step_by(PAGE).map(|at| at..at + PAGE as u64).filter(free).collect();
    let stretches = pages.chunk_by(|one, next| one.end == next.start);
    stretches
        .filter(|stretch| stretch.len() >= FEWEST)
        .map(|stretch| stretch[0].start..stretch[stretch.len() - 1].end)
        .map(|stretch| parts.iter().filter_map(|part| part.within(&stretch)).collect::<Vec<_>>())
        .filter(|window| !window.is_empty())
        .collect()
}

/// What there is to merge in a window.
pub struct Ready<'a, 'p> {
    pub start: usize,
    pub pages: usize,
    pub backing: Backing,
    pub keep: Keep,
    pub pieces: Vec<Piece<'a>>,
    pub parts: &'p [Part],
}

impl Ready<'_, '_> {
    pub const fn end(&self) -> usize {
        self.start + self.pages * PAGE
    }

    /// The number of pages to merge.
    pub fn count(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.pages as u64).sum()
    }

    pub fn window(&self) -> Window<'_> {
        let Self { start, pages, backing, keep, .. } = *self;
        Window { start, pages, backing, keep, pieces: &self.pieces }
    }
}

/// Count pages that the plan takes off slabs, but that stand on none, as done. Returns how many.
pub fn already_own(region: &Region, parts: &[Part], applied: &mut Applied) -> u64 {
    let mut count = 0;
    for Part { run, index } in parts.iter().filter(|part| part.run.slab == OWN) {
        let first = (run.address as usize - region.start) / PAGE;
        for page in 0..run.pages as usize {
            if region.backing(first + page) == Backing::Anonymous && !applied.has(index + page) {
                applied.set(index + page);
                count += 1;
            }
        }
    }
    count
}

/// Record the result of a window.
pub fn account(
    region: &mut Region,
    ready: &Ready<'_, '_>,
    outcome: &Outcome,
    applied: &mut Applied,
) {
    let &Ready { start, backing, parts, .. } = ready;
    applied.report.differed += u64::from(outcome.differed);
    applied.report.busy += u64::from(outcome.busy);
    applied.report.vanished += u64::from(outcome.vanished);
    applied.report.unmapped += u64::from(outcome.unmapped);
    let base = (start - region.start) / PAGE;
    for Part { run, index } in parts {
        let first = (run.address as usize - start) / PAGE;
        for page in first..first + run.pages as usize {
            if outcome.merged.has(page) {
                applied.set(index + page - first);
                if outcome.slabbed.has(page) {
                    region.set_backing(base + page..base + page + 1, Backing::Slab);
                } else if backing == Backing::Slab {
                    region.set_backing(base + page..base + page + 1, Backing::Anonymous);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, ProtFlags};

    #[test]
    fn a_window_is_cut_where_memory_is_locked() {
        const PAGES: usize = 64;
        let (none, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping.
        let base = unsafe {
            rustix::mm::mmap_anonymous(none, PAGES * PAGE, access, MapFlags::PRIVATE).unwrap()
        };
        let part = |page: usize, pages: u32, slab, slot, index| Part {
            run: Run { address: (base as usize + page * PAGE) as u64, slab, slot, pages },
            index,
        };
        let parts = [part(0, 24, 7, 100, 0), part(30, 34, 0, 0, 24)];
        let shown = |windows: &[Vec<Part>]| -> Vec<Vec<_>> {
            let shown = |it: &Part| {
                let page = (it.run.address as usize - base as usize) / PAGE;
                (page, it.run.pages, it.run.slab, it.run.slot, it.index)
            };
            windows.iter().map(|window| window.iter().map(shown).collect()).collect()
        };
        assert_eq!(shown(&unlocked(&parts)), [shown(&[parts.to_vec()]).concat()]);
        // Pages 10 and 12, and 40, which leave one page of the first part between them alone.
        for page in [10, 12, 40] {
            // SAFETY: the test's own memory.
            unsafe { rustix::mm::mlock(base.wrapping_byte_add(page * PAGE), PAGE).unwrap() };
        }
        let cut = [
            vec![(0, 10, 7, 100, 0)],
            vec![(13, 11, 7, 113, 13), (30, 10, 0, 0, 24)],
            vec![(41, 23, 0, 0, 35)],
        ];
        assert_eq!(shown(&unlocked(&parts)), cut);
    }
}
