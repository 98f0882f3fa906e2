//! Finds activity that goes on while the threads of a process are stopped, and must not be kept
//! waiting.
//!
//! `pinned` finds the pages that a device writes, page by page. This file is about two kinds of
//! descriptor, for which a process is not parked at all. Nothing here allocates.

use crate::error::{Error, Result};
use crate::uffd::FEATURE_EVENT_FORK;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, RawDir};
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicI32, Ordering};

/// The link target in /proc/PID/fd, and its name for people. With a userfaultfd, the agent might
/// wait for a page that a stopped thread should bring. With an io_uring, the kernel's own threads
/// of the ring would fail to write to a window that is read-only for a moment.
const KINDS: [(&[u8], &str); 2] =
    [(b"anon_inode:[userfaultfd]", "a userfaultfd"), (b"anon_inode:[io_uring]", "an io_uring")];

/// Returns which of these this process has open. Does not allocate, whatever it finds: threads may
/// be stopped, one of them with the allocator's lock.
///
/// # Errors
/// `Os` if that cannot be found out.
pub fn find() -> Result<Option<&'static str>> {
    find_any(&|table, _, name| {
        let mut link = [MaybeUninit::<u8>::uninit(); 128];
        // The entry is `.` or `..`, or was closed meanwhile.
        let (target, _) = rustix::fs::readlinkat_raw(table, name, &mut link).ok()?;
        KINDS.iter().find(|(kind, _)| target.starts_with(kind)).map(|(_, what)| *what)
    })
}

/// Returns whether this process has a userfaultfd open that is told of forks. A thread that forks
/// then waits until the program has taken note, and the program would see a child that it does not
/// know.
///
/// # Errors
/// `Os` if that cannot be found out.
pub fn is_told_of_forks() -> Result<bool> {
    let told = find_any(&|table, info, name| {
        let mut link = [MaybeUninit::<u8>::uninit(); 128];
        let (target, _) = rustix::fs::readlinkat_raw(table, name, &mut link).ok()?;
        (target.starts_with(KINDS[0].0) && has_fork_events(info?, name)).then_some(KINDS[0].1)
    });
    told.map(|found| found.is_some())
}

/// The agent's thread, whose descriptors are not the program's; 0 if there is none.
pub static AGENT: AtomicI32 = AtomicI32::new(0);

/// Looks at a descriptor. The arguments are its folder, the folder fdinfo, and its number.
type Look<'a> = &'a dyn Fn(&OwnedFd, Option<&OwnedFd>, &CStr) -> Option<&'static str>;

fn find_any(look: Look<'_>) -> Result<Option<&'static str>> {
    let tasks = open_directory(c"/proc/self/task")?;
    let leader = rustix::process::getpid().as_raw_nonzero().get();
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = RawDir::new(&tasks, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|errno| Error::os("getdents", errno.raw_os_error()))?;
        let Some(task) = number(entry.file_name()) else { continue };
        // The agent's own table holds only slabs and sockets. Threads nearly always share one
        // table; a thread with a table of its own is looked at as well.
        let ours = [own, AGENT.load(Ordering::Relaxed)];
        if ours.contains(&task) || (task != leader && shares_files(task, leader)) {
            continue;
        }
        let Ok(task) = rustix::fs::openat(&tasks, entry.file_name(), OPEN, Mode::empty()) else {
            continue; // the thread has ended meanwhile
        };
        if let Some(what) = find_in_table(&task, look)? {
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

/// The error for a process that has `what` open.
#[must_use]
pub fn refusal(what: &str) -> Error {
    Error::Unsupported(format!("this process has {what} open, so its threads are not stopped"))
}

fn number(name: &CStr) -> Option<i32> {
    name.to_str().ok()?.parse().ok()
}

/// Returns whether two tasks use one descriptor table (kcmp(2)); false where the kernel cannot
/// tell.
fn shares_files(one: i32, other: i32) -> bool {
    const KCMP_FILES: i32 = 2;
    // SAFETY: kcmp only compares; the last two arguments are unused for KCMP_FILES.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) == 0 }
}

/// Look through one task's descriptors.
fn find_in_table(task: &OwnedFd, look: Look<'_>) -> Result<Option<&'static str>> {
    let Ok(table) = rustix::fs::openat(task, c"fd", OPEN, Mode::empty()) else {
        return Ok(None); // the thread has ended meanwhile
    };
    let info = rustix::fs::openat(task, c"fdinfo", OPEN, Mode::empty()).ok();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = RawDir::new(&table, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|errno| Error::os("getdents", errno.raw_os_error()))?;
        if let Some(what) = look(&table, info.as_ref(), entry.file_name()) {
            return Ok(Some(what));
        }
    }
    Ok(None)
}

/// Returns whether a userfaultfd has UFFD_FEATURE_EVENT_FORK. The second number of its line `API`
/// tells, in hexadecimal (fs/userfaultfd.c). Returns true if that cannot be read.
fn has_fork_events(info: &OwnedFd, name: &CStr) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(info, name, flags, Mode::empty()) else { return true };
    let mut text = [0_u8; 512];
    let Ok(len) = rustix::io::read(&file, &mut text) else { return true };
    let mut lines = text[..len].split(|&byte| byte == b'\n');
    let features = lines.find_map(|line| line.strip_prefix(b"API:")).and_then(|line| {
        let number = line.split(|&byte| byte == b':').nth(1)?;
        u64::from_str_radix(std::str::from_utf8(number.trim_ascii()).ok()?, 16).ok()
    });
    features.is_none_or(|features| features & FEATURE_EVENT_FORK != 0)
}
