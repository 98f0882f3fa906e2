//! Where the mergeable memory of this process lies, for a look without the lock.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// From the first byte of the first region to the last of the last.
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
