//! Stacks that the program gives to its threads.
//!
//! When a thread ends, the kernel writes to its stack: that it has ended (CLONE_CHILD_CLEARTID). A
//! userfaultfd does not hold such a write. It fails if the page is held at that moment
//! (`handle_userfault` in fs/userfaultfd.c, PF_EXITING), and then pthread_join(3) waits for ever.
//! So these stacks are not merged.

use super::next::Next;
use crate::{guarded, program};
use libc::{c_int, c_void, pthread_attr_t, size_t};
use pagemerge_pages::PAGE;
use std::mem::transmute;
use std::slice::from_ref;

static SETSTACK: Next = Next::new(c"pthread_attr_setstack");

/// pthread_attr_setstack(3).
///
/// # Safety
/// The same requirements as for the function.
#[no_mangle]
pub unsafe extern "C-unwind" fn pthread_attr_setstack(
    attributes: *mut pthread_attr_t,
    stack: *mut c_void,
    len: size_t,
) -> c_int {
    type SetStack = unsafe extern "C-unwind" fn(*mut pthread_attr_t, *mut c_void, size_t) -> c_int;
    // SAFETY: the next function of that name is libc's, and the caller fulfils its requirements.
    let failed = unsafe {
        let next: SetStack = transmute(SETSTACK.get());
        next(attributes, stack, len)
    };
    let start = stack as usize / PAGE * PAGE;
    let end = (stack as usize).checked_add(len).and_then(|end| end.checked_next_multiple_of(PAGE));
    if let (0, Some(end)) = (failed, end) {
        let _ = guarded(|| program::restored(from_ref(&(start..end)), 0, true, || Ok(0)));
    }
    failed
}
