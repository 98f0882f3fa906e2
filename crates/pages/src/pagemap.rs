//! Tells which pages of a process are there: the `PAGEMAP_SCAN` ioctl, or `/proc/PID/pagemap`.
//!
//! Neither touches a page: no fault, no swap-in. Source: Linux
//! `Documentation/admin-guide/mm/pagemap.rst` and `fs/proc/task_mmu.c`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use crate::memory;
use crate::{Error, Result, PAGE};

/// Consecutive pages of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The address of the first page.
    pub start: u64,
    /// The number of pages.
    pub pages: u64,
}

/// The kind of present pages that is asked for. The kernel's shared page of zeros never counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Private anonymous memory, the only kind that can be merged.
    Anonymous,
    /// Also pages of files and shared memory.
    Any,
    /// Private anonymous memory that one entry of a page table maps as a huge page.
    Huge,
}

/// Bits of a pagemap entry; the low 55 are the page frame number, for `CAP_SYS_ADMIN` only.
pub mod entry {
    /// The page frame number.
    pub const FRAME: u64 = (1 << 55) - 1;
    /// Only this page table entry maps the page, in the whole system.
    pub const EXCLUSIVE: u64 = 1 << 56;
    /// The page belongs to a file or to shared memory, and is not anonymous.
    pub const FILE: u64 = 1 << 61;
    /// The page is in swap.
    pub const SWAPPED: u64 = 1 << 62;
    /// The page is in memory.
    pub const PRESENT: u64 = 1 << 63;
}

/// The longest range that the fallback walks: it reads 8 bytes for each page, hole or not, so
/// that 1 TiB takes seconds. `PAGEMAP_SCAN` skips holes by whole page tables and has no limit.
const FALLBACK_LIMIT: u64 = 1 << 40;

/// `struct pm_scan_arg` of `include/uapi/linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of the same file.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u64 = 0xC000_6610 | (size_of::<ScanArg>() as u64) << 16;

const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_PFNZERO: u64 = 1 << 5;
const IS_HUGE: u64 = 1 << 6;

/// An open `/proc/PID/pagemap`.
///
/// It keeps describing the address space that it was opened on: after the process has called exec
/// or ended, it shows no pages any more, and never the pages of another process.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
    pid: i32,
}

impl Pagemap {
    /// Open the pagemap of process `pid`.
    ///
    /// # Errors
    /// [`Error::Os`] with `ESRCH` if there is no such process, `EACCES` or `EPERM` if this user
    /// may not look at it (`PTRACE_MODE_READ`, see ptrace(2)).
    pub fn open(pid: i32) -> Result<Self> {
        match File::open(format!("/proc/{pid}/pagemap")) {
            Ok(file) => Ok(Self { file, pid }),
            Err(error) => Err(Error::of_proc("open /proc/PID/pagemap", &error, pid)),
        }
    }

