//! The barrier that write-protects pages (UFFDIO_WRITEPROTECT), for kernels without MOVE and for
//! pages that were merged before.
//!
//! It does not stop a device that has a page pinned, so it finds such pages and leaves them alone
//! (`pinned`). That takes a fork, so windows are as large as they may be.

use crate::barrier::mask::{Mask, WINDOW};
use crate::barrier::pinned::Pins;
use crate::barrier::window::{Barrier, Bytes, Held, Swapped, Window};
use crate::error::{Error, Result};
use crate::uffd::{self, Userfault, Watch};
use crate::PAGE;

/// Write-protects a window while it is compared.
#[derive(Debug)]
pub struct Protector {
    uffd: Userfault,
    pins: Pins,
}

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
        Ok(Self { uffd, pins: Pins::new(pause)? })
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

    fn unprotect(&self, window: &Window<'_>, pages: &Mask) -> Result<()> {
        let mut lowered = Ok(());
        for (first, pages) in pages.runs() {
            let start = window.start + first * PAGE;
            lowered = lowered.and(self.uffd.write_protect(start, pages * PAGE, false));
        }
        lowered
    }

    fn let_go(&self, window: &Window<'_>) -> Result<()> {
        let len = window.pages * PAGE;
        self.uffd.unregister(window.start, len).and(self.uffd.wake(window.start, len))
    }
}

impl Barrier for Protector {
    fn most_pages(&self) -> usize {
        WINDOW
    }

    fn raise(&mut self, window: &Window<'_>, planned: &Mask) -> Result<Held> {
        let len = window.pages * PAGE;
        self.uffd.register(window.start, len, Watch::Write)?;
        // No more than the planned pages: a thread that touches the rest need not wait.
        for (first, pages) in planned.runs() {
            let at = window.start + first * PAGE;
            if let Err(error) = self.uffd.write_protect(at, pages * PAGE, true) {
                let unprotected = self.unprotect(window, planned);
                return unprotected.and(self.let_go(window)).and(Err(error));
            }
        }
        Ok(Held { pages: *planned, ..Held::default() })
    }

    fn pinned(&mut self, window: &Window<'_>, held: &Mask) -> Mask {
        self.pins.among(window.start, window.pages, held, window.keep.dont_fork)
    }

    fn bytes(&self, window: &Window<'_>, page: usize) -> Bytes<'_> {
        Bytes::Theirs(self.pins.soft(), window.start + page * PAGE)
    }

    fn lower(&mut self, window: &Window<'_>, held: &Mask, swapped: &Swapped) -> Result<()> {
        // New mappings are not registered, and protection is lifted range by range or not at all:
        // one unregistered page in the range answers ENOENT and leaves writers waiting.
        self.unprotect(window, &held.minus(&swapped.remapped)).and(self.let_go(window))
    }
}
