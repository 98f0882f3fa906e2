//! Handles memory that the program gives up: it reads as zero from then on.
//!
//! Copying memory that is given up would be a waste, so fresh memory takes the place of a slab's
//! mapping by one call, and only if the kernel would have agreed. The real call on a slab's mapping
//! would bring the slots' bytes back.

use super::{slabbed, Answer};
use crate::gate::{lock, Locked};
use pagemerge_pages::barrier::window::{Backing, Keep};
use pagemerge_pages::soft::Soft;
use pagemerge_pages::PAGE;
use rustix::mm::Advice;
use std::ops::Range;

/// Handles MADV_DONTNEED and MADV_FREE; `raw` is the real call, for the parts that map no slab.
///
/// The kernel goes from mapping to mapping. It stops at a mapping that cannot be discarded (EINVAL:
/// it is locked, EPERM: it is sealed), and passes over holes (ENOMEM). So do we.
///
/// # Errors
/// The error number of `raw`.
pub fn discard(from: usize, end: usize, raw: impl Fn(usize, usize) -> Answer) -> Answer {
    let mut state = lock();
    let mut at = from;
    let mut answer = Ok(0);
    let mut note = |part: Answer| match part {
        Err(libc::ENOMEM) => {
            answer = part;
            Ok(())
        }
        part => part.map(|_| ()),
    };
    let Some(runs) = slabbed(&mut state, from, end) else {
        // This is a forked copy that cannot find out what it maps. What the kernel agrees to
        // discard is overwritten with zeros, whatever it is.
        raw(from, end - from)?;
        return clear(&(from..end)).map(|()| 0);
    };
    for (run, keep) in runs {
        if run.start > at {
            note(raw(at, run.start - at))?;
        }
        renew(&mut state, &run, keep)?;
        at = run.end;
    }
    if at < end || from == end {
        note(raw(at, end - at))?;
    }
    answer
}

/// Put fresh zero memory in the place of a run of a slab's mapping, if the kernel agrees.
fn renew(state: &mut Locked, run: &Range<usize>, keep: Keep) -> Result<(), i32> {
    let (at, len) = (run.start as *mut libc::c_void, run.len());
    // SAFETY: the program gives the run's contents up. MADV_COLD changes no byte, and the kernel
    // refuses it for the same memory as MADV_DONTNEED, above all for locked memory.
    unsafe {
        rustix::mm::madvise(at, len, Advice::LinuxCold).map_err(|errno| errno.raw_os_error())?;
        match keep.renew(at, len) {
            Ok(()) => {
                state.table.correct(run.start, run.end, Backing::Anonymous);
                Ok(())
            }
            // There is no room for a mapping: write zeros.
            Err(rustix::io::Errno::NOMEM) => clear(run),
            Err(errno) => Err(errno.raw_os_error()),
        }
    }
}

/// Write zeros over a run, whatever its protection.
fn clear(run: &Range<usize>) -> Result<(), i32> {
    let soft = Soft::open();
    for page in run.clone().step_by(PAGE) {
        if !soft.write(page, &[0; PAGE]) {
            return Err(libc::EAGAIN);
        }
    }
    Ok(())
}
