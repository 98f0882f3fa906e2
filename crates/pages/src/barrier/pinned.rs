//! Which pages of ours a device or the kernel may be about to write to: pinned pages.
//!
//! Whoever pins a page (direct I/O, a process_vm_writev whose source is slow, registered buffers,
//! vfio, RDMA, AF_XDP) writes to that very page, whatever is mapped in its place meanwhile. So such a
//! page must stay where it is. UFFDIO_MOVE refuses it (EBUSY), but takes no page of a private file
//! mapping, which is what merged memory that was written has; and no file of the kernel's tells.
//!
//! A fork tells. It shares every page with the child but those that may be pinned, which it copies
//! at once (Linux 5.12, `copy_present_page` in mm/memory.c): the page map's exclusive bit is gone
//! from all others then, and stays on these. So a child is forked, the page map is read, and the
//! child is killed before it has run. It must be asked with a barrier up: who pins a page for
//! writing later needs a page fault, and waits.
//!
//! A false alarm leaves a page as it is. There is no false all-clear: the kernel decides by the
//! same count (`folio_maybe_dma_pinned`) for which UFFDIO_MOVE answers EBUSY.

use crate::barrier::mask::Mask;
use crate::barrier::pins;
use crate::error::{Error, Result};
use crate::pagemap::{entry, Pagemap};
use crate::raw;
use crate::soft::Soft;
use crate::PAGE;
use rustix::mm::Advice;
use std::time::{Duration, Instant};

/// Entries of the page map that are read at once.
const STEP: usize = 512;

/// Finds pinned pages, and sees to it that this costs no more than a share of the time: a fork copies
/// the page tables of the whole process, and the program's next write to each page is a fault.
#[derive(Debug)]
pub struct Pins {
    pagemap: Pagemap,
    /// After a fork that took `t`, the next may come `pause` times `t` later.
    pause: u32,
    /// When the next may come.
    next: Option<Instant>,
    soft: Soft,
}

impl Pins {
    /// For this process. `pause`: see there; 0 asks each time.
    ///
    /// # Errors
    /// `Os` if its page map cannot be read.
    pub fn new(pause: u32) -> Result<Self> {
        let pagemap = Pagemap::open(std::process::id() as i32)?;
        Ok(Self { pagemap, pause, next: None, soft: Soft::open() })
    }

    /// A way to the memory whose pins are looked for.
    #[must_use]
    pub const fn soft(&self) -> &Soft {
        &self.soft
    }

