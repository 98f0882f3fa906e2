//! The barrier that moves pages out of the way (UFFDIO_MOVE, Linux 6.8).
//!
//! Whoever touches a moved page waits, devices included: a page that is pinned for direct I/O
//! answers EBUSY and stays where it is. Write protection alone does not stop such writers.

use crate::error::{Error, Result};
use crate::mask::Mask;
use crate::uffd::{self, Userfault, Watch};
use crate::window::{Backing, Barrier, Held, Swapped, Window};
use crate::PAGE;
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};

/// Pages moved at once: people wait 45 us for 64 pages, 360 us for 512, at the same throughput.
const BATCH: usize = 64;

/// How often a page that the kernel is busy with is tried before it is passed over.
const TRIES: usize = 4;

/// Moves the pages of a window into a scratch area of ours while they are compared.
#[derive(Debug)]
pub struct Mover {
    uffd: Userfault,
    scratch: usize,
}

impl Mover {
    /// Open a userfaultfd and make the scratch area.
    ///
    /// # Errors
    /// `Unsupported` where this user or kernel has no full-mode userfaultfd with MOVE.
    pub fn new() -> Result<Self> {
        let uffd = Userfault::open(uffd::FEATURE_MOVE)?;
        if !uffd.has(uffd::FEATURE_MOVE) {
            return Err(Error::Unsupported("UFFDIO_MOVE needs Linux 6.8 or newer".into()));
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let scratch = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                BATCH * PAGE,
                access,
                MapFlags::PRIVATE,
            )
        }
        .map_err(|errno| Error::os("mmap of scratch", errno.raw_os_error()))?;
        let this = Self { uffd, scratch: scratch as usize };
        // A fork child has no use for it, a core dump neither; a huge page must not fill it.
        for advice in [Advice::LinuxDontFork, Advice::LinuxDontDump, Advice::LinuxNoHugepage] {
            // SAFETY: advice about our own fresh mapping. EINVAL (no huge pages) is fine.
            let _ = unsafe { rustix::mm::madvise(scratch, BATCH * PAGE, advice) };
        }
        // The kernel moves pages only into memory that the same userfaultfd watches.
        this.uffd.register(this.scratch, BATCH * PAGE, Watch::Missing)?;
        Ok(this)
    }

    /// Move a run of the window's pages to scratch, passing over those that do not go.
    fn take(&self, window: &Window<'_>, first: usize, pages: usize, held: &mut Held) {
        let (mut page, end, mut tries) = (first, first + pages, 0);
        while page < end {
            let (src, dst) = (window.start + page * PAGE, self.scratch + page * PAGE);
            let (bytes, stopped) = self.uffd.move_pages(dst, src, (end - page) * PAGE);
            held.pages.insert(page, bytes / PAGE);
            page += bytes / PAGE;
            if bytes > 0 {
                tries = 0;
            } else if stopped == Some(libc::EAGAIN) && tries < TRIES {
                tries += 1;
            } else {
                match stopped {
                    Some(libc::ENOENT) => held.vanished += 1,
                    _ => held.busy += 1,
                }
                (page, tries) = (page + 1, 0);
            }
        }
    }

    /// Move a run back. This must succeed: the only copy of these bytes is in scratch.
    fn give_back(&self, window: &Window<'_>, first: usize, pages: usize) {
        let (mut page, end) = (first, first + pages);
        while page < end {
            let (src, dst) = (self.scratch + page * PAGE, window.start + page * PAGE);
            let (bytes, stopped) = self.uffd.move_pages(dst, src, (end - page) * PAGE);
            page += bytes / PAGE;
            match stopped {
                None => {}
                Some(_) if bytes > 0 => {}
                // Somebody forks, or the kernel looks at the page just now: it passes.
                Some(libc::EAGAIN | libc::EBUSY) => rustix::thread::sched_yield(),
                Some(_) => {
                    self.remap_back(window, page);
                    page += 1;
                }
            }
        }
    }

    /// MOVE found no place for a page (a mapping failed after unmapping, say): put the page's
    /// whole mapping there instead.
    fn remap_back(&self, window: &Window<'_>, page: usize) {
        let (src, dst) = (self.scratch + page * PAGE, window.start + page * PAGE);
        // SAFETY: the page in scratch is ours, and it belongs at `dst`, which our caller owns.
        unsafe {
            if rustix::mm::mremap_fixed(
                src as *mut _,
                PAGE,
                PAGE,
                MremapFlags::MAYMOVE,
                dst as *mut _,
            )
            .is_err()
            {
                // Its owner's bytes cannot be put back: rather no process than a wrong one.
                libc::abort();
            }
            let _ = rustix::mm::madvise(dst as *mut _, PAGE, Advice::LinuxDoFork);
            let _ = rustix::mm::madvise(dst as *mut _, PAGE, Advice::LinuxDoDump);
            // Close the hole in scratch. Should that fail, later moves to it fail and are counted.
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let fixed = MapFlags::PRIVATE | MapFlags::FIXED;
            if rustix::mm::mmap_anonymous(src as *mut _, PAGE, access, fixed).is_ok() {
                let _ = rustix::mm::madvise(src as *mut _, PAGE, Advice::LinuxDontFork);
                let _ = self.uffd.register(src, PAGE, Watch::Missing);
            }
        }
    }
}

impl Barrier for Mover {
    fn most_pages(&self) -> usize {
        BATCH
    }

    fn raise(&mut self, window: &Window<'_>, planned: &Mask) -> Result<Held> {
        if window.backing != Backing::Anonymous || window.pages > BATCH {
            return Err(Error::Usage("only anonymous memory can be moved".into()));
        }
        self.uffd.register(window.start, window.pages * PAGE, Watch::Missing)?;
        let mut held = Held::default();
        for (first, pages) in planned.runs() {
            self.take(window, first, pages, &mut held);
        }
        Ok(held)
    }

    fn bytes(&self, _: &Window<'_>, page: usize) -> *const u8 {
        (self.scratch + page * PAGE) as *const u8
    }

    fn vacates(&self) -> bool {
        true
    }

    fn lower(&mut self, window: &Window<'_>, held: &Mask, swapped: &Swapped) -> Result<()> {
        let gone = swapped.remapped.or(&swapped.emptied);
        for (first, pages) in held.minus(&gone).runs() {
            self.give_back(window, first, pages);
        }
        let len = window.pages * PAGE;
        let unregistered = self.uffd.unregister(window.start, len);
        // What was mapped over is not registered any more, but who waited there still waits.
        let woken = self.uffd.wake(window.start, len);
        // SAFETY: what is left in scratch are duplicates of slots, and zero pages. A failure
        // would make the next move to those pages fail, which is counted.
        let _ = unsafe {
            rustix::mm::madvise(self.scratch as *mut _, BATCH * PAGE, Advice::LinuxDontNeed)
        };
        unregistered.and(woken)
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no window is open, so it holds nobody's only copy.
        let _ = unsafe { rustix::mm::munmap(self.scratch as *mut _, BATCH * PAGE) };
    }
}
