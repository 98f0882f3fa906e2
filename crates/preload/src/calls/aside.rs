//! Memory for starting and ending a thread of ours while the calling thread may be inside malloc.
//!
//! libc allocates and frees a little memory for each thread (its dtv), by malloc. A program may
//! change its user in a signal handler (signal-safety(7)), which may have interrupted malloc. So
//! meanwhile that thread's calls of malloc are answered from a few slots here. What it frees of
//! others' memory stays: some hundred bytes for each such call.

use pagemerge_agent::Quiet;
use std::sync::atomic::{AtomicI32, Ordering};

/// The thread that is served from here; 0: none.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// Do `work`, which starts or ends a thread of ours, with this thread's calls of malloc served from
/// here, and its signals blocked: a handler would be served, too. Another thread that is served at
/// the moment goes first; then this one's calls go to the program's malloc.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    let _quiet = Quiet::now();
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let taken = OWNER.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed);
    let done = work();
    if taken.is_ok() {
        OWNER.store(0, Ordering::Relaxed);
    }
    done
}

#[cfg(feature = "all")]
pub use slots::{free, is_served, moved, take};

#[cfg(feature = "all")]
mod slots {
    use super::OWNER;
    use libc::c_void;
    use std::cell::UnsafeCell;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicBool, Ordering};

    const SIZE: usize = 2048;
    const COUNT: usize = 16;

    #[repr(align(64))]
    struct Slots(UnsafeCell<[[u8; SIZE]; COUNT]>);
    // SAFETY: a slot belongs to whoever has set its mark in `TAKEN`.
    unsafe impl Sync for Slots {}
    static SLOTS: Slots = Slots(UnsafeCell::new([[0; SIZE]; COUNT]));
    static TAKEN: [AtomicBool; COUNT] = [const { AtomicBool::new(false) }; COUNT];

    /// Returns whether the calling thread is served from here.
    #[inline]
    pub fn is_served() -> bool {
        let owner = OWNER.load(Ordering::Relaxed);
        owner != 0 && owner == rustix::thread::gettid().as_raw_nonzero().get()
    }

    /// Returns a block of zeros, or null.
    pub fn take(size: usize) -> *mut c_void {
        let free = |taken: &AtomicBool| !taken.swap(true, Ordering::Acquire);
        let Some(slot) = TAKEN.iter().position(free).filter(|_| size <= SIZE) else {
            return null_mut();
        };
        // SAFETY: the slot is ours now.
        unsafe {
            let at = SLOTS.0.get().cast::<[u8; SIZE]>().add(slot);
            at.write([0; SIZE]);
            at.cast()
        }
    }

    /// Returns what is at a block, if it is a slot: realloc moves it into another allocator's block.
    #[inline]
    pub fn moved(block: *mut c_void) -> Option<[u8; SIZE]> {
        let offset = (block as usize).wrapping_sub(SLOTS.0.get() as usize);
        // SAFETY: the whole slot that the block begins.
        (offset < SIZE * COUNT).then(|| unsafe { block.cast::<[u8; SIZE]>().read() })
    }

    /// Returns whether this call of free has been dealt with: the block is a slot, or it is
    /// another's and the calling thread is served from here.
    #[inline]
    pub fn free(block: *mut c_void) -> bool {
        let offset = (block as usize).wrapping_sub(SLOTS.0.get() as usize);
        if offset < SIZE * COUNT {
            TAKEN[offset / SIZE].store(false, Ordering::Release);
            return true;
        }
        is_served()
    }
}
