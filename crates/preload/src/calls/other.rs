//! Calls that change memory as a side effect: locks, seals, names, policies, userfaultfd.

use super::advice::words;
use super::identity;
use crate::{guarded, has_hub, kernel, told, told_int};
use libc::{c_int, c_long, c_uint, c_ulong, c_void, size_t};
use pagemerge_agent::program::{self, Answer};
use pagemerge_agent::{all, hull};
use pagemerge_pages::soft::peek;
use pagemerge_pages::PAGE;
use std::ops::Range;
use std::slice::from_ref;
use std::sync::atomic::{AtomicBool, Ordering};

const PR_SET_VMA: c_int = 0x5356_4d41;
const PR_SET_MEMORY_MERGE: c_int = 67;
const PR_GET_MEMORY_MERGE: c_int = 68;
/// Requests of a userfaultfd of the program: struct uffdio_register, struct uffdio_move.
const UFFDIO_REGISTER: c_ulong = 0xC020_AA00;
const UFFDIO_MOVE: c_ulong = 0xC028_AA05;
/// mseal(2), Linux 6.10.
pub const SYS_MSEAL: c_long = 462;

/// The pages that `[addr, addr + len)` touches, as mlock(2) takes them.
fn pages(addr: usize, len: usize) -> Option<Range<usize>> {
    let start = addr / PAGE * PAGE;
    let end = addr.checked_add(len)?.checked_next_multiple_of(PAGE)?;
    (start < end).then_some(start..end)
}

/// mlock and the like: system call `number` with `arguments`, of which the first two are a range.
///
/// # Safety
/// The same requirements as for the call.
pub unsafe fn lock_range(number: c_long, arguments: [usize; 6]) -> Answer {
    // SAFETY: the program's own call.
    let raw = || unsafe { kernel(number, arguments) };
    let on = number != libc::SYS_munlock;
    match pages(arguments[0], arguments[1]) {
        Some(range) if hull::concerns(range.start, range.len()) => {
            guarded(|| program::lock_memory(Some(range), on, None, raw))
        }
        _ => raw(),
    }
}

/// mlockall and munlockall.
///
/// # Safety
/// The same requirements as for the call.
pub unsafe fn lock_all(number: c_long, flags: usize) -> Answer {
    // SAFETY: the program's own call.
    let raw = || unsafe { kernel(number, [flags, 0, 0, 0, 0, 0]) };
    let on = number == libc::SYS_mlockall;
    let has = |flag: c_int| flags & flag as usize != 0;
    let future = Some(on && has(libc::MCL_FUTURE));
    // Only future mappings: nothing changes for memory that is there.
    let range = if on && !has(libc::MCL_CURRENT) { Some(0..0) } else { None };
    guarded(|| program::lock_memory(range, on, future, raw))
}

/// A call about a range that merged memory cannot cope with: `arguments` start with the range.
///
/// # Safety
/// The same requirements as for the call.
pub unsafe fn special(number: c_long, arguments: [usize; 6], leave: bool) -> Answer {
    // SAFETY: the program's own call.
    let raw = || unsafe { kernel(number, arguments) };
    let [start, len, ..] = arguments;
    match program::end_of(start, len) {
        Some(end) if hull::concerns(start, len) => {
            guarded(|| program::restored(from_ref(&(start..end)), libc::ENOMEM, leave, raw))
        }
        _ => raw(),
    }
}

/// # Safety
/// The same requirements as for ioctl(2).
pub unsafe fn control(fd: usize, request: usize, argument: usize) -> Answer {
    // SAFETY: the program's own call.
    let raw = || unsafe { kernel(libc::SYS_ioctl, [fd, request, argument, 0, 0, 0]) };
    // REGISTER starts with its range; MOVE has a destination, the source, and the length.
    let range = match request as c_ulong {
        UFFDIO_REGISTER => peek::<16>(argument).map(words),
        UFFDIO_MOVE => argument.checked_add(8).and_then(peek::<16>).map(words),
        _ => return raw(),
    };
    match range.and_then(|[start, len]| Some((start..program::end_of(start, len)?, len))) {
        Some((range, len)) if hull::concerns(range.start, len) => guarded(|| {
            if request as c_ulong == UFFDIO_MOVE {
                return program::taken(&range, raw);
            }
            program::restored(from_ref(&range), libc::ENOMEM, true, || {
                program::reclaim(&range);
                raw()
            })
        }),
        _ => raw(),
    }
}

/// Whether the program has switched merging on by PR_SET_MEMORY_MERGE.
static WANTS_ALL_MERGED: AtomicBool = AtomicBool::new(false);

