//! Bulk reads of another process: process_vm_readv(2) into a small buffer, a digest a page.
//!
//! The copy is bound by memory, the digest by the processor; a buffer that stays in the cache lets
//! the digest run at its own limit. Only pages that pagemap calls present are read:
//! reading a hole would map page tables and the page of zeros into the target, reading a swapped
//! page would bring it in. A page that vanishes between the two is a race nobody can close: then
//! its read finds zeros, or nothing.

use std::ffi::c_void;
use std::panic::resume_unwind;
use std::slice;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::digest::{pages, Digester, ABSENT};
use crate::pagemap::{Kind, Pagemap, Run};
use crate::{Error, Result, PAGE};

/// Bytes read at a time, by each thread. The fastest of 256 KiB to 4 MiB, with the digest and
/// without (`benchmarks/find.py`): the copy likes long stretches better than a warm buffer.
pub const CHUNK: usize = 2 << 20;

/// Pages between two questions to pagemap in [`look`]: what it says is at most this old (256 MiB,
/// about 35 ms of reading).
const WINDOW: usize = 65536;

/// The most pieces that one process_vm_readv takes (`UIO_MAXIOV`).
const PIECES: usize = 1024;

/// What a look came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// Bytes read.
    pub read: u64,
    /// Pages that were there a moment before and could not be read.
    pub unreadable: u64,
}

impl Look {
    fn add(&mut self, other: Self) {
        self.read += other.read;
        self.unreadable += other.unreadable;
    }
}

/// Digest all pages of `runs` of process `pid` with `seed` into `out`, in that order, by up to
/// `threads` threads; [`ABSENT`] for a page that cannot be read.
///
/// # Errors
/// [`Error::Usage`] unless `out` has one element for each page; [`Error::Os`] with `ESRCH` if the
/// process has gone, `EPERM` if this user may not read it.
pub fn read_digests(
    pid: i32,
    runs: &[Run],
    seed: u64,
    out: &mut [u64],
    threads: usize,
) -> Result<Look> {
    let digester = Digester::new(seed);
    each_page(pid, runs, out, threads, CHUNK, |page| digester.digest(page))
}

/// Read all pages of `runs` as [`read_digests`] does, `chunk` bytes at a time, and do nothing with
/// them: what the digests are measured against. `out` becomes zero.
///
/// # Errors
/// As for [`read_digests`].
pub fn read_only(
    pid: i32,
    runs: &[Run],
    out: &mut [u64],
    threads: usize,
    chunk: usize,
) -> Result<Look> {
    each_page(pid, runs, out, threads, chunk, |_| ABSENT)
}

/// Digest the present anonymous pages among the `out.len()` pages from `start` on; [`ABSENT`] for
/// all others, which are not touched.
///
/// # Errors
/// As for [`read_digests`], and those of [`Pagemap::open`] and [`Pagemap::present_runs`].
pub fn look(pid: i32, start: u64, seed: u64, out: &mut [u64], threads: usize) -> Result<Look> {
    let map = Pagemap::open(pid)?;
    let mut total = Look::default();
    let mut from = start;
    for window in out.chunks_mut(WINDOW) {
        let end = from + (window.len() * PAGE) as u64;
        let runs = map.present_runs(from, end, Kind::Anonymous)?;
        let present = page_count(&runs);
        total.add(read_digests(pid, &runs, seed, &mut window[..present], threads)?);
        spread(window, from, &runs, present);
        from = end;
    }
    Ok(total)
}

/// Copy all pages of `runs` of process `pid` into `into`, in that order. A page that cannot be
/// read is filled with zeros, and counted.
///
/// # Errors
/// As for [`read_digests`].
pub fn read_pages(pid: i32, runs: &[Run], into: &mut [u8]) -> Result<Look> {
    if into.len() != page_count(runs) * PAGE {
        return Err(Error::Usage(format!(
            "{} bytes are no room for {} pages",
            into.len(),
            page_count(runs)
        )));
    }
    let mut pieces: Vec<_> = runs.iter().map(|run| piece(run.start, run.pages as usize)).collect();
    read_pieces(pid, &mut pieces, into, |_| ())
}

/// Pages in `runs`.
fn page_count(runs: &[Run]) -> usize {
    runs.iter().map(|run| run.pages as usize).sum()
}

/// Move the first `present` values of `window`, which belong to `runs`, to where the pages lie
/// behind `start`. Back to front, because none moves towards the front.
fn spread(window: &mut [u64], start: u64, runs: &[Run], mut present: usize) {
    let mut end = window.len();
    for run in runs.iter().rev() {
        let at = (run.start - start) as usize / PAGE;
        let pages = run.pages as usize;
        window.copy_within(present - pages..present, at);
        window[at + pages..end].fill(ABSENT);
        present -= pages;
        end = at;
    }
    window[..end].fill(ABSENT);
}

