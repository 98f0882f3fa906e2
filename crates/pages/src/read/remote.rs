//! Bulk reads of another process: process_vm_readv(2) into a small buffer, a digest for each page.
//!
//! Memory limits the copy, the processor limits the digest; a buffer that stays in the cache lets
//! the digest run at its own limit. Only pages that pagemap calls present are read: reading a hole
//! would map page tables and the page of zeros into the target, reading a swapped page would bring
//! it in. A page may vanish between the two, and no reader can close that race: the read then finds
//! zeros, or nothing.
//!
//! Pages that the target shares with a fork child, or through KSM, need care: process_vm_readv
//! pins, and pinning an anonymous page that is not exclusive copies it first (`gup_must_unshare` in
//! Linux mm/gup.c, since 5.19). A scan would undo what it is looking for. Such pages are read
//! through `/proc/PID/mem`, which does not pin, at about half the speed.

use std::cell::RefCell;
use std::fs::File;

use crate::digest::{Digester, ABSENT};
use crate::pagemap::{entry, Kind, Pagemap, Run};
use crate::read::chunks::{each_page, page_count, Place};
use crate::read::places::{check, check_room, in_order, sort_out, without_zero_page};
pub use crate::read::reader::Look;
use crate::read::reader::Reader;
use crate::{Error, Result, PAGE};

/// Bytes read at a time, by each thread. The fastest of 256 KiB to 4 MiB, with the digest and
/// without (`benchmarks/find.py`): the copy likes long stretches better than a warm buffer.
pub const CHUNK: usize = 2 << 20;

/// Pages between two questions to pagemap in [`look`]: what it says is at most this old (256 MiB,
/// about 35 ms of reading).
const WINDOW: usize = 65536;

/// The largest number of pages kept to tell whose address space was read.
const WITNESSES: usize = 16;

/// A process to read, and the ways in which it may be read.
#[derive(Debug)]
pub struct Target<'a> {
    /// The process.
    pub pid: i32,
    /// The page map of the process.
    pub map: &'a Pagemap,
    /// The `/proc/PID/mem` of the process, if that is open already.
    pub memory: Option<&'a File>,
    /// Whether process_vm_readv may be used, which names the process and not its address space.
    pub direct: bool,
    /// The pages that process_vm_readv was used for.
    pub witnesses: RefCell<Witnesses>,
}

/// Pages that were read by process_vm_readv.
#[derive(Debug, Default)]
pub struct Witnesses {
    /// Whether process_vm_readv was used.
    pub used: bool,
    /// Addresses of some pages that no other page table mapped a moment before.
    pub pages: Vec<u64>,
    seen: usize,
}

impl Target<'_> {
    /// A reader that does not pin.
    fn gentle(&self) -> Result<Reader> {
        let Some(memory) = self.memory else { return Reader::gentle(self.pid) };
        let memory = memory.try_clone();
        let memory = memory.map_err(|error| Error::of_proc("dup", &error, self.pid))?;
        Ok(Reader::Gentle { pid: self.pid, memory })
    }

    /// Do the same as [`sort_out`]; all pages are read gently if that is the only way allowed.
    fn sort_out(&self, runs: &[Run], entries: &[u64], kind: Kind) -> (Vec<Place>, Vec<Place>) {
        let (direct, mut gentle) = sort_out(runs, entries, kind);
        if !self.direct {
            gentle.extend(direct);
            gentle.sort_by_key(|place| place.at);
            return (Vec::new(), gentle);
        }
        let mut witnesses = self.witnesses.borrow_mut();
        witnesses.used |= !direct.is_empty();
        for place in &direct {
            if entries[place.at] & (entry::EXCLUSIVE | entry::FILE) != entry::EXCLUSIVE {
                continue;
            }
            // Keep the first ones, and then replace the oldest.
            let at = witnesses.seen % WITNESSES;
            witnesses.seen += 1;
            match witnesses.pages.get_mut(at) {
                Some(page) => *page = place.start,
                None => witnesses.pages.push(place.start),
            }
        }
        (direct, gentle)
    }
}

/// Digest all pages of `runs` of process `pid` with `seed` into `out`, in that order, by up to
/// `threads` threads; [`ABSENT`] for a page that is not there any more, or cannot be read.
///
/// `entries` are the pages' pagemap entries, read a moment ago ([`Pagemap::entries`]).
///
/// # Errors
/// [`Error::Usage`] unless `out` and `entries` have one element for each page; [`Error::Os`] with
/// `ESRCH` if the process has gone, `EPERM` or `EACCES` if this user may not read it.
pub fn read_digests(
    pid: i32,
    runs: &[Run],
    entries: &[u64],
    seed: u64,
    out: &mut [u64],
    threads: usize,
) -> Result<Look> {
    check(runs, entries.len())?;
    check(runs, out.len())?;
    out.fill(ABSENT);
    let (direct, gentle) = sort_out(runs, entries, Kind::Any);
    let careful = || Reader::gentle(pid);
    let mut total = digests(pid, careful, [&direct, &gentle], seed, out, threads)?;
    total.unreadable += (out.len() - page_count(&direct) - page_count(&gentle)) as u64;
    Ok(total)
}

