//! Barrier, compare, swap: the merge of one window of memory in our own process.
//!
//! This is the one place where a page is replaced. The order is the whole argument for safety:
//!
//! 1. the barrier is raised: from here on nobody can write the pages that it reports as held;
//! 2. each held page is compared with its slot, byte for byte; a digest has only nominated it;
//! 3. equal pages are replaced by a private mapping of the slab, which nobody can change;
//! 4. the barrier is lowered, and whoever waited goes on with the page that is there now.
//!
//! A page that is not held, not equal, or cannot be mapped stays exactly as it was. Nothing here
//! allocates: other threads of the process may be held while this runs.

use crate::error::Result;
use crate::mask::{Mask, WINDOW};
use crate::PAGE;
use rustix::fd::BorrowedFd;
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};

/// What a page should become.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// Memory that reads as zero and holds no page.
    Zero,
    /// Memory of its own again, with the contents it has: so that a slab under it can die.
    Own,
    /// Consecutive slots of a slab.
    Slots {
        /// The bytes of the first slot.
        bytes: *const u8,
        /// The slab, by the descriptor that every mapping of it in this process uses: mappings
        /// coalesce only through the same open file description.
        slab: BorrowedFd<'a>,
        /// The first slot's offset in the slab, in bytes.
        offset: u64,
    },
}

/// A run of pages of a window and what they should become.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// First page, counted from the start of the window.
    pub first: usize,
    /// Pages.
    pub pages: usize,
    /// What they should become.
    pub content: Content<'a>,
}

/// What stands under the pages of a window now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Anonymous memory.
    Anonymous,
    /// A private mapping of a slab: pages that were merged before, and written since.
    Slab,
}

/// What a mapping that replaces another must have in common with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Protection.
    pub protection: ProtFlags,
    /// MADV_DONTFORK.
    pub dont_fork: bool,
    /// MADV_DONTDUMP.
    pub dont_dump: bool,
}

impl Default for Keep {
    fn default() -> Self {
        let protection = ProtFlags::READ.union(ProtFlags::WRITE);
        Self { protection, dont_fork: false, dont_dump: false }
    }
}

impl Keep {
    /// Give a fresh mapping the flags that mmap cannot.
    ///
    /// # Safety
    /// The range must be the caller's own fresh mapping.
    pub unsafe fn apply(&self, at: *mut libc::c_void, len: usize) {
        for (wanted, advice) in
            [(self.dont_fork, Advice::LinuxDontFork), (self.dont_dump, Advice::LinuxDontDump)]
        {
            if wanted {
                // SAFETY: advice about the caller's own mapping. It fails only where the limit
                // of mappings forbids to split, and a fresh mapping is not split.
                let _ = unsafe { rustix::mm::madvise(at, len, advice) };
            }
        }
    }
}

/// A range of at most `WINDOW` pages whose pages are merged behind one barrier.
#[derive(Debug)]
pub struct Window<'a> {
    /// Address of the first page.
    pub start: usize,
    /// Pages from there on.
    pub pages: usize,
    /// What the planned pages have under them.
    pub backing: Backing,
    /// What the merged mapping keeps of the region's.
    pub keep: Keep,
    /// What is planned; in order, without overlap, inside the window.
    pub pieces: &'a [Piece<'a>],
}

/// What a barrier holds after it was raised.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    /// Pages nobody can write now.
    pub pages: Mask,
    /// Pages that are pinned, or shared with a fork child: left alone.
    pub busy: u32,
    /// Pages that went away since they were planned.
    pub vanished: u32,
}

/// What became of the pages of a window before its barrier is lowered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Swapped {
    /// Pages with a new mapping.
    pub remapped: Mask,
    /// Zero pages that were given back in place.
    pub emptied: Mask,
}

/// What merging a window came to, in pages.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Pages that are what was planned now.
    pub merged: Mask,
    /// Of these, pages whose backing is a slab now.
    pub slabbed: Mask,
    /// Pages that were not equal to their slot.
    pub differed: u32,
    /// Pages that are pinned, or shared with a fork child.
    pub busy: u32,
    /// Pages that went away since they were planned.
    pub vanished: u32,
    /// Pages for which the kernel refused a mapping.
    pub unmapped: u32,
}