    /// Make a `Pagemap` from the open pagemap of process `pid`.
    pub(crate) const fn of(file: File, pid: i32) -> Self {
        Self { file, pid }
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns the runs of pages of `kind` in `[start, end)`, ascending, not touching each other.
    ///
    /// # Errors
    /// [`Error::Usage`] unless both are page aligned and ordered; [`Error::Os`] with the kernel's
    /// error; [`Error::Unsupported`] for more than 1 TiB, and for [`Kind::Huge`], on kernels without
    /// `PAGEMAP_SCAN`.
    pub fn present_runs(&self, start: u64, end: u64, kind: Kind) -> Result<Vec<Run>> {
        check(start, end)?;
        match self.scan(start, end, kind, 0) {
            Err(error) if is_missing(&error) => self.walk(start, end, kind),
            outcome => outcome,
        }
    }

    /// Read the raw entries of the pages from `start` on, one for each page (see [`entry`]); zero
    /// beyond the end of the address space.
    ///
    /// # Errors
    /// [`Error::Os`] with the kernel's error.
    pub fn entries(&self, start: u64, out: &mut [u64]) -> Result<()> {
        // SAFETY: any bytes are a u64, and the slice is borrowed for writing as a whole.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<u8>(), size_of_val(out))
        };
        let mut done = 0;
        while done < bytes.len() {
            let offset = start / PAGE as u64 * 8 + done as u64;
            match self.file.read_at(&mut bytes[done..], offset) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let error = Error::of_proc("read /proc/PID/pagemap", &error, self.pid);
                    return Err(error.at(start));
                }
            }
        }
        bytes[done..].fill(0);
        Ok(())
    }

    /// [`Pagemap::entries`] for each of `runs`, one after the other.
    ///
    /// # Errors
    /// [`Error::Usage`] unless `out` has one element for each page; else those of
    /// [`Pagemap::entries`].
    pub fn entries_of(&self, runs: &[Run], out: &mut [u64]) -> Result<()> {
        let mut rest = out;
        for run in runs {
            let Some((now, later)) = rest.split_at_mut_checked(run.pages as usize) else {
                return Err(Error::Usage("fewer entries than pages".into()));
            };
            self.entries(run.start, now)?;
            rest = later;
        }
        if rest.is_empty() {
            return Ok(());
        }
        Err(Error::Usage("more entries than pages".into()))
    }

    /// Returns the first page of [`Kind::Anonymous`] in `[start, end)`, or `start` on kernels that
    /// cannot tell quickly.
    ///
    /// # Errors
    /// The errors of [`Pagemap::present_runs`].
    pub fn next_present(&self, start: u64, end: u64) -> Result<Option<u64>> {
        check(start, end)?;
        match self.scan(start, end, Kind::Anonymous, 1) {
            Err(error) if is_missing(&error) => Ok(Some(start)),
            runs => Ok(runs?.first().map(|run| run.start)),
        }
    }

    /// Find runs by the ioctl; at most `limit` pages, unless it is 0.
    fn scan(&self, start: u64, end: u64, kind: Kind, limit: u64) -> Result<Vec<Run>> {
        let unwanted = match kind {
            Kind::Anonymous | Kind::Huge => IS_FILE | IS_SWAPPED | IS_PFNZERO,
            Kind::Any => IS_SWAPPED | IS_PFNZERO,
        };
        let wanted = if kind == Kind::Huge { IS_PRESENT | IS_HUGE } else { IS_PRESENT };
        let mut found = [Region::default(); 512];
        let mut runs = Vec::new();
        let mut from = start;
        while from < end {
            let mut arg = ScanArg {
                size: size_of::<ScanArg>() as u64,
                start: from,
                end,
                vec: found.as_mut_ptr() as u64,
                vec_len: found.len() as u64,
                max_pages: limit,
                category_inverted: unwanted,
                category_mask: unwanted | wanted,
                // The returned categories also decide where regions are cut, so return only one
                // that never varies.
                return_mask: IS_PRESENT,
                ..ScanArg::default()
            };
            // SAFETY: `arg` and the array it points to are alive, and as long as they say.
            let count =
                unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN as _, &raw mut arg) };
            let Ok(count) = usize::try_from(count) else {
                let error = Error::last_os("ioctl PAGEMAP_SCAN").of_pid(self.pid).at(from);
                match error.errno() {
                    Some(libc::EINTR) => continue,
                    _ => return Err(error),
                }
            };
            for region in &found[..count] {
                append(&mut runs, region.start, (region.end - region.start) / PAGE as u64);
            }
            // The walk stops early when the array is full; it must at least have moved.
            if arg.walk_end <= from || (limit > 0 && !runs.is_empty()) {
                break;
            }
            from = arg.walk_end;
        }
        Ok(runs)
    }

    /// Find runs by reading the entries. They do not name the page of zeros. With `CAP_SYS_ADMIN`
    /// it is the frame that one of our own untouched pages has; without it such pages count as
    /// present and are later read as zero pages.
    fn walk(&self, start: u64, end: u64, kind: Kind) -> Result<Vec<Run>> {
        if kind == Kind::Huge {
            let why = "which pages are huge is told by PAGEMAP_SCAN only (Linux 6.7)";
            return Err(Error::Unsupported(why.into()));
        }
        if end - start > FALLBACK_LIMIT {
            return Err(Error::Unsupported(format!(
                "process {}: {start:#x}-{end:#x} is too long to walk on a kernel without \
                 PAGEMAP_SCAN (Linux 6.7)",
                self.pid
            )));
        }
        let zero_frame = zero_frame();
        let wanted = |entry: u64| {
            let refused = match kind {
                Kind::Anonymous | Kind::Huge => entry::FILE | entry::SWAPPED,
                Kind::Any => entry::SWAPPED,
            };
            let frame = entry & entry::FRAME;
            entry & entry::PRESENT != 0
                && entry & refused == 0
                && (frame == 0 || Some(frame) != zero_frame)
        };
        let mut entries = vec![0; 16384];
        let mut runs = Vec::new();
        let mut from = start;
        while from < end {
            let count = ((end - from) / PAGE as u64).min(entries.len() as u64) as usize;
            self.entries(from, &mut entries[..count])?;
            for (index, _) in entries[..count].iter().enumerate().filter(|(_, e)| wanted(**e)) {
                append(&mut runs, from + (index * PAGE) as u64, 1);
            }
            from += (count * PAGE) as u64;
        }
        Ok(runs)
    }
}

