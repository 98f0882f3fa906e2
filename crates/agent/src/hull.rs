//! Where the mergeable memory of this process lies; can be read without the lock.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The address of the first byte of the first region, and the end of the last region.
static HULL: (AtomicUsize, AtomicUsize) = (AtomicUsize::new(0), AtomicUsize::new(0));

/// Publish where regions are; called whenever a thread gives the lock.
pub(crate) fn publish(hull: Range<usize>) {
    HULL.0.store(hull.start, Ordering::Relaxed);
    HULL.1.store(hull.end, Ordering::Relaxed);
}

/// Returns whether `[start, start + len)` may touch a region.
#[must_use]
pub fn concerns(start: usize, len: usize) -> bool {
    let (first, last) = (HULL.0.load(Ordering::Relaxed), HULL.1.load(Ordering::Relaxed));
    start < last && start.saturating_add(len) > first
}