/// Read all pages of `runs` and put `value` of each into `out`.
fn each_page<V>(
    pid: i32,
    runs: &[Run],
    out: &mut [u64],
    threads: usize,
    chunk: usize,
    value: V,
) -> Result<Look>
where
    V: Fn(&[u8; PAGE]) -> u64 + Sync,
{
    let count = page_count(runs);
    if out.len() != count {
        return Err(Error::Usage(format!("room for {} digests of {count} pages", out.len())));
    }
    let at_once = (chunk / PAGE).max(1);
    let feed = Mutex::new(Feed { runs: runs.iter(), rest: None, out });
    let work = || work(pid, &feed, at_once.min(count), &value);
    thread::scope(|scope| {
        let useful = threads.min(count.div_ceil(at_once));
        let others: Vec<_> = (1..useful).map(|_| scope.spawn(work)).collect();
        let mut total = work();
        for other in others {
            let part = other.join().unwrap_or_else(|panic| resume_unwind(panic));
            total = total.and_then(|mut sum| {
                sum.add(part?);
                Ok(sum)
            });
        }
        total
    })
}

/// One thread's part of [`each_page`]: chunk after chunk until none is left.
fn work<V>(pid: i32, feed: &Mutex<Feed<'_>>, at_once: usize, value: &V) -> Result<Look>
where
    V: Fn(&[u8; PAGE]) -> u64,
{
    let mut buffer = vec![Page([0; PAGE]); at_once];
    let mut pieces = Vec::new();
    let mut total = Look::default();
    loop {
        let next = feed.lock().unwrap_or_else(PoisonError::into_inner).next(at_once, &mut pieces);
        let Some(out) = next else { return Ok(total) };
        let bytes = &mut flatten(&mut buffer)[..out.len() * PAGE];
        let mut gaps = Vec::new();
        total.add(read_pieces(pid, &mut pieces, bytes, |page| gaps.push(page))?);
        for (page, value_of) in pages(bytes).zip(out.iter_mut()) {
            *value_of = value(page);
        }
        for page in gaps {
            out[page] = ABSENT;
        }
    }
}

/// A page of buffer, aligned as one: vector loads then never straddle a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

fn flatten(pages: &mut [Page]) -> &mut [u8] {
    // SAFETY: a Page is exactly PAGE bytes, any of which are valid, and the borrow is passed on.
    unsafe { slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), size_of_val(pages)) }
}

/// Deals out runs and the output that belongs to them, chunk by chunk.
struct Feed<'a> {
    runs: slice::Iter<'a, Run>,
    /// What is left of a run that was cut.
    rest: Option<Run>,
    out: &'a mut [u64],
}

impl<'a> Feed<'a> {
    /// The next up to `pages` pages: where they are goes to `pieces`, the output is returned.
    fn next(&mut self, pages: usize, pieces: &mut Vec<libc::iovec>) -> Option<&'a mut [u64]> {
        pieces.clear();
        let mut room = pages;
        while room > 0 {
            let Some(run) = self.rest.take().or_else(|| self.runs.next().copied()) else { break };
            let taken = room.min(run.pages as usize);
            if taken > 0 {
                pieces.push(piece(run.start, taken));
            }
            room -= taken;
            let left = run.pages - taken as u64;
            let start = run.start + (taken * PAGE) as u64;
            self.rest = (left > 0).then_some(Run { start, pages: left });
        }
        let (now, later) = std::mem::take(&mut self.out).split_at_mut(pages - room);
        self.out = later;
        (!now.is_empty()).then_some(now)
    }
}

fn piece(start: u64, pages: usize) -> libc::iovec {
    libc::iovec { iov_base: start as *mut c_void, iov_len: pages * PAGE }
}

/// Read `pieces` of process `pid`, all of them `into.len()` bytes together. The number of each
/// page that cannot be read goes to `gap`, and zeros take its place.
fn read_pieces(
    pid: i32,
    mut pieces: &mut [libc::iovec],
    into: &mut [u8],
    mut gap: impl FnMut(usize),
) -> Result<Look> {
    let mut look = Look::default();
    let mut at = 0;
    while at < into.len() {
        let batch = &pieces[..pieces.len().min(PIECES)];
        let wanted: usize = batch.iter().map(|piece| piece.iov_len).sum();
        let mut done = read_some(pid, batch, &mut into[at..at + wanted])?;
        look.read += done as u64;
        if done < wanted {
            // The kernel copies page by page and stops at the first that is not there. A run need
            // not start at a page: what was copied of a page that spans two does not count.
            done -= done % PAGE;
            gap((at + done) / PAGE);
            look.unreadable += 1;
            into[at + done..at + done + PAGE].fill(0);
            done += PAGE;
        }
        at += done;
        pieces = skip(pieces, done);
    }
    Ok(look)
}

