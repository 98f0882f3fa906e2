//! malloc and its family (`--all`): mimalloc, whose memory comes from our mmap.
//!
//! libc's own allocator calls the kernel unseen, so its memory could vanish while we merge it.
//! mimalloc's calls are ours. A program that brings an allocator of its own keeps it: the calls are
//! passed on, and what that allocator maps by libc's calls is merged.
//!
//! These functions are also where an agent can be started: outside of every allocator, so no lock
//! of one is held.

use super::aside;
use super::next::Next;
use crate::{has_hub, start_agent};
use libc::{c_int, c_void, size_t};
use libmimalloc_sys as mi;
use pagemerge_agent::all;
use pagemerge_pages::PAGE;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{getrlimit, Resource};
use std::mem::transmute;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

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

/// malloc aligns to this many bytes at least. mimalloc aligns smaller blocks to 8 only, so there are
/// none: programs hide marks in the low bits of pointers.
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

/// We take the place of libc's allocator, and of no other. A program whose address space or data is
/// limited keeps libc's, which reserves less ahead.
#[cold]
fn decide() -> bool {
    let limits = [Resource::As, Resource::Data];
    let unlimited = limits.into_iter().all(|it| getrlimit(it).current.is_none());
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
    unsafe { mi::mi_is_in_heap_region(pointer) || is_far(pointer) }
}

/// mimalloc's records end here (MI_SEGMENT_MAP_MAX_ADDRESS), but for its arenas. The kernel chooses
/// the place of blocks of 1 GiB and more, and that is behind.
const RECORDS_END: usize = 48 << 40;
/// The blocks that lie there; 0: no block.
static FAR: [AtomicUsize; 4096] = [const { AtomicUsize::new(0) }; 4096];

/// Returns whether this is one of the blocks that mimalloc's records lack.
fn is_far(pointer: *mut c_void) -> bool {
    let same = |it: &AtomicUsize| it.load(Ordering::Relaxed) == pointer as usize;
    pointer as usize >= RECORDS_END && FAR.iter().any(same)
}

/// Put `to` in the place of `from` in the list of far blocks; false: there is no such place.
fn replace_far(from: usize, to: usize) -> bool {
    let replace = |it: &AtomicUsize| {
        it.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    FAR.iter().any(replace)
}

/// Before mimalloc frees or moves a block: its address may be another block's at once.
fn forget_far(pointer: *mut c_void) {
    if pointer as usize >= RECORDS_END {
        replace_far(pointer as usize, 0);
    }
}

/// Returns the block that mimalloc has made; sets errno if there is none.
#[inline]
fn told(mut made: *mut c_void) -> *mut c_void {
    // SAFETY: a block that was just made, or null.
    unsafe {
        let unknown = made as usize >= RECORDS_END && !mi::mi_is_in_heap_region(made);
        if unknown && !replace_far(0, made as usize) {
            mi::mi_free(made);
            made = null_mut();
        }
    }
    if made.is_null() {
        set_errno(libc::ENOMEM);
    }
    made
}

/// From this size on, the kernel is asked.
const LARGE: size_t = 1 << 30;

/// Returns whether the kernel would map `size` bytes. mimalloc maps with MAP_NORESERVE, so the
/// kernel would not refuse more than it has (vm.overcommit_memory in proc_sys_vm(5)).
#[inline]
fn is_granted(size: size_t) -> bool {
    size < LARGE || asked(size)
}

#[cold]
fn asked(size: size_t) -> bool {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let private = MapFlags::PRIVATE;
    // SAFETY: a fresh mapping, which nobody has used.
    unsafe {
        let made = rustix::mm::mmap_anonymous(null_mut(), size, access, private);
        made.and_then(|made| rustix::mm::munmap(made, size)).is_ok()
    }
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
        if aside::is_served() {
            return aside::take(size);
        }
        if ours_for(size) {
            return told(if is_granted(size) {
                mi::mi_malloc(size.max(ALIGNMENT))
            } else {
                null_mut()
            });
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
        if aside::is_served() {
            return aside::take(count.saturating_mul(size));
        }
        if ours_for(count.saturating_mul(size)) {
            let size = count.checked_mul(size).filter(|&size| is_granted(size));
            return told(size.map_or(null_mut(), |size| mi::mi_zalloc(size.max(ALIGNMENT))));
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
        if aside::is_slot(pointer) {
            let made = malloc(size);
            if !made.is_null() {
                made.copy_from_nonoverlapping(pointer, size.min(aside::SIZE));
                aside::free(pointer);
            }
            return made;
        }
        if ours_for(size) && (pointer.is_null() || is_known(pointer)) {
            if size == 0 && !pointer.is_null() {
                free(pointer);
                return null_mut();
            }
            if !is_granted(size) {
                return told(null_mut());
            }
            forget_far(pointer);
            let made = mi::mi_realloc(pointer, size.max(ALIGNMENT));
            if made.is_null() && !pointer.is_null() {
                told(pointer); // it is as it was
            }
            return told(made);
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
        if aside::free(pointer) {
            return;
        }
        if ours() && is_known(pointer) {
            let errno = *libc::__errno_location();
            forget_far(pointer);
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
        if aside::is_served() {
            return if alignment <= 64 { aside::take(size) } else { null_mut() };
        }
        if ours_for(size) {
            return match alignment.max(ALIGNMENT).checked_next_power_of_two() {
                Some(alignment) if is_granted(size.saturating_add(alignment)) => {
                    told(mi::mi_malloc_aligned(size, alignment))
                }
                Some(_) => told(null_mut()),
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

/// posix_memalign(3). It returns the error number, and leaves errno as it is if it succeeds.
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
        if found.is_null() {
            return libc::ENOMEM;
        }
        set_errno(errno);
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
