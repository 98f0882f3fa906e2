//! Finds pinned pages: those of our pages that a device or the kernel may be about to write to.
//!
//! Code that pins a page (direct I/O, a process_vm_writev whose source is slow, registered buffers,
//! vfio, RDMA, AF_XDP) writes to that very page, whatever is mapped in its place meanwhile. So such
//! a page must stay where it is. UFFDIO_MOVE refuses it (EBUSY), but does not take pages of a
//! private file mapping, which is what merged memory that was written consists of; and no file of
//! the kernel tells.
//!
//! A fork tells. It shares every page with the child except those that may be pinned, which it
//! copies at once (Linux 5.12, `copy_present_page` in mm/memory.c): the page map's exclusive bit
//! then is gone from all others, and stays on these. So we fork a child, read the page map, and
//! kill the child before it has run. This must happen behind a barrier: code that pins a page for
//! writing after that needs a page fault, and waits.
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

/// The number of page map entries that are read at once.
const STEP: usize = 512;

/// Finds pinned pages, and limits the share of the time that this costs: a fork copies the page
/// tables of the whole process, and the program's next write to each page is a fault.
#[derive(Debug)]
pub struct Pins {
    pagemap: Pagemap,
    /// After a fork that took `t`, the next may come `pause` times `t` later.
    pause: u32,
    /// The time when the next fork may come.
    next: Option<Instant>,
    soft: Soft,
}

impl Pins {
    /// Open this process's page map. `pause`: see the field; 0 means that each call forks.
    ///
    /// # Errors
    /// `Os` if its page map cannot be read.
    pub fn new(pause: u32) -> Result<Self> {
        let pagemap = Pagemap::open(std::process::id() as i32)?;
        Ok(Self { pagemap, pause, next: None, soft: Soft::open() })
    }

    /// The way to the memory whose pins are looked for.
    #[must_use]
    pub const fn soft(&self) -> &Soft {
        &self.soft
    }

