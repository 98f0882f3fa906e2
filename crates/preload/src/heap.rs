//! Memory of the agent's own, in programs that we are preloaded into.
//!
//! The program's malloc will not do: its allocator may be in the middle of an mmap or madvise that
//! is ours to answer, and a parked thread may hold its lock. So: another allocator, which maps its
//! memory by raw system calls that no hook of ours sees.

use rustix::mm::{MapFlags, ProtFlags};
use rustix::thread::sched_yield;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Maps memory for dlmalloc.
struct Raw;

// SAFETY: fresh private mappings, given back as they were made.
unsafe impl dlmalloc::Allocator for Raw {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let made = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), size, access, MapFlags::PRIVATE)
        };
        made.map_or((std::ptr::null_mut(), 0, 0), |made| (made.cast(), size, 0))
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        std::ptr::null_mut()
    }

    fn free_part(&self, ptr: *mut u8, oldsize: usize, newsize: usize) -> bool {
        // SAFETY: the end of a mapping of ours that dlmalloc has no use for.
        unsafe { rustix::mm::munmap(ptr.add(newsize).cast(), oldsize - newsize) }.is_ok()
    }

    fn free(&self, ptr: *mut u8, size: usize) -> bool {
        // SAFETY: a mapping of ours that dlmalloc has no use for.
        unsafe { rustix::mm::munmap(ptr.cast(), size) }.is_ok()
    }

    fn can_release_part(&self, _: u32) -> bool {
        true
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        pagemerge_pages::PAGE
    }
}

/// dlmalloc behind a spin lock: the agent is one thread, and hooks allocate little.
pub struct Heap {
    busy: AtomicBool,
    inner: UnsafeCell<dlmalloc::Dlmalloc<Raw>>,
}

// SAFETY: `inner` is reached with `busy` held only.
unsafe impl Sync for Heap {}

impl Heap {
    /// An empty heap.
    pub const fn new() -> Self {
        let inner = UnsafeCell::new(dlmalloc::Dlmalloc::new_with_allocator(Raw));
        Self { busy: AtomicBool::new(false), inner }
    }

    /// Before a fork: nobody is inside until `let_go`, in the child neither. The agent allocates
    /// outside of its own lock, too, and its thread does not exist in the child.
    pub fn hold(&self) {
        while self.busy.swap(true, Ordering::Acquire) {
            sched_yield();
        }
    }

    /// After `hold`, in parent and child.
    pub fn let_go(&self) {
        self.busy.store(false, Ordering::Release);
    }

    fn with<T>(&self, work: impl FnOnce(&mut dlmalloc::Dlmalloc<Raw>) -> T) -> T {
        self.hold();
        // SAFETY: `busy` is ours.
        let done = work(unsafe { &mut *self.inner.get() });
        self.let_go();
        done
    }
}

// SAFETY: dlmalloc keeps GlobalAlloc's contract, and the lock makes it thread-safe.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by GlobalAlloc's contract.
        self.with(|heap| unsafe { heap.malloc(layout.size(), layout.align()) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by GlobalAlloc's contract.
        self.with(|heap| unsafe { heap.calloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: by GlobalAlloc's contract.
        self.with(|heap| unsafe { heap.free(ptr, layout.size(), layout.align()) });
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: by GlobalAlloc's contract.
        self.with(|heap| unsafe { heap.realloc(ptr, layout.size(), layout.align(), size) })
    }
}