/// Read all pages of `runs` by process_vm_readv, `chunk` bytes at a time, and do nothing with them:
/// a baseline for measuring the digests. `out` becomes zero.
///
/// # Errors
/// The errors of [`read_digests`].
pub fn read_only(
    pid: i32,
    runs: &[Run],
    out: &mut [u64],
    threads: usize,
    chunk: usize,
) -> Result<Look> {
    check(runs, out.len())?;
    each_page(&Reader::Direct { pid }, &in_order(runs), out, threads, chunk, |_| ABSENT)
}

/// Digest the present anonymous pages among the `out.len()` pages from `start` on; [`ABSENT`] for
/// all others, which are not touched.
///
/// # Errors
/// The errors of [`read_digests`], and those of [`Pagemap`].
pub fn look(pid: i32, start: u64, seed: u64, out: &mut [u64], threads: usize) -> Result<Look> {
    by_number(pid, |target| look_at(target, start, seed, out, threads))
}

/// Do the same as [`look`] for a target.
///
/// # Errors
/// The errors of [`look`].
pub fn look_at(
    target: &Target<'_>,
    start: u64,
    seed: u64,
    out: &mut [u64],
    threads: usize,
) -> Result<Look> {
    let map = target.map;
    let address = |page: usize| start + (page * PAGE) as u64;
    let (mut total, mut at) = (Look::default(), 0);
    while at < out.len() {
        let Some(next) = map.next_present(address(at), address(out.len()))? else { break };
        let from = (next - start) as usize / PAGE;
        out[at..from].fill(ABSENT);
        let to = out.len().min(from + WINDOW);
        let window = &mut out[from..to];
        map.entries(next, window)?;
        let run = Run { start: next, pages: window.len() as u64 };
        let (direct, mut gentle) = target.sort_out(&[run], window, Kind::Anonymous);
        gentle = without_zero_page(map, &gentle)?;
        window.fill(ABSENT);
        let careful = || target.gentle();
        total.add(digests(target.pid, careful, [&direct, &gentle], seed, window, threads)?);
        at = to;
    }
    out[at..].fill(ABSENT);
    Ok(total)
}

/// Do the same as [`look_at`] for several runs, one after the other in `out`.
///
/// # Errors
/// The errors of [`look`]; [`Error::Usage`] unless `out` has one element for each page.
pub fn look_at_runs(
    target: &Target<'_>,
    runs: &[Run],
    seed: u64,
    mut out: &mut [u64],
) -> Result<Look> {
    check(runs, out.len())?;
    let mut total = Look::default();
    for run in runs {
        let (part, rest) = out.split_at_mut(run.pages as usize);
        total.add(look_at(target, run.start, seed, part, 1)?);
        out = rest;
    }
    Ok(total)
}

/// Copy all pages of `runs` of process `pid` into `into`, in that order. A page that is not there
/// any more, or cannot be read, is filled with zeros and counted.
///
/// # Errors
/// The errors of [`look`]; [`Error::Usage`] unless `into` has room for exactly those pages.
pub fn read_pages(pid: i32, runs: &[Run], into: &mut [u8]) -> Result<Look> {
    check_room(runs, into)?;
    by_number(pid, |target| read_pages_of(target, runs, into))
}

/// Do the same as [`read_pages`] for a target.
///
/// # Errors
/// The errors of [`read_pages`].
pub fn read_pages_of(target: &Target<'_>, runs: &[Run], into: &mut [u8]) -> Result<Look> {
    check_room(runs, into)?;
    let mut entries = vec![0; into.len() / PAGE];
    target.map.entries_of(runs, &mut entries)?;
    let (direct, gentle) = target.sort_out(runs, &entries, Kind::Any);
    let pid = target.pid;
    let (read, careful) = (page_count(&direct), page_count(&gentle));
    if read == entries.len() {
        let mut pieces: Vec<_> = direct.iter().map(Place::piece).collect();
        return Reader::Direct { pid }.read_all(&mut pieces, into, |_| ());
    }
    into.fill(0);
    let unreadable = (entries.len() - read - careful) as u64;
    let mut total = Look { read: 0, unreadable };
    for (reader, places) in [(Reader::Direct { pid }, direct), (target.gentle()?, gentle)] {
        for place in places {
            let to = &mut into[place.at * PAGE..(place.at + place.pages) * PAGE];
            total.add(reader.read_all(&mut [place.piece()], to, |_| ())?);
        }
    }
    Ok(total)
}

