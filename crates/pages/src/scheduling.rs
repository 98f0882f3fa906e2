//! How the kernel lets our threads run beside others (sched(7), sched_setattr(2)).

use crate::error::{Error, Result};
use crate::raw::syscall;

/// struct sched_attr, as long as its first version (include/uapi/linux/sched/types.h).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SIZE: usize = std::mem::size_of::<Attributes>();
const FAIR: [u32; 2] = [libc::SCHED_OTHER as u32, libc::SCHED_BATCH as u32];

/// Lengthen the slice of a thread (0: the calling one) a little, or set it to the default again. The
/// slice is the time for which the thread wants a processor at once; its share stays the same.
///
/// Since Linux 6.12, a thread that wakes up takes the processor at once from a thread with a longer
/// slice than its own (`PREEMPT_SHORT` in kernel/sched/fair.c); from others it takes it only when
/// their slice is over. The slice is hardly longer than the default, because the thread also waits
/// for as long a time: it may hold what others wait for. Older kernels ignore the slice.
///
/// Returns false for a thread of another policy than SCHED_OTHER and SCHED_BATCH: it is left alone.
///
/// # Errors
/// `Os` with the errors of sched_setattr(2).
pub fn lengthen_slice(thread: i32, lengthened: bool) -> Result<bool> {
    let mut attributes = attributes(thread)?;
    if !FAIR.contains(&attributes.policy) {
        return Ok(false);
    }
    attributes.runtime = 0;
    set(thread, &attributes)?;
    if lengthened {
        let default = self::attributes(thread)?.runtime;
        attributes.runtime = default + default / 8;
        set(thread, &attributes)?;
    }
    Ok(true)
}

fn attributes(thread: i32) -> Result<Attributes> {
    let mut attributes = Attributes::default();
    let at = (&raw mut attributes) as usize;
    // SAFETY: the kernel writes `SIZE` bytes at most.
    unsafe { syscall(libc::SYS_sched_getattr, [thread as usize, at, SIZE, 0, 0, 0]) }
        .map_err(|errno| Error::os("sched_getattr", errno))?;
    Ok(attributes)
}

fn set(thread: i32, attributes: &Attributes) -> Result<()> {
    let at = std::ptr::from_ref(attributes) as usize;
    // SAFETY: the kernel reads as many bytes as it has told.
    unsafe { syscall(libc::SYS_sched_setattr, [thread as usize, at, 0, 0, 0, 0]) }
        .map_err(|errno| Error::os("sched_setattr", errno))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_a_longer_slice_and_the_default_again() {
        let slice = || attributes(0).unwrap().runtime;
        std::thread::spawn(move || {
            let before = slice(); // 0 before Linux 6.12
            assert_eq!(lengthen_slice(0, true), Ok(true));
            assert_eq!(slice(), before + before / 8);
            assert_eq!(lengthen_slice(0, true), Ok(true), "again");
            assert_eq!(slice(), before + before / 8);
            assert_eq!(lengthen_slice(0, false), Ok(true));
            assert_eq!(slice(), before);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_that_is_not_there_is_an_error() {
        assert_eq!(lengthen_slice(i32::MAX, true).unwrap_err().errno(), Some(libc::ESRCH));
    }
}
