//! Barrier, compare, swap: the merge of one window of memory in our own process.
//!
//! A page is replaced only here. The safety of merging rests on this order:
//!
//! 1. the barrier is raised: from here on no thread can write the pages that it reports as held;
//! 2. pages that a device or the kernel may be about to write are sorted out (`pinned`);
//! 3. each held page is compared with its slot, byte for byte; a digest has only nominated it;
//! 4. equal pages that are not locked (mlock(2)) are replaced by a private mapping of the slab, which
//!    no process can change;
//! 5. the barrier is lowered, and threads that waited go on with the page that is there now.
//!
//! A page that is not held, not equal, or cannot be mapped stays exactly as it was. Nothing here
//! allocates: other threads of the process may be held while this runs.

use crate::barrier::keep::is_locked;
pub use crate::barrier::keep::Keep;
use crate::barrier::mask::Mask;
use crate::error::Result;
use crate::room;
use crate::soft::Soft;
use crate::PAGE;
use rustix::fd::BorrowedFd;
use rustix::io::pread;
use rustix::mm::{Advice, MapFlags};
use std::ops::Range;

/// The number of pages at once where threads stand still, or none can write.
pub const FEW: usize = 512;

/// What a page should become.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// Memory that reads as zero and holds no page.
    Zero,
    /// Memory of its own again, with the contents that it has, so that a slab under it can die.
    Own,
    /// Consecutive slots of a slab.
    Slots {
        /// The bytes of the first slot in a view; None: each slot is read from the slab when its page
        /// is compared. To read 4 KiB costs less than a fault in a view that is used a page here and
        /// a page there: such a fault maps 16 pages, and all are unmapped with the view.
        bytes: Option<*const u8>,
        /// The slab, by the descriptor that every mapping of it in this process uses: mappings
        /// coalesce only through the same open file description.
        slab: BorrowedFd<'a>,
        /// The first slot's offset in the slab, in bytes.
        offset: u64,
    },
}

impl Content<'_> {
    /// Returns where the bytes of a page are, `within` bytes behind those of the first: of a slot
    /// without a view, they are read into `copy`. None if they cannot be read, or are the page's own.
    fn page(&self, within: usize, copy: &mut [u8; PAGE]) -> Option<*const u8> {
        static NOTHING: [u8; PAGE] = [0; PAGE];
        match *self {
            Self::Zero => Some(NOTHING.as_ptr()),
            Self::Own => None,
            Self::Slots { bytes: Some(bytes), .. } => Some(bytes.wrapping_add(within)),
            Self::Slots { slab, offset, .. } => {
                let read = pread(slab, &mut copy[..], offset + within as u64);
                (read == Ok(PAGE)).then_some(copy.as_ptr())
            }
        }
    }
}

/// A run of pages of a window and what they should become.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// The first page, counted from the start of the window.
    pub first: usize,
    /// The number of pages.
    pub pages: usize,
    /// What they should become.
    pub content: Content<'a>,
}

/// What the pages of a window stand on now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Anonymous memory.
    Anonymous,
    /// A private mapping of a slab: pages that were merged before, and written since.
    Slab,
}

/// A range of at most `WINDOW` pages whose pages are merged behind one barrier.
#[derive(Debug)]
pub struct Window<'a> {
    /// The address of the first page.
    pub start: usize,
    /// The number of pages from there on.
    pub pages: usize,
    /// What the planned pages stand on.
    pub backing: Backing,
    /// What the merged mapping keeps of the region's state.
    pub keep: Keep,
    /// The planned pieces; in order, without overlap, inside the window.
    pub pieces: &'a [Piece<'a>],
}

impl Window<'_> {
    /// The addresses of some of its pages, which are counted from its start.
    #[must_use]
    pub const fn range(&self, first: usize, pages: usize) -> Range<usize> {
        let start = self.start + first * PAGE;
        start..start + pages * PAGE
    }

    /// The pages of all pieces.
    #[must_use]
    pub fn planned(&self) -> Mask {
        let mut planned = Mask::NONE;
        self.pieces.iter().for_each(|piece| planned.insert(piece.first, piece.pages));
        planned
    }
}

/// What a barrier holds after it was raised.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    /// Pages that no thread can write now.
    pub pages: Mask,
    /// Pages that are pinned, or shared with a fork child: left alone.
    pub busy: u32,
    /// Pages that went away since they were planned.
    pub vanished: u32,
}

/// What has happened to the pages of a window before its barrier is lowered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Swapped {
    /// Pages with a new mapping.
    pub remapped: Mask,
    /// Zero pages that were given back in place.
    pub emptied: Mask,
}

/// The result of merging a window, in pages.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Pages that are now what was planned.
    pub merged: Mask,
    /// Those of `merged` whose backing is a slab now.
    pub slabbed: Mask,
    /// Pages that were not equal to their slot.
    pub differed: u32,
    /// Pages that are pinned, locked, or shared with a fork child.
    pub busy: u32,
    /// Pages that went away since they were planned.
    pub vanished: u32,
    /// Pages for which the kernel refused a mapping.
    pub unmapped: u32,
}

