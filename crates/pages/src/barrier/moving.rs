//! The barrier that moves pages out of the way (UFFDIO_MOVE, Linux 6.8).
//!
//! Every thread or device that touches a moved page waits. A page that is pinned for direct I/O
//! answers EBUSY and stays where it is. Write protection alone does not stop such writers.

use crate::barrier::exclusive;
use crate::barrier::forks::{Away, Forks};
use crate::barrier::mask::Mask;
use crate::barrier::window::{self, Backing, Barrier, Bytes, Held, Swapped, Window};
use crate::error::{Error, Result};
use crate::room;
use crate::uffd::{self, Userfault, Watch};
use crate::PAGE;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Pages moved at once: threads wait 45 us for 64 pages, 360 us for 512, at the same throughput.
const BATCH: usize = 64;

/// How often the mover tries a page that the kernel is busy with, before it passes it over.
const TRIES: usize = 4;

/// Moves the pages of a window into a scratch area of ours while they are compared.
#[derive(Debug)]
pub struct Mover {
    uffd: Userfault,
    /// None: the mover is not told of children that are born in a window.
    forks: Option<Forks>,
    /// The pages whose only valid copy is in the scratch area now.
    away: Away,
    /// Pages of the open window that the kernel would not move.
    busy: Mask,
}

impl Mover {
    /// Open a userfaultfd and make the scratch area.
    ///
    /// # Errors
    /// `Unsupported` where this user or kernel has no full-mode userfaultfd with MOVE, or none that
    /// reports forks.
    pub fn new() -> Result<Self> {
        Self::open(uffd::FEATURE_MOVE | uffd::FEATURE_EVENT_FORK, Some(Forks::new()?))
    }

    /// Make a mover without CAP_SYS_PTRACE: a child that a raw clone or `_Fork` makes in the middle
    /// of a window lacks pages. For programs that are known not to do so.
    ///
    /// # Errors
    /// `Unsupported` where this user or kernel has no full-mode userfaultfd with MOVE.
    pub fn without_forks() -> Result<Self> {
        Self::open(uffd::FEATURE_MOVE, None)
    }

    fn open(features: u64, forks: Option<Forks>) -> Result<Self> {
        let uffd = Userfault::open(features)?;
        if !uffd.has(features) {
            return Err(Error::Unsupported("UFFDIO_MOVE needs Linux 6.8 or newer".into()));
        }
        let (access, len) = (ProtFlags::READ | ProtFlags::WRITE, BATCH * PAGE);
        let scratch = room::map(len, access, MapFlags::empty())
            .map_err(|errno| Error::os("mmap of scratch", errno.raw_os_error()))?;
        let away = Away { scratch: scratch as usize, ..Away::default() };
        let this = Self { uffd, forks, away, busy: Mask::NONE };
        // The scratch area is of no use in a core dump, a huge page must not fill it, and no fork
        // may copy it: a fork would wait while it is watched, and pages must be ours alone
        // to be moved.
        // SAFETY: advice about our own fresh mapping.
        unsafe { rustix::mm::madvise(scratch, len, Advice::LinuxDontFork) }
            .map_err(|errno| Error::os("madvise(MADV_DONTFORK)", errno.raw_os_error()))?;
        for advice in [Advice::LinuxDontDump, Advice::LinuxNoHugepage] {
            // SAFETY: as above. EINVAL (no huge pages) is fine.
            let _ = unsafe { rustix::mm::madvise(scratch, len, advice) };
        }
        Ok(this)
    }

    /// Have scratch watched, and empty. The kernel moves pages only into memory that the same
    /// userfaultfd watches. But scratch must not be watched between windows, or a thread that fills
    /// all memory (mlockall) would wait there for ever. If a thread has filled it meanwhile, it has
    /// brought zeros.
    fn open_scratch(&self) -> Result<()> {
        let (scratch, len) = (self.away.scratch, BATCH * PAGE);
        self.uffd.register(scratch, len, Watch::Missing)?;
        let emptied = self.empty_scratch();
        if emptied.is_err() {
            let _ = self.close_scratch();
        }
        emptied
    }