/// Digest `out.len()` stretches of a page's length from `start` on, which need not be the start of
/// a page, of memory that its process has asked us to read: present or not; [`ABSENT`] where there
/// is none.
///
/// # Errors
/// The errors of [`read_digests`].
pub fn digest_stretches(
    target: &Target<'_>,
    start: u64,
    seed: u64,
    out: &mut [u64],
    threads: usize,
) -> Result<Look> {
    let runs = [Run { start, pages: out.len() as u64 }];
    let (reader, digester) = (reader_for(target, &runs)?, Digester::new(seed));
    each_page(&reader, &in_order(&runs), out, threads, CHUNK, |page| digester.digest(page))
}

/// Copy stretches as [`digest_stretches`] reads them into `into`, zeros where there is no memory.
///
/// # Errors
/// The errors of [`read_pages`].
pub fn read_stretches(target: &Target<'_>, runs: &[Run], into: &mut [u8]) -> Result<Look> {
    check(runs, into.len() / PAGE)?;
    let mut pieces: Vec<_> = in_order(runs).iter().map(Place::piece).collect();
    reader_for(target, runs)?.read_all(&mut pieces, into, |_| ())
}

/// The fastest reader that makes the target copy none of these pages.
fn reader_for(target: &Target<'_>, runs: &[Run]) -> Result<Reader> {
    for run in runs {
        let first = run.start - run.start % PAGE as u64;
        let last = (run.start + run.pages * PAGE as u64).next_multiple_of(PAGE as u64);
        let mut entries = vec![0; (last - first) as usize / PAGE];
        target.map.entries(first, &mut entries)?;
        let whole = [Run { start: first, pages: entries.len() as u64 }];
        if !target.sort_out(&whole, &entries, Kind::Any).1.is_empty() {
            return target.gentle();
        }
    }
    // Absent pages are read, too: the kernel brings them in.
    target.witnesses.borrow_mut().used |= target.direct;
    if target.direct {
        Ok(Reader::Direct { pid: target.pid })
    } else {
        target.gentle()
    }
}

/// Have `work` read process `pid`, whatever program that is at each moment.
fn by_number<T>(pid: i32, work: impl FnOnce(&Target<'_>) -> Result<T>) -> Result<T> {
    let map = Pagemap::open(pid)?;
    work(&Target { pid, map: &map, memory: None, direct: true, witnesses: RefCell::default() })
}

/// Digest the pages at `direct` and `gentle`, each kind in its way; `careful` makes the reader of
/// the second kind.
fn digests(
    pid: i32,
    careful: impl FnOnce() -> Result<Reader>,
    [direct, gentle]: [&[Place]; 2],
    seed: u64,
    out: &mut [u64],
    threads: usize,
) -> Result<Look> {
    let digester = Digester::new(seed);
    let value = |page: &[u8; PAGE]| digester.digest(page);
    let mut total = each_page(&Reader::Direct { pid }, direct, out, threads, CHUNK, value)?;
    if !gentle.is_empty() {
        total.add(each_page(&careful()?, gentle, out, threads, CHUNK, value)?);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::ZERO;
    use std::slice;

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
            let reader = Reader::Direct { pid: own_pid() };
            each_page(&reader, &in_order(&runs), &mut out, threads, chunk, value).unwrap();
            let reader = Reader::gentle(own_pid()).unwrap();
            let mut same = [77; 7];
            each_page(&reader, &in_order(&runs), &mut same, threads, chunk, value).unwrap();
            assert_eq!(out[..6], same[..6], "the last is forbidden to all but the debugger");
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
        let entries = [entry::PRESENT | entry::EXCLUSIVE];
        let error = read_digests(i32::MAX, &run, &entries, 0, &mut [0], 1).unwrap_err();
        assert_eq!(error, Error::os("process_vm_readv", libc::ESRCH).of_pid(i32::MAX));
        assert!(matches!(read_digests(1, &run, &entries, 0, &mut [], 1), Err(Error::Usage(_))));
        for size in [0, 7, PAGE + 7, 2 * PAGE] {
            let outcome = read_pages(1, &run, &mut vec![0; size]);
            assert!(matches!(outcome, Err(Error::Usage(_))), "{size} bytes");
        }
    }
}
