//! The barrier that write-protects pages (UFFDIO_WRITEPROTECT), for kernels without MOVE and for
//! pages that were merged before.
//!
//! It does not stop a device that has the page pinned, so it refuses a process that has anything
//! which pins memory. It looks for that after the protection is up: what starts later faults.

use crate::error::{Error, Result};
use crate::mask::{Mask, WINDOW};
use crate::pins;
use crate::uffd::{self, Userfault, Watch};
use crate::window::{Barrier, Held, Swapped, Window};
use crate::PAGE;

/// Write-protects a window while it is compared.
#[derive(Debug)]
pub struct Protector {
    uffd: Userfault,
}

impl Protector {
    /// Open a userfaultfd with write protection of pages that do not exist yet, too.
    ///
    /// # Errors
    /// `Unsupported` where this user or kernel has none.
    pub fn new() -> Result<Self> {
        const NEEDED: u64 = uffd::FEATURE_PAGEFAULT_FLAG_WP | uffd::FEATURE_WP_UNPOPULATED;
        let uffd = Userfault::open(NEEDED | uffd::FEATURE_WP_HUGETLBFS_SHMEM)?;
        if !uffd.has(NEEDED) {
            return Err(Error::Unsupported(
                "write protection of untouched pages needs Linux 6.4 or newer".into(),
            ));
        }
        Ok(Self { uffd })
    }

    /// Can pages of a slab's mapping be protected, too (Linux 5.19)?
    #[must_use]
    pub const fn takes_slabs(&self) -> bool {
        self.uffd.has(uffd::FEATURE_WP_HUGETLBFS_SHMEM)
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
        let raised = self.uffd.write_protect(window.start, len, true).and_then(|()| pins::refuse());
        if let Err(error) = raised {
            let unprotected = self.uffd.write_protect(window.start, len, false);
            return unprotected.and(self.let_go(window)).and(Err(error));
        }
        Ok(Held { pages: *planned, ..Held::default() })
    }

    fn bytes(&self, window: &Window<'_>, page: usize) -> *const u8 {
        (window.start + page * PAGE) as *const u8
    }

    fn lower(&mut self, window: &Window<'_>, _: &Mask, swapped: &Swapped) -> Result<()> {
        let mut all = Mask::NONE;
        all.insert(0, window.pages);
        let mut lowered = Ok(());
        // New mappings are not registered, and protection is lifted range by range or not at all:
        // one unregistered page in the range answers ENOENT and leaves writers waiting.
        for (first, pages) in all.minus(&swapped.remapped).runs() {
            let start = window.start + first * PAGE;
            lowered = lowered.and(self.uffd.write_protect(start, pages * PAGE, false));
        }
        lowered.and(self.let_go(window))
    }
}
