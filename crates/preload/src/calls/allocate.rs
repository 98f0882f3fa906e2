//! malloc and its family (`--all`): mimalloc, whose memory comes from our mmap.
//!
//! libc's own allocator calls the kernel unseen, so its memory could vanish while we merge it.
//! mimalloc's calls are ours. A program that brings an allocator of its own keeps it: the calls are
//! passed on, and what that allocator maps by libc's calls is merged.
//!
//! These functions are also where an agent can be started: outside of every allocator, so no lock
//! of one is held.

use super::next::Next;
use crate::{has_hub, start_agent};
use libc::{c_int, c_void, size_t};
use libmimalloc_sys as mi;
use pagemerge_agent::all;
use pagemerge_pages::PAGE;
use rustix::process::{getrlimit, Resource};
use std::mem::transmute;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU8, Ordering};

const UNKNOWN: u8 = 0;
const OURS: u8 = 1;
const THEIRS: u8 = 2;
/// Who allocates in this process; the first call finds out.
static WHO: AtomicU8 = AtomicU8::new(UNKNOWN);

/// KiB that mimalloc maps at a time, and the option that sets it (mimalloc.h). Its default, 1 GiB,
/// would be a region of as many pages in each small program.
const ARENA_RESERVE: (c_int, i64) = (23, 64 << 10);
/// Milliseconds before freed memory goes back to the kernel: memory that is soon used again should
/// not be fresh each time.
const PURGE_DELAY: (c_int, i64) = (15, 500);

/// malloc aligns to this many bytes at least.
const ALIGNMENT: size_t = 16;

static MALLOC: Next = Next::new(c"malloc");
static CALLOC: Next = Next::new(c"calloc");
static REALLOC: Next = Next::new(c"realloc");
static FREE: Next = Next::new(c"free");
static MEMALIGN: Next = Next::new(c"memalign");
static POSIX_MEMALIGN: Next = Next::new(c"posix_memalign");
static USABLE_SIZE: Next = Next::new(c"malloc_usable_size");
static TRIM: Next = Next::new(c"malloc_trim");

/// Returns whether mimalloc answers to a call for `bytes` bytes. Starts the agent, if one is wanted.
#[inline]
fn ours_for(bytes: usize) -> bool {
    if all::wants_agent(bytes) {
        start_agent();
    }
    ours()
}

/// Returns whether mimalloc answers.
#[inline]
fn ours() -> bool {
    match WHO.load(Ordering::Relaxed) {
        UNKNOWN => decide(),
        who => who == OURS,
    }
}

/// We take the place of libc's allocator, and of no other. A program whose address space is limited
/// keeps libc's, which reserves less ahead.
#[cold]
fn decide() -> bool {
    let unlimited = getrlimit(Resource::As).current.is_none();
    let ours = has_hub() && unlimited && crate::is_libcs(MALLOC.get());
    if ours {
        for (option, value) in [ARENA_RESERVE, PURGE_DELAY] {
            // SAFETY: it sets a number, before mimalloc's first allocation.
            unsafe { mi::mi_option_set_default(option, value) };
        }
    }
    WHO.store(if ours { OURS } else { THEIRS }, Ordering::Relaxed);
    ours
}

/// Returns whether this is a pointer that mimalloc has given out: libraries that were loaded with
/// RTLD_DEEPBIND call libc's functions directly.
#[inline]
fn is_known(pointer: *mut c_void) -> bool {
    // SAFETY: it compares the address with mimalloc's own records.
    unsafe { mi::mi_is_in_heap_region(pointer) }
}

/// Returns `made`; sets errno if it is null.
#[inline]
fn told(made: *mut c_void) -> *mut c_void {
    if made.is_null() {
        set_errno(libc::ENOMEM);
    }
    made
}

fn set_errno(errno: c_int) {
    // SAFETY: errno's address is always valid.
    unsafe { *libc::__errno_location() = errno };
}

/// malloc(3).
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C" fn malloc(size: size_t) -> *mut c_void {
    // SAFETY: the caller fulfils the requirements; the next function of that name has this type.
    unsafe {
        if ours_for(size) {
            return told(mi::mi_malloc(size));
        }
        let next: unsafe extern "C" fn(size_t) -> *mut c_void = transmute(MALLOC.get());
        next(size)
    }
}

