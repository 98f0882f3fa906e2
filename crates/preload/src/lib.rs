//! The agent as a library to preload (`pagemerge run --engine user`).
//!
//! It takes the place of libc's memory calls. Each does what the system call does, by the system
//! call; where merged memory is concerned, `pagemerge_agent::program` corrects it before or after.
//! Until the program first calls madvise(MADV_MERGEABLE), the library only records where anonymous
//! memory was mapped. libc's own calls, for example inside malloc, do not come here: that memory is
//! never merged.
//!
//! A failure in our code makes the call fail, and never ends the program: panics stop here
//! (`guarded`), and print nothing, because a backtrace maps memory.

mod calls;
#[cfg(feature = "all")]
mod go;
mod heap;
mod note;

use heap::Heap;
use libc::{c_int, c_long, c_void};
use pagemerge_agent::program::{self, Answer};
use pagemerge_agent::{Choice, Config, Quiet};
use pagemerge_pages::raw;
use std::ffi::CString;
use std::panic::{catch_unwind, AssertUnwindSafe};

#[global_allocator]
static HEAP: Heap = Heap::new();

#[used]
#[link_section = ".init_array"]
static AT_START: extern "C" fn() = start;

#[used]
#[link_section = ".fini_array"]
static AT_END: extern "C" fn() = end;

extern "C" fn end() {
    note::finish();
}

/// Runs when the library starts, so before the program can register its own fork handlers: those
/// run while we hold our locks, in parent and child.
extern "C" fn start() {
    let _ = catch_unwind(|| {
        pagemerge_pages::room::set_aside();
        std::panic::set_hook(Box::new(|_| {}));
        watch_forks();
        calls::identity::find();
        let _ = note::begin();
        let _ = note::expect();
        if !has_hub() {
            return;
        }
        #[cfg(feature = "all")]
        if !go::is_there() {
            pagemerge_agent::all::merge_all(least(), std::env::var_os("PAGEMERGE_EAGER").is_some());
        }
        if has_own_malloc() {
            start_agent();
        }
    });
}

/// Returns whether the program has an allocator of its own, which does not call us. It may mark
/// memory with its lock held, and libc allocates for each new thread: so there the agent is started
/// before any thread can hold that lock.
fn has_own_malloc() -> bool {
    // SAFETY: it looks a symbol up.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"calloc".as_ptr()) };
    #[cfg(feature = "all")]
    if found == calls::allocate::calloc as *mut c_void {
        return false;
    }
    !is_libcs(found)
}

/// Returns whether libc has this function. (`gnu_get_libc_version` always belongs to libc.)
fn is_libcs(function: *mut c_void) -> bool {
    // SAFETY: both look an address up; `about` is written where it is known.
    unsafe {
        let library = |symbol: *mut c_void| {
            let mut about = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
            let known = libc::dladdr(symbol, about.as_mut_ptr()) != 0;
            known.then(|| about.assume_init().dli_fbase)
        };
        let libcs = libc::dlsym(libc::RTLD_DEFAULT, c"gnu_get_libc_version".as_ptr());
        library(function) == library(libcs)
    }
}

/// Start the agent. A failure of ours is not the program's.
fn start_agent() {
    let _ = guarded(|| {
        let _ = pagemerge_agent::start(config());
        #[cfg(feature = "all")]
        note::merges_all();
        Ok(0)
    });
}

/// The size in bytes from which unmarked mappings are merged (`PAGEMERGE_FROM`).
#[cfg(feature = "all")]
fn least() -> usize {
    let told = std::env::var("PAGEMERGE_FROM").unwrap_or_default();
    told.parse().unwrap_or(1 << 16)
}

/// After a fork, in parent and child.
fn let_go() {
    HEAP.let_go();
    if note::begin() {
        calls::aside::forget();
    }
}

fn watch_forks() {
    pagemerge_agent::watch_forks(Some((|| HEAP.hold(), let_go)));
}

/// How this process was told to merge (`pagemerge run` sets these).
fn config() -> Config {
    let word = |name| std::env::var(name).unwrap_or_default();
    let hub = word("PAGEMERGE_HUB");
    Config {
        socket: std::env::var_os("PAGEMERGE_SOCKET").unwrap_or_default().into(),
        hub: hub
            .split('\n')
            .filter_map(|it| CString::new(it).ok())
            .filter(|it| !it.is_empty())
            .collect(),
        barrier: Choice::parse(&word("PAGEMERGE_BARRIER")).unwrap_or(Choice::Auto),
        domain: word("PAGEMERGE_DOMAIN"),
    }
}

/// Returns whether this process was told where the hub is. If it was not, the library leaves the
/// program alone.
fn has_hub() -> bool {
    // SAFETY: reads the environment, as the program may at any time. It allocates nothing.
    unsafe { !libc::getenv(c"PAGEMERGE_SOCKET".as_ptr()).is_null() }
}

/// The system call itself.
///
/// # Safety
/// The call must be the program's own, or one of ours that follows from it.
unsafe fn kernel(number: c_long, arguments: [usize; 6]) -> Answer {
    // SAFETY: the caller fulfils the requirements of the call.
    unsafe { raw::syscall(number, arguments) }
}

/// Do the work of a call with all signals blocked; if our code fails, the answer is ENOMEM.
fn guarded(work: impl FnOnce() -> Answer) -> Answer {
    let _quiet = Quiet::now();
    if !HEAP.has_room() {
        return Err(libc::ENOMEM);
    }
    // SAFETY: errno's address is always valid. A call that succeeds leaves errno as it was; our own
    // calls to libc in between may change it.
    let errno = unsafe { *libc::__errno_location() };
    let answer = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(libc::ENOMEM));
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    answer
}

/// Give an answer in libc's way.
fn told(answer: Answer) -> isize {
    match answer {
        Ok(value) => value as isize,
        Err(errno) => {
            // SAFETY: errno's address is always valid.
            unsafe { *libc::__errno_location() = errno };
            -1
        }
    }
}

fn told_int(answer: Answer) -> c_int {
    told(answer) as c_int
}
