//! The agent's own memory, in programs that we are preloaded into.
//!
//! We cannot use the program's malloc: its allocator may be in the middle of an mmap or madvise
//! that we have to answer, and a parked thread may hold its lock. So there is another allocator,
//! which maps its memory by raw system calls that no hook of ours sees, in room of its own.
//!
//! If the program has used up its address space or its mappings, a reserve lasts until the current
//! call is done; then calls that need us fail (`has_room`), and nothing aborts.

use pagemerge_pages::{raw, room, PAGE};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::sched_yield;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::{Cell, UnsafeCell};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

/// The size of the reserve, in bytes. It takes address space, and memory only once it is used.
const RESERVE: usize = 8 << 20;

#[repr(align(4096))]
struct Reserve(UnsafeCell<[u8; RESERVE]>);
// SAFETY: the reserve is handed out in parts, each to one owner.
unsafe impl Sync for Reserve {}
static KEPT: Reserve = Reserve(UnsafeCell::new([0; RESERVE]));
/// The number of its bytes that have been handed out; they do not come back.
static USED: AtomicUsize = AtomicUsize::new(0);

fn is_reserve(ptr: *mut u8) -> bool {
    (ptr as usize).wrapping_sub(KEPT.0.get() as usize) < RESERVE
}

/// Returns a part of the reserve, or null.
fn from_reserve(size: usize) -> *mut u8 {
    let size = size.next_multiple_of(PAGE);
    let taken = USED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
        Some(used + size).filter(|&used| used <= RESERVE)
    });
    // SAFETY: inside the reserve, by the check above.
    taken.map_or(std::ptr::null_mut(), |at| unsafe { KEPT.0.get().cast::<u8>().add(at) })
}

/// Maps memory for dlmalloc.
struct Raw;

// SAFETY: these are fresh private mappings, unmapped as they were made, or parts of the reserve.
unsafe impl dlmalloc::Allocator for Raw {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let made = room::map(size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::empty());
        let made = made.map_or_else(|_| from_reserve(size), |made| made.cast());
        (made, if made.is_null() { 0 } else { size }, 0)
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        std::ptr::null_mut()
    }

    fn free_part(&self, ptr: *mut u8, oldsize: usize, newsize: usize) -> bool {
        self.free(ptr.wrapping_add(newsize), oldsize - newsize)
    }

    fn free(&self, ptr: *mut u8, size: usize) -> bool {
        if is_reserve(ptr) {
            return false;
        }
        // SAFETY: a mapping of ours that dlmalloc no longer uses, or its end.
        unsafe { room::unmap(ptr.cast(), size) };
        true
    }

    fn can_release_part(&self, _: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE
    }
}

thread_local! {
    /// Whether this thread holds the heap for a fork: handlers of the program may call us
    /// meanwhile.
    static FORKING: Cell<bool> = const { Cell::new(false) };
}

/// The data that a fork wipes (MADV_WIPEONFORK): the gate of `pagemerge_agent` has the same.
#[repr(C)]
struct Word {
    lock: AtomicU32,
    /// 1 once the lock has been taken in this address space.
    known: AtomicU32,
}

/// dlmalloc behind a spin lock: the agent is one thread, and hooks allocate little. Callers in the
/// program's threads have all signals blocked (`Quiet`).
///
/// A process may be forked while another thread allocates, and no handler runs (`_Fork`, raw
/// clone). Such a copy starts a heap of its own, and the memory of the old heap stays as it is, for
/// good.
pub struct Heap {
    word: AtomicPtr<Word>,
    /// A copy of "a thread is inside" that a fork does not wipe.
    busy: AtomicBool,
    /// Whether the old heap was torn: then nothing is given back any more.
    torn: AtomicBool,
    inner: UnsafeCell<dlmalloc::Dlmalloc<Raw>>,
}

// SAFETY: `inner` is reached only with the lock held.
unsafe impl Sync for Heap {}