/// One process_vm_readv: the bytes read, in whole pages; 0 if already the first is not there.
fn read_some(pid: i32, pieces: &[libc::iovec], into: &mut [u8]) -> Result<usize> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: the kernel writes only into `into`, borrowed for writing; the addresses in `pieces`
    // are those of another address space, which the kernel checks.
    let got = unsafe {
        libc::process_vm_readv(pid, &raw const local, 1, pieces.as_ptr(), pieces.len() as _, 0)
    };
    match usize::try_from(got) {
        Ok(bytes) => Ok(bytes - bytes % PAGE),
        Err(_) => match Error::last_os("process_vm_readv").of_pid(pid) {
            error if error.errno() == Some(libc::EFAULT) => Ok(0),
            error => Err(error),
        },
    }
}

/// What is left of `pieces` behind their first `bytes`.
fn skip(pieces: &mut [libc::iovec], mut bytes: usize) -> &mut [libc::iovec] {
    let mut whole = 0;
    while whole < pieces.len() && pieces[whole].iov_len <= bytes {
        bytes -= pieces[whole].iov_len;
        whole += 1;
    }
    let rest = &mut pieces[whole..];
    if let Some(first) = rest.first_mut() {
        first.iov_base = (first.iov_base as usize + bytes) as *mut c_void;
        first.iov_len -= bytes;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::ZERO;

    /// Eight pages of our own: 0 and 5 hold zeros, 3 is a hole, 7 has lost all access.
    fn sample() -> (u64, [u64; 8]) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of eight pages, written inside its bounds, then the last
        // page's protection changed; it is never unmapped, so nothing dangles.
        let bytes = unsafe {
            let start = libc::mmap(std::ptr::null_mut(), 8 * PAGE, access, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            libc::madvise(start, 8 * PAGE, libc::MADV_NOHUGEPAGE);
            slice::from_raw_parts_mut(start.cast::<u8>(), 8 * PAGE)
        };
        let mut expected = [ABSENT; 8];
        for page in [0_usize, 1, 2, 4, 5, 6, 7] {
            let value = if page % 5 == 0 { 0 } else { page as u8 };
            let content = &mut bytes[page * PAGE..(page + 1) * PAGE];
            content.fill(value);
            Digester::new(9).digest_pages(content, &mut expected[page..=page]).unwrap();
        }
        assert_eq!((expected[0], expected[5]), (ZERO, ZERO));
        expected[7] = ABSENT;
        // SAFETY: see above.
        unsafe { libc::mprotect(bytes[7 * PAGE..].as_mut_ptr().cast(), PAGE, libc::PROT_NONE) };
        (bytes.as_ptr() as u64, expected)
    }

    fn own_pid() -> i32 {
        std::process::id() as i32
    }

    #[test]
    fn a_look_reads_what_is_there() {
        let (start, expected) = sample();
        let mut out = [77; 8];
        let outcome = look(own_pid(), start, 9, &mut out, 2).unwrap();
        assert_eq!(out, expected);
        assert_eq!(outcome, Look { read: 6 * PAGE as u64, unreadable: 1 });
    }

    #[test]
    fn any_chunk_and_number_of_threads_gives_the_same() {
        let (start, expected) = sample();
        let runs = [Run { start, pages: 3 }, Run { start: start + 4 * PAGE as u64, pages: 4 }];
        let digester = Digester::new(9);
        let value = |page: &[u8; PAGE]| digester.digest(page);
        for (chunk, threads) in [(PAGE, 1), (2 * PAGE, 3), (3 * PAGE, 2), (CHUNK, 8)] {
            let mut out = [77; 7];
            each_page(own_pid(), &runs, &mut out, threads, chunk, value).unwrap();
            assert_eq!(out[..3], expected[..3]);
            assert_eq!(out[3..], expected[4..]);
        }
    }

    #[test]
    fn pages_are_copied_with_zeros_for_gaps() {
        let (start, _) = sample();
        let at = |page: u64| start + page * PAGE as u64;
        let runs = [Run { start: at(6), pages: 2 }, Run { start: at(1), pages: 1 }];
        let mut copy = vec![9; 3 * PAGE];
        let outcome = read_pages(own_pid(), &runs, &mut copy).unwrap();
        assert_eq!(outcome, Look { read: 2 * PAGE as u64, unreadable: 1 });
        for (page, value) in copy.chunks(PAGE).zip([6, 0, 1]) {
            assert!(page.iter().all(|byte| *byte == value));
        }
    }

    #[test]
    fn errors_name_the_process() {
        let run = [Run { start: 4096, pages: 1 }];
        let error = read_digests(i32::MAX, &run, 0, &mut [0], 1).unwrap_err();
        assert_eq!(error, Error::os("process_vm_readv", libc::ESRCH).of_pid(i32::MAX));
        assert!(matches!(read_digests(1, &run, 0, &mut [], 1), Err(Error::Usage(_))));
        assert!(matches!(read_pages(1, &run, &mut [0; 7]), Err(Error::Usage(_))));
    }
}
