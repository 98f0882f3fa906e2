//! Calls that change the credentials of all threads. libc ends the process if one thread may not do
//! what the others do, and the agent's thread may lack what the program has given its own threads
//! (capset(2), PR_SET_KEEPCAPS). So there is no agent's thread meanwhile. Nor is there one while the
//! program makes a call that the kernel refuses to a process of several threads.

use super::next::Next;
use crate::{guarded, kernel, told_int};
use libc::{c_char, c_int, gid_t, size_t, uid_t};
use pagemerge_agent::program::Answer;
use std::mem::transmute;

/// Look all functions up, before the program can fork.
pub fn find() {
    for function in ALL {
        function.get();
    }
}

/// Do `call` without an agent.
fn alone<T>(call: impl FnOnce() -> T) -> T {
    let mut stopped = false;
    let _ = guarded(|| {
        stopped = pagemerge_agent::stop();
        Ok(0)
    });
    let answer = call();
    if stopped {
        crate::start_agent();
    }
    answer
}

/// What unshare(2) does for a process of one thread only.
const LONELY: c_int =
    libc::CLONE_NEWUSER | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM;

/// unshare(2).
///
/// # Safety
/// The same requirements as for the system call.
pub unsafe fn separate(flags: usize) -> Answer {
    // SAFETY: the program's own call.
    let raw = || unsafe { kernel(libc::SYS_unshare, [flags, 0, 0, 0, 0, 0]) };
    if flags as c_int & LONELY == 0 {
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
