//! The agent as a library to preload (`pagemerge run --engine user`).
//!
//! It takes the place of libc's memory calls. Each does what the system call does, by the system
//! call; what concerns merged memory is put right before or after. Until the program first calls
//! madvise(MADV_MERGEABLE) it does no more than note where anonymous memory was mapped. libc's own
//! calls, inside malloc say, do not come here: that memory is never merged.

mod heap;

use heap::Heap;
use libc::{c_int, c_long, c_ulong, c_void, off_t, size_t};
use pagemerge_agent::program;
use pagemerge_agent::{Choice, Config};
use pagemerge_pages::PAGE;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

#[global_allocator]
static HEAP: Heap = Heap::new();

/// With the library's start, so before the agent registers handlers of its own: those that come
/// last run first before a fork, and whoever holds the agent's lock may be waiting for the heap.
#[used]
#[link_section = ".init_array"]
static AT_START: extern "C" fn() = watch_forks;

extern "C" fn watch_forks() {
    extern "C" fn before() {
        HEAP.hold();
    }
    extern "C" fn after() {
        HEAP.let_go();
    }
    // SAFETY: the handlers are functions of a library that is never unloaded.
    unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
}

const PR_SET_MEMORY_MERGE: c_int = 67;
const PR_GET_MEMORY_MERGE: c_int = 68;
/// _IOWR(0xAA, 0x00, struct uffdio_register): of a userfaultfd of the program's own.
const UFFDIO_REGISTER: c_ulong = 0xC020_AA00;

/// The raw call's result, as an error number or not.
fn checked(result: c_long) -> Result<c_long, c_int> {
    if result == -1 {
        // SAFETY: errno's address is always valid.
        return Err(unsafe { *libc::__errno_location() });
    }
    Ok(result)
}

fn answer(result: Result<(), c_int>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(errno) => {
            // SAFETY: errno's address is always valid.
            unsafe { *libc::__errno_location() = errno };
            -1
        }
    }
}

/// How this process was told to merge (`pagemerge run` sets these).
fn config() -> Config {
    let word = |name| std::env::var(name).unwrap_or_default();
    let hub = word("PAGEMERGE_HUB");
    Config {
        socket: word("PAGEMERGE_SOCKET").into(),
        hub: hub
            .split('\n')
            .filter_map(|it| CString::new(it).ok())
            .filter(|it| !it.is_empty())
            .collect(),
        barrier: Choice::parse(&word("PAGEMERGE_BARRIER")).unwrap_or(Choice::Auto),
        domain: word("PAGEMERGE_DOMAIN"),
    }
}

/// Preloaded without having been told where the hub is, we let the program be.
fn has_hub() -> bool {
    std::env::var_os("PAGEMERGE_SOCKET").is_some()
}

fn raw_madvise(start: usize, len: usize, advice: c_int) -> Result<(), c_int> {
    // SAFETY: the program's own call.
    checked(unsafe { libc::syscall(libc::SYS_madvise, start, len, advice) }).map(|_| ())
}

/// Forget a range that is about to go. One that the kernel will refuse stays.
fn unmapped(addr: *mut c_void, len: size_t) {
    if addr as usize % PAGE == 0 && len > 0 && (addr as usize).checked_add(len).is_some() {
        program::unmapped(addr as usize, len);
    }
}

/// madvise(2).
///
/// # Safety
/// As the system call.
#[no_mangle]
pub unsafe extern "C" fn madvise(addr: *mut c_void, len: size_t, advice: c_int) -> c_int {
    let start = addr as usize;
    if start % PAGE == 0 && start.checked_add(len).is_some() {
        match advice {
            libc::MADV_MERGEABLE if !has_hub() => {}
            libc::MADV_MERGEABLE => {
                return answer(program::mark(start, len, config).map_err(|_| libc::EAGAIN))
            }
            libc::MADV_UNMERGEABLE => {
                return answer(program::unmark(start, len).map_err(|_| libc::ENOMEM))
            }
            _ if !program::concerns(start, len) => {}
            libc::MADV_DONTNEED | libc::MADV_FREE => {
                let raw = |start, len| raw_madvise(start, len, advice);
                return answer(program::discard(start, len, raw));
            }
            // Single pages of huge pages could be shared, but not freed.
            libc::MADV_HUGEPAGE => return 0,
            // Of the slab, which is sealed; anonymous memory has no file to punch.
            libc::MADV_REMOVE => return answer(Err(libc::EINVAL)),
            libc::MADV_WIPEONFORK => {
                program::dissolve(start, len);
            }
            libc::MADV_DONTFORK | libc::MADV_DOFORK | libc::MADV_DONTDUMP | libc::MADV_DODUMP => {
                let raw = || raw_madvise(start, len, advice);
                return answer(program::advise(start, len, advice, raw));
            }
            _ => {}
        }
    }
    answer(raw_madvise(start, len, advice))
}

