//! The barrier that write-protects pages (UFFDIO_WRITEPROTECT), for kernels without MOVE and for
//! pages that were merged before.
//!
//! It does not stop a device that has a page pinned, so it finds such pages and leaves them alone
//! (`pinned`). That takes a fork, so windows are as large as they may be.

use crate::barrier::mask::{Mask, WINDOW};
use crate::barrier::pinned::{Pins, Searched};
use crate::barrier::window::{Barrier, Bytes, Held, Swapped, Window};
use crate::error::{Error, Result};
use crate::uffd::{self, Userfault, Watch};
use crate::PAGE;

/// Write-protects a window while it is compared.
#[derive(Debug)]
pub struct Protector {
    uffd: Userfault,
    pins: Pins,
    /// Windows that are held together with others, and wait for their merge.
    together: Vec<Searched>,
}

/// The most windows that are held together: each takes a kilobyte, and lasts for microseconds.
pub const TOGETHER: usize = 256;

impl Protector {
    /// Open a userfaultfd that can also write-protect pages that do not exist yet. `pause`: how
    /// rarely pins may be looked for (see `Pins`).
    ///
    /// # Errors
    /// `Unsupported` where this user or kernel has no such userfaultfd; `Os` if the page map cannot
    /// be read.
    pub fn new(pause: u32) -> Result<Self> {
        const NEEDED: u64 = uffd::FEATURE_PAGEFAULT_FLAG_WP | uffd::FEATURE_WP_UNPOPULATED;
        let uffd = Userfault::open(NEEDED | uffd::FEATURE_WP_HUGETLBFS_SHMEM)?;
        if !uffd.has(NEEDED) {
            return Err(Error::Unsupported(
                "write protection of untouched pages needs Linux 6.4 or newer".into(),
            ));
        }
        Ok(Self { uffd, pins: Pins::new(pause)?, together: Vec::with_capacity(TOGETHER) })
    }

    /// Returns whether pages of a slab's mapping can be protected, too (Linux 5.19).
    #[must_use]
    pub const fn takes_slabs(&self) -> bool {
        self.uffd.has(uffd::FEATURE_WP_HUGETLBFS_SHMEM)
    }

    /// The time until pinned pages can be looked for again.
    #[must_use]
    pub fn rest(&self) -> std::time::Duration {
        self.pins.rest()
    }

    /// Returns whether it is too early for `hold` to look for pinned pages in this window.
    #[must_use]
    pub fn must_wait(&self, window: &Window<'_>) -> bool {
        self.pins.must_wait(window.start, window.pages, &window.planned())
    }

    /// Hold windows together, and look for pinned pages in all of them at once: that takes a fork,
    /// whatever their number. Each is let go by its merge, or by `release`. What cannot be held now
    /// is left out: its merge says why. At most `TOGETHER` windows, no page in two of them: the
    /// first that is let go would let the others' pages go.
    pub fn hold(&mut self, windows: &[Window<'_>]) {
        for window in windows.iter().take(TOGETHER - self.together.len()) {
            let planned = window.planned();
            if self.protect(window, &planned).is_ok() {
                let dont_fork = window.keep.dont_fork;
                let held = Searched::new(window.start, window.pages, planned, dont_fork);
                self.together.push(held); // no more than there is room for
            }
        }
        self.pins.look_among(&mut self.together);
    }

    /// Let the windows go that were held together and not merged.
    ///
    /// # Errors
    /// As for `Barrier::lower`.
    pub fn release(&mut self) -> Result<()> {
        let mut released = Ok(());
        while let Some(it) = self.together.pop() {
            let lowered = self.unprotect(it.start(), it.held());
            released = released.and(lowered).and(self.let_go(it.start(), it.pages() * PAGE));
        }
        released
    }

    /// Where the window that starts here is among those that are held together.
    fn position(&self, start: usize) -> Option<usize> {
        self.together.iter().position(|it| it.start() == start)
    }

    fn protect(&self, window: &Window<'_>, planned: &Mask) -> Result<()> {
        self.uffd.register(window.start, window.pages * PAGE, Watch::Write)?;
        // No more than the planned pages: a thread that touches the rest need not wait.
        for (first, pages) in planned.runs() {
            let at = window.start + first * PAGE;
            if let Err(error) = self.uffd.write_protect(at, pages * PAGE, true) {
                let unprotected = self.unprotect(window.start, planned);
                let gone = self.let_go(window.start, window.pages * PAGE);
                return unprotected.and(gone).and(Err(error));
            }
        }
        Ok(())
    }

    fn unprotect(&self, start: usize, pages: &Mask) -> Result<()> {
        let mut lowered = Ok(());
        for (first, pages) in pages.runs() {
            let at = start + first * PAGE;
            lowered = lowered.and(self.uffd.write_protect(at, pages * PAGE, false));
        }
        lowered
    }

    fn let_go(&self, start: usize, len: usize) -> Result<()> {
        self.uffd.unregister(start, len).and(self.uffd.wake(start, len))
    }
}

impl Barrier for Protector {
    fn most_pages(&self) -> usize {
        WINDOW
    }

    fn raise(&mut self, window: &Window<'_>, planned: &Mask) -> Result<Held> {
        let pages = match self.position(window.start) {
            Some(at) => *self.together[at].held(),
            None => {
                self.protect(window, planned)?;
                *planned
            }
        };
        Ok(Held { pages, ..Held::default() })
    }

    fn pinned(&mut self, window: &Window<'_>, held: &Mask) -> Mask {
        match self.position(window.start) {
            Some(at) => *self.together.swap_remove(at).pinned(),
            None => self.pins.among(window.start, window.pages, held, window.keep.dont_fork),
        }
    }

    fn bytes(&self, window: &Window<'_>, page: usize) -> Bytes<'_> {
        Bytes::Theirs(self.pins.soft(), window.start + page * PAGE)
    }

    fn lower(&mut self, window: &Window<'_>, held: &Mask, swapped: &Swapped) -> Result<()> {
        // New mappings are not registered, and protection is lifted range by range or not at all:
        // one unregistered page in the range answers ENOENT and leaves writers waiting.
        let unprotected = self.unprotect(window.start, &held.minus(&swapped.remapped));
        unprotected.and(self.let_go(window.start, window.pages * PAGE))
    }
}
