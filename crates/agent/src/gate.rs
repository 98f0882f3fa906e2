//! The agent's lock: it orders the agent's changes with the program's own.
//!
//! A mutex of std does not suffice. A signal may interrupt the thread that holds the lock, and its
//! handler may map memory, so the thread blocks signals while it holds the lock. And a process may
//! be forked while another thread holds the lock (`_Fork`, raw clone: no handler runs), so the lock
//! must be free in a forked copy. The lock's word lies in a page that the kernel wipes in such
//! copies (MADV_WIPEONFORK, Linux 4.14); a process that only shares our memory (vfork) sees the
//! word as it is.
//!
//! libc's fork holds the lock for as long as the fork lasts, by a handler (pthread_atfork(3)).
//! Handlers of the program run in between, in parent and child, and may map memory: the forking
//! thread has the lock already then, and enters (`FORKING`). Nothing here has a destructor that
//! libc runs when a thread ends, because a thread may fork even after those have run.

use crate::State;
use pagemerge_pages::barrier::keep::LOCKS_FUTURE;
use pagemerge_pages::room;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::thread::futex::{self, Timespec};
use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Once, OnceLock};

const FREE: u32 = 0;
const HELD: u32 = 1;
const AWAITED: u32 = 2;

/// The data that a fork wipes.
#[repr(C)]
struct Word {
    lock: AtomicU32,
    /// 1 once the lock has been taken in this address space.
    known: AtomicU32,
    /// 1 while a thread has waited so long that other threads let it go first.
    starved: AtomicU32,
}

/// How long a thread that wants the lock stands back for a thread that has waited long. It must not
/// be longer, because a process that shares our memory (vfork) may be killed as it waits.
const COURTESY: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

static WORD: AtomicPtr<Word> = AtomicPtr::new(std::ptr::null_mut());
/// A copy of "a thread holds the lock" that a fork does not wipe.
static BUSY: AtomicBool = AtomicBool::new(false);

struct Protected(UnsafeCell<Option<State>>);
// SAFETY: the state is reached only by the thread that holds the lock.
unsafe impl Sync for Protected {}
static STATE: Protected = Protected(UnsafeCell::new(None));

/// Whether all threads of the program may end before the process does (`ending`).
pub(crate) static ENDS_BY_THREADS: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Set while this thread holds the lock for a fork: the signals that were blocked before, and
    /// whether it is the first thread of its process.
    static FORKING: Cell<Option<(libc::sigset_t, bool)>> = const { Cell::new(None) };
    /// Whether this thread is quiet already: most calls ask twice, and each time costs two system
    /// calls.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// The lock, held: the state, with all signals blocked.
pub(crate) struct Locked {
    _quiet: Quiet,
    /// Whether the thread had the lock already, for a fork.
    nested: bool,
}

/// Blocks all signals, and cancellation (pthread_cancel(3)), until this value is dropped. Code that
/// allocates from a heap of ours inside a call of the program does so under it: a handler that
/// interrupts the allocator and maps memory would wait for its own thread, and a cancelled thread
/// would end inside the allocator.
#[derive(Debug)]
pub struct Quiet {
    /// The signals that were blocked before, and whether the thread could be cancelled. None inside
    /// another `Quiet`, which restores both.
    before: Option<(libc::sigset_t, libc::c_int)>,
}

// It may not return where cancellation is asynchronous and pending: then the thread ends here.
extern "C-unwind" {
    fn pthread_setcancelstate(state: libc::c_int, before: *mut libc::c_int) -> libc::c_int;
}
const PTHREAD_CANCEL_DISABLE: libc::c_int = 1;

impl Quiet {
    /// Block all signals of this thread.
    #[must_use]
    pub fn now() -> Self {
        if QUIET.get() {
            return Self { before: None };
        }
        let mut cancelable = 0;
        // SAFETY: it writes one integer.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &mut cancelable) };
        let signals = block();
        QUIET.set(true);
        Self { before: Some((signals, cancelable)) }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let Some((signals, cancelable)) = self.before else { return };
        QUIET.set(false);
        unblock(&signals);
        // SAFETY: it restores the state that `now` found.
        unsafe { pthread_setcancelstate(cancelable, std::ptr::null_mut()) };
    }
}

/// Block all signals; returns those that were blocked before.
fn block() -> libc::sigset_t {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: plain sigset calls. libc leaves out its own two signals, which setuid() needs.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

fn unblock(before: &libc::sigset_t) {
    // SAFETY: restores a mask that block() returned.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
}

/// Take the lock.
pub(crate) fn lock() -> Locked {
    let quiet = Quiet::now();
    let nested = FORKING.get().is_some();
    if !nested {
        take();
    }
    // SAFETY: the lock is held.
    unsafe { (*STATE.0.get()).get_or_insert_with(State::default) };
    Locked { _quiet: quiet, nested }
}

/// Wait for the lock's word; replace a state that cannot be relied on.
fn take() {
    let word = word();
    if word.starved.load(Ordering::Relaxed) != 0 {
        let _ = futex::wait(&word.starved, futex::Flags::PRIVATE, 1, Some(&COURTESY));
        word.starved.store(0, Ordering::Relaxed);
    }
    let free = word.lock.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed);
    if free.is_err() {
        wait_for(word);
    }
    let first = word.known.swap(1, Ordering::Relaxed) == 0;
    let busy = BUSY.swap(true, Ordering::Relaxed);
    // SAFETY: the lock is held.
    let state = unsafe { &mut *STATE.0.get() };
    if first && busy {
        // This is a forked copy of a process in which another thread was changing the state at that
        // moment: the state cannot be relied on, and must not be dropped.
        std::mem::forget(state.take());
        *state = Some(State { orphan: true, ..State::default() });
    } else if first {
        inherit(state);
    }
}

