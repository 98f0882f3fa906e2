//! Address space of our own, in a program that is not ours.
//!
//! A program may count on a hole that it has made: it unmaps a part of a mapping, or moves it away,
//! and later maps or unmaps there again. If the kernel chooses an address for us, it may choose
//! that hole; then the program takes our memory away, and we unmap memory of the program. So the
//! preloaded library sets address space aside when it starts (`set_aside`), before the program has
//! made any hole, and everything that we map lies in there. It takes no memory.
//!
//! A process that imports the Python package sets nothing aside, and the kernel chooses.

use crate::PAGE;
use rustix::fd::BorrowedFd;
use rustix::io::{Errno, Result};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The largest number of bytes that are set aside.
const MOST: usize = 1 << 30;
/// Setting fewer bytes aside is not worth it.
const LEAST: usize = 32 << 20;
/// The share of a limited address space (RLIMIT_AS) that is taken.
const SHARE: usize = 16;

/// The start of the room; 0 if nothing was set aside.
static BASE: AtomicUsize = AtomicUsize::new(0);
static PAGES: AtomicUsize = AtomicUsize::new(0);
/// The page where the search for room begins.
static NEXT: AtomicUsize = AtomicUsize::new(0);

struct Used(UnsafeCell<[u64; MOST / PAGE / 64]>);
// SAFETY: read and written under the lock only.
unsafe impl Sync for Used {}
/// One bit for each page.
static USED: Used = Used(UnsafeCell::new([0; MOST / PAGE / 64]));

/// Set address space aside, once. Without it the kernel chooses, as in other processes.
pub fn set_aside() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    let most = limit.map_or(MOST, |limit| (limit as usize / SHARE).min(MOST));
    let len = most / PAGE * PAGE;
    if len < LEAST || BASE.load(Ordering::Relaxed) != 0 {
        return;
    }
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a fresh mapping at an address of the kernel's choice; its first page holds the lock.
    unsafe {
        let none = std::ptr::null_mut();
        let Ok(base) = rustix::mm::mmap_anonymous(none, len, ProtFlags::empty(), flags) else {
            return;
        };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let first = rustix::mm::mmap_anonymous(base, PAGE, access, flags | MapFlags::FIXED)
            .and_then(|_| rustix::mm::madvise(base, PAGE, Advice::LinuxWipeOnFork))
            .and_then(|()| rustix::mm::madvise(base, len, Advice::LinuxDontDump));
        if first.is_err() {
            let _ = rustix::mm::munmap(base, len);
            return;
        }
        (*USED.0.get())[0] = 1;
        PAGES.store(len / PAGE, Ordering::Relaxed);
        BASE.store(base as usize, Ordering::Release);
    }
}

/// The bytes of address space that are set aside, and count towards a limit of the program
/// (RLIMIT_AS).
#[must_use]
pub fn bytes() -> usize {
    PAGES.load(Ordering::Relaxed) * PAGE
}

/// Map anonymous private memory of ours.
///
/// # Errors
/// The errors of mmap(2); ENOMEM if what was set aside is used up.
pub fn map(len: usize, access: ProtFlags, flags: MapFlags) -> Result<*mut libc::c_void> {
    place(len, |at, fixed| {
        // SAFETY: the place holds no memory in use: it is in our own room, or the kernel's choice.
        unsafe { rustix::mm::mmap_anonymous(at, len, access, flags | MapFlags::PRIVATE | fixed) }
    })
}

/// Map a file of ours.
///
/// # Errors
/// The errors of `map`.
pub fn map_file(
    len: usize,
    access: ProtFlags,
    flags: MapFlags,
    file: BorrowedFd<'_>,
    offset: u64,
) -> Result<*mut libc::c_void> {
    place(len, |at, fixed| {
        // SAFETY: as above.
        unsafe { rustix::mm::mmap(at, len, access, flags | fixed, file, offset) }
    })
}

fn place(
    len: usize,
    make: impl FnOnce(*mut libc::c_void, MapFlags) -> Result<*mut libc::c_void>,
) -> Result<*mut libc::c_void> {
    let base = BASE.load(Ordering::Acquire);
    if base == 0 {
        return make(std::ptr::null_mut(), MapFlags::empty());
    }
    let pages = len.div_ceil(PAGE);
    let page = take(pages).ok_or(Errno::NOMEM)?;
    let made = make((base + page * PAGE) as *mut _, MapFlags::FIXED);
    if made.is_err() {
        give(page, pages);
    }
    made
}

/// Unmap memory that `map` or `map_file` made.
///
/// # Safety
/// No thread may use it any more.
pub unsafe fn unmap(at: *mut libc::c_void, len: usize) {
    let Some((page, pages)) = inside(at as usize, len) else {
        // SAFETY: the caller gives it up. ENOMEM (the mapping limit) loses address space, and
        // nothing else.
        let _ = unsafe { rustix::mm::munmap(at, len) };
        return;
    };
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
    // SAFETY: the caller gives it up; it stays set aside. If that fails, it counts as used.
    if unsafe { rustix::mm::mmap_anonymous(at, pages * PAGE, ProtFlags::empty(), flags) }.is_ok() {
        give(page, pages);
    }
}

