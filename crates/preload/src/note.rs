//! The line for people that is printed when a program of `pagemerge run` ends, and none of its
//! memory could be merged.
//!
//! `run` writes a note, a small file, and becomes the program. The first of the program's processes
//! that marks memory which can be merged removes the note. If a process marks memory that cannot be
//! merged, it writes that into the note's first byte. The process that `run` was does so for any
//! memory: it knows only at its end whether it ever found a hub. That process usually ends last: it
//! takes the note that is still there and writes the line that fits. Other processes print nothing.
//! A program that has closed its standard error by then, or is killed, prints nothing either.
//!
//! All calls go to the kernel directly: `_exit` may be called in a signal handler, or with any lock
//! held.

use pagemerge_agent::{is_hubless, program};
use rustix::fs::{fstat, open, unlink, Mode, OFlags};
use rustix::io::{pwrite, read, write};
use rustix::process::getpid;
use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

/// Why nothing was merged: the first byte of the note. It is also the number of the note's line
/// that says so, counted from 0.
const UNMARKED: u8 = b'1';
const SHARED: u8 = b'2';
const UNFIT: u8 = b'3';
const HUBLESS: u8 = b'4';
/// The size of the buffer for a note, in bytes: larger than any note.
const MOST: usize = 2048;

pub struct Note {
    /// The process that `run` was.
    process: i32,
    /// The device and inode of what was its standard error: the program may have put a file of its
    /// own there by now.
    stderr: (u64, u64),
    path: CString,
}

static NOTE: OnceLock<Option<Note>> = OnceLock::new();
/// Whether this process has nothing more to report.
static SETTLED: AtomicBool = AtomicBool::new(false);
/// Whether the process that `run` was has marked memory that can be merged.
static MERGES: AtomicBool = AtomicBool::new(false);

/// Look for a note: when the library starts, or when another library marks memory before that.
pub fn expect() -> Option<&'static Note> {
    NOTE.get_or_init(named).as_ref()
}

/// The note that `PAGEMERGE_NOTE` names, as `PID:DEVICE:INODE:PATH`.
fn named() -> Option<Note> {
    let word = std::env::var_os("PAGEMERGE_NOTE").unwrap_or_default().into_vec();
    let mut parts = word.splitn(4, |&byte| byte == b':');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
    let (process, device, inode) = (number()?, number()?, number()?);
    let path = CString::new(parts.next()?).ok()?;
    Some(Note { process: i32::try_from(process).ok()?, stderr: (device, inode), path })
}

/// Record that the program has marked `[start, end)`; `fits`: some of it can be merged.
pub fn marked(start: usize, end: usize, fits: bool) {
    let Some(note) = expect().filter(|_| !SETTLED.load(Ordering::Relaxed)) else { return };
    let ours = getpid().as_raw_nonzero().get() == note.process;
    if fits && !ours {
        SETTLED.store(true, Ordering::Relaxed);
        let _ = unlink(&note.path);
        return;
    }
    if ours && MERGES.fetch_or(fits, Ordering::Relaxed) {
        return; // the note already has the reason that counts
    }
    if let Ok(file) = open(&note.path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let why = match fits {
            true => HUBLESS,
            false if program::is_shared(start, end) => SHARED,
            false => UNFIT,
        };
        let _ = pwrite(&file, &[why], 0);
    }
}

/// Called when this process ends.
pub fn finish() {
    let Some(Some(note)) = NOTE.get() else { return };
    if getpid().as_raw_nonzero().get() != note.process || SETTLED.swap(true, Ordering::Relaxed) {
        return;
    }
    let Ok(file) = open(&note.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return;
    };
    let mut text = [0_u8; MOST];
    let Ok(len) = read(&file, &mut text[..]) else { return };
    // If two threads end the process, only one of them removes the note.
    if unlink(&note.path).is_err() || (text[0] == HUBLESS && !is_hubless()) {
        return;
    }
    // SAFETY: it is used for two calls, which fail if the program has closed it.
    let stderr = unsafe { BorrowedFd::borrow_raw(2) };
    let same = |found: rustix::fs::Stat| (found.st_dev, found.st_ino) == note.stderr;
    let line = match text[0] {
        which @ (UNMARKED | SHARED | UNFIT | HUBLESS) => usize::from(which - UNMARKED) + 1,
        _ => return,
    };
    if let (true, Some(line)) = (
        fstat(stderr).is_ok_and(same),
        text[..len].split_inclusive(|&byte| byte == b'\n').nth(line),
    ) {
        let _ = write(stderr, line);
    }
}
