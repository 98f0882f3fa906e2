//! Code shared by the tests that merge against the clock.

#![allow(clippy::unwrap_used)] // a test

use pagemerge_pages::{slab, Error, PAGE};
use rustix::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

/// The barriers stop or slow each other's writers, so one test runs at a time.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|broken| broken.into_inner())
}

/// Without full-mode userfaultfd the test is skipped; `PAGEMERGE_REQUIRE=uffd` forbids that.
pub fn need<T>(made: Result<T, Error>) -> Option<T> {
    match made {
        Ok(barrier) => Some(barrier),
        Err(error @ Error::Unsupported(_)) => {
            let required = std::env::var("PAGEMERGE_REQUIRE").unwrap_or_default();
            assert!(!required.contains("uffd"), "{error}");
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A slab with one page for each fill; each word of the page is `word(fill)`.
pub fn slab_of(fills: u64, word: fn(u64) -> u64) -> OwnedFd {
    slab::build(fills as usize, |bytes| {
        for (fill, page) in bytes.chunks_exact_mut(PAGE).enumerate() {
            for slot in page.chunks_exact_mut(8) {
                slot.copy_from_slice(&word(fill as u64).to_ne_bytes());
            }
        }
        Ok(())
    })
    .unwrap()
}

/// Xorshift: the same numbers every time.
pub struct Random(pub u64);

impl Random {
    /// The next 56 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }
}
