//! What lets a device or the kernel write to our memory without a page fault.
//!
//! Write protection and stopped threads do not stop such writers, so the barriers that rest on
//! those refuse a process that has one open. Nothing here allocates.

use crate::error::{Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, RawDir};
use std::ffi::CStr;
use std::mem::MaybeUninit;

/// The start of a link target in /proc/PID/fd, and what to call it.
type Kind = (&'static [u8], &'static str);

/// Those that stand for pinned memory; and before them, what matters with stopped threads only.
const KINDS: [Kind; 7] = [
    (b"anon_inode:[userfaultfd]", "a userfaultfd"),
    (b"anon_inode:[io_uring]", "an io_uring"),
    (b"/dev/vfio/", "a vfio device"),
    (b"anon_inode:[vfio", "a vfio device"),
    (b"/dev/infiniband/", "an RDMA device"),
    (b"/dev/vhost-vdpa", "a vDPA device"),
    (b"/dev/nvidia", "a GPU that maps host memory"),
];

/// Refuse if this process has a descriptor that can have pages pinned.
///
/// To be called with the barrier up: a pin that is asked for later faults, and waits.
///
/// # Errors
/// `Unsupported` that names the cause; `Os` if that cannot be found out.
pub fn refuse() -> Result<()> {
    find()?.map_or(Ok(()), |what| Err(pinned(what)))
}

/// What this process has open that can have pages pinned. Does not allocate, whatever it finds:
/// threads may be stopped, one of them with the allocator's lock.
///
/// # Errors
/// `Os` if that cannot be found out.
pub fn find() -> Result<Option<&'static str>> {
    find_any(&KINDS[1..])
}

/// The same for a process whose threads are stopped: also a userfaultfd, because we might wait for
/// a page that a stopped thread should bring.
///
/// # Errors
/// As `find`.
pub fn find_stopped() -> Result<Option<&'static str>> {
    find_any(&KINDS)
}

fn find_any(kinds: &[Kind]) -> Result<Option<&'static str>> {
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
        if let Some(what) = find_in_table(&task, kinds)? {
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
pub fn pinned(what: &str) -> Error {
    Error::Unsupported(format!(
        "this process has {what} open, whose writes only UFFDIO_MOVE stops (Linux 6.8, full-mode \
         userfaultfd, CAP_SYS_PTRACE)"
    ))
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
fn find_in_table(task: &OwnedFd, kinds: &[Kind]) -> Result<Option<&'static str>> {
    let Ok(table) = rustix::fs::openat(task, c"fd", OPEN, Mode::empty()) else {
        return Ok(None); // the thread has ended meanwhile
    };
    let info = rustix::fs::openat(task, c"fdinfo", OPEN, Mode::empty());
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = RawDir::new(&table, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|errno| Error::os("getdents", errno.raw_os_error()))?;
        let name = entry.file_name();
        let mut link = [MaybeUninit::<u8>::uninit(); 128];
        let Ok((target, _)) = rustix::fs::readlinkat_raw(&table, name, &mut link) else {
            continue; // `.`, `..`, or closed meanwhile
        };
        let target = &*target;
        if let Some((_, what)) = kinds.iter().find(|(prefix, _)| target.starts_with(prefix)) {
            return Ok(Some(what));
        }
        if target.starts_with(b"/") && info.as_ref().is_ok_and(|info| is_direct(info, name)) {
            return Ok(Some("a file with O_DIRECT"));
        }
    }
    Ok(None)
}

/// Was this descriptor opened with O_DIRECT (the `flags` line of fdinfo, octal)?
fn is_direct(info: &OwnedFd, name: &CStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(info, name, flags, Mode::empty()) else { return false };
    let mut text = [0_u8; 128];
    let Ok(len) = rustix::io::read(&file, &mut text) else { return false };
    let Some(at) = text[..len].windows(6).position(|word| word == b"flags:") else { return false };
    let digits = text[at + 6..len].iter().skip_while(|byte| byte.is_ascii_whitespace());
    let mut value = 0_u32;
    for byte in digits.take_while(|byte| byte.is_ascii_digit()) {
        value = value << 3 | u32::from(byte - b'0');
    }
    value & libc::O_DIRECT as u32 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn a_file_with_o_direct_is_named() {
        // One test, because both halves look at the same descriptor table.
        refuse().unwrap();
        let path = std::env::current_exe().unwrap();
        let Ok(direct) =
            std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path)
        else {
            eprintln!("this file system has no O_DIRECT");
            return;
        };
        let error = refuse().unwrap_err();
        assert!(error.to_string().contains("O_DIRECT"), "{error}");
        drop(direct);
        refuse().unwrap();
    }
}
