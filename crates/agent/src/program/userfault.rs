//! Handles a userfaultfd of the program itself: it registers memory that may be merged, and moves
//! pages out of it.

use super::{restore, Answer};
use crate::gate::lock;
use pagemerge_pages::barrier::mask::Mask;
use pagemerge_pages::barrier::window::FEW;
use pagemerge_pages::pagemap::{Kind, Pagemap};
use pagemerge_pages::{barrier::exclusive, PAGE};
use rustix::mm::{madvise, Advice};
use std::ops::Range;
use std::time::Duration;

/// How often a busy page is tried again, and the pause between tries: 20 ms in all, or more.
const PINNED: u32 = 200;
const PAUSE: Duration = Duration::from_micros(100);

/// Make pages that a fork of ours has shared for a moment (`pages::pinned`) belong to the program
/// alone again, as UFFDIO_MOVE needs it.
pub fn reclaim(range: &Range<usize>) {
    // Only the pages that are there, not each page that is named: that may be all of the address
    // space.
    let (start, end) = (range.start as u64, range.end as u64);
    let own = Pagemap::open(std::process::id() as i32);
    let present = own.and_then(|it| it.present_runs(start, end, Kind::Anonymous));
    for run in present.unwrap_or_default() {
        let end = run.start as usize + run.pages as usize * PAGE;
        for start in (run.start as usize..end).step_by(FEW * PAGE) {
            let pages = ((end - start) / PAGE).min(FEW);
            let mut all = Mask::NONE;
            all.insert(0, pages);
            exclusive::reclaim(start, pages, &all);
        }
    }
}

/// Handles the program's own UFFDIO_MOVE out of merged memory; `raw` is the real call. Pages go,
/// and all mappings stay as they are.
///
/// # Errors
/// ENOMEM if the memory cannot be restored now; the error number of `raw`.
pub fn taken(range: &Range<usize>, raw: impl Fn() -> Answer) -> Answer {
    let mut state = lock();
    if !restore(&mut state, range.start, range.end) {
        return Err(libc::ENOMEM);
    }
    reclaim(range);
    let mut answer = raw();
    // Merging leaves holes where zeros were, and the thread that wrote the zeros does not know of
    // them. Filling the first hole is enough: the kernel tells how far it got. Outside of regions a
    // hole is the program's own, and the thread that serves its userfaultfd may be the program's,
    // too.
    if answer == Err(libc::ENOENT)
        && state.table.touching(range.start, range.start + 1).next().is_some()
    {
        // SAFETY: it reads a page of the caller; a page that cannot be read stays as it is.
        let _ = unsafe { madvise(range.start as *mut _, PAGE, Advice::LinuxPopulateRead) };
        answer = raw();
    }
    // A hub that reads a page pins it for that moment (process_vm_readv), and the program need not
    // know that. Other pins last, and are the program's own.
    for _ in 0..PINNED {
        if answer != Err(libc::EBUSY) {
            break;
        }
        std::thread::sleep(PAUSE);
        answer = raw();
    }
    answer
}
