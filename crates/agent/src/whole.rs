//! Makes blocks huge pages, where the hub says so: blocks of which it merges little, and blocks that
//! map a whole huge page of a slab.
//!
//! No barrier is needed, because the kernel keeps every byte: it copies a block of anonymous memory
//! while threads that touch it wait, and of a slab's block it changes the page table alone. But the
//! agent's lock is held for each block, so that the block stays what the table says.

use crate::ground::Ground;
use crate::lock;
use pagemerge_pages::barrier::keep::LOCKS_FUTURE;
use pagemerge_pages::huge::{collapse, collapse_small, BYTES, PAGES};
use pagemerge_pages::wire::{Run, WHOLE};
use pagemerge_pages::PAGE;
use std::sync::atomic::Ordering;

/// Make the blocks of `runs` huge pages; returns of each page whether its block is one. The hub is
/// not trusted: it can at worst have blocks made huge for which the program wants that.
pub fn make(runs: &[Run]) -> Vec<bool> {
    let ground = Ground::open();
    let mut done = Vec::new();
    for run in runs {
        for first in (0..run.pages as usize).step_by(PAGES) {
            let pages = PAGES.min(run.pages as usize - first);
            let start = (run.address as usize).saturating_add(first * PAGE);
            let is_block = pages == PAGES && start % BYTES == 0 && run.address < 1 << 56;
            let is_whole = run.slab == WHOLE && is_block && block(&ground, start);
            done.extend(std::iter::repeat_n(is_whole, pages));
        }
    }
    done
}

/// Make a block one huge page, if it may be one; returns whether it is one.
fn block(ground: &Ground, start: usize) -> bool {
    let end = start + BYTES;
    let mut state = lock();
    let Some(region) = state.table.holding(start, end) else { return false };
    if !region.huge || !region.keep.is_open() || LOCKS_FUTURE.load(Ordering::Relaxed) {
        return false;
    }
    let slabbed = region.slabbed_runs(start, end);
    let found = ground.look(start, end);
    if !found.fit {
        found.correct(&mut state.table);
        return false;
    }
    match slabbed.first() {
        None if found.slabs.is_empty() => collapse_small(start).is_ok(),
        // Of one slab, page for page as they lie there: the kernel refuses all else.
        Some(all) if *all == (start..end) && found.anonymous.is_empty() => collapse(start).is_ok(),
        _ => false, // partly merged
    }
}
