//! Makes memory anonymous again for a thread of the program, in the middle of its own call.
//!
//! That needs a userfaultfd, whose descriptor must not appear in the program's table, where the
//! program could close it. So a separate thread does it. A bare clone starts that thread with a
//! copy of the table, in which it closes everything; it ends before the call goes on. It needs no
//! agent, so it also works in a forked copy. It has no thread-local memory of its own but shares
//! the caller's; the caller waits meanwhile, as the parent of a vfork does.
//!
//! The caller holds the agent's lock and has all signals blocked. Its stack may lie in the very
//! memory that is being held, so everything that both threads use lies in a mapping of ours.

use pagemerge_pages::barrier::alone::Alone;
use pagemerge_pages::barrier::keep::has_lock;
use pagemerge_pages::barrier::park::Parker;
use pagemerge_pages::barrier::protect::Protector;
use pagemerge_pages::barrier::window::{
    self, Backing, Barrier, Content, Keep, Outcome, Piece, Window,
};
use pagemerge_pages::{raw, room, Error, Result, PAGE};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::time::Timespec;
use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU32, Ordering};

const STACK: usize = 256 * 1024;

/// How often pages are tried that cannot be restored. The pauses between take 14 ms together.
const ATTEMPTS: u32 = 4;

/// Half of the first pause, in nanoseconds; each pause is twice as long as the one before.
const PAUSE: i64 = 1_000_000;

/// A run of pages that map a slab, and what the memory in its place must keep.
pub type Run = (Range<usize>, Keep);

/// Lies at the start of the errand's mapping; its stack grows down towards it.
struct Order {
    /// The thread's number; the kernel clears it and wakes us when the thread has ended.
    thread: AtomicU32,
    runs: Vec<Run>,
    /// The threads that are known: the caller's and the agent's.
    known: [i32; 2],
    /// The process that may trace this one (Yama), to be set again after parking.
    reader: i32,
    /// The ranges that are anonymous now.
    restored: Vec<Range<usize>>,
}

/// Make runs anonymous again, with the bytes they have, behind a barrier. Returns the parts that
/// are anonymous now. The other parts are as they were: a device may be about to write their pages,
/// or there is no memory or no barrier for them.
///
/// # Errors
/// `Os` if no thread can be started.
pub fn restore(runs: Vec<Run>, agent: i32, reader: i32) -> Result<Vec<Range<usize>>> {
    let base = room::map(STACK, ProtFlags::READ | ProtFlags::WRITE, MapFlags::empty())
        .map_err(|errno| Error::os("mmap of a stack", errno.raw_os_error()))?;
    let known = [rustix::thread::gettid().as_raw_nonzero().get(), agent];
    let thread = AtomicU32::new(1);
    let order = base.cast::<Order>();
    // SAFETY: an Order fits at the start of the mapping. Once `run` has returned, the thread has
    // ended or never began, and the mapping is ours alone again.
    unsafe {
        order.write(Order { thread, runs, known, reader, restored: Vec::new() });
        let done = run(base);
        let order = order.read();
        room::unmap(base, STACK);
        done.map(|()| order.restored)
    }
}

/// Start the thread, and wait until it has ended.
///
/// # Safety
/// `base` is a mapping of `STACK` bytes with an Order at its start, and no other thread uses it.
unsafe fn run(base: *mut libc::c_void) -> Result<()> {
    // Without CLONE_FILES: the table is a copy. Without CLONE_SETTLS: the thread shares the
    // caller's thread-local memory, and the caller waits.
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_CHILD_CLEARTID;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the caller guarantees the mapping, which stays until the kernel has cleared the
    // number.
    unsafe {
        let top = base.wrapping_byte_add(STACK);
        let thread = &raw const (*base.cast::<Order>()).thread;
        let number = libc::clone(work, top, flags, base, none, none, thread.cast_mut());
        if number < 0 {
            return Err(Error::last_os("clone"));
        }
        while (*thread).load(Ordering::Acquire) != 0 {
            // Not a private futex: the kernel wakes shared ones. EAGAIN: the thread has ended
            // already.
            let wait = [thread as usize, libc::FUTEX_WAIT as usize, 1, 0, 0, 0];
            let _ = raw::syscall(libc::SYS_futex, wait);
        }
    }
    Ok(())
}