fn check(start: u64, end: u64) -> Result<()> {
    if start <= end && start % PAGE as u64 == 0 && end % PAGE as u64 == 0 {
        return Ok(());
    }
    Err(Error::Usage(format!("{start:#x}-{end:#x} is not a range of pages")))
}

/// Before Linux 6.7 pagemap has no ioctl at all. We try it, and never ask for the version.
fn is_missing(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::ENOTTY | libc::EINVAL))
}

/// Append `pages` at `start` to `runs`, as part of the last run if they continue it.
fn append(runs: &mut Vec<Run>, start: u64, pages: u64) {
    match runs.last_mut() {
        Some(last) if last.start + last.pages * PAGE as u64 == start => last.pages += pages,
        _ => runs.push(Run { start, pages }),
    }
}

/// The frame of the kernel's page of zeros, as far as this user may know it.
fn zero_frame() -> Option<u64> {
    let own = memory::Anonymous::new(1)?;
    // A read of memory never written maps the page of zeros.
    std::hint::black_box(own.first_byte());
    let mut entries = [0];
    Pagemap::open(std::process::id() as i32).ok()?.entries(own.address(), &mut entries).ok()?;
    Some(entries[0] & entry::FRAME).filter(|frame| *frame != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Pagemap {
        Pagemap::open(std::process::id() as i32).unwrap()
    }

    #[test]
    fn the_ioctl_and_the_walk_see_the_same_runs() {
        let mut memory = memory::Anonymous::new(5000).unwrap();
        let start = memory.address();
        let written = |page: usize| page % 7 < 3 || (1200..1900).contains(&page);
        for page in (0..5000).filter(|page| written(*page)) {
            memory.bytes()[page * PAGE] = 1;
        }
        let end = start + (5000 * PAGE) as u64;
        let mut expected = Vec::new();
        for page in (0..5000).filter(|page| written(*page)) {
            append(&mut expected, start + (page * PAGE) as u64, 1);
        }
        assert!(expected.len() > 512, "more runs than one call of the ioctl returns");
        let map = own();
        assert_eq!(map.walk(start, end, Kind::Anonymous).unwrap(), expected);
        match map.scan(start, end, Kind::Anonymous, 0) {
            Err(error) if is_missing(&error) => {
                eprintln!("no PAGEMAP_SCAN here: only the walk was tested");
            }
            runs => assert_eq!(runs.unwrap(), expected),
        }
    }

    #[test]
    fn the_page_of_zeros_is_not_a_page_of_ours() {
        let memory = memory::Anonymous::new(1).unwrap();
        std::hint::black_box(memory.first_byte());
        let start = memory.address();
        let runs = own().present_runs(start, start + PAGE as u64, Kind::Any).unwrap();
        assert_eq!(runs, []);
    }

    #[test]
    fn a_huge_hole_costs_nothing() {
        let mut memory = memory::Anonymous::new(1 << 30).unwrap();
        let last = (1 << 30) - 1;
        memory.bytes()[last * PAGE] = 1;
        let start = memory.address();
        let end = start + (1 << 42);
        let map = own();
        let walked = map.walk(start, end, Kind::Anonymous);
        assert!(matches!(walked, Err(Error::Unsupported(_))));
        match map.present_runs(start, end, Kind::Anonymous) {
            Err(Error::Unsupported(_)) => eprintln!("no PAGEMAP_SCAN here"),
            runs => {
                let only = Run { start: start + (last * PAGE) as u64, pages: 1 };
                assert_eq!(runs.unwrap(), [only]);
            }
        }
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        let error = Pagemap::open(i32::MAX).unwrap_err();
        assert_eq!(error, Error::os("open /proc/PID/pagemap", libc::ESRCH).of_pid(i32::MAX));
    }

    #[test]
    fn ranges_are_checked() {
        let outcome = own().present_runs(PAGE as u64, 0, Kind::Any);
        assert!(matches!(outcome, Err(Error::Usage(_))));
    }
}