    /// The time until the next fork may come.
    #[must_use]
    pub fn rest(&self) -> Duration {
        self.next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()))
    }

    /// Returns which of the `held` pages from `start` on may be pinned: `look_among` for one window.
    #[must_use]
    pub fn among(&mut self, start: usize, pages: usize, held: &Mask, dont_fork: bool) -> Mask {
        let mut window = [Searched::new(start, pages, *held, dont_fork)];
        self.look_among(&mut window);
        window[0].pinned
    }

    /// Note in each of `windows` which of its `held` pages may be pinned. Must be called behind a
    /// barrier that holds them all. One fork tells about all of them.
    ///
    /// A page without anonymous memory is never pinned: a slab's page cannot be written, and a page
    /// that is not there cannot be pinned. If it cannot be found out now, all others count as
    /// pinned.
    pub fn look_among(&mut self, windows: &mut [Searched]) {
        let mut written = false;
        for it in &mut *windows {
            self.bring_in(it.start, it.pages);
            let anonymous = self.look(it.start, it.pages, is_anonymous);
            it.pinned = anonymous.map_or(it.held, |found| found.and(&it.held));
            written |= !it.pinned.is_empty();
        }
        if !written || self.next.is_some_and(|next| Instant::now() < next) {
            return;
        }
        let began = Instant::now();
        // An error leaves all of them pinned.
        let _ = self.after_a_fork(windows);
        let took = began.elapsed();
        self.next = Some(began + took + took * self.pause);
    }

    /// Returns whether some of the `held` pages could be pinned, and it is too early to find out.
    #[must_use]
    pub fn must_wait(&self, start: usize, pages: usize, held: &Mask) -> bool {
        !self.rest().is_zero()
            && self
                .look(start, pages, is_anonymous)
                .is_ok_and(|written| !written.and(held).is_empty())
    }

    /// Have pages that are in swap brought in: no page map entry tells what holds them. The page
    /// map also calls a page "in swap" that was never touched, once it is write-protected.
    fn bring_in(&self, start: usize, pages: usize) {
        let Ok(swapped) = self.look(start, pages, |bits| bits & entry::SWAPPED != 0) else {
            return;
        };
        for (first, pages) in swapped.runs() {
            let (at, len) = (start + first * PAGE, pages * PAGE);
            // SAFETY: it reads the caller's memory in (Linux 5.14), and changes no byte.
            let read = unsafe { rustix::mm::madvise(at as *mut _, len, Advice::LinuxPopulateRead) };
            if read.is_err() {
                // The memory may not be readable, for example.
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

    /// Find those that are still exclusive while a fork's child exists.
    fn after_a_fork(&self, windows: &mut [Searched]) -> Result<()> {
        if pins::is_told_of_forks()? {
            let why = "a userfaultfd of this process is told of forks, so pagemerge does not fork";
            return Err(Error::Unsupported(why.into()));
        }
        for it in windows.iter_mut().filter(|it| it.dont_fork) {
            it.forked = it.advise(Advice::LinuxDoFork);
        }
        let child = fork();
        if child.is_ok() {
            for it in windows.iter_mut().filter(|it| it.forked && !it.pinned.is_empty()) {
                if let Ok(found) = self.look(it.start, it.pages, is_exclusive) {
                    it.pinned = it.pinned.and(&found);
                }
            }
        }
        let child = child.map(end);
        for it in windows.iter().filter(|it| it.dont_fork && it.forked) {
            // It splits nothing that was not split just now.
            it.advise(Advice::LinuxDontFork);
        }
        child
    }
}

/// A window that a barrier holds, and what is found out about it.
#[derive(Debug)]
pub struct Searched {
    start: usize,
    pages: usize,
    held: Mask,
    dont_fork: bool,
    /// A child gets this memory.
    forked: bool,
    pinned: Mask,
}

impl Searched {
    /// Describe the `held` pages of the window of `pages` pages at `start`. `dont_fork`: forks do
    /// not copy this memory. All of them count as pinned until `look_among` has looked.
    #[must_use]
    pub const fn new(start: usize, pages: usize, held: Mask, dont_fork: bool) -> Self {
        Self { start, pages, held, dont_fork, forked: !dont_fork, pinned: held }
    }

    /// The address of the first page.
    #[must_use]
    pub const fn start(&self) -> usize {
        self.start
    }

    /// The number of its pages.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.pages
    }

    /// The pages that a barrier holds.
    #[must_use]
    pub const fn held(&self) -> &Mask {
        &self.held
    }

    /// The pages that may be pinned.
    #[must_use]
    pub const fn pinned(&self) -> &Mask {
        &self.pinned
    }

    /// Returns whether the kernel took this advice.
    fn advise(&self, advice: Advice) -> bool {
        // SAFETY: advice about the caller's memory, which changes no byte.
        unsafe { rustix::mm::madvise(self.start as *mut _, self.pages * PAGE, advice) }.is_ok()
    }
}

/// Returns whether there is a page of anonymous memory.
const fn is_anonymous(bits: u64) -> bool {
    bits & entry::PRESENT != 0 && bits & entry::FILE == 0 || bits & entry::SWAPPED != 0
}

/// Returns whether one page table alone maps it, or may map it.
const fn is_exclusive(bits: u64) -> bool {
    is_anonymous(bits) && bits & (entry::EXCLUSIVE | entry::SWAPPED) != 0
}

/// Fork a child that does nothing. It shares our descriptors, so that it keeps none open. It has no
/// exit signal, so that none of the program's waits sees it unless it asks for such children.
fn fork() -> Result<i32> {
    let flags = (libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_UNTRACED) as usize;
    let parent = std::process::id() as usize;
    // SAFETY: the child has a copy of our memory. It only makes system calls, until we kill it or,
    // if we are killed first, the kernel does.
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

/// Kill the child and reap it. Its memory is gone then.
fn end(child: i32) {
    let wait = [child as usize, 0, libc::__WALL as usize, 0, 0, 0];
    // SAFETY: our own child, which has not been waited for, so no other process has its number.
    unsafe {
        let _ = raw::syscall(libc::SYS_kill, [child as usize, libc::SIGKILL as usize, 0, 0, 0, 0]);
        // ECHILD: the program has waited for all children, ours included.
        while raw::syscall(libc::SYS_wait4, wait) == Err(libc::EINTR) {}
    }
}