/// A way to keep everybody from writing some pages for a moment.
pub trait Barrier {
    /// Most pages that a window should have, for the sake of whoever has to wait.
    fn most_pages(&self) -> usize;

    /// Hold as many of the `planned` pages as possible.
    ///
    /// # Errors
    /// When nothing is held; everything is as it was then.
    fn raise(&mut self, window: &Window<'_>, planned: &Mask) -> Result<Held>;

    /// Where the bytes of a held page can be read.
    fn bytes(&self, window: &Window<'_>, page: usize) -> *const u8;

    /// Are held pages out of their place, so that a zero page is given back by leaving it out?
    fn vacates(&self) -> bool {
        false
    }

    /// Let everybody go on; `swapped` says which pages are not what they were.
    ///
    /// # Errors
    /// When the barrier has to be thrown away and made anew. The memory is right nevertheless:
    /// dropping the barrier lets everybody go.
    fn lower(&mut self, window: &Window<'_>, held: &Mask, swapped: &Swapped) -> Result<()>;
}

/// The barrier of memory nobody else can write yet: by construction, or by the caller's word.
#[derive(Debug)]
pub struct Birth {
    /// Where the contents of the window's first page are read; the window itself for merging in
    /// place, the source for a copy.
    pub source: *const u8,
}

impl Barrier for Birth {
    fn most_pages(&self) -> usize {
        WINDOW
    }

    fn raise(&mut self, _: &Window<'_>, planned: &Mask) -> Result<Held> {
        Ok(Held { pages: *planned, ..Held::default() })
    }

    fn bytes(&self, _: &Window<'_>, page: usize) -> *const u8 {
        self.source.wrapping_add(page * PAGE)
    }

    fn lower(&mut self, _: &Window<'_>, _: &Mask, _: &Swapped) -> Result<()> {
        Ok(())
    }
}

/// Merge one window.
///
/// # Errors
/// As the barrier's `raise` (nothing was changed) and `lower` (the window is merged or as it
/// was, page by page; `outcome` says which, and the barrier must be replaced).
///
/// # Safety
/// The window must be private memory that belongs to the caller, mapped as `backing` says, and
/// nobody may map or unmap there meanwhile: the agent's lock is held.
pub unsafe fn merge(
    barrier: &mut dyn Barrier,
    window: &Window<'_>,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut planned = Mask::NONE;
    for piece in window.pieces {
        planned.insert(piece.first, piece.pages);
    }
    let held = barrier.raise(window, &planned)?;
    let equal = compare(barrier, window, &held.pages);
    let mut swapped = Swapped::default();
    for piece in window.pieces {
        let mut own = Mask::NONE;
        own.insert(piece.first, piece.pages);
        for (first, pages) in own.and(&equal).runs() {
            // SAFETY: the pages are in the window, held, and equal to what replaces them.
            unsafe { swap(barrier.vacates(), window, piece, first, pages, &mut swapped) };
            if matches!(piece.content, Content::Slots { .. }) {
                let mut run = Mask::NONE;
                run.insert(first, pages);
                outcome.slabbed = outcome.slabbed.or(&run.and(&swapped.remapped));
            }
        }
    }
    let lowered = barrier.lower(window, &held.pages, &swapped);
    outcome.merged = swapped.remapped.or(&swapped.emptied);
    outcome.differed = held.pages.minus(&equal).len() as u32;
    outcome.unmapped = equal.minus(&outcome.merged).len() as u32;
    (outcome.busy, outcome.vanished) = (held.busy, held.vanished);
    lowered
}

/// The held pages whose bytes are those planned for them.
fn compare(barrier: &dyn Barrier, window: &Window<'_>, held: &Mask) -> Mask {
    const NOTHING: [u8; PAGE] = [0; PAGE];
    let mut equal = Mask::NONE;
    for piece in window.pieces {
        for page in piece.first..piece.first + piece.pages {
            if !held.has(page) {
                continue;
            }
            let slot = match piece.content {
                Content::Own => {
                    equal.insert(page, 1);
                    continue;
                }
                Content::Zero => NOTHING.as_ptr(),
                Content::Slots { bytes, .. } => bytes.wrapping_add((page - piece.first) * PAGE),
            };
            // SAFETY: a held page is readable and nobody writes it; slots are sealed.
            let same =
                unsafe { libc::memcmp(barrier.bytes(window, page).cast(), slot.cast(), PAGE) == 0 };
            if same {
                equal.insert(page, 1);
            }
        }
    }
    equal
}

/// Replace a run of equal pages; on failure they are as they were, and not in `swapped`.
///
/// # Safety
/// As for `merge`; the run is held and equal to its content.
unsafe fn swap(
    vacated: bool,
    window: &Window<'_>,
    piece: &Piece<'_>,
    first: usize,
    pages: usize,
    swapped: &mut Swapped,
) {
    let (at, len) = ((window.start + first * PAGE) as *mut libc::c_void, pages * PAGE);
    let fixed = MapFlags::PRIVATE | MapFlags::FIXED;
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
        (Content::Zero, Backing::Slab) => unsafe {
            rustix::mm::mmap_anonymous(at, len, window.keep.protection, fixed)
        },
        (Content::Own, _) => {
            // SAFETY: the range is the caller's, and held.
            let owned = unsafe { place_copy(at, at, len, window.keep) };
            if owned.is_ok() {
                swapped.remapped.insert(first, pages);
            }
            return; // moved into place by one call, which failed before it changed anything
        }
        (Content::Slots { slab, offset, .. }, _) => {
            let offset = offset + ((first - piece.first) * PAGE) as u64;
            // SAFETY: the caller owns the range, and the slab holds the same bytes.
            unsafe { rustix::mm::mmap(at, len, window.keep.protection, fixed, slab, offset) }
        }
    };
    if done.is_ok() {
        // SAFETY: the mapping is fresh.
        unsafe { window.keep.apply(at, len) };
        swapped.remapped.insert(first, pages);
    } else if !vacated {
        // SAFETY: as above.
        unsafe { restore(window, piece, first, pages) };
    }
}

/// Anonymous memory with the bytes at `from` in the place of the range at `at`: by one call, which
/// fails before it changes anything.
///
/// # Safety
/// `from` must be readable, and the range at `at` the caller's; nobody may write either.
pub(crate) unsafe fn place_copy(
    from: *const libc::c_void,
    at: *mut libc::c_void,
    len: usize,
    keep: Keep,
) -> rustix::io::Result<()> {
    let none = std::ptr::null_mut();
    // SAFETY: fresh memory gets the bytes before it gets the place; by the caller for the rest.
    unsafe {
        let fresh = rustix::mm::mmap_anonymous(none, len, keep.protection, MapFlags::PRIVATE)?;
        let _ = rustix::mm::madvise(fresh, len, Advice::LinuxNoHugepage);
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), fresh.cast(), len);
        keep.apply(fresh, len);
        let moved = rustix::mm::mremap_fixed(fresh, len, len, MremapFlags::MAYMOVE, at);
        if moved.is_err() {
            let _ = rustix::mm::munmap(fresh, len);
        }
        moved.map(|_| ())
    }
}

/// A mapping failed: older kernels may have unmapped the range by then. Bring its bytes back.
///
/// # Safety
/// As for `swap`.
unsafe fn restore(window: &Window<'_>, piece: &Piece<'_>, first: usize, pages: usize) {
    for page in first..first + pages {
        let at = (window.start + page * PAGE) as *mut libc::c_void;
        let mut resident = 0_u8;
        // SAFETY: mincore only asks; one page needs one byte.
        if unsafe { libc::mincore(at, PAGE, &mut resident) } == 0 {
            continue; // still mapped, so still as it was
        }
        let fixed = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: nothing is mapped there, and the bytes that stood there equal the slot's.
        unsafe {
            if rustix::mm::mmap_anonymous(at, PAGE, window.keep.protection, fixed).is_err() {
                // Its owner's bytes cannot be brought back: rather no process than a wrong one.
                libc::abort();
            }
            if let Content::Slots { bytes, .. } = piece.content {
                let slot = bytes.wrapping_add((page - piece.first) * PAGE);
                std::ptr::copy_nonoverlapping(slot, at.cast(), PAGE);
            }
        }
    }
}
