//! The barrier that stops all other threads of the process for a moment (ptrace(2)).
//!
//! For background merging without userfaultfd, and only where the user asks for it: programs can
//! notice it (docs/hazards.md lists how). A thread cannot trace its own process, so a *holder*
//! does: a task that shares our memory without being one of our threads. When it ends, however it
//! ends, the kernel lets every thread go. If it does not answer, because another process has
//! stopped it, the agent's thread, which is never stopped, kills it. So no thread stays stopped.
//!
//! But another process may also kill the holder while pages are compared (it bears our name), and
//! then threads write. So the window is made read-only meanwhile: at the very worst the program is
//! killed by SIGSEGV, and never loses a write.
//!
//! While threads are stopped any of them may hold the allocator's lock, so nothing here allocates.

use crate::barrier::holder::{hold, Shared, FAILED, IDLE, RESUME, STOP, STOPPED};
use crate::barrier::mask::{Mask, WINDOW};
use crate::barrier::pinned::Pins;
use crate::barrier::pins;
use crate::barrier::sharers::{self, LastBorn};
use crate::barrier::window::{Barrier, Bytes, Held, Swapped, Window};
use crate::error::{Error, Result};
use crate::room;
use crate::PAGE;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use rustix::thread::futex;
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// If a holder has not answered after this time, another process has stopped it.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often a window is tried while processes are born, before it is put off.
const TRIES: usize = 4;
const STACK: usize = 256 * 1024;

/// Stops the other threads of this process while a window is compared.
pub struct Parker {
    shared: Box<Shared>,
    stack: *mut libc::c_void,
    holder: i32,
    /// A pidfd of the holder while it has not been reaped: its number may become that of another
    /// process, if the program's own wait() reaps it.
    handle: Option<OwnedFd>,
    /// The last process or thread born before the last look for processes that share our memory.
    born: Option<LastBorn>,
    pins: Pins,
}

impl Parker {
    /// Start a holder for this process. One thread must call, use and drop it; that thread is the
    /// only one that is never stopped.
    ///
    /// # Errors
    /// `Unsupported` if the process may not be traced, or if another process shares its memory;
    /// `Os` if the holder cannot be started.
    pub fn new() -> Result<Self> {
        let pins = Pins::new(0)?;
        let shared = Shared::new()?;
        let stack = room::map(STACK, ProtFlags::READ | ProtFlags::WRITE, MapFlags::empty())
            .map_err(|errno| Error::os("mmap of a stack", errno.raw_os_error()))?;
        let mut this = Self { shared, stack, holder: 0, handle: None, born: None, pins };
        this.start()?;
        Ok(this)
    }

    fn start(&mut self) -> Result<()> {
        // No exit signal: the program's own wait() must never see this child.
        let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_UNTRACED;
        let mut handle: i32 = -1;
        let argument: *mut Shared = &mut *self.shared;
        self.shared.state.store(IDLE, Ordering::Release);
        // SAFETY: the stack is ours alone and lives until the holder has been reaped; the holder
        // touches `Shared` only in its turn.
        let pid = unsafe {
            let top = self.stack.wrapping_byte_add(STACK);
            let flags = flags | libc::CLONE_PIDFD;
            libc::clone(hold, top, flags, argument.cast(), &raw mut handle)
        };
        if pid < 0 {
            return Err(Error::last_os("clone of the holder"));
        }
        self.holder = pid;
        // SAFETY: the kernel has just given us this descriptor.
        self.handle = Some(unsafe { OwnedFd::from_raw_fd(handle) });
        // Yama lets a process be traced by the process that it names (EINVAL where there is no
        // Yama).
        // SAFETY: prctl with integers.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, pid, 0, 0, 0) };
        self.look_for_sharers()
    }

    /// Record the last birth before the look, not after it.
    fn look_for_sharers(&mut self) -> Result<()> {
        self.born = LastBorn::read();
        sharers::refuse(self.holder)
    }

    /// Hand the turn to the holder and wait until it has done what `order` says.
    fn order(&mut self, order: u32) -> u32 {
        let deadline = Instant::now() + PATIENCE;
        let state = &self.shared.state;
        state.store(order, Ordering::Release);
        let _ = futex::wake(state, futex::Flags::empty(), 1);
        loop {
            let now = state.load(Ordering::Acquire);
            if now != order {
                return now;
            }
            let patience = futex::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            let _ = futex::wait(state, futex::Flags::empty(), order, Some(&patience));
            if self.has_ended() || Instant::now() > deadline {
                self.end();
                return FAILED;
            }
        }
    }