    fn close_scratch(&self) -> Result<()> {
        let (scratch, len) = (self.away.scratch, BATCH * PAGE);
        self.uffd.unregister(scratch, len).and(self.uffd.wake(scratch, len))
    }

    /// Give the pages in scratch back to the kernel: they are duplicates of slots, or zeros.
    fn empty_scratch(&self) -> Result<()> {
        let (scratch, len) = (self.away.scratch as *mut libc::c_void, BATCH * PAGE);
        // SAFETY: our own mapping; no page has its only copy there.
        let emptied = unsafe {
            rustix::mm::madvise(scratch, len, Advice::LinuxDontNeed).or_else(|errno| {
                // EINVAL: mlockall has locked it, like all memory.
                rustix::mm::munlock(scratch, len).map_err(|_| errno)?;
                rustix::mm::madvise(scratch, len, Advice::LinuxDontNeed)
            })
        };
        emptied.map_err(|errno| Error::os("madvise of scratch", errno.raw_os_error()))
    }

    /// Let waiting forks go on: nothing can be moved until then.
    fn attend(&self) {
        if let Some(forks) = &self.forks {
            forks.attend(&self.uffd, &self.away);
        }
        rustix::thread::sched_yield();
    }

    fn let_forks_go(&self) -> Result<()> {
        let forks = self.forks.as_ref();
        forks.map_or(Ok(()), |forks| forks.release(&self.uffd, &self.away))
    }

    /// Move pages from `src` to `dst`; returns how many moved, and what stopped the move if not all
    /// did.
    ///
    /// The kernel moves within one mapping only (EINVAL): pages that lie in two go in parts.
    ///
    /// And the kernel's answer can be wrong. Linux 6.18 and newer move pages in batches. There a
    /// page that moves at the second attempt, after an EAGAIN inside the call, is tried once more
    /// at its old place: `err` keeps its value in the loop of `move_pages` (mm/userfaultfd.c). The
    /// answer is EEXIST, and the page is not counted. But the place that we move to is empty, and
    /// no other thread can bring anything there: scratch is emptied after each window, and home is
    /// watched. So if there is a page, this thread has moved it.
    fn go(&self, dst: usize, src: usize, mut pages: usize) -> (usize, Option<i32>) {
        loop {
            let (bytes, stopped) = self.uffd.move_pages(dst, src, pages * PAGE);
            if bytes == 0 && stopped == Some(libc::EINVAL) && pages > 1 {
                pages /= 2;
                continue;
            }
            let denied = bytes == 0 && stopped == Some(libc::EEXIST);
            return (if denied { 1 } else { bytes / PAGE }, stopped);
        }
    }

    /// Move a run of the window's pages to scratch, passing over those that cannot be moved.
    fn take(&mut self, first: usize, pages: usize, held: &mut Held) {
        let (mut page, end, mut tries) = (first, first + pages, 0);
        while page < end {
            let (src, dst) = (self.away.home + page * PAGE, self.away.scratch + page * PAGE);
            let (moved, stopped) = self.go(dst, src, end - page);
            self.away.pages.insert(page, moved);
            page += moved;
            if moved > 0 {
                tries = 0;
            } else if stopped == Some(libc::EAGAIN) && tries < TRIES {
                self.attend();
                tries += 1;
            } else {
                match stopped {
                    Some(libc::ENOENT) => held.vanished += 1,
                    _ => self.busy.insert(page, 1),
                }
                (page, tries) = (page + 1, 0);
            }
        }
    }