/// Where bytes are, and how to read them.
#[derive(Debug, Clone, Copy)]
pub enum Bytes<'a> {
    /// In memory of ours, which stays mapped.
    Ours(*const u8),
    /// In the program's memory, which the program may take away at any moment.
    Theirs(&'a Soft, usize),
}

impl Bytes<'_> {
    /// Copy `into.len()` bytes; returns false if they cannot be read.
    fn copy(&self, into: &mut [u8]) -> bool {
        match *self {
            Self::Ours(bytes) => {
                // SAFETY: readable memory of ours, for as long as the caller guarantees.
                unsafe { std::ptr::copy_nonoverlapping(bytes, into.as_mut_ptr(), into.len()) };
                true
            }
            Self::Theirs(soft, address) => soft.read(address, into),
        }
    }

    /// Returns whether this page is equal to the page at `other`, which is ours.
    fn is_equal(&self, other: *const u8) -> bool {
        let mut copy = [0; PAGE];
        let bytes = match *self {
            Self::Ours(bytes) => bytes,
            Self::Theirs(soft, address) if soft.read(address, &mut copy) => copy.as_ptr(),
            Self::Theirs(..) => return false,
        };
        // SAFETY: both are readable memory of ours, a page each.
        unsafe { libc::memcmp(bytes.cast(), other.cast(), PAGE) == 0 }
    }
}

/// A way to keep every thread from writing some pages for a moment.
pub trait Barrier {
    /// The largest number of pages that a window should have, for the sake of threads that have to
    /// wait.
    fn most_pages(&self) -> usize;

