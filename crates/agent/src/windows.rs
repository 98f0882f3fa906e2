//! The windows of a plan: what is to be merged in each, and what has come of it.

use crate::region::Region;
use pagemerge_pages::barrier::keep::Keep;
use pagemerge_pages::barrier::window::{Backing, Outcome, Piece, Window};
use pagemerge_pages::wire::{Merged, Run, OWN};
use pagemerge_pages::PAGE;

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
