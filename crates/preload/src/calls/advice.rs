//! madvise and process_madvise.

use crate::{config, guarded, has_hub, kernel, told, told_int};
use libc::{c_int, c_uint, c_void, size_t, ssize_t};
use pagemerge_agent::hull;
use pagemerge_agent::program::{self, Answer};
use pagemerge_pages::soft::peek;
use std::ops::Range;
use std::slice::from_ref;

/// Advice that the crate libc does not name (linux/mman.h).
const MADV_GUARD_REMOVE: c_int = 103;
/// The largest number of ranges that one process_madvise takes (IOV_MAX).
const MOST_RANGES: usize = 1024;

/// Advice that means the same on merged memory. It leaves nothing on a mapping that would be lost
/// when the mapping is merged later.
const ALIKE: [c_int; 7] = [
    libc::MADV_WILLNEED,
    libc::MADV_COLD,
    libc::MADV_PAGEOUT,
    libc::MADV_POPULATE_READ,
    libc::MADV_POPULATE_WRITE,
    libc::MADV_KEEPONFORK,
    MADV_GUARD_REMOVE,
];

/// Advice that also means the same, and that a mapping keeps.
const KEPT: [c_int; 7] = [
    libc::MADV_DONTFORK,
    libc::MADV_DOFORK,
    libc::MADV_DONTDUMP,
    libc::MADV_DODUMP,
    libc::MADV_NORMAL,
    libc::MADV_RANDOM,
    libc::MADV_SEQUENTIAL,
];

/// # Safety
/// The same requirements as for madvise(2).
unsafe fn ask(start: usize, len: usize, advice: c_int) -> Answer {
    // SAFETY: the caller fulfils the requirements of the call.
    unsafe { kernel(libc::SYS_madvise, [start, len, advice as usize, 0, 0, 0]) }
}

/// # Safety
/// The same requirements as for madvise(2).
pub unsafe fn advise(start: usize, len: usize, advice: c_int) -> Answer {
    // SAFETY: the program's own call, here and below.
    let raw = || unsafe { ask(start, len, advice) };
    let Some(end) = program::end_of(start, len).filter(|&end| end > start) else { return raw() };
    match advice {
        libc::MADV_MERGEABLE if has_hub() => guarded(|| mark(start, end)),
        libc::MADV_UNMERGEABLE if has_hub() => guarded(|| program::unmark(start, end, raw)),
        _ if !hull::concerns(start, len) || ALIKE.contains(&advice) => raw(),
        libc::MADV_DONTNEED | libc::MADV_FREE => {
            // SAFETY: parts of the program's own call.
            guarded(|| program::discard(start, end, |at, len| unsafe { ask(at, len, advice) }))
        }
        // Single pages of huge pages could be shared, but not freed, so the hub decides where there
        // are huge pages. We ask the kernel for the opposite, to which it gives the same answer.
        libc::MADV_HUGEPAGE | libc::MADV_NOHUGEPAGE => guarded(|| {
            // SAFETY: it changes no byte.
            let raw = || unsafe { ask(start, len, libc::MADV_NOHUGEPAGE) };
            program::wish(start, end, advice == libc::MADV_HUGEPAGE, raw)
        }),
        libc::MADV_DONTFORK
        | libc::MADV_DOFORK
        | libc::MADV_DONTDUMP
        | libc::MADV_DODUMP
        | libc::MADV_NORMAL
        | libc::MADV_RANDOM
        | libc::MADV_SEQUENTIAL => guarded(|| program::advise(start, end, advice, raw)),
        _ => {
            // A call on no bytes shows whether the kernel knows this advice at all.
            // SAFETY: it names no memory.
            unsafe { ask(start, 0, advice) }?;
            let leave = advice == libc::MADV_WIPEONFORK;
            guarded(|| program::restored(from_ref(&(start..end)), libc::EAGAIN, leave, raw))
        }
    }
}