    fn has_ended(&self) -> bool {
        let Some(handle) = &self.handle else { return true };
        let mut fds = [PollFd::new(handle, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
    }

    /// Kill the holder, whatever state it is in; every thread that it holds goes on.
    fn end(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        let _ = rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL);
        let flags = libc::WEXITED | libc::__WCLONE;
        let id = handle.as_raw_fd() as u32;
        // SAFETY: waits for our own child, which has no exit signal, hence __WCLONE. ECHILD: the
        // program has waited for it.
        unsafe {
            let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
            while libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), flags) != 0
                && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
            {}
        }
        self.holder = 0;
    }

    /// Stop all threads, and make sure that no other process shares our memory. Processes born
    /// since the last look have to be looked at while threads run, because that takes long and
    /// allocates.
    fn stop(&mut self) -> Result<()> {
        for _ in 0..TRIES {
            if self.order(STOP) != STOPPED {
                // A thread that could not be stopped is still marked; the holder's end clears that.
                self.end();
                self.start()?;
                break;
            }
            if self.born.is_some() && LastBorn::read() == self.born {
                return Ok(());
            }
            self.order(RESUME);
            self.look_for_sharers()?;
        }
        Err(Error::os("stop of all threads", libc::EAGAIN))
    }
}

impl Barrier for Parker {
    /// As many as possible, because the fork that looks for pinned pages takes longer than
    /// comparing them.
    fn most_pages(&self) -> usize {
        WINDOW
    }

    fn raise(&mut self, window: &Window<'_>, planned: &Mask) -> Result<Held> {
        self.stop()?;
        let found = pins::find();
        if !matches!(found, Ok(None)) {
            self.order(RESUME); // before anything is allocated
            return Err(found.map_or_else(|error| error, |what| pins::refusal(what.unwrap_or(""))));
        }
        // SAFETY: the window is the caller's; no thread runs that could write there.
        let protected = unsafe {
            rustix::mm::mprotect(window.start as *mut _, window.pages * PAGE, MprotectFlags::READ)
        };
        if let Err(errno) = protected {
            // A part has been changed, up to a mapping that cannot be changed (a sealed one, for
            // example). The call that undoes it stops there, too.
            let access = MprotectFlags::from_bits_retain(window.keep.protection.bits());
            // SAFETY: as above.
            let _ = unsafe {
                rustix::mm::mprotect(window.start as *mut _, window.pages * PAGE, access)
            };
            self.order(RESUME);
            return Err(Error::os("mprotect", errno.raw_os_error()));
        }
        Ok(Held { pages: *planned, ..Held::default() })
    }

    fn pinned(&mut self, window: &Window<'_>, held: &Mask) -> Mask {
        self.pins.among(window.start, window.pages, held, window.keep.dont_fork)
    }

    fn bytes(&self, window: &Window<'_>, page: usize) -> Bytes<'_> {
        Bytes::Theirs(self.pins.soft(), window.start + page * PAGE)
    }

    fn lower(&mut self, window: &Window<'_>, _: &Mask, swapped: &Swapped) -> Result<()> {
        // A new mapping is writable already: a write there is never lost.
        restore(window, &swapped.remapped);
        match self.order(RESUME) {
            IDLE => Ok(()),
            _ => Err(Error::os("resume of all threads", libc::EAGAIN)),
        }
    }
}

/// Give a window its protection back, except for pages that have been mapped anew.
fn restore(window: &Window<'_>, remapped: &Mask) {
    let mut all = Mask::NONE;
    all.insert(0, window.pages);
    let access = MprotectFlags::from_bits_retain(window.keep.protection.bits());
    for (first, pages) in all.minus(remapped).runs() {
        let start = window.start + first * PAGE;
        // SAFETY: the window is the caller's. No mapping is split: both ends are ends of one.
        if unsafe { rustix::mm::mprotect(start as *mut _, pages * PAGE, access) }.is_err() {
            // There is no memory for a mapping's record. The program would be killed for writing to
            // the window.
            std::process::abort();
        }
    }
}

impl Drop for Parker {
    fn drop(&mut self) {
        self.end();
        // SAFETY: the holder has been reaped, so no thread runs on this stack.
        unsafe { room::unmap(self.stack, STACK) };
    }
}