/// Wait for the lock. A thread that gives and takes the lock all the time is always quicker than a
/// thread that has to wake up first. So a thread that was too late twice has the others stand back.
fn wait_for(word: &Word) {
    let mut lost = 0;
    while word.lock.swap(AWAITED, Ordering::Acquire) != FREE {
        if lost > 1 {
            word.starved.store(1, Ordering::Relaxed);
        }
        let _ = futex::wait(&word.lock, futex::Flags::PRIVATE, AWAITED, None);
        lost += 1;
    }
    if lost > 1 {
        word.starved.store(0, Ordering::Relaxed);
        let _ = futex::wake(&word.starved, futex::Flags::PRIVATE, u32::MAX >> 1);
    }
}

/// A forked copy has no agent and no locked memory (mlock(2)), and lacks some of the memory
/// (MADV_DONTFORK). A process that shares our memory (vfork) has our agent.
fn inherit(state: &mut Option<State>) {
    LOCKS_FUTURE.store(false, Ordering::Relaxed);
    let Some(state) = state else { return };
    (state.process, state.agent, state.poked, state.ends) = (0, 0, false, false);
    (state.thread, state.keeper) = (None, None); // they are the parent's
    let mut missing = Vec::new();
    for region in state.table.iter_mut() {
        region.keep.locked = false;
        if region.keep.dont_fork {
            missing.push(region.start..region.end());
        }
    }
    missing.extend(state.marks.missing());
    for range in missing {
        state.table.forget(range.start, range.end);
        state.extents.remove(range.start, range.end);
    }
    crate::all::inherit(state);
    crate::SAVED.0.store(0, Ordering::Relaxed);
}

/// Give the lock's word back.
fn give() {
    let word = word();
    // A fork handler also gives the lock in the child, where the word has been wiped.
    word.known.store(1, Ordering::Relaxed);
    BUSY.store(false, Ordering::Relaxed);
    if word.lock.swap(FREE, Ordering::Release) == AWAITED {
        let _ = futex::wake(&word.lock, futex::Flags::PRIVATE, 1);
    }
}

/// The lock's word; the first use makes it.
fn word() -> &'static Word {
    let known = WORD.load(Ordering::Acquire);
    if !known.is_null() {
        // SAFETY: never unmapped.
        return unsafe { &*known };
    }
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let (none, len) = (std::ptr::null_mut::<Word>(), pagemerge_pages::PAGE);
    // SAFETY: a fresh mapping, and advice about it.
    let made = unsafe {
        loop {
            let made = room::map(len, access, MapFlags::empty());
            if let Ok(made) = made {
                let _ = rustix::mm::madvise(made, len, Advice::LinuxWipeOnFork);
                break made.cast::<Word>();
            }
            // The word is made when the library starts. If there is no room for a page even then,
            // wait for it.
            rustix::thread::sched_yield();
        }
    };
    let won = WORD.compare_exchange(none, made, Ordering::AcqRel, Ordering::Acquire);
    // SAFETY: the page that won is never unmapped; the page that lost is ours alone.
    unsafe {
        if let Err(other) = won {
            room::unmap(made.cast(), len);
            return &*other;
        }
        &*made
    }
}

impl std::ops::Deref for Locked {
    type Target = State;
    fn deref(&self) -> &State {
        // SAFETY: the lock is held.
        unsafe { (*STATE.0.get()).get_or_insert_with(State::default) }
    }
}

impl std::ops::DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut State {
        // SAFETY: the lock is held.
        unsafe { (*STATE.0.get()).get_or_insert_with(State::default) }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let everything = self.orphan || crate::all::is_on();
        crate::hull::publish(if everything { 0..usize::MAX } else { self.table.hull() });
        if !self.nested {
            give();
        }
    }
}

/// How to stop an allocator that must not change while the memory is copied, and how to let it go
/// on.
type Heap = (fn(), fn());
static HEAP: OnceLock<Heap> = OnceLock::new();

/// Keep forks out of windows: a child that is born inside a window would lack its pages. `heap`: an
/// allocator whose lock is taken after ours, because the agent allocates with the lock held.
pub fn watch_forks(heap: Option<Heap>) {
    static ONCE: Once = Once::new();
    extern "C" fn before() {
        let signals = block();
        take();
        let first = rustix::thread::gettid() == rustix::process::getpid();
        FORKING.set(Some((signals, first)));
        if let Some((hold, _)) = HEAP.get() {
            hold();
        }
    }
    extern "C" fn after() {
        if let Some((_, let_go)) = HEAP.get() {
            let_go();
        }
        let Some((signals, first)) = FORKING.take() else { return };
        if word().known.load(Ordering::Relaxed) == 0 {
            // SAFETY: this thread holds the lock, in the child as in the parent.
            inherit(unsafe { &mut *STATE.0.get() });
            if !first {
                // The first thread of the copy may return, as a thread of pthread_create(3) does.
                ENDS_BY_THREADS.store(true, Ordering::Relaxed);
            }
        }
        give();
        unblock(&signals);
    }
    if let Some(heap) = heap {
        let _ = HEAP.set(heap);
    }
    ONCE.call_once(|| {
        word();
        // SAFETY: the handlers are functions of a library that is never unloaded.
        unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
    });
}