/// MADV_MERGEABLE is kept from the kernel: ksmd would merge our regions, too, and a range belongs
/// to one engine at a time. The program gets the kernel's answer to MADV_UNMERGEABLE, for which the
/// kernel checks the range in the same way.
fn mark(start: usize, end: usize) -> Answer {
    crate::watch_forks();
    let fits = program::mark(start, end, config).map_err(|_| libc::EAGAIN)?;
    crate::note::marked(start, end, fits);
    // SAFETY: it changes nothing where ksmd does not merge.
    match unsafe { ask(start, end - start, libc::MADV_UNMERGEABLE) } {
        Err(libc::EINVAL) => Ok(0), // a kernel without KSM: we merge nevertheless
        answer => answer,
    }
}

/// # Safety
/// The same requirements as for process_madvise(2).
pub unsafe fn advise_process(
    pidfd: c_int,
    ranges: usize,
    count: usize,
    advice: c_int,
    flags: c_uint,
) -> Answer {
    let raw = || {
        let call = [pidfd as usize, ranges, count, advice as usize, flags as usize, 0];
        // SAFETY: the program's own call.
        unsafe { kernel(libc::SYS_process_madvise, call) }
    };
    let marks = has_hub() && advice == libc::MADV_MERGEABLE;
    let concerned = marks || hull::concerns(0, usize::MAX);
    if ALIKE.contains(&advice) || count > MOST_RANGES || !concerned {
        return raw();
    }
    guarded(|| {
        let Some(listed) = listed(ranges, count) else { return raw() };
        let ours: Vec<Range<usize>> =
            listed.iter().filter(|it| hull::concerns(it.start, it.len())).cloned().collect();
        if ours.is_empty() && !marks {
            return raw();
        }
        if KEPT.contains(&advice) {
            return program::noted(&ours, raw);
        }
        if advice == libc::MADV_NOHUGEPAGE {
            let answer = raw();
            if answer.is_ok() {
                ours.iter().for_each(|it| _ = program::wish(it.start, it.end, false, || Ok(0)));
            }
            return answer;
        }
        // The call may be about another process: then merged memory of ours is restored in vain.
        // But the kernel takes advice of these kinds for the caller's own memory only.
        let answer = program::restored(&ours, libc::EAGAIN, false, raw);
        if !matches!(answer, Ok(_) | Err(libc::ENOMEM)) {
            return answer; // ENOMEM: the mapped parts have got the advice
        }
        for range in if marks { &listed } else { &ours } {
            // SAFETY: it changes no byte, and takes back what the kernel was just told.
            let undo = |advice| unsafe { ask(range.start, range.len(), advice) };
            match advice {
                libc::MADV_MERGEABLE if marks => {
                    let _ = undo(libc::MADV_UNMERGEABLE);
                    let _ = mark(range.start, range.end); // the answer reports holes
                }
                libc::MADV_UNMERGEABLE => _ = program::unmark(range.start, range.end, || Ok(0)),
                libc::MADV_HUGEPAGE => {
                    let raw = || undo(libc::MADV_NOHUGEPAGE);
                    _ = program::wish(range.start, range.end, true, raw);
                }
                _ => {}
            }
        }
        answer
    })
}

/// The ranges of an array of struct iovec; None if it cannot be read.
fn listed(ranges: usize, count: usize) -> Option<Vec<Range<usize>>> {
    let mut listed = Vec::new();
    for index in 0..count {
        let address = ranges.checked_add(index * size_of::<libc::iovec>())?;
        let [start, len] = words(peek::<16>(address)?);
        listed.extend(program::end_of(start, len).map(|end| start..end));
    }
    Some(listed)
}

/// Two machine words.
pub fn words(bytes: [u8; 16]) -> [usize; 2] {
    let word = |at: usize| usize::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
    [word(0), word(8)]
}

/// madvise(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn madvise(addr: *mut c_void, len: size_t, advice: c_int) -> c_int {
    // SAFETY: the caller fulfils the requirements of the call.
    told_int(unsafe { advise(addr as usize, len, advice) })
}

/// process_madvise(2).
///
/// # Safety
/// The same requirements as for the system call.
#[no_mangle]
pub unsafe extern "C-unwind" fn process_madvise(
    pidfd: c_int,
    ranges: *const libc::iovec,
    count: size_t,
    advice: c_int,
    flags: c_uint,
) -> ssize_t {
    // SAFETY: the caller fulfils the requirements of the call.
    told(unsafe { advise_process(pidfd, ranges as usize, count, advice, flags) })
}
