//! Pages that a fork child shared, and that are ours alone again.
//!
//! The kernel moves only pages that it knows to belong to one process (PageAnonExclusive). A fork
//! takes that mark off, and only the next write puts it back: when the child has long ended, the
//! page is still busy. So we have the kernel do what it does on a write, and write nothing. It
//! finds that nobody else maps the page, marks it and leaves it where it is: no copy is made, and
//! no byte changes. Where somebody does map it, we must not: the page would be copied, and merging
//! would cost memory. The page map tells (bit 56), and if a fork comes in between, the worst is one
//! copy.
//!
//! Not while the page is watched: if it vanished just then, we would wait for ourselves. So this
//! comes after a window, for the benefit of the next one. A pinned page is busy, too; it has the
//! mark, and the kernel finds nothing to do.

use crate::barrier::mask::Mask;
use crate::barrier::window::FEW;
use crate::pagemap::{entry, Pagemap};
use crate::PAGE;
use rustix::mm::Advice;

/// Have the kernel find out which of the `busy` pages from `start` on belong to us alone.
pub fn reclaim(start: usize, pages: usize, busy: &Mask) {
    let mut entries = [0; FEW];
    let entries = &mut entries[..pages];
    // Opened each time: seldom needed, and a forked copy must not read its parent's.
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
        // SAFETY: a write fault that writes nothing, on memory of the caller's. An error (memory
        // that cannot be written by now, say) leaves the page as it is.
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

    /// Pages merged and busy of one window of zeros.
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
        // SAFETY: a fresh mapping, filled with what it holds already.
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
        assert_eq!(outcome(&mut mover, base), (0, PAGES), "they are not ours yet");
        // Other tests fork, too, and share the pages for a moment.
        let merged: usize =
            (0..100).map(|_| outcome(&mut mover, base).0).take_while(|&it| it == 0).count();
        assert!(merged < 100, "they are ours, and stay busy");
    }
}
