//! The agent's lock: it orders the agent's changes with the program's own.
//!
//! A mutex of std will not do. Whoever holds it may be interrupted by a signal whose handler maps
//! memory, so signals are blocked while it is held; and a process may be forked while another
//! thread holds it (`_Fork`, raw clone: no handler runs), so in a forked copy it must be free. The
//! lock's word lies in a page that the kernel wipes in such copies (MADV_WIPEONFORK, Linux 4.14);
//! a process that only shares our memory (vfork) sees it as it is.

use crate::State;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::thread::futex;
use std::cell::{RefCell, UnsafeCell};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::Once;

const FREE: u32 = 0;
const HELD: u32 = 1;
const AWAITED: u32 = 2;

/// What a fork wipes.
#[repr(C)]
struct Word {
    lock: AtomicU32,
    /// 1 once the lock has been taken in this address space.
    known: AtomicU32,
}

static WORD: AtomicPtr<Word> = AtomicPtr::new(std::ptr::null_mut());
/// A copy of "somebody holds it" that a fork does not wipe.
static BUSY: AtomicBool = AtomicBool::new(false);

struct Protected(UnsafeCell<Option<State>>);
// SAFETY: reached through the lock only.
unsafe impl Sync for Protected {}
static STATE: Protected = Protected(UnsafeCell::new(None));

/// The lock, held: the state, with all signals blocked.
pub(crate) struct Locked {
    before: MaybeUninit<libc::sigset_t>,
}

/// Take the lock.
pub(crate) fn lock() -> Locked {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: plain sigset calls. libc keeps its own two signals out, which setuid() needs.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
    }
    let word = word();
    let free = word.lock.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed);
    if free.is_err() {
        while word.lock.swap(AWAITED, Ordering::Acquire) != FREE {
            let _ = futex::wait(&word.lock, futex::Flags::PRIVATE, AWAITED, None);
        }
    }
    let first = word.known.swap(1, Ordering::Relaxed) == 0;
    let torn = BUSY.swap(true, Ordering::Relaxed) && first;
    // SAFETY: the lock is held.
    let state = unsafe { &mut *STATE.0.get() };
    if torn {
        // A forked copy of a process in which another thread was changing the state just then:
        // it cannot be relied on, and must not be dropped.
        std::mem::forget(state.take());
        *state = Some(State { orphan: true, ..State::default() });
    }
    state.get_or_insert_with(State::default);
    Locked { before }
}

/// The lock's word, made with the first use.
fn word() -> &'static Word {
    let known = WORD.load(Ordering::Acquire);
    if !known.is_null() {
        // SAFETY: never unmapped.
        return unsafe { &*known };
    }
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let (none, len) = (std::ptr::null_mut(), pagemerge_pages::PAGE);
    // SAFETY: a fresh mapping, and advice about it. Without room for one page nothing can be done.
    let made = unsafe {
        let Ok(made) = rustix::mm::mmap_anonymous(none, len, access, MapFlags::PRIVATE) else {
            libc::abort();
        };
        let _ = rustix::mm::madvise(made, len, Advice::LinuxWipeOnFork);
        made.cast::<Word>()
    };
    let won = WORD.compare_exchange(none.cast(), made, Ordering::AcqRel, Ordering::Acquire);
    // SAFETY: whichever page won is never unmapped; the loser's is ours alone.
    unsafe {
        if let Err(other) = won {
            let _ = rustix::mm::munmap(made.cast(), len);
            return &*other;
        }
        &*made
    }
}

impl std::ops::Deref for Locked {
    type Target = State;
    fn deref(&self) -> &State {
        // SAFETY: the lock is held.
        match unsafe { &*STATE.0.get() } {
            Some(state) => state,
            None => unreachable!("lock() fills it"),
        }
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
        let everything = 0..usize::MAX;
        crate::program::publish(if self.orphan { everything } else { self.table.hull() });
        let word = word();
        // A fork handler lets go in the child, too, where the word has been wiped.
        word.known.store(1, Ordering::Relaxed);
        BUSY.store(false, Ordering::Relaxed);
        if word.lock.swap(FREE, Ordering::Release) == AWAITED {
            let _ = futex::wake(&word.lock, futex::Flags::PRIVATE, 1);
        }
        // SAFETY: restores the mask that lock() saved.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, self.before.as_ptr(), std::ptr::null_mut())
        };
    }
}

/// Keep forks out of windows: a child that is born inside one would miss its pages.
pub fn watch_forks() {
    static ONCE: Once = Once::new();
    thread_local! {
        static HELD: RefCell<Option<Locked>> = const { RefCell::new(None) };
    }
    extern "C" fn before() {
        HELD.with(|held| *held.borrow_mut() = Some(lock()));
    }
    extern "C" fn after() {
        HELD.with(|held| *held.borrow_mut() = None);
    }
    ONCE.call_once(|| {
        // SAFETY: the handlers are functions of a library that is never unloaded.
        unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
    });
}
