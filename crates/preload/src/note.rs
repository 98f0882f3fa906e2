//! The line for people that is printed when a program of `pagemerge run` ends: what was merged of it,
//! or why nothing was.
//!
//! `run` writes a note, a small file, and becomes the program. If a process of the program marks
//! memory, it writes into the note's first byte what that means. The process that `run` was does so
//! for any memory: it knows only at its end whether it ever found a hub. That process usually ends
//! last: it takes the note and writes the line that fits. Other processes add to the note, as they
//! end, what was merged of them, and print nothing. A program that has closed its standard error by
//! then, or is killed, prints nothing either.
//!
//! All calls go to the kernel directly, and nothing is allocated at the end: `_exit` may be called
//! in a signal handler, or with any lock held.

use pagemerge_agent::{all, is_hubless, program, saved};
use rustix::fs::{fstat, open, unlink, FileType, Mode, OFlags};
use rustix::io::{pread, pwrite, read, write};
use rustix::process::getpid;
use std::ffi::CString;
use std::fmt::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::OnceLock;

/// Why nothing was merged: the first byte of the note. It is also the number of the note's line
/// that says so, counted from 0.
const UNMARKED: u8 = b'1';
const SHARED: u8 = b'2';
const UNFIT: u8 = b'3';
const HUBLESS: u8 = b'4';
const SMALL: u8 = b'5';
/// The line for a program of which all memory was to be merged, and none was equal to other memory.
const UNEQUAL: u8 = b'6';
/// The line with the program's name, to which figures are added.
const NAME: u8 = b'7';
/// The number of lines, with that of the first byte.
const LINES: usize = 8;
/// Another process has marked memory that can be merged.
const OTHERS: u8 = b'o';
/// The size of the buffer for a note, in bytes: larger than any note without what is added.
const MOST: usize = 4096;
/// What a process adds as it ends: the bytes that were merged of it, and the bytes that this saved.
const ADDED: usize = 16;
/// A note of more bytes is none of ours: so many processes do not end in one program.
const LARGEST: i64 = 16 << 20;

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
/// Whether this process has written what it had to write as it ends.
static ENDED: AtomicBool = AtomicBool::new(false);
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
    set(fits, || if program::is_shared(start, end) { SHARED } else { UNFIT });
}

/// Record that this process has memory that is merged without a mark.
#[cfg(feature = "all")]
pub fn merges_all() {
    set(true, || UNFIT);
}

fn set(fits: bool, why: impl FnOnce() -> u8) {
    let Some(note) = expect().filter(|_| !SETTLED.load(Ordering::Relaxed)) else { return };
    let ours = is_ours(note);
    if ours && MERGES.fetch_or(fits, Ordering::Relaxed) {
        return; // the note already has the reason that counts
    }
    if fits && !ours {
        SETTLED.store(true, Ordering::Relaxed);
    }
    if let Some(file) = opened(note, OFlags::RDWR) {
        let mut before = [0];
        if pread(&file, &mut before[..], 0).is_ok() && before[0] == OTHERS {
            return;
        }
        let why = match (fits, ours) {
            (true, true) => HUBLESS,
            (true, false) => OTHERS,
            (false, _) => why(),
        };
        let _ = pwrite(&file, &[why], 0);
    }
}

/// Report nothing of this process: it must make no calls that the program would not make.
pub fn say_nothing() {
    SETTLED.store(true, Ordering::Relaxed);
    ENDED.store(true, Ordering::Relaxed);
}

/// Open the note: a file, and no other thing that somebody has put in its place.
fn opened(note: &Note, flags: OFlags) -> Option<OwnedFd> {
    let safe = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = open(&note.path, flags | safe, Mode::empty()).ok()?;
    let about = fstat(&file).ok()?;
    let is_file = FileType::from_raw_mode(about.st_mode) == FileType::RegularFile;
    (is_file && about.st_size <= LARGEST).then_some(file)
}

/// This process; a fork that nobody has noticed leaves that of its parent.
static THIS: AtomicI32 = AtomicI32::new(0);

/// Record that this is a process of its own: at its start, and after a fork. Returns whether it is
/// another process than before.
pub fn begin() -> bool {
    let own = own_pid();
    THIS.swap(own, Ordering::Relaxed) != own
}

fn own_pid() -> i32 {
    getpid().as_raw_nonzero().get()
}

fn is_ours(note: &Note) -> bool {
    own_pid() == note.process
}

/// Called when this process ends.
pub fn finish() {
    let Some(Some(note)) = NOTE.get() else { return };
    if THIS.load(Ordering::Relaxed) != own_pid() {
        return; // it only shares our memory (vfork), and what was merged is ours
    }
    if !is_ours(note) {
        add(note);
    } else if !ENDED.swap(true, Ordering::Relaxed) {
        conclude(note);
    }
}

