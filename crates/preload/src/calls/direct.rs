//! syscall(2): the same calls by their numbers.

use super::other::SYS_MSEAL;
use super::{advice, identity, mapping, other, process};
use crate::{kernel, told};
use libc::{c_int, c_long, c_uint};
use pagemerge_agent::program::Remap;

/// syscall(2). It is declared with all arguments that a system call can have. If the program passes
/// fewer, the registers hold values that the kernel does not look at, as in libc's own function.
///
/// # Safety
/// The same requirements as for the system call that it makes.
#[no_mangle]
pub unsafe extern "C-unwind" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let arguments = [a, b, c, d, e, f];
    let (mode, flags) = (c as c_int, d as c_int);
    // SAFETY: the caller fulfils the requirements of the call.
    let answer = unsafe {
        match number {
            libc::SYS_mmap => mapping::map(a, b, mode, flags, e as c_int, f),
            libc::SYS_munmap => mapping::unmap(a, b),
            libc::SYS_mremap => {
                mapping::remap(Remap { old: a, old_len: b, new_len: c, flags, new: e })
            }
            libc::SYS_mprotect => mapping::protect(a, b, mode, None),
            libc::SYS_pkey_mprotect => mapping::protect(a, b, mode, Some(flags)),
            libc::SYS_madvise => advice::advise(a, b, mode),
            libc::SYS_process_madvise => {
                advice::advise_process(a as c_int, b, c, flags, e as c_uint)
            }
            libc::SYS_mlock | libc::SYS_mlock2 | libc::SYS_munlock => {
                other::lock_range(number, arguments)
            }
            libc::SYS_mlockall | libc::SYS_munlockall => other::lock_all(number, a),
            SYS_MSEAL => other::special(number, arguments, true),
            libc::SYS_mbind => other::special(number, arguments, false),
            libc::SYS_shmat => other::attach(a as c_int, b, mode),
            libc::SYS_capset
            | libc::SYS_setuid
            | libc::SYS_setgid
            | libc::SYS_setreuid
            | libc::SYS_setregid
            | libc::SYS_setresuid
            | libc::SYS_setresgid
            | libc::SYS_setgroups
            | libc::SYS_setfsuid
            | libc::SYS_setfsgid
            | libc::SYS_landlock_restrict_self => identity::changed(number, arguments),
            libc::SYS_seccomp if identity::is_filter(a, b, c) => {
                identity::filtered(number, arguments)
            }
            libc::SYS_exit => identity::exit_thread(a),
            libc::SYS_unshare => identity::separate(a),
            libc::SYS_setns => identity::join(a, b),
            libc::SYS_prctl => other::process_control(arguments),
            libc::SYS_ioctl => other::control(a, b, c),
            libc::SYS_setrlimit => process::limit(0, a, b, 0),
            libc::SYS_getrlimit => process::limit(0, a, 0, b),
            libc::SYS_prlimit64 => process::limit(a as c_int, b, c, d),
            _ => kernel(number, arguments),
        }
    };
    told(answer) as c_long
}