/// Memory that `map` made has been moved away (mremap): set its place aside again, unless another
/// mapping has been placed there meanwhile.
pub fn left(from: usize, len: usize) {
    let Some((page, pages)) = inside(from, len) else { return };
    let at = from as *mut libc::c_void;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: the mapping replaces nothing.
    let made = unsafe { rustix::mm::mmap_anonymous(at, pages * PAGE, ProtFlags::empty(), flags) };
    match made {
        Ok(made) if made == at => give(page, pages),
        // SAFETY: a kernel that does not know the flag (before 4.17) has put it elsewhere.
        Ok(made) => _ = unsafe { rustix::mm::munmap(made, pages * PAGE) },
        Err(_) => {}
    }
}

/// The pages of the room that a range consists of: the first page, and their number.
fn inside(at: usize, len: usize) -> Option<(usize, usize)> {
    let base = BASE.load(Ordering::Acquire);
    let page = at.checked_sub(base).filter(|_| base != 0)? / PAGE;
    (page < PAGES.load(Ordering::Relaxed)).then_some((page, len.div_ceil(PAGE)))
}

/// Do `work` with the lock. Its word is wiped in a forked copy (MADV_WIPEONFORK), where the thread
/// that held it does not exist; pages that this thread was about to take or give are lost there.
fn locked<T>(work: impl FnOnce(&mut [u64]) -> T) -> T {
    let word = BASE.load(Ordering::Acquire) as *const AtomicU32;
    // SAFETY: the word is the first page of the room, which is never unmapped.
    let word = unsafe { &*word };
    while word.swap(1, Ordering::Acquire) != 0 {
        rustix::thread::sched_yield();
    }
    // SAFETY: the lock is held.
    let done = work(unsafe { &mut *USED.0.get() });
    word.store(0, Ordering::Release);
    done
}

/// Take `wanted` consecutive free pages; returns the first.
fn take(wanted: usize) -> Option<usize> {
    let pages = PAGES.load(Ordering::Relaxed);
    locked(|used| {
        let next = NEXT.load(Ordering::Relaxed);
        let found = search(used, next, pages, wanted).or_else(|| search(used, 0, pages, wanted))?;
        set(used, found, wanted, true);
        NEXT.store(found + wanted, Ordering::Relaxed);
        Some(found)
    })
}

fn give(page: usize, pages: usize) {
    locked(|used| set(used, page, pages, false));
    NEXT.fetch_min(page, Ordering::Relaxed);
}

fn search(used: &[u64], from: usize, end: usize, wanted: usize) -> Option<usize> {
    let (mut page, mut free) = (from, 0);
    while page < end {
        let word = used[page / 64];
        if word == u64::MAX || (word == 0 && page % 64 == 0) {
            let step = 64 - page % 64;
            free = if word == 0 { free + step } else { 0 };
            page += step;
        } else {
            free = if word >> (page % 64) & 1 == 0 { free + 1 } else { 0 };
            page += 1;
        }
        if free >= wanted && page <= end {
            return Some(page - free);
        }
    }
    None
}

fn set(used: &mut [u64], first: usize, pages: usize, on: bool) {
    for page in first..first + pages {
        let bit = 1 << (page % 64);
        if on {
            used[page / 64] |= bit;
        } else {
            used[page / 64] &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_found_where_it_is_free() {
        let mut used = [0_u64; 8];
        set(&mut used, 0, 3, true);
        assert_eq!(search(&used, 0, 512, 1), Some(3));
        set(&mut used, 70, 10, true);
        assert_eq!(search(&used, 0, 512, 67), Some(3));
        assert_eq!(search(&used, 0, 512, 68), Some(80));
        assert_eq!(search(&used, 0, 512, 432), Some(80));
        assert_eq!(search(&used, 0, 512, 433), None);
        assert_eq!(search(&used, 100, 512, 412), Some(100));
        set(&mut used, 70, 10, false);
        assert_eq!(search(&used, 0, 512, 509), Some(3));
    }

    /// This runs in a separate child: other tests of this process rely on the kernel's choice.
    #[test]
    fn what_is_mapped_lies_in_the_room() {
        // SAFETY: the child makes system calls and ends.
        let status = unsafe {
            match libc::fork() {
                0 => libc::_exit(in_child()),
                child => {
                    let mut status = 0;
                    libc::waitpid(child, &mut status, 0);
                    status
                }
            }
        };
        assert_eq!(status, 0, "step {}", status >> 8);
    }

    /// Returns 0, or the number of the step that went wrong.
    fn in_child() -> i32 {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        set_aside();
        let (base, pages) = (BASE.load(Ordering::Relaxed), PAGES.load(Ordering::Relaxed));
        if base == 0 {
            return 1;
        }
        let mut all = Vec::new();
        for len in [1, PAGE, 5 * PAGE, 300 * PAGE] {
            let Ok(made) = map(len, access, MapFlags::empty()) else { return 2 };
            let at = made as usize;
            if at < base + PAGE || at + len > base + pages * PAGE {
                return 3;
            }
            // SAFETY: our own memory.
            unsafe { std::ptr::write_bytes(made.cast::<u8>(), 7, len) };
            all.push((made, len));
        }
        if map(pages * PAGE, access, MapFlags::empty()) != Err(Errno::NOMEM) {
            return 4;
        }
        for (made, len) in all {
            // SAFETY: our own memory.
            unsafe { unmap(made, len) };
        }
        // All is free again, except for the first page.
        if map((pages - 1) * PAGE, access, MapFlags::NORESERVE).is_err() {
            return 5;
        }
        0
    }
}
