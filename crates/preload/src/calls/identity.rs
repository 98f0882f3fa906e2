//! Calls that change what the program may do. The agent's thread must never be able to do more than
//! the program: whoever takes the program over could use that thread. So it ends before such a call,
//! and a new one starts with what the calling thread has then. After a filter of system calls, none
//! starts: the agent's calls would count as the program's own.
//!
//! libc ends the process if one thread may not change its user as the others do, and the kernel
//! refuses some calls to a process of several threads: for these, too, there is no agent meanwhile.

use super::aside::aside;
use super::next::Next;
use crate::{guarded, has_hub, kernel, told_int};
use libc::{c_char, c_int, c_long, c_void, gid_t, size_t, uid_t};
use pagemerge_agent::program::Answer;
use pagemerge_agent::{is_confined, is_only_thread};
use std::mem::transmute;

/// Look all functions up, before the program can fork.
pub fn find() {
    for function in ALL {
        function.get();
    }
}

/// Do `call` without an agent. It may come from a signal handler that has interrupted malloc, so
/// ending and starting a thread of ours does not use the program's malloc.
fn alone<T>(call: impl FnOnce() -> T) -> T {
    if is_confined() {
        return call();
    }
    let stopped = aside(|| {
        let mut stopped = false;
        let _ = guarded(|| {
            stopped = pagemerge_agent::stop();
            Ok(0)
        });
        stopped
    });
    let answer = call();
    if stopped {
        aside(crate::start_agent);
    }
    answer
}

/// A call that changes the rights of the calling thread alone: that of the program, if it has one
/// thread only. Of several, each may have others, and all of them can do what one can.
///
/// # Safety
/// The same requirements as for the call.
pub unsafe fn changed(number: c_long, arguments: [usize; 6]) -> Answer {
    // SAFETY: the program's own call.
    let raw = || unsafe { kernel(number, arguments) };
    if !is_confined() && is_only_thread() {
        alone(raw)
    } else {
        raw()
    }
}

/// Returns whether a call of seccomp(2) would filter the program's system calls. Others ask what the
/// kernel can do: libseccomp does so in each program that it is in, by calls that must fail.
pub const fn is_filter(operation: usize, flags: usize, arguments: usize) -> bool {
    match operation as libc::c_uint {
        libc::SECCOMP_SET_MODE_STRICT => flags == 0 && arguments == 0,
        libc::SECCOMP_SET_MODE_FILTER => arguments != 0,
        _ => false,
    }
}

/// A call that filters the program's system calls.
///
/// # Safety
/// The same requirements as for the call.
pub unsafe fn filtered(number: c_long, arguments: [usize; 6]) -> Answer {
    if has_hub() && !is_confined() {
        aside(|| {
            guarded(|| {
                pagemerge_agent::confine();
                Ok(0)
            })
        })?;
        if is_confined() {
            crate::note::say_nothing();
        } // else this process shares the memory of another (vfork), whose note it is
    }
    // SAFETY: the program's own call.
    unsafe { kernel(number, arguments) }
}

/// exit(2), which ends one thread. The process ends with its last thread, and with that thread's
/// status, so our threads must not outlive it.
///
/// # Safety
/// The same requirements as for the call.
pub unsafe fn exit_thread(status: usize) -> Answer {
    let end = || {
        if is_only_thread() {
            pagemerge_agent::stop();
        } else {
            pagemerge_agent::end_with_program();
        }
        Ok(0)
    };
    if !is_confined() {
        let _ = aside(|| guarded(end));
    }
    // SAFETY: the program's own call.
    unsafe { kernel(libc::SYS_exit, [status, 0, 0, 0, 0, 0]) }
}

/// capset(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn capset(header: *mut c_void, data: *const c_void) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { changed(libc::SYS_capset, [header as usize, data as usize, 0, 0, 0, 0]) })
}

/// What unshare(2) does to the calling thread's descriptors, or to its children only: no thread of
/// ours keeps what the program gives up. (In a process that has new namespaces of PIDs or time for
/// its children, no thread could be started after it.)
const HARMLESS: c_int =
    libc::CLONE_FILES | libc::CLONE_SYSVSEM | libc::CLONE_NEWPID | libc::CLONE_NEWTIME;

/// unshare(2).
///
/// # Safety
/// The same requirements as for the system call.
pub unsafe fn separate(flags: usize) -> Answer {
    // SAFETY: the program's own call.
    let raw = || unsafe { kernel(libc::SYS_unshare, [flags, 0, 0, 0, 0, 0]) };
    if flags as c_int & !HARMLESS == 0 {
        return raw();
    }
    alone(raw)
}

/// setns(2): a thread that shares its working directory may not change its mounts, and one of
/// several not its user.
///
/// # Safety
/// The same requirements as for the system call.
pub unsafe fn join(fd: usize, kind: usize) -> Answer {
    // SAFETY: the program's own call.
    alone(|| unsafe { kernel(libc::SYS_setns, [fd, kind, 0, 0, 0, 0]) })
}

/// unshare(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn unshare(flags: c_int) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { separate(flags as usize) })
}

/// setns(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn setns(fd: c_int, kind: c_int) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { join(fd as usize, kind as usize) })
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*);)+) => {
        #[allow(non_upper_case_globals)]
        mod libcs {
            use crate::calls::next::Next;
            use std::ffi::CStr;
            $(pub static $name: Next = Next::new({
                match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => c"",
                }
            });)+
        }
        static ALL: &[&Next] = &[$(&libcs::$name),+];
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// The same requirements as for the function.
            #[no_mangle]
            pub unsafe extern "C-unwind" fn $name($($argument: $type),*) -> c_int {
                // SAFETY: libc's function of this name has this type.
                unsafe {
                    let next: unsafe extern "C-unwind" fn($($type),*) -> c_int =
                        transmute(libcs::$name.get());
                    alone(|| next($($argument),*))
                }
            }
        )+
    };
}

calls! {
    /// setuid(2).
    setuid(user: uid_t);
    /// seteuid(2).
    seteuid(user: uid_t);
    /// setreuid(2).
    setreuid(real: uid_t, effective: uid_t);
    /// setresuid(2).
    setresuid(real: uid_t, effective: uid_t, saved: uid_t);
    /// setgid(2).
    setgid(group: gid_t);
    /// setegid(2).
    setegid(group: gid_t);
    /// setregid(2).
    setregid(real: gid_t, effective: gid_t);
    /// setresgid(2).
    setresgid(real: gid_t, effective: gid_t, saved: gid_t);
    /// setgroups(2).
    setgroups(count: size_t, groups: *const gid_t);
    /// initgroups(3).
    initgroups(user: *const c_char, group: gid_t);
}
