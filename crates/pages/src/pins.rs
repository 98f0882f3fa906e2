//! What goes on while the threads of a process are stopped, and must not be kept waiting.
//!
//! Pages that a device writes are found page by page (`pinned`). Here it is about two kinds of
//! descriptor, for which a process is not parked at all. Nothing here allocates.

use crate::error::{Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, RawDir};
use std::ffi::CStr;
use std::mem::MaybeUninit;

/// The link target in /proc/PID/fd, and what to call it. The agent might wait for a page that a
/// stopped thread should bring; and the kernel's own threads of a ring would fail to write to a
/// window that is read-only for a moment.
const KINDS: [(&[u8], &str); 2] =
    [(b"anon_inode:[userfaultfd]", "a userfaultfd"), (b"anon_inode:[io_uring]", "an io_uring")];

/// What this process has open of that. Does not allocate, whatever it finds: threads may be stopped,
/// one of them with the allocator's lock.
///
/// # Errors
/// `Os` if that cannot be found out.
pub fn find() -> Result<Option<&'static str>> {
    let tasks = open_directory(c"/proc/self/task")?;
    let leader = rustix::process::getpid().as_raw_nonzero().get();
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = RawDir::new(&tasks, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|errno| Error::os("getdents", errno.raw_os_error()))?;
        let Some(task) = number(entry.file_name()) else { continue };
        // The agent's own table holds slabs and sockets only. Threads nearly always share one
        // table; one with a table of its own is looked at as well.
        if task == own || (task != leader && shares_files(task, leader)) {
            continue;
        }
        let Ok(task) = rustix::fs::openat(&tasks, entry.file_name(), OPEN, Mode::empty()) else {
            continue; // the thread has ended meanwhile
        };
        if let Some(what) = find_in_table(&task)? {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn open_directory(path: &CStr) -> Result<OwnedFd> {
    rustix::fs::open(path, OPEN, Mode::empty())
        .map_err(|errno| Error::os("open of /proc/self/task", errno.raw_os_error()))
}

/// The refusal of a process that has `what` open.
#[must_use]
pub fn refusal(what: &str) -> Error {
    Error::Unsupported(format!("this process has {what} open, so its threads are not stopped"))
}

fn number(name: &CStr) -> Option<i32> {
    name.to_str().ok()?.parse().ok()
}

/// Do two tasks use one descriptor table (kcmp(2))? Where the kernel cannot tell: no.
fn shares_files(one: i32, other: i32) -> bool {
    const KCMP_FILES: i32 = 2;
    // SAFETY: kcmp only compares; the last two arguments are unused for KCMP_FILES.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) == 0 }
}

/// Look through one task's descriptors.
fn find_in_table(task: &OwnedFd) -> Result<Option<&'static str>> {
    let Ok(table) = rustix::fs::openat(task, c"fd", OPEN, Mode::empty()) else {
        return Ok(None); // the thread has ended meanwhile
    };
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = RawDir::new(&table, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|errno| Error::os("getdents", errno.raw_os_error()))?;
        let mut link = [MaybeUninit::<u8>::uninit(); 128];
        let Ok((target, _)) = rustix::fs::readlinkat_raw(&table, entry.file_name(), &mut link)
        else {
            continue; // `.`, `..`, or closed meanwhile
        };
        let target = &*target;
        if let Some((_, what)) = KINDS.iter().find(|(kind, _)| target.starts_with(kind)) {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_userfaultfd_is_named() {
        assert_eq!(find(), Ok(None));
        let Ok(open) = crate::uffd::Userfault::open(0) else {
            eprintln!("skipped: no full-mode userfaultfd");
            return;
        };
        assert_eq!(find(), Ok(Some("a userfaultfd")));
        drop(open);
        assert_eq!(find(), Ok(None));
    }
}
