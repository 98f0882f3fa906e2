//! mmap, munmap, mremap, mprotect: these decide what is mapped where, and how.

use crate::{guarded, kernel, told, told_int};
use libc::{c_int, c_void, off_t, size_t};
use pagemerge_agent::hull;
use pagemerge_agent::program::{self, Answer, Remap};
use std::slice::from_ref;

/// # Safety
/// The same requirements as for mmap(2).
pub unsafe fn map(
    addr: usize,
    len: usize,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: usize,
) -> Answer {
    let raw = || {
        let call = [addr, len, prot as usize, flags as usize, fd as usize, offset];
        // SAFETY: the program's own call.
        unsafe { kernel(libc::SYS_mmap, call) }
    };
    let over = flags & libc::MAP_FIXED != 0;
    let made = match program::end_of(addr, len) {
        // Regions, and memory that may become one, are forgotten.
        Some(end) if over => guarded(|| program::replace(addr, end, raw))?,
        _ => raw()?,
    };
    let kind = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_HUGETLB | libc::MAP_GROWSDOWN;
    if flags & kind == libc::MAP_ANONYMOUS | libc::MAP_PRIVATE {
        // The memory is the program's already: if our part fails, it is not mergeable.
        let _ = guarded(|| {
            program::mapped(made, len, flags);
            Ok(0)
        });
    }
    Ok(made)
}

/// # Safety
/// The same requirements as for munmap(2).
pub unsafe fn unmap(addr: usize, len: usize) -> Answer {
    // SAFETY: the program's own call.
    let raw = || unsafe { kernel(libc::SYS_munmap, [addr, len, 0, 0, 0, 0]) };
    match program::end_of(addr, len) {
        Some(end) => guarded(|| program::replace(addr, end, raw)),
        None => raw(),
    }
}

/// # Safety
/// The same requirements as for mprotect(2), or with a key as for pkey_mprotect(2).
pub unsafe fn protect(addr: usize, len: usize, prot: c_int, key: Option<c_int>) -> Answer {
    let raw = || match key {
        // SAFETY: the program's own call.
        None => unsafe { kernel(libc::SYS_mprotect, [addr, len, prot as usize, 0, 0, 0]) },
        // SAFETY: the program's own call.
        Some(key) => unsafe {
            let call = [addr, len, prot as usize, key as usize, 0, 0];
            kernel(libc::SYS_pkey_mprotect, call)
        },
    };
    let Some(end) = program::end_of(addr, len) else { return raw() };
    match key {
        _ if !hull::concerns(addr, len) => raw(),
        // -1 is mprotect. Only the program may open and close memory with a key.
        None | Some(-1) => guarded(|| program::protect(addr, end, prot as u32, raw)),
        Some(_) => guarded(|| program::restored(from_ref(&(addr..end)), libc::ENOMEM, true, raw)),
    }
}

/// # Safety
/// The same requirements as for mremap(2).
pub unsafe fn remap(asked: Remap) -> Answer {
    guarded(|| program::remap(asked))
}

/// mmap(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn mmap(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller fulfils the requirements of the call.
    told(unsafe { map(addr as usize, len, prot, flags, fd, offset as usize) }) as *mut c_void
}

/// mmap(2) under its name for large files.
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn mmap64(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller fulfils the requirements of the call.
    told(unsafe { map(addr as usize, len, prot, flags, fd, offset as usize) }) as *mut c_void
}

/// munmap(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn munmap(addr: *mut c_void, len: size_t) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { unmap(addr as usize, len) })
}

/// mremap(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn mremap(
    old: *mut c_void,
    old_len: size_t,
    new_len: size_t,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    let asked = Remap { old: old as usize, old_len, new_len, flags, new: new as usize };
    // SAFETY: the caller fulfils the requirements of the call.
    told(unsafe { remap(asked) }) as *mut c_void
}

/// mprotect(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn mprotect(addr: *mut c_void, len: size_t, prot: c_int) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { protect(addr as usize, len, prot, None) })
}

/// pkey_mprotect(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn pkey_mprotect(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    key: c_int,
) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { protect(addr as usize, len, prot, Some(key)) })
}
