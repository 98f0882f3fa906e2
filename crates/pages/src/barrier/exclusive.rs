//! Makes pages that a fork child shared belong to this process alone again.
//!
//! The kernel moves only pages that it knows to belong to one process (PageAnonExclusive). A fork
//! clears that mark, and only the next write sets it again: when the child has long ended, the page
//! is still busy. So we have the kernel do what it does on a write, and write nothing. It finds
//! that no other process maps the page, marks it and leaves it where it is: no copy is made, and no
//! byte changes. If another process does map the page, we must not do that: the page would be
//! copied, and merging would cost memory. The page map tells (bit 56), and if a fork comes in
//! between, the worst is one copy.
//!
//! This must not happen while the page is watched: if the page vanished just then, this thread
//! would wait for itself. So it happens after a window, for the benefit of the next one. A pinned
//! page is busy, too; it has the mark, and the kernel finds nothing to do.

use crate::barrier::mask::Mask;
use crate::barrier::window::FEW;
use crate::pagemap::{entry, Pagemap};
use crate::PAGE;
use rustix::mm::Advice;

/// Have the kernel find out which of the `busy` pages from `start` on belong to us alone.
pub fn reclaim(start: usize, pages: usize, busy: &Mask) {
    let mut entries = [0; FEW];
    let entries = &mut entries[..pages];
    // Opened each time: this is seldom needed, and a forked copy must not read its parent's page
    // map.
    let own = Pagemap::open(std::process::id() as i32);
    if own.and_then(|own| own.entries(start as u64, entries)).is_err() {
        return;
    }
    let mut alone = Mask::NONE;
    for (page, bits) in entries.iter().enumerate() {
        let of_interest = bits & (entry::PRESENT | entry::FILE | entry::EXCLUSIVE);
        if busy.has(page) && of_interest == entry::PRESENT | entry::EXCLUSIVE {
            alone.insert(page, 1);
        }
    }
    for (first, pages) in alone.runs() {
        let at = (start + first * PAGE) as *mut _;
        // SAFETY: a write fault that writes nothing, on the caller's memory. An error (for example,
        // the memory has become read-only) leaves the page as it is.
        let _ = unsafe { rustix::mm::madvise(at, pages * PAGE, Advice::LinuxPopulateWrite) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::barrier::moving::Mover;
    use crate::barrier::window::{merge, Backing, Content, Keep, Outcome, Piece, Window};
    use rustix::mm::{MapFlags, ProtFlags};

    const PAGES: usize = 32;

    /// Merge one window of zeros; returns the number of pages merged, and of pages busy.
    fn outcome(mover: &mut Mover, base: usize) -> (usize, usize) {
        let pieces = [Piece { first: 0, pages: PAGES, content: Content::Zero }];
        let (backing, keep) = (Backing::Anonymous, Keep::default());
        let window = Window { start: base, pages: PAGES, backing, keep, pieces: &pieces };
        let mut outcome = Outcome::default();
        // SAFETY: the memory is the test's own.
        unsafe { merge(mover, &window, &mut outcome) }.unwrap();
        (outcome.merged.len(), outcome.busy as usize)
    }

    #[test]
    fn pages_of_a_child_are_busy_while_it_lives() {
        let Ok(mut mover) = Mover::new() else {
            let required = std::env::var("PAGEMERGE_REQUIRE").unwrap_or_default();
            assert!(!required.contains("uffd"));
            eprintln!("skipped: no full-mode userfaultfd with MOVE");
            return;
        };
        let (none, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping, filled with the bytes that it holds already.
        let base = unsafe {
            let base = rustix::mm::mmap_anonymous(none, PAGES * PAGE, access, MapFlags::PRIVATE);
            let base = base.unwrap();
            let _ = rustix::mm::madvise(base, PAGES * PAGE, Advice::LinuxNoHugepage);
            std::ptr::write_bytes(base.cast::<u8>(), 0, PAGES * PAGE);
            base as usize
        };
        // SAFETY: the child only waits to be killed.
        let child = unsafe {
            match libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32 {
                0 => loop {
                    libc::pause();
                },
                child => child,
            }
        };
        assert!(child > 0);
        for _ in 0..3 {
            assert_eq!(outcome(&mut mover, base), (0, PAGES));
        }
        // SAFETY: our own child.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
        assert_eq!(outcome(&mut mover, base), (0, PAGES), "the pages are not ours alone yet");
        // Other tests fork, too, and share the pages for a moment.
        let merged: usize =
            (0..100).map(|_| outcome(&mut mover, base).0).take_while(|&it| it == 0).count();
        assert!(merged < 100, "the pages are ours alone, and stay busy");
    }
}
