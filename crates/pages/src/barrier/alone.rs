//! The barrier of a process in which no other thread runs: a forked copy, for example.

use crate::barrier::mask::Mask;
use crate::barrier::pinned::Pins;
use crate::barrier::sharers;
use crate::barrier::window::{Barrier, Bytes, Held, Swapped, Window, FEW};
use crate::error::{Error, Result};
use crate::listing;
use crate::PAGE;

/// Holds every page, because no other thread could write one. Devices may write, so it looks for
/// pins.
#[derive(Debug)]
pub struct Alone {
    pins: Pins,
}

impl Alone {
    /// Make the barrier for a process that has no threads but those of `known`: the caller's own,
    /// which waits, and the agent's.
    ///
    /// # Errors
    /// `Unsupported` if there are other threads, or another process shares the memory; `Os` if that
    /// cannot be found out.
    pub fn new(known: &[i32]) -> Result<Self> {
        let mut others = false;
        listing::numbers(c"/proc/self/task", |task| {
            others |= !known.contains(&task);
            !others
        })?;
        if others {
            return Err(Error::Unsupported("this process has other threads".into()));
        }
        sharers::refuse(0)?;
        Ok(Self { pins: Pins::new(0)? })
    }
}

impl Barrier for Alone {
    fn most_pages(&self) -> usize {
        FEW
    }

    fn raise(&mut self, _: &Window<'_>, planned: &Mask) -> Result<Held> {
        Ok(Held { pages: *planned, ..Held::default() })
    }

    fn pinned(&mut self, window: &Window<'_>, held: &Mask) -> Mask {
        self.pins.among(window.start, window.pages, held, window.keep.dont_fork)
    }

    fn bytes(&self, window: &Window<'_>, page: usize) -> Bytes<'_> {
        Bytes::Theirs(self.pins.soft(), window.start + page * PAGE)
    }

    fn lower(&mut self, _: &Window<'_>, _: &Mask, _: &Swapped) -> Result<()> {
        Ok(())
    }
}
