//! The barrier of memory that no other thread can write yet, so that nothing has to be held.

use crate::barrier::mask::Mask;
use crate::barrier::window::{Barrier, Bytes, Held, Swapped, Window, FEW};
use crate::error::Result;
use crate::soft::Soft;
use crate::PAGE;

/// The barrier of memory that no other thread can write yet: by construction, or by the caller's
/// word.
#[derive(Debug)]
pub struct Birth {
    /// Where the contents of the window's first page are read: the window itself for merging in
    /// place, the source for a copy.
    source: usize,
    soft: Soft,
}

impl Birth {
    /// Make the barrier of a window whose contents are read at `source`.
    #[must_use]
    pub fn at(source: usize) -> Self {
        Self { source, soft: Soft::open() }
    }
}

impl Barrier for Birth {
    fn most_pages(&self) -> usize {
        FEW
    }

    fn raise(&mut self, _: &Window<'_>, planned: &Mask) -> Result<Held> {
        Ok(Held { pages: *planned, ..Held::default() })
    }

    fn pinned(&mut self, _: &Window<'_>, _: &Mask) -> Mask {
        Mask::NONE
    }

    fn bytes(&self, _: &Window<'_>, page: usize) -> Bytes<'_> {
        Bytes::Theirs(&self.soft, self.source.wrapping_add(page * PAGE))
    }

    fn lower(&mut self, _: &Window<'_>, _: &Mask, _: &Swapped) -> Result<()> {
        Ok(())
    }
}