extern "C" fn work(order: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `restore` passes an Order, and waits for us.
    let order = unsafe { &mut *order.cast::<Order>() };
    // SAFETY: the table belongs to this thread alone, and this thread has opened nothing in it.
    let closed = unsafe { raw::syscall(libc::SYS_close_range, [0, u32::MAX as usize, 0, 0, 0, 0]) };
    if closed.is_ok() {
        // A panic ends here; the list holds what was restored by then.
        let _ = catch_unwind(AssertUnwindSafe(|| restore_all(order)));
    }
    0
}

/// Restore all runs, with the best barrier there is. A page that somebody reads from outside
/// (`process_vm_readv`) is pinned for a moment, so pages that are left are tried again.
fn restore_all(order: &mut Order) {
    let mut barrier: Box<dyn Barrier> = if let Ok(protector) = Protector::new(0) {
        Box::new(protector)
    } else if let Ok(alone) = Alone::new(&with_own(order.known)) {
        Box::new(alone)
    } else if let Ok(parker) = Parker::new() {
        Box::new(parker)
    } else {
        return;
    };
    let mut runs = std::mem::take(&mut order.runs);
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            // Not libc's, which would act for the caller if that is being cancelled.
            let pause = Timespec { tv_sec: 0, tv_nsec: PAUSE << attempt };
            let _ = rustix::thread::nanosleep(&pause);
        }
        let Ok(left) = restore_once(barrier.as_mut(), &runs, &mut order.restored) else {
            return; // dropping the barrier lets every thread go
        };
        runs = left;
        if runs.is_empty() {
            break;
        }
    }
    drop(barrier);
    // SAFETY: prctl with integers. EINVAL: there is no Yama.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, order.reader, 0, 0, 0) };
}

/// Restore run by run; returns the runs that are left.
///
/// # Errors
/// Those of the barrier, which must be dropped then.
fn restore_once(
    barrier: &mut dyn Barrier,
    runs: &[Run],
    restored: &mut Vec<Range<usize>>,
) -> Result<Vec<Run>> {
    let mut left = Vec::new();
    for (run, keep) in runs {
        let mut at = run.start;
        while at < run.end {
            let most = ((run.end - at) / PAGE).min(barrier.most_pages());
            let (pages, locked) = alike(at, most);
            let pieces = [Piece { first: 0, pages, content: Content::Own }];
            let keep = Keep { locked: keep.locked || locked, ..*keep };
            let window = Window { start: at, pages, backing: Backing::Slab, keep, pieces: &pieces };
            let mut outcome = Outcome::default();
            // SAFETY: the caller holds the agent's lock, and the run is a slab's mapping.
            let merged = unsafe { window::merge(barrier, &window, &mut outcome) };
            let range = |(first, pages)| window.range(first, pages);
            restored.extend(outcome.merged.runs().map(range));
            merged?;
            let rest = window.planned().minus(&outcome.merged);
            left.extend(rest.runs().map(range).map(|range| (range, keep)));
            at += pages * PAGE;
        }
    }
    Ok(left)
}

/// How many of the `most` pages at an address are locked as the first one is, and whether it is
/// locked: by a call that the agent did not see, perhaps. What takes the place of locked memory is
/// locked, too.
fn alike(at: usize, most: usize) -> (usize, bool) {
    let has_lock = |first: usize, pages: usize| {
        has_lock(&(at + first * PAGE..at + (first + pages) * PAGE)) == Some(true)
    };
    if !has_lock(0, most) {
        return (most, false);
    }
    let locked = has_lock(0, 1);
    let others = (1..most).take_while(|&page| has_lock(page, 1) == locked).count();
    (1 + others, locked)
}

fn with_own([caller, agent]: [i32; 2]) -> [i32; 3] {
    [caller, agent, rustix::thread::gettid().as_raw_nonzero().get()]
}
