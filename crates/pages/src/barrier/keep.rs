//! What a mapping that replaces another must have in common with it.

use crate::room;
use rustix::io::Errno;
use rustix::mm::{
    msync, Advice, MapFlags, MlockFlags, MprotectFlags, MremapFlags, MsyncFlags, ProtFlags,
};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the kernel locks everything that is mapped from now on (mlockall(MCL_FUTURE)). Then
/// fresh memory is unlocked if the memory that it replaces was not locked.
pub static LOCKS_FUTURE: AtomicBool = AtomicBool::new(false);

/// Returns whether some memory of a range is locked, or the kernel does not tell.
#[must_use]
pub fn is_locked(range: &Range<usize>) -> bool {
    has_lock(range) != Some(false)
}

/// Returns whether some memory of a range is locked; None if the kernel does not tell.
///
/// EBUSY is what msync(2) answers where memory is locked, also behind a hole (ENOMEM), and
/// `MS_INVALIDATE` alone changes nothing (mm/msync.c). A filter (seccomp(2)) may answer in the
/// kernel's place: what it answers says nothing of locks.
#[must_use]
pub fn has_lock(range: &Range<usize>) -> Option<bool> {
    // SAFETY: it reads flags of mappings.
    match unsafe { msync(range.start as *mut _, range.len(), MsyncFlags::INVALIDATE) } {
        Ok(()) | Err(Errno::NOMEM) => Some(false),
        Err(Errno::BUSY) => Some(true),
        Err(_) => None,
    }
}

/// The state of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Protection.
    pub protection: ProtFlags,
    /// MADV_DONTFORK.
    pub dont_fork: bool,
    /// MADV_DONTDUMP.
    pub dont_dump: bool,
    /// MAP_NORESERVE.
    pub no_reserve: bool,
    /// MADV_RANDOM or MADV_SEQUENTIAL; MADV_NORMAL is None.
    pub read_ahead: Option<Advice>,
    /// mlock(2). Locked memory is not merged.
    pub locked: bool,
    /// Whether pages are locked one by one, as they come (MLOCK_ONFAULT).
    pub on_fault: bool,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            protection: ProtFlags::READ.union(ProtFlags::WRITE),
            dont_fork: false,
            dont_dump: false,
            no_reserve: false,
            read_ahead: None,
            locked: false,
            on_fault: false,
        }
    }
}

impl Keep {
    /// Returns whether the memory can be read and written, and is not locked.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.locked && self.protection == Self::default().protection
    }

    /// The flags of a private mapping.
    #[must_use]
    pub fn flags(&self) -> MapFlags {
        if self.no_reserve {
            MapFlags::PRIVATE | MapFlags::NORESERVE
        } else {
            MapFlags::PRIVATE
        }
    }

    /// Give a fresh mapping the flags that mmap cannot.
    ///
    /// # Safety
    /// The range must be the caller's own fresh mapping.
    pub unsafe fn apply(&self, at: *mut libc::c_void, len: usize) {
        let advice = [
            self.dont_fork.then_some(Advice::LinuxDontFork),
            self.dont_dump.then_some(Advice::LinuxDontDump),
            self.read_ahead,
        ];
        for advice in advice.into_iter().flatten() {
            // SAFETY: advice about the caller's own mapping. It fails only where the limit on
            // mappings forbids a split, and a fresh mapping is not split.
            let _ = unsafe { rustix::mm::madvise(at, len, advice) };
        }
    }

    /// Map fresh anonymous memory that can be written, at an address of the kernel's choice.
    /// `finish` gives it its protection.
    ///
    /// # Errors
    /// The errors of mmap(2).
    pub fn fresh(&self, len: usize) -> rustix::io::Result<*mut libc::c_void> {
        let open = Self::default().protection;
        let future = LOCKS_FUTURE.load(Ordering::Relaxed);
        // The kernel fills locked memory at once, except memory without access.
        let access = if future { ProtFlags::empty() } else { open };
        // SAFETY: a fresh mapping, and changes of it alone.
        unsafe {
            let made = room::map(len, access, self.flags())?;
            if future {
                let access = MprotectFlags::from_bits_retain(open.bits());
                let opened = rustix::mm::munlock(made, len)
                    .and_then(|()| rustix::mm::mprotect(made, len, access));
                if let Err(errno) = opened {
                    room::unmap(made, len);
                    return Err(errno);
                }
            }
            let _ = rustix::mm::madvise(made, len, Advice::LinuxNoHugepage);
            Ok(made)
        }
    }

    /// Give fresh memory its protection and flags, before it gets its place.
    ///
    /// # Errors
    /// The errors of mprotect(2) and mlock(2).
    ///
    /// # Safety
    /// The range must be the caller's own fresh mapping.
    pub unsafe fn finish(&self, at: *mut libc::c_void, len: usize) -> rustix::io::Result<()> {
        // SAFETY: the caller guarantees that the range is its own fresh mapping.
        unsafe {
            self.apply(at, len);
            if self.protection != Self::default().protection {
                let access = MprotectFlags::from_bits_retain(self.protection.bits());
                rustix::mm::mprotect(at, len, access)?;
            }
            if self.locked {
                if self.on_fault {
                    rustix::mm::mlock_with(at, len, MlockFlags::ONFAULT)?;
                } else {
                    rustix::mm::mlock(at, len)?;
                }
            }
        }
        Ok(())
    }

    /// Finish fresh memory and move it to its place by one call. On failure the fresh memory is
    /// unmapped.
    ///
    /// # Errors
    /// The errors of `finish` and mremap(2); what is in the place is as it was then.
    ///
    /// # Safety
    /// Both ranges must be the caller's.
    pub unsafe fn place(
        &self,
        fresh: *mut libc::c_void,
        at: *mut libc::c_void,
        len: usize,
    ) -> rustix::io::Result<()> {
        // SAFETY: the caller guarantees that both ranges are its own.
        unsafe {
            if fresh == at {
                // The place was a hole, and the kernel has chosen it for the fresh memory.
                return self.finish(fresh, len);
            }
            let placed = self
                .finish(fresh, len)
                .and_then(|()| rustix::mm::mremap_fixed(fresh, len, len, MremapFlags::MAYMOVE, at));
            match placed {
                Ok(_) => room::left(fresh as usize, len),
                Err(_) => room::unmap(fresh, len),
            }
            placed.map(|_| ())
        }
    }

    /// Put fresh zero memory in the place of a range, by one call.
    ///
    /// # Errors
    /// The errors of mmap(2); the range is as it was then.
    ///
    /// # Safety
    /// The range must be the caller's, which gives up its contents.
    pub unsafe fn renew(&self, at: *mut libc::c_void, len: usize) -> rustix::io::Result<()> {
        // SAFETY: the caller guarantees that the range is its own, and gives up its contents.
        unsafe {
            if self.is_open() && !LOCKS_FUTURE.load(Ordering::Relaxed) {
                let flags = self.flags() | MapFlags::FIXED;
                rustix::mm::mmap_anonymous(at, len, self.protection, flags)?;
                self.apply(at, len);
                let _ = rustix::mm::madvise(at, len, Advice::LinuxNoHugepage);
                return Ok(());
            }
            // The kernel does not account for memory that is mapped without write access as it does
            // for this.
            let fresh = self.fresh(len)?;
            self.place(fresh, at, len)
        }
    }
}