/// calloc(3).
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C" fn calloc(count: size_t, size: size_t) -> *mut c_void {
    // SAFETY: as above.
    unsafe {
        if ours_for(count.saturating_mul(size)) {
            return told(mi::mi_calloc(count, size));
        }
        let next: unsafe extern "C" fn(size_t, size_t) -> *mut c_void = transmute(CALLOC.get());
        next(count, size)
    }
}

/// realloc(3). As in glibc, no bytes means free(3).
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C" fn realloc(pointer: *mut c_void, size: size_t) -> *mut c_void {
    // SAFETY: as above.
    unsafe {
        if ours_for(size) && (pointer.is_null() || is_known(pointer)) {
            if size == 0 && !pointer.is_null() {
                free(pointer);
                return null_mut();
            }
            return told(mi::mi_realloc(pointer, size));
        }
        let next: unsafe extern "C" fn(*mut c_void, size_t) -> *mut c_void =
            transmute(REALLOC.get());
        next(pointer, size)
    }
}

/// free(3). It leaves errno as it is.
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C" fn free(pointer: *mut c_void) {
    if pointer.is_null() {
        return;
    }
    // SAFETY: as above.
    unsafe {
        if ours() && is_known(pointer) {
            let errno = *libc::__errno_location();
            mi::mi_free(pointer);
            set_errno(errno);
            return;
        }
        let next: unsafe extern "C" fn(*mut c_void) = transmute(FREE.get());
        next(pointer);
    }
}

/// memalign(3). As in glibc, an alignment that is no power of two is rounded up.
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C" fn memalign(alignment: size_t, size: size_t) -> *mut c_void {
    // SAFETY: as above.
    unsafe {
        if ours_for(size) {
            return match alignment.max(ALIGNMENT).checked_next_power_of_two() {
                Some(alignment) => told(mi::mi_malloc_aligned(size, alignment)),
                None => {
                    set_errno(libc::EINVAL);
                    null_mut()
                }
            };
        }
        let next: unsafe extern "C" fn(size_t, size_t) -> *mut c_void = transmute(MEMALIGN.get());
        next(alignment, size)
    }
}

/// aligned_alloc(3), which glibc treats as memalign(3).
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C" fn aligned_alloc(alignment: size_t, size: size_t) -> *mut c_void {
    // SAFETY: as above.
    unsafe { memalign(alignment, size) }
}

/// posix_memalign(3). It returns the error number, and leaves errno as it is.
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C" fn posix_memalign(
    made: *mut *mut c_void,
    alignment: size_t,
    size: size_t,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        if !ours() {
            let next: unsafe extern "C" fn(*mut *mut c_void, size_t, size_t) -> c_int =
                transmute(POSIX_MEMALIGN.get());
            return next(made, alignment, size);
        }
        if alignment % size_of::<usize>() != 0 || !alignment.is_power_of_two() {
            return libc::EINVAL;
        }
        let errno = *libc::__errno_location();
        let found = memalign(alignment, size);
        set_errno(errno);
        if found.is_null() {
            return libc::ENOMEM;
        }
        *made = found;
        0
    }
}

/// valloc(3).
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C" fn valloc(size: size_t) -> *mut c_void {
    // SAFETY: as above.
    unsafe { memalign(PAGE, size) }
}

/// pvalloc(3): whole pages.
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C" fn pvalloc(size: size_t) -> *mut c_void {
    match size.checked_next_multiple_of(PAGE) {
        // SAFETY: as above.
        Some(size) => unsafe { memalign(PAGE, size) },
        None => told(null_mut()),
    }
}

/// malloc_usable_size(3).
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C" fn malloc_usable_size(pointer: *mut c_void) -> size_t {
    // SAFETY: as above.
    unsafe {
        if !pointer.is_null() && ours() && is_known(pointer) {
            return mi::mi_usable_size(pointer);
        }
        let next: unsafe extern "C" fn(*mut c_void) -> size_t = transmute(USABLE_SIZE.get());
        next(pointer)
    }
}

/// malloc_trim(3).
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C" fn malloc_trim(kept: size_t) -> c_int {
    // SAFETY: as above.
    unsafe {
        if ours() {
            mi::mi_collect(true);
        }
        let next = TRIM.get();
        if next.is_null() {
            return 0; // an allocator without this function
        }
        let next: unsafe extern "C" fn(size_t) -> c_int = transmute(next);
        next(kept)
    }
}
