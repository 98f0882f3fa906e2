//! Rings that the kernel writes to, and that outlive their descriptors: AIO and io_uring.
//!
//! A descriptor that was closed again leaves its ring's mapping, which is shared and of a file. To
//! find it is to go through all mappings, of which a process that was merged page by page has very
//! many; so the kernel is asked for shared ones only (`PROCMAP_QUERY`, Linux 6.11), a tenth of the
//! time that reading `/proc/self/maps` takes.

use crate::error::{Error, Result};
use crate::pins::pinned;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{self, opcode, Updater};

const NAMES: [(&str, &str); 2] =
    [("/[aio]", "an AIO ring"), ("anon_inode:[io_uring]", "an io_uring")];

/// struct procmap_query (linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    device: [u32; 2],
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

const PROCMAP_QUERY: ioctl::Opcode = opcode::read_write::<Query>(b'f', 17);
const SHARED: u64 = 0x08;
const COVERING_OR_NEXT: u64 = 0x10;
const FILE_BACKED: u64 = 0x20;

/// Refuse if this process has such a ring mapped.
///
/// Still dear, so it is asked once a request, not once a window.
///
/// # Errors
/// `Unsupported` that names the cause; `Os` if that cannot be found out.
pub fn refuse() -> Result<()> {
    let maps =
        rustix::fs::open(c"/proc/self/maps", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| Error::os("open of maps", errno.raw_os_error()))?;
    let found = match by_query(&maps) {
        Err(Errno::NOTTY) => by_text()?,
        found => found.map_err(|errno| Error::os("PROCMAP_QUERY", errno.raw_os_error()))?,
    };
    found.map_or(Ok(()), |what| Err(pinned(what)))
}

/// What is mapped, by the kernel's answers; ENOTTY before Linux 6.11.
fn by_query(maps: &OwnedFd) -> rustix::io::Result<Option<&'static str>> {
    let mut address = 0;
    loop {
        let mut name = [0_u8; 64];
        let end = match next_shared(maps, address, &mut name) {
            // A longer name is none of ours.
            Err(Errno::NAMETOOLONG) => next_shared(maps, address, &mut [])?,
            Err(Errno::NOENT) => return Ok(None),
            end => end?,
        };
        if let Some((_, what)) = NAMES.iter().find(|(ring, _)| name.starts_with(ring.as_bytes())) {
            return Ok(Some(what));
        }
        address = end;
    }
}

/// Where the next shared mapping of a file at `address` or behind it ends; its name to `name`.
fn next_shared(maps: &OwnedFd, address: u64, name: &mut [u8]) -> rustix::io::Result<u64> {
    let mut query = Query {
        size: size_of::<Query>() as u64,
        flags: SHARED | COVERING_OR_NEXT | FILE_BACKED,
        address,
        name_size: name.len() as u32,
        name: if name.is_empty() { 0 } else { name.as_mut_ptr() as u64 },
        ..Query::default()
    };
    // SAFETY: the kernel reads and writes a struct procmap_query, and `name`, which outlive the
    // call.
    unsafe { ioctl::ioctl(maps.as_fd(), Updater::<PROCMAP_QUERY, _>::new(&mut query)) }?;
    Ok(query.vma_end)
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
            let maps = rustix::fs::open(c"/proc/self/maps", OFlags::RDONLY, Mode::empty()).unwrap();
            let queried = by_query(&maps);
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