    /// Hold as many of the `planned` pages as possible.
    ///
    /// # Errors
    /// When nothing is held; then everything is as it was.
    fn raise(&mut self, window: &Window<'_>, planned: &Mask) -> Result<Held>;

    /// Returns which of the pages that `raise` held a device or the kernel may be about to write.
    fn pinned(&mut self, window: &Window<'_>, held: &Mask) -> Mask;

    /// Returns where the bytes of a held page are.
    fn bytes(&self, window: &Window<'_>, page: usize) -> Bytes<'_>;

    /// Returns whether held pages are out of their place, so that leaving a zero page out frees it.
    fn vacates(&self) -> bool {
        false
    }

    /// Let all threads go on; `swapped` says which pages are not what they were.
    ///
    /// # Errors When the barrier has to be dropped and made again. Even then the memory is correct:
    /// dropping the barrier lets all threads go.
    fn lower(&mut self, window: &Window<'_>, held: &Mask, swapped: &Swapped) -> Result<()>;
}

/// Merge one window.
///
/// # Errors
/// The errors of the barrier's `raise` (nothing was changed) and `lower` (each page is merged or as
/// it was; `outcome` says which, and the barrier must be replaced).
///
/// # Safety
/// The window must be private memory that belongs to the caller, mapped as `backing` says, and no
/// thread may map or unmap there meanwhile: the agent's lock is held.
pub unsafe fn merge(
    barrier: &mut dyn Barrier,
    window: &Window<'_>,
    outcome: &mut Outcome,
) -> Result<()> {
    let held = barrier.raise(window, &window.planned())?;
    // Before bytes are compared: a pin that ends in between would have written them afterwards.
    let pinned = barrier.pinned(window, &held.pages);
    let safe = held.pages.minus(&pinned);
    let equal = compare(barrier, window, &safe);
    let (mut swapped, mut locked) = (Swapped::default(), 0);
    for piece in window.pieces {
        let mut own = Mask::NONE;
        own.insert(piece.first, piece.pages);
        for (first, pages) in own.and(&equal).runs() {
            // As late as can be: a lock by a call that the agent does not see is lost if it comes
            // between this question and the mapping.
            if !window.keep.locked && is_locked(&window.range(first, pages)) {
                locked += pages;
                continue;
            }
            // SAFETY: the pages are in the window, held, and equal to what replaces them.
            unsafe { swap(barrier, window, piece, first, pages, &mut swapped) };
            if matches!(piece.content, Content::Slots { .. }) {
                let mut run = Mask::NONE;
                run.insert(first, pages);
                outcome.slabbed = outcome.slabbed.or(&run.and(&swapped.remapped));
            }
        }
    }
    let lowered = barrier.lower(window, &held.pages, &swapped);
    outcome.merged = swapped.remapped.or(&swapped.emptied);
    outcome.differed = safe.minus(&equal).len() as u32;
    outcome.unmapped = (equal.minus(&outcome.merged).len() - locked) as u32;
    outcome.busy = held.busy + (pinned.len() + locked) as u32;
    outcome.vanished = held.vanished;
    lowered
}

/// The held pages whose bytes are equal to those planned for them.
fn compare(barrier: &dyn Barrier, window: &Window<'_>, held: &Mask) -> Mask {
    let (mut equal, mut copy) = (Mask::NONE, [0; PAGE]);
    for piece in window.pieces {
        for page in piece.first..piece.first + piece.pages {
            if !held.has(page) {
                continue;
            }
            let is_equal = matches!(piece.content, Content::Own)
                || piece
                    .content
                    .page((page - piece.first) * PAGE, &mut copy)
                    .is_some_and(|planned| barrier.bytes(window, page).is_equal(planned));
            if is_equal {
                equal.insert(page, 1);
            }
        }
    }
    equal
}

/// Replace a run of equal pages. On failure they are as they were, and not in `swapped`.
///
/// # Safety
/// The same requirements as for `merge`; the run must be held and equal to its content.
unsafe fn swap(
    barrier: &dyn Barrier,
    window: &Window<'_>,
    piece: &Piece<'_>,
    first: usize,
    pages: usize,
    swapped: &mut Swapped,
) {
    let (at, len) = ((window.start + first * PAGE) as *mut libc::c_void, pages * PAGE);
    let vacated = barrier.vacates();
    let done = match (piece.content, window.backing) {
        (Content::Zero, Backing::Anonymous) => {
            // SAFETY: the caller owns the range, and it reads as zero before and after.
            let given_back =
                vacated || unsafe { rustix::mm::madvise(at, len, Advice::LinuxDontNeed) }.is_ok();
            if given_back {
                swapped.emptied.insert(first, pages);
            }
            return;
        }
        // Discarding pages of a slab's mapping would bring the slots' bytes back.
        // SAFETY: the caller owns the range, and it reads as zero before and after.
        (Content::Zero, Backing::Slab) => unsafe { window.keep.renew(at, len) },
        (Content::Own, _) => {
            // SAFETY: the range is the caller's, and held.
            let owned = unsafe { place_copy(barrier.bytes(window, first), at, len, window.keep) };
            if owned.is_ok() {
                swapped.remapped.insert(first, pages);
            }
            return; // the one call that moves it failed before it changed anything
        }
        (Content::Slots { slab, offset, .. }, _) => {
            let offset = offset + ((first - piece.first) * PAGE) as u64;
            let (access, flags) = (window.keep.protection, window.keep.flags() | MapFlags::FIXED);
            // SAFETY: the caller owns the range, and the slab holds the same bytes.
            unsafe {
                rustix::mm::mmap(at, len, access, flags, slab, offset)
                    .map(|_| window.keep.apply(at, len))
            }
        }
    };
    if done.is_ok() {
        swapped.remapped.insert(first, pages);
    } else if !vacated {
        // SAFETY: as above.
        unsafe { restore(window, piece, first, pages) };
    }
}

/// Put anonymous memory with the bytes at `from` in the place of the range at `at`, by one call,
/// which fails before it changes anything.
///
/// # Safety
/// The range at `at` must be the caller's; no thread may write it, or `from`, if that is ours.
pub(crate) unsafe fn place_copy(
    from: Bytes<'_>,
    at: *mut libc::c_void,
    len: usize,
    keep: Keep,
) -> rustix::io::Result<()> {
    // SAFETY: fresh memory gets the bytes before it gets the place; the caller guarantees the rest.
    unsafe {
        let fresh = keep.fresh(len)?;
        let copied = from.copy(std::slice::from_raw_parts_mut(fresh.cast(), len));
        if !copied {
            room::unmap(fresh, len);
            return Err(rustix::io::Errno::FAULT);
        }
        keep.place(fresh, at, len)
    }
}

/// A mapping failed: older kernels may have unmapped the range by then. Bring its bytes back.
///
/// # Safety
/// The same requirements as for `swap`.
unsafe fn restore(window: &Window<'_>, piece: &Piece<'_>, first: usize, pages: usize) {
    for page in first..first + pages {
        let at = (window.start + page * PAGE) as *mut libc::c_void;
        let mut resident = 0_u8;
        // SAFETY: mincore only asks; one page needs one byte.
        if unsafe { libc::mincore(at, PAGE, &mut resident) } == 0 {
            continue; // still mapped, so still as it was
        }
        let fixed = window.keep.flags() | MapFlags::FIXED;
        // SAFETY: nothing is mapped there, and the bytes that stood there equal the slot's.
        unsafe {
            if rustix::mm::mmap_anonymous(at, PAGE, window.keep.protection, fixed).is_err() {
                // The program's bytes cannot be brought back: no process is better than one with
                // wrong bytes.
                libc::abort();
            }
            if matches!(piece.content, Content::Slots { .. }) {
                let mut copy = [0; PAGE];
                match piece.content.page((page - piece.first) * PAGE, &mut copy) {
                    Some(slot) => std::ptr::copy_nonoverlapping(slot, at.cast(), PAGE),
                    None => libc::abort(), // as above
                }
            }
        }
    }
}