/// We accept PR_SET_MEMORY_MERGE and keep it from the kernel: ksmd would merge our regions, too,
/// and a range belongs to one engine at a time.
///
/// # Safety
/// The same requirements as for prctl(2).
pub unsafe fn process_control(arguments: [usize; 6]) -> Answer {
    // SAFETY: the program's own call.
    let raw = || unsafe { kernel(libc::SYS_prctl, arguments) };
    let [option, a, b, c, d, _] = arguments;
    match option as c_int {
        PR_SET_MEMORY_MERGE if has_hub() => match (a, b | c | d) {
            (on, 0) => {
                WANTS_ALL_MERGED.store(on != 0, Ordering::Relaxed);
                Ok(0)
            }
            _ => Err(libc::EINVAL),
        },
        PR_GET_MEMORY_MERGE if has_hub() => match a | b | c | d {
            0 => Ok(usize::from(WANTS_ALL_MERGED.load(Ordering::Relaxed))),
            _ => Err(libc::EINVAL),
        },
        // The strict mode, or a filter. Libraries ask for a filter without one, to learn what the
        // kernel can do.
        libc::PR_SET_SECCOMP if a == 1 || b != 0 => {
            // SAFETY: the caller fulfils the requirements of the call.
            unsafe { identity::filtered(libc::SYS_prctl, arguments) }
        }
        libc::PR_SET_NO_NEW_PRIVS
        | libc::PR_CAPBSET_DROP
        | libc::PR_CAP_AMBIENT
        | libc::PR_SET_SECUREBITS => {
            // SAFETY: the caller fulfils the requirements of the call.
            unsafe { identity::changed(libc::SYS_prctl, arguments) }
        }
        // Merging would lose names, and memory of another name would not join its neighbours: so
        // where all memory is merged, we answer as a kernel without names does.
        PR_SET_VMA if all::is_on() => Err(libc::EINVAL),
        // A name: PR_SET_VMA_ANON_NAME, start, length, text.
        PR_SET_VMA => match program::end_of(b, c) {
            Some(end) if hull::concerns(b, c) => {
                guarded(|| program::restored(from_ref(&(b..end)), libc::ENOMEM, true, raw))
            }
            _ => raw(),
        },
        _ => raw(),
    }
}

/// # Safety
/// The same requirements as for shmat(2).
pub unsafe fn attach(id: c_int, addr: usize, flags: c_int) -> Answer {
    // SAFETY: the program's own call.
    let raw = || unsafe { kernel(libc::SYS_shmat, [id as usize, addr, flags as usize, 0, 0, 0]) };
    if flags & libc::SHM_REMAP == 0 || !hull::concerns(0, usize::MAX) {
        return raw();
    }
    // The segment replaces what is there, for as many bytes as it has.
    let mut about = std::mem::MaybeUninit::<libc::shmid_ds>::zeroed();
    // SAFETY: the kernel fills the struct; if it does not, the size is zero.
    let size = unsafe {
        libc::shmctl(id, libc::IPC_STAT, about.as_mut_ptr());
        about.assume_init().shm_segsz
    };
    match program::end_of(addr / PAGE * PAGE, size) {
        Some(end) => guarded(|| program::replace(addr / PAGE * PAGE, end, raw)),
        None => raw(),
    }
}

/// mlock(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn mlock(addr: *const c_void, len: size_t) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { lock_range(libc::SYS_mlock, [addr as usize, len, 0, 0, 0, 0]) })
}

/// mlock2(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn mlock2(addr: *const c_void, len: size_t, flags: c_uint) -> c_int {
    let arguments = [addr as usize, len, flags as usize, 0, 0, 0];
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { lock_range(libc::SYS_mlock2, arguments) })
}

/// munlock(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn munlock(addr: *const c_void, len: size_t) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { lock_range(libc::SYS_munlock, [addr as usize, len, 0, 0, 0, 0]) })
}

/// mlockall(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn mlockall(flags: c_int) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { lock_all(libc::SYS_mlockall, flags as usize) })
}

/// munlockall(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn munlockall() -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { lock_all(libc::SYS_munlockall, 0) })
}

/// mseal(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn mseal(addr: *mut c_void, len: size_t, flags: c_ulong) -> c_int {
    let arguments = [addr as usize, len, flags as usize, 0, 0, 0];
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { special(SYS_MSEAL, arguments, true) })
}

/// mbind(2): on a slab's mapping the policy would apply to every process that shares the slab.
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn mbind(
    addr: *mut c_void,
    len: c_ulong,
    mode: c_int,
    mask: *const c_ulong,
    most: c_ulong,
    flags: c_uint,
) -> c_long {
    let arguments =
        [addr as usize, len as usize, mode as usize, mask as usize, most as usize, flags as usize];
    // SAFETY: the caller fulfils the requirements of the call.
    told(unsafe { special(libc::SYS_mbind, arguments, false) }) as c_long
}

/// shmat(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn shmat(id: c_int, addr: *const c_void, flags: c_int) -> *mut c_void {
    // SAFETY: the caller fulfils the requirements of the call.
    told(unsafe { attach(id, addr as usize, flags) }) as *mut c_void
}

/// prctl(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn prctl(
    option: c_int,
    a: c_ulong,
    b: c_ulong,
    c: c_ulong,
    d: c_ulong,
) -> c_int {
    let arguments = [option as usize, a as usize, b as usize, c as usize, d as usize, 0];
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { process_control(arguments) })
}

/// ioctl(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { control(fd as usize, request as usize, argument as usize) })
}