/// mmap(2).
///
/// # Safety
/// As the system call.
#[no_mangle]
pub unsafe extern "C" fn mmap(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    if flags & libc::MAP_FIXED != 0 {
        unmapped(addr, len);
    }
    // SAFETY: the program's own call.
    let made = unsafe { libc::syscall(libc::SYS_mmap, addr, len, prot, flags, fd, offset) };
    let kind = libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_HUGETLB | libc::MAP_GROWSDOWN;
    if made != -1 && flags & kind == libc::MAP_ANONYMOUS | libc::MAP_PRIVATE {
        program::mapped(made as usize, len);
    }
    made as *mut c_void
}

/// mmap(2) under its name for large files.
///
/// # Safety
/// As the system call.
#[no_mangle]
pub unsafe extern "C" fn mmap64(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: by the caller.
    unsafe { mmap(addr, len, prot, flags, fd, offset) }
}

/// munmap(2).
///
/// # Safety
/// As the system call.
#[no_mangle]
pub unsafe extern "C" fn munmap(addr: *mut c_void, len: size_t) -> c_int {
    // Before the call: afterwards the addresses may be another thread's already.
    unmapped(addr, len);
    // SAFETY: the program's own call.
    answer(checked(unsafe { libc::syscall(libc::SYS_munmap, addr, len) }).map(|_| ()))
}

/// mremap(2).
///
/// # Safety
/// As the system call.
#[no_mangle]
pub unsafe extern "C" fn mremap(
    old: *mut c_void,
    old_len: size_t,
    new_len: size_t,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    // A slab's mapping would grow over the rest of the slab.
    let concerned = program::concerns(old as usize, old_len);
    let alike = if concerned { program::dissolve(old as usize, old_len) } else { None };
    let call = || {
        // SAFETY: the program's own call.
        checked(unsafe { libc::syscall(libc::SYS_mremap, old, old_len, new_len, flags, new) })
    };
    let asked = || if has_hub() { program::alike(old as usize, old_len) } else { None };
    let made = if flags & libc::MREMAP_FIXED != 0 {
        // In one piece at once: a call that fails may have unmapped `new`, and is not to be
        // repeated when that may be somebody else's.
        if let Some(keep) = alike.or_else(|| if concerned { asked() } else { None }) {
            program::join(old as usize, old_len, keep);
        }
        unmapped(new, new_len);
        call()
    } else {
        match call() {
            Err(libc::EFAULT) => match alike.or_else(asked) {
                Some(keep) => {
                    program::join(old as usize, old_len, keep);
                    call()
                }
                None => Err(libc::EFAULT),
            },
            made => made,
        }
    };
    made.map_or(libc::MAP_FAILED, |at| at as *mut c_void)
}

/// mprotect(2).
///
/// # Safety
/// As the system call.
#[no_mangle]
pub unsafe extern "C" fn mprotect(addr: *mut c_void, len: size_t, prot: c_int) -> c_int {
    let raw = || {
        // SAFETY: the program's own call.
        checked(unsafe { libc::syscall(libc::SYS_mprotect, addr, len, prot) }).map(|_| ())
    };
    answer(if program::concerns(addr as usize, len) {
        program::protect(addr as usize, len, prot as u32, raw)
    } else {
        raw()
    })
}

/// What the program asked for by PR_SET_MEMORY_MERGE.
static WANTS_ALL_MERGED: AtomicBool = AtomicBool::new(false);

/// prctl(2): PR_SET_MEMORY_MERGE is accepted, and kept from the kernel: ksmd would merge our
/// regions, too, and a range belongs to one engine at a time.
///
/// # Safety
/// As the system call.
#[no_mangle]
pub unsafe extern "C" fn prctl(
    option: c_int,
    a: c_ulong,
    b: c_ulong,
    c: c_ulong,
    d: c_ulong,
) -> c_int {
    if matches!(option, PR_SET_MEMORY_MERGE | PR_GET_MEMORY_MERGE) && has_hub() {
        return match (option, a, b | c | d) {
            (PR_SET_MEMORY_MERGE, on, 0) => {
                WANTS_ALL_MERGED.store(on != 0, Ordering::Relaxed);
                0
            }
            (PR_GET_MEMORY_MERGE, 0, 0) => c_int::from(WANTS_ALL_MERGED.load(Ordering::Relaxed)),
            _ => answer(Err(libc::EINVAL)),
        };
    }
    // SAFETY: the program's own call.
    match checked(unsafe { libc::syscall(libc::SYS_prctl, option, a, b, c, d) }) {
        Ok(value) => value as c_int,
        Err(errno) => answer(Err(errno)),
    }
}

/// ioctl(2): memory that the program watches with a userfaultfd of its own is left to it.
///
/// # Safety
/// As the system call.
#[no_mangle]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if request == UFFDIO_REGISTER && !argument.is_null() {
        // SAFETY: struct uffdio_register starts with the range, by the caller.
        let [start, len] = unsafe { argument.cast::<[u64; 2]>().read_unaligned() };
        if program::concerns(start as usize, len as usize) {
            program::dissolve(start as usize, len as usize);
        }
    }
    // SAFETY: the program's own call.
    match checked(unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) }) {
        Ok(value) => value as c_int,
        Err(errno) => answer(Err(errno)),
    }
}
