//! Handles children that are born in the middle of a window.
//!
//! libc's fork waits for the window (pthread_atfork); a raw clone, or `_Fork`, does not. Such a
//! child gets the memory as it is, with holes where pages have been moved away, and would read
//! zeros there. The kernel can tell us (UFFD_FEATURE_EVENT_FORK): until the event is read, the
//! forking thread waits, and the child is complete but does not run yet. The event gives us a
//! userfaultfd of the child's memory, through which we fill the holes from scratch.
//!
//! But reading the event also lets the fork go on. The child could run before its holes are filled,
//! and afterwards discard what we bring back; and if we were killed in between, it would read
//! zeros. So there is a second userfaultfd, the gate, for which the fork waits as well: the kernel
//! waits for one after the other, in the order of the first address that each watches. Each watches
//! a guard page. The window's guard page has the lower address, so the window's event comes first
//! wherever the window lies. We read that event, fill the holes, close the child's userfaultfd, and
//! only then open the gate. If we are killed before, so is the fork: the thread that waits is one
//! of our own.
//!
//! Nothing can be moved while a fork waits (EAGAIN), so the pages that are away are those that were
//! away when the child got its copy. Pages that have been replaced since are away too.

use crate::barrier::mask::Mask;
use crate::error::{Error, Result};
use crate::room;
use crate::uffd::{self, Userfault, Watch};
use crate::PAGE;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use std::time::Duration;

/// Spins before sleeping, while a thread that has been told to go on has not yet gone on.
const SPINS: u32 = 100;

/// Makes forks wait while pages are away from their place.
#[derive(Debug)]
pub struct Forks {
    gate: Userfault,
    /// Three pages. The middle one has another protection, so that the others are never one
    /// mapping. A fork must copy them, or it would not wait; they are of no use in a huge page or a
    /// core dump.
    guards: usize,
}

/// The pages that are away: where they belong, and where they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Away {
    /// The numbers of the pages.
    pub pages: Mask,
    /// The address where page 0 belongs.
    pub home: usize,
    /// The address where page 0 is.
    pub scratch: usize,
}

impl Forks {
    /// Open the gate's userfaultfd and map the guard pages.
    ///
    /// # Errors
    /// `Unsupported` without CAP_SYS_PTRACE, `Os` without room.
    pub fn new() -> Result<Self> {
        let gate = Userfault::open(uffd::FEATURE_MOVE | uffd::FEATURE_EVENT_FORK)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice, and advice about it.
        let guards = unsafe {
            let made = room::map(3 * PAGE, ProtFlags::empty(), MapFlags::empty())
                .map_err(|errno| Error::os("mmap of guards", errno.raw_os_error()))?;
            // The flags differ from the neighbours' flags, so that the pages do not become part of
            // a neighbour.
            let _ = rustix::mm::madvise(made, 3 * PAGE, Advice::LinuxDontDump);
            let (middle, access) = (made.wrapping_byte_add(PAGE), MprotectFlags::READ);
            let _ = rustix::mm::mprotect(middle, PAGE, access);
            made as usize
        };
        Ok(Self { gate, guards })
    }

    /// Make forks wait from now on, for `mover` first and then for the gate. Must be called before
    /// anything is moved.
    ///
    /// # Errors
    /// If forks would not wait; nothing is watched then.
    pub fn hold(&self, mover: &Userfault) -> Result<()> {
        // An event comes with a descriptor. If there is no room for one, nothing is moved.
        mover.has_room()?;
        mover.register(self.guards, PAGE, Watch::Missing)?;
        let held = self.gate.register(self.guards + 2 * PAGE, PAGE, Watch::Missing);
        if held.is_err() {
            let _ = mover.unregister(self.guards, PAGE);
        }
        held
    }

    /// Fill the holes of all children whose forks wait, and let those forks go on.
    pub fn attend(&self, mover: &Userfault, away: &Away) {
        while let Some(child) = mover.next_fork() {
            fill(&child, away);
        }
        // The child of a fork that waits here has been filled: the fork waited for `mover` before.
        while self.gate.next_fork().is_some() {}
    }

    /// Every page is at home again, or replaced: stop making forks wait, and let go those that
    /// wait. `away` is not needed after that.
    ///
    /// # Errors
    /// When the userfaultfds have to be closed; even then no fork waits.
    pub fn release(&self, mover: &Userfault, away: &Away) -> Result<()> {
        let done = mover.unregister(self.guards, PAGE);
        let done = done.and(self.gate.unregister(self.guards + 2 * PAGE, PAGE));
        let mut spins = 0;
        // A fork counts as forking once it has copied what we watch, whether or not it waits yet.
        while mover.is_forking() || self.gate.is_forking() {
            self.attend(mover, away);
            spins += 1;
            if spins < SPINS {
                rustix::thread::sched_yield();
            } else {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        done
    }
}

impl Drop for Forks {
    fn drop(&mut self) {
        // SAFETY: our own mappings, which no other code uses.
        unsafe { room::unmap(self.guards as *mut _, 3 * PAGE) };
    }
}

/// Bring to a child, which does not run yet, the pages that were away when it got its copy.
fn fill(child: &Userfault, away: &Away) {
    for page in away.pages.runs().flat_map(|(first, pages)| first..first + pages) {
        let (dst, src) = (away.home + page * PAGE, away.scratch + page * PAGE);
        let Err(error) = child.copy(dst, src, PAGE) else { continue };
        match error.errno() {
            // The child has the page: it was copied before it went away. Or it has what replaced
            // it.
            Some(libc::EEXIST | libc::ENOENT) => {}
            Some(libc::ESRCH) => return, // the fork has been given up
            // There is no memory for the page. A child that is killed is better than one with a
            // wrong byte.
            _ if child.poison(dst, PAGE).is_ok() => {}
            _ => std::process::abort(),
        }
    }
}
