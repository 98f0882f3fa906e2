//! Rings that the kernel writes to, and that outlive their descriptors: AIO and io_uring.
//!
//! A descriptor that was closed again leaves its ring's mapping, which is shared and of a file. To
//! find it is to go through all mappings, of which a process that was merged page by page has very
//! many; so the kernel is asked for shared ones only (`PROCMAP_QUERY`, Linux 6.11): 0.5 ms among
//! 3,000 mappings, where reading `/proc/self/maps` takes 2.5.

use crate::error::{Error, Result};
use crate::mappings::Mappings;
use crate::pins::pinned;
use rustix::io::Errno;

const NAMES: [(&str, &str); 2] =
    [("/[aio]", "an AIO ring"), ("anon_inode:[io_uring]", "an io_uring")];

/// Refuse if this process has such a ring mapped.
///
/// Still dear, so it is asked once a request, not once a window.
///
/// # Errors
/// `Unsupported` that names the cause; `Os` if that cannot be found out.
pub fn refuse() -> Result<()> {
    let found = match by_query(&Mappings::open()?) {
        Err(Errno::NOTTY) => by_text()?,
        found => found.map_err(|errno| Error::os("PROCMAP_QUERY", errno.raw_os_error()))?,
    };
    found.map_or(Ok(()), |what| Err(pinned(what)))
}

/// What is mapped, by the kernel's answers; ENOTTY before Linux 6.11.
fn by_query(maps: &Mappings) -> rustix::io::Result<Option<&'static str>> {
    let mut address = 0;
    loop {
        let mut name = [0_u8; 64];
        let end = match maps.next_shared(address, &mut name) {
            // A longer name is none of ours.
            Err(Errno::NAMETOOLONG) => maps.next_shared(address, &mut [])?,
            Err(Errno::NOENT) => return Ok(None),
            end => end?,
        };
        if let Some((_, what)) = NAMES.iter().find(|(ring, _)| name.starts_with(ring.as_bytes())) {
            return Ok(Some(what));
        }
        address = end;
    }
}

/// The same by reading all of `/proc/self/maps`.
fn by_text() -> Result<Option<&'static str>> {
    let maps = std::fs::read("/proc/self/maps")
        .map_err(|error| Error::os("read of maps", error.raw_os_error().unwrap_or(0)))?;
    let there = |name: &str| {
        // SAFETY: both are slices that outlive the call.
        let found = unsafe {
            libc::memmem(maps.as_ptr().cast(), maps.len(), name.as_ptr().cast(), name.len())
        };
        !found.is_null()
    };
    Ok(NAMES.iter().find(|(name, _)| there(name)).map(|(_, what)| *what))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a child of its own: other tests of this process may look for rings at the same time.
    #[test]
    fn both_ways_find_a_ring() {
        // SAFETY: the child makes system calls and ends; it asserts nothing that would unwind.
        let status = unsafe {
            match libc::fork() {
                0 => libc::_exit(in_child()),
                child => {
                    let mut status = 0;
                    libc::waitpid(child, &mut status, 0);
                    status
                }
            }
        };
        assert_eq!(status, 0, "step {}", status >> 8);
    }

    /// 0, or the number of the step that went wrong.
    fn in_child() -> i32 {
        let both = || {
            let queried = by_query(&Mappings::open().unwrap());
            assert!(queried.is_ok() || queried == Err(Errno::NOTTY));
            (queried.unwrap_or(by_text().unwrap()), by_text().unwrap())
        };
        let mut context: libc::c_ulong = 0;
        if both() != (None, None) {
            return 1;
        }
        // SAFETY: the kernel writes the number of the context.
        if unsafe { libc::syscall(libc::SYS_io_setup, 8, &raw mut context) } != 0 {
            return 0; // this kernel has no AIO
        }
        if both() != (Some("an AIO ring"), Some("an AIO ring")) {
            return 2;
        }
        // SAFETY: the context is ours.
        unsafe { libc::syscall(libc::SYS_io_destroy, context) };
        if both() != (None, None) {
            return 3;
        }
        0
    }
}