    /// Move a run back. This must succeed: the only copy of these bytes is in scratch.
    fn give_back(&mut self, window: &Window<'_>, first: usize, pages: usize) {
        let (mut page, end) = (first, first + pages);
        while page < end {
            let (src, dst) = (self.away.scratch + page * PAGE, self.away.home + page * PAGE);
            let (moved, stopped) = self.go(dst, src, end - page);
            let mut back = Mask::NONE;
            back.insert(page, moved);
            self.away.pages = self.away.pages.minus(&back);
            page += moved;
            match stopped {
                None => {}
                Some(_) if moved > 0 => {}
                // A thread forks, or the kernel looks at the page at this moment: it passes.
                Some(libc::EAGAIN | libc::EBUSY) => self.attend(),
                Some(_) => {
                    self.bring_back(window, page);
                    page += 1;
                }
            }
        }
    }

    /// MOVE found no place for a page (for example, a mapping failed after unmapping): put a
    /// mapping with its bytes there. The page stays in scratch, too, for a fork that waits.
    fn bring_back(&self, window: &Window<'_>, page: usize) {
        let (src, dst) = (self.away.scratch + page * PAGE, self.away.home + page * PAGE);
        // SAFETY: fresh memory gets the bytes and then the place. Our caller owns the place, and no
        // thread can have written it: there is no page.
        unsafe {
            let keep = window.keep;
            let bytes = Bytes::Ours(src as *const u8);
            if window::place_copy(bytes, dst as *mut _, PAGE, keep).is_err() {
                // The program's bytes cannot be put back: no process is better than one with wrong
                // bytes.
                libc::abort();
            }
        }
    }
}

impl Barrier for Mover {
    fn most_pages(&self) -> usize {
        BATCH
    }

    fn raise(&mut self, window: &Window<'_>, planned: &Mask) -> Result<Held> {
        if window.backing != Backing::Anonymous || window.pages > BATCH {
            return Err(Error::Usage("only anonymous memory can be moved".into()));
        }
        (self.away.home, self.away.pages, self.busy) = (window.start, Mask::NONE, Mask::NONE);
        self.forks.as_ref().map_or(Ok(()), |forks| forks.hold(&self.uffd))?;
        let watched = self.open_scratch().and_then(|()| {
            let watched = self.uffd.register(window.start, window.pages * PAGE, Watch::Missing);
            watched.or_else(|error| self.close_scratch().and(Err(error)))
        });
        if let Err(error) = watched {
            return self.let_forks_go().and(Err(error));
        }
        let mut held = Held::default();
        for (first, pages) in planned.runs() {
            self.take(first, pages, &mut held);
        }
        (held.pages, held.busy) = (self.away.pages, self.busy.len() as u32);
        Ok(held)
    }

    /// None: pinned pages answered EBUSY.
    fn pinned(&mut self, _: &Window<'_>, _: &Mask) -> Mask {
        Mask::NONE
    }

    fn bytes(&self, _: &Window<'_>, page: usize) -> Bytes<'_> {
        Bytes::Ours((self.away.scratch + page * PAGE) as *const u8)
    }

    fn vacates(&self) -> bool {
        true
    }

    fn lower(&mut self, window: &Window<'_>, held: &Mask, swapped: &Swapped) -> Result<()> {
        let gone = swapped.remapped.or(&swapped.emptied);
        for (first, pages) in held.minus(&gone).runs() {
            self.give_back(window, first, pages);
        }
        let len = window.pages * PAGE;
        let unregistered = self.uffd.unregister(window.start, len);
        // A place that was mapped over is not registered any more, but threads that waited there
        // still wait.
        let woken = self.uffd.wake(window.start, len);
        // Before scratch is emptied: a child may have got its copy while pages were there.
        let released = self.let_forks_go();
        self.away.pages = Mask::NONE;
        let emptied = self.empty_scratch().and(self.close_scratch());
        if !self.busy.is_empty() {
            exclusive::reclaim(window.start, window.pages, &self.busy);
        }
        unregistered.and(woken).and(released).and(emptied)
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no window is open, so no page has its only copy there.
        unsafe { room::unmap(self.away.scratch as *mut _, BATCH * PAGE) };
    }
}