    /// How long until the next fork may come.
    #[must_use]
    pub fn rest(&self) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))
    }

    /// Which of the `held` pages from `start` on may be pinned. To be called with a barrier up.
    ///
    /// Pages that have no anonymous page never are: a slab's page cannot be written, and what is
    /// not there cannot be pinned. Where it cannot be found out now, all others count as pinned.
    #[must_use]
    pub fn among(&mut self, start: usize, pages: usize, held: &Mask, dont_fork: bool) -> Mask {
        self.bring_in(start, pages);
        let written = match self.look(start, pages, is_anonymous) {
            Ok(found) => found.and(held),
            Err(_) => return *held,
        };
        if written.is_empty() {
            return Mask::NONE;
        }
        if self.next.is_some_and(|next| Instant::now() < next) {
            return written;
        }
        let began = Instant::now();
        let exclusive = self.after_a_fork(start, pages, dont_fork);
        let took = began.elapsed();
        self.next = Some(began + took + took * self.pause);
        exclusive.map_or(written, |exclusive| written.and(&exclusive))
    }

    /// Have pages that are in swap brought in: nobody can tell who holds them. The page map calls a
    /// page that was never touched "in swap", too, once it is write-protected.
    fn bring_in(&self, start: usize, pages: usize) {
        let Ok(swapped) = self.look(start, pages, |bits| bits & entry::SWAPPED != 0) else {
            return;
        };
        for (first, pages) in swapped.runs() {
            let (at, len) = (start + first * PAGE, pages * PAGE);
            // SAFETY: it reads the caller's memory in (Linux 5.14), and changes no byte.
            let read = unsafe { rustix::mm::madvise(at as *mut _, len, Advice::LinuxPopulateRead) };
            if read.is_err() {
                // Memory that may not be read, say.
                let mut byte = [0];
                (at..at + len).step_by(PAGE).for_each(|at| _ = self.soft.read(at, &mut byte));
            }
        }
    }

    /// The pages from `start` on whose page map entry is of a kind.
    fn look(&self, start: usize, pages: usize, kind: fn(u64) -> bool) -> Result<Mask> {
        let mut found = Mask::NONE;
        let mut entries = [0; STEP];
        for first in (0..pages).step_by(STEP) {
            let some = &mut entries[..(pages - first).min(STEP)];
            self.pagemap.entries((start + first * PAGE) as u64, some)?;
            for (page, _) in some.iter().enumerate().filter(|(_, bits)| kind(**bits)) {
                found.insert(first + page, 1);
            }
        }
        Ok(found)
    }

    /// The exclusive pages while a fork's child exists.
    fn after_a_fork(&self, start: usize, pages: usize, dont_fork: bool) -> Result<Mask> {
        let (at, len) = (start as *mut libc::c_void, pages * PAGE);
        if pins::is_told_of_forks()? {
            let why = "a userfaultfd of this process is told of forks, so that none is made";
            return Err(Error::Unsupported(why.into()));
        }
        if dont_fork {
            // SAFETY: advice about the caller's memory, taken back below; it changes no byte.
            unsafe { rustix::mm::madvise(at, len, Advice::LinuxDoFork) }
                .map_err(|errno| Error::os("madvise(MADV_DOFORK)", errno.raw_os_error()))?;
        }
        let found = fork().and_then(|child| {
            let found = self.look(start, pages, is_exclusive);
            end(child);
            found
        });
        if dont_fork {
            // SAFETY: as above. It splits nothing that was not split just now.
            let _ = unsafe { rustix::mm::madvise(at, len, Advice::LinuxDontFork) };
        }
        found
    }
}

/// Is there a page of anonymous memory?
const fn is_anonymous(bits: u64) -> bool {
    bits & entry::PRESENT != 0 && bits & entry::FILE == 0 || bits & entry::SWAPPED != 0
}

/// Does one page table alone map it, or may it be so?
const fn is_exclusive(bits: u64) -> bool {
    is_anonymous(bits) && bits & (entry::EXCLUSIVE | entry::SWAPPED) != 0
}

/// A child that does nothing. It shares our descriptors, so that it keeps none open; it has no exit
/// signal, so that no wait of the program's sees it but one that asks for such children.
fn fork() -> Result<i32> {
    let flags = (libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_UNTRACED) as usize;
    let parent = std::process::id() as usize;
    // SAFETY: the child has a copy of our memory; it makes system calls and nothing else, until it
    // is killed by us or, if we are killed first, by the kernel.
    match unsafe { raw::syscall(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]) } {
        Ok(0) => loop {
            // SAFETY: as above.
            unsafe {
                let kill = [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0, 0];
                let _ = raw::syscall(libc::SYS_prctl, kill);
                if raw::syscall(libc::SYS_getppid, [0; 6]) != Ok(parent) {
                    let _ = raw::syscall(libc::SYS_exit_group, [0; 6]);
                }
                // No pause(2): aarch64 has none.
                let _ = raw::syscall(libc::SYS_ppoll, [0; 6]);
            }
        },
        Ok(child) => Ok(child as i32),
        Err(errno) => Err(Error::os("clone", errno)),
    }
}

/// Kill the child and take note of its end. Its memory is gone then.
fn end(child: i32) {
    let wait = [child as usize, 0, libc::__WALL as usize, 0, 0, 0];
    // SAFETY: our own child, not waited for yet, so its number is nobody else's.
    unsafe {
        let _ = raw::syscall(libc::SYS_kill, [child as usize, libc::SIGKILL as usize, 0, 0, 0, 0]);
        // ECHILD: the program has waited for all children, ours included.
        while raw::syscall(libc::SYS_wait4, wait) == Err(libc::EINTR) {}
    }
}