/// Add to the note what was merged of this process.
fn add(note: &Note) {
    let (merged, kept) = saved();
    if merged == 0 || ENDED.swap(true, Ordering::Relaxed) {
        return;
    }
    let mut record = [0; ADDED];
    record[..8].copy_from_slice(&merged.to_ne_bytes());
    record[8..].copy_from_slice(&kept.to_ne_bytes());
    if let Some(file) = opened(note, OFlags::WRONLY | OFlags::APPEND) {
        let _ = write(&file, &record);
    }
}

/// Take the note, and write the line that fits.
fn conclude(note: &Note) {
    let Some(file) = opened(note, OFlags::RDONLY) else { return };
    let mut text = [0_u8; MOST];
    let Ok(len) = read(&file, &mut text[..]) else { return };
    // If two threads end the process, only one of them removes the note.
    if unlink(&note.path).is_err() {
        return;
    }
    let end = text[..len].iter().enumerate().filter(|(_, &byte)| byte == b'\n').nth(LINES - 1);
    let Some((end, _)) = end else { return };
    let others = Others::read(&file, end + 1);
    let own = saved();
    let line = |which: u8| {
        let mut lines = text[..=end].split_inclusive(|&byte| byte == b'\n');
        lines.nth(usize::from(which.wrapping_sub(b'0'))).unwrap_or_default()
    };
    if own.0 > 0 || others.count > 0 {
        let mut told = Line { text: [0; MOST], len: 0 };
        let name = std::str::from_utf8(line(NAME).trim_ascii_end()).unwrap_or_default();
        let _ = figures(&mut told, name, own, &others);
        say(note, &told.text[..told.len]);
        return;
    }
    match text[0] {
        HUBLESS if is_hubless() => say(note, line(HUBLESS)),
        HUBLESS if all::is_on() => say(note, line(UNEQUAL)),
        why @ (UNMARKED | SHARED | UNFIT | SMALL) => say(note, line(why)),
        _ => {}
    }
}

/// Write a line to what was the program's standard error, unless the program has put another file
/// there.
fn say(note: &Note, line: &[u8]) {
    // SAFETY: it is used for two calls, which fail if the program has closed it.
    let stderr = unsafe { BorrowedFd::borrow_raw(2) };
    if fstat(stderr).is_ok_and(|found| (found.st_dev, found.st_ino) == note.stderr) {
        let _ = write(stderr, line);
    }
}

/// What the other processes of the program have added.
#[derive(Default)]
struct Others {
    count: u64,
    /// The most bytes that were merged of one of them, and that this saved.
    most: (u64, u64),
}

impl Others {
    /// Read what stands in the file from `at` on.
    fn read(file: impl rustix::fd::AsFd, mut at: usize) -> Self {
        let mut found = Self::default();
        let mut records = [0_u8; 64 * ADDED];
        while let Ok(len @ ADDED..) = pread(&file, &mut records[..], at as u64) {
            for record in records[..len].chunks_exact(ADDED) {
                let word =
                    |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| record[at + byte]));
                found.count += 1;
                found.most = found.most.max((word(0), word(8)));
            }
            at += len / ADDED * ADDED;
        }
        found
    }
}

/// The line about what was merged, in a buffer.
struct Line {
    text: [u8; MOST],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let end = self.len + more.len();
        self.text.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(more.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// A number of bytes, with three digits.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut unit) = (self.0 as f64, "bytes");
        for larger in ["kB", "MB", "GB", "TB"] {
            if value < 999.5 {
                break;
            }
            (value, unit) = (value / 1000.0, larger);
        }
        let digits = match value {
            _ if unit == "bytes" => 0,
            value if value < 9.995 => 2,
            value if value < 99.95 => 1,
            _ => 0,
        };
        write!(to, "{value:.digits$} {unit}")
    }
}

fn figures(to: &mut Line, name: &str, own: (u64, u64), others: &Others) -> fmt::Result {
    write!(to, "{name}: ")?;
    if own.0 > 0 {
        write!(to, "up to {} of its memory was merged, which saved {}", Size(own.0), Size(own.1))?;
    }
    if others.count > 0 {
        let (merged, kept) = (Size(others.most.0), Size(others.most.1));
        let and = if own.0 > 0 { "; " } else { "" };
        match others.count {
            1 => write!(to, "{and}in a process that it started, {merged} was merged, which saved {kept}"),
            count => write!(
                to,
                "{and}in {count} processes that it started, up to {merged} each was merged, which saved \
                 {kept}"
            ),
        }?;
    }
    writeln!(to)
}