impl Heap {
    /// An empty heap.
    pub const fn new() -> Self {
        Self {
            word: AtomicPtr::new(std::ptr::null_mut()),
            busy: AtomicBool::new(false),
            torn: AtomicBool::new(false),
            inner: UnsafeCell::new(dlmalloc::Dlmalloc::new_with_allocator(Raw)),
        }
    }

    /// Returns whether there is memory for the current call.
    pub fn has_room(&self) -> bool {
        USED.load(Ordering::Relaxed) < RESERVE / 2
    }

    /// Called before a fork: no other thread is inside until `let_go`, in the child neither. The
    /// agent also allocates outside of its own lock, and its thread does not exist in the child.
    pub fn hold(&self) {
        self.take();
        FORKING.set(true);
    }

    /// Called after `hold`, in parent and child.
    pub fn let_go(&self) {
        FORKING.set(false);
        self.give();
    }

    fn word(&self) -> &Word {
        let known = self.word.load(Ordering::Acquire);
        if !known.is_null() {
            // SAFETY: the word is never unmapped.
            return unsafe { &*known };
        }
        let (made, _, _) = dlmalloc::Allocator::alloc(&Raw, PAGE);
        let advice = libc::MADV_WIPEONFORK as usize;
        // SAFETY: a fresh page of zeros of ours.
        let _ = unsafe { raw::syscall(libc::SYS_madvise, [made as usize, PAGE, advice, 0, 0, 0]) };
        let (none, made) = (std::ptr::null_mut(), made.cast::<Word>());
        let won = self.word.compare_exchange(none, made, Ordering::AcqRel, Ordering::Acquire);
        // SAFETY: the page that won is never unmapped; a page that lost is lost. The reserve has a
        // page for it when the library starts.
        unsafe { &*won.map_or_else(|other| other, |_| made) }
    }

    fn take(&self) {
        let word = self.word();
        while word.lock.swap(1, Ordering::Acquire) != 0 {
            sched_yield();
        }
        let first = word.known.swap(1, Ordering::Relaxed) == 0;
        if self.busy.swap(true, Ordering::Relaxed) && first {
            self.torn.store(true, Ordering::Relaxed);
            // SAFETY: the lock is held. The old value is overwritten, not dropped.
            unsafe { self.inner.get().write(dlmalloc::Dlmalloc::new_with_allocator(Raw)) };
        }
    }

    fn give(&self) {
        let word = self.word();
        // A fork handler also gives the lock in the child, where the word has been wiped.
        word.known.store(1, Ordering::Relaxed);
        self.busy.store(false, Ordering::Relaxed);
        word.lock.store(0, Ordering::Release);
    }

    fn with<T>(&self, work: impl FnOnce(&mut dlmalloc::Dlmalloc<Raw>) -> T) -> T {
        let held = FORKING.get();
        if !held {
            self.take();
        }
        // SAFETY: the lock is held.
        let done = work(unsafe { &mut *self.inner.get() });
        if !held {
            self.give();
        }
        done
    }
}

// SAFETY: dlmalloc keeps GlobalAlloc's contract, and the lock makes it thread-safe.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps GlobalAlloc's contract.
        self.with(|heap| unsafe { heap.malloc(layout.size(), layout.align()) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps GlobalAlloc's contract.
        self.with(|heap| unsafe { heap.calloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        self.with(|heap| {
            if !self.torn.load(Ordering::Relaxed) {
                // SAFETY: the caller keeps GlobalAlloc's contract.
                unsafe { heap.free(ptr, layout.size(), layout.align()) };
            }
        });
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.with(|heap| {
            // SAFETY: the caller keeps GlobalAlloc's contract; what a torn heap holds is copied and
            // left.
            unsafe {
                if !self.torn.load(Ordering::Relaxed) {
                    return heap.realloc(ptr, layout.size(), layout.align(), size);
                }
                let made = heap.malloc(size, layout.align());
                if !made.is_null() {
                    std::ptr::copy_nonoverlapping(ptr, made, layout.size().min(size));
                }
                made
            }
        })
    }
}
