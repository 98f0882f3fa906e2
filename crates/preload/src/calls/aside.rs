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

/// Serve nobody: in a forked copy, the thread that was served is not there.
pub fn forget() {
    OWNER.store(0, Ordering::Relaxed);
}

#[cfg(feature = "all")]
pub use slots::{free, is_served, is_slot, take, SIZE};

#[cfg(feature = "all")]
mod slots {
    use super::OWNER;
    use libc::c_void;
    use std::cell::UnsafeCell;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// The size of a slot in bytes.
    pub const SIZE: usize = 2048;
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
        if size > SIZE {
            return null_mut();
        }
        let free = |taken: &AtomicBool| !taken.swap(true, Ordering::Acquire);
        let Some(slot) = TAKEN.iter().position(free) else { return null_mut() };
        // SAFETY: the slot is ours now.
        unsafe {
            let at = SLOTS.0.get().cast::<[u8; SIZE]>().add(slot);
            at.write([0; SIZE]);
            at.cast()
        }
    }

    /// Returns whether a block is a slot, which realloc moves into another allocator's block.
    #[inline]
    pub fn is_slot(block: *mut c_void) -> bool {
        (block as usize).wrapping_sub(SLOTS.0.get() as usize) < SIZE * COUNT
    }

    /// Returns whether this call of free has been dealt with: the block is a slot, or it is
    /// another's and the calling thread is served from here.
    #[inline]
    pub fn free(block: *mut c_void) -> bool {
        if is_slot(block) {
            let offset = block as usize - SLOTS.0.get() as usize;
            TAKEN[offset / SIZE].store(false, Ordering::Release);
            return true;
        }
        is_served()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn slots_come_back_and_large_blocks_take_none() {
            for _ in 0..2 * COUNT {
                assert!(take(SIZE + 1).is_null());
            }
            let slots: Vec<_> = (0..COUNT).map(|_| take(SIZE)).collect();
            assert!(slots.iter().all(|slot| !slot.is_null() && is_slot(*slot)));
            assert!(take(1).is_null());
            assert!(slots.into_iter().all(free));
            let again = take(1);
            assert!(free(again) && !again.is_null());
            assert!(
                !free(std::ptr::from_ref(&TAKEN).cast_mut().cast()),
                "another's, and nobody is served"
            );
        }
    }
}
