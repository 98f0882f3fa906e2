//! Handles the program's advice about huge pages.

use super::Answer;
use crate::gate::lock;
use crate::region::Wish;
use pagemerge_pages::huge;

/// Handles MADV_HUGEPAGE and MADV_NOHUGEPAGE: notes what the program wants. `raw` tells the kernel
/// MADV_NOHUGEPAGE in both cases; see `make_regions`.
///
/// # Errors
/// The error number of `raw`.
pub fn wish(from: usize, end: usize, huge: bool, raw: impl FnOnce() -> Answer) -> Answer {
    let wish = if huge { Wish::Huge } else { Wish::Small };
    let mut state = lock();
    let answer = raw();
    // ENOMEM: the mapped parts have got the advice nevertheless (madvise(2)).
    if matches!(answer, Ok(_) | Err(libc::ENOMEM)) {
        state.marks.wish(from, end, wish);
        if state.table.touching(from, end).next().is_none() {
            return answer; // what the kernel gives out need not be looked up
        }
        let granted = wish.is_granted(huge::given());
        // A region is split only for what is new: to the hub, the parts are other regions.
        if state.table.touching(from, end).any(|region| region.huge != granted) {
            state.table.within(from, end).for_each(|region| region.huge = granted);
        }
    }
    answer
}
