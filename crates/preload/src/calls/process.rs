//! Calls about the process as a whole: limits and the last thread, which our presence would change,
//! and the end of the process.

use crate::{kernel, told_int};
use libc::{c_int, c_long, c_void, pid_t};
use pagemerge_agent::Quiet;
use pagemerge_pages::room;
use pagemerge_pages::soft::{peek, poke};

/// Returns whether this is the limit of this process's address space.
fn is_ours(pid: pid_t, resource: usize) -> bool {
    // SAFETY: it returns a number.
    resource == libc::RLIMIT_AS as usize && (pid == 0 || pid == unsafe { libc::getpid() })
}

/// A limit with (`up`) or without the room that we have set aside.
fn shifted(limit: [u64; 2], up: bool) -> [u64; 2] {
    let room = room::bytes() as u64;
    limit.map(|value| match value {
        libc::RLIM_INFINITY => value,
        value if up => value.saturating_add(room).min(libc::RLIM_INFINITY - 1),
        value => value.saturating_sub(room),
    })
}

/// prlimit(2): the program's limit applies to the memory that it maps itself.
///
/// # Safety
/// The same requirements as for the system call.
pub unsafe fn limit(pid: pid_t, resource: usize, new: usize, old: usize) -> crate::Answer {
    let call = [pid as usize, resource, new, old, 0, 0];
    if !is_ours(pid, resource) || room::bytes() == 0 {
        // SAFETY: the program's own call.
        return unsafe { kernel(libc::SYS_prlimit64, call) };
    }
    let wanted = if new == 0 { None } else { Some(peek::<16>(new).ok_or(libc::EFAULT)?) };
    let pair = |bytes: [u8; 16]| {
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        [word(0), word(8)]
    };
    let (wanted, mut before) = (wanted.map(|bytes| shifted(pair(bytes), true)), [0_u64; 2]);
    let from = wanted.as_ref().map_or(0, |pair| pair.as_ptr() as usize);
    // SAFETY: both pairs are ours, and outlive the call.
    unsafe {
        let call = [pid as usize, resource, from, before.as_mut_ptr() as usize, 0, 0];
        kernel(libc::SYS_prlimit64, call)?;
        if old != 0 {
            // The kernel writes this for us, as in the real call: a wrong pointer gives EFAULT.
            let told = poke(old, &bytes_of(shifted(before, false)));
            return if told { Ok(0) } else { Err(libc::EFAULT) };
        }
    }
    Ok(0)
}

fn bytes_of(pair: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&pair[0].to_ne_bytes());
    bytes[8..].copy_from_slice(&pair[1].to_ne_bytes());
    bytes
}

/// setrlimit(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn setrlimit(resource: c_int, new: *const c_void) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { limit(0, resource as usize, new as usize, 0) })
}

/// setrlimit(2) under its name for large files.
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn setrlimit64(resource: c_int, new: *const c_void) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { limit(0, resource as usize, new as usize, 0) })
}

/// getrlimit(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn getrlimit(resource: c_int, old: *mut c_void) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { limit(0, resource as usize, 0, old as usize) })
}

/// getrlimit(2) under its name for large files.
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn getrlimit64(resource: c_int, old: *mut c_void) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { limit(0, resource as usize, 0, old as usize) })
}

/// prlimit(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn prlimit(
    pid: pid_t,
    resource: c_int,
    new: *const c_void,
    old: *mut c_void,
) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { limit(pid, resource as usize, new as usize, old as usize) })
}

/// prlimit(2) under its name for large files.
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn prlimit64(
    pid: pid_t,
    resource: c_int,
    new: *const c_void,
    old: *mut c_void,
) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { limit(pid, resource as usize, new as usize, old as usize) })
}

/// _exit(2), by which shells end; exit(3) runs the library's end handler, and does not come here.
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn _exit(status: c_int) -> ! {
    crate::note::finish();
    loop {
        // SAFETY: the program's own call.
        let _ = unsafe { kernel(libc::SYS_exit_group, [status as usize, 0, 0, 0, 0, 0]) };
    }
}

/// _Exit(3), which is the same.
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn _Exit(status: c_int) -> ! {
    // SAFETY: the caller fulfils the requirements of the call.
    unsafe { _exit(status) }
}

/// pthread_exit(3). When the last thread of a program ends, libc ends the process. The agent's
/// thread would keep it alive, so from then on that thread looks whether it is the only one.
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C-unwind" fn pthread_exit(value: *mut c_void) -> ! {
    type Exit = unsafe extern "C-unwind" fn(*mut c_void) -> !;
    // SAFETY: the next function of that name is libc's.
    unsafe {
        let next = {
            let _quiet = Quiet::now();
            pagemerge_agent::end_with_program();
            libc::dlsym(libc::RTLD_NEXT, c"pthread_exit".as_ptr())
        };
        if next.is_null() {
            let _ = kernel(libc::SYS_exit as c_long, [0; 6]);
        }
        let next: Exit = std::mem::transmute(next);
        next(value)
    }
}
