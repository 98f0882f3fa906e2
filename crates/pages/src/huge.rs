//! Huge pages: blocks of 2 MiB that one entry of a page table maps
//! (Documentation/admin-guide/mm/transhuge.rst).
//!
//! A block can be huge only as long as one mapping covers all of it, so merging single pages of it
//! makes it small.

use crate::{raw, PAGE};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mm::Advice;
use std::ffi::CStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// Pages of a block.
pub const PAGES: usize = 512;

/// Bytes of a block, which starts at a multiple of them.
pub const BYTES: usize = PAGES * PAGE;

/// For which memory the kernel gives out huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// For none, or it cannot be found out.
    Never,
    /// Where a program asks for them (MADV_HUGEPAGE).
    Asked,
    /// For all memory, except where a program has declined them (MADV_NOHUGEPAGE).
    Always,
}

/// The administrator's settings: for this size, which may say `inherit`, and for all sizes.
const SETTINGS: [&CStr; 2] = [
    c"/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled",
    c"/sys/kernel/mm/transparent_hugepage/enabled",
];

/// Returns for which memory the kernel gave out huge pages when this was first called.
#[must_use]
pub fn given() -> Given {
    /// 0: not known yet.
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    match KNOWN.load(Ordering::Relaxed) {
        0 => {
            let texts = SETTINGS.map(read);
            let found = chosen(texts.iter().flatten().map(Vec::as_slice));
            KNOWN.store(found as u8 + 1, Ordering::Relaxed);
            found
        }
        1 => Given::Never,
        2 => Given::Asked,
        _ => Given::Always,
    }
}

fn read(path: &CStr) -> Option<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = vec![0; 128];
    let len = rustix::io::read(&file, &mut text[..]).ok()?;
    text.truncate(len);
    Some(text)
}

/// What such files say, of which the first that does not say `inherit` counts. The word that is
/// chosen stands in brackets.
fn chosen<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Given {
    for text in texts {
        let has = |word: &[u8]| text.windows(word.len()).any(|part| part == word);
        if has(b"[always]") {
            return Given::Always;
        }
        if has(b"[madvise]") {
            return Given::Asked;
        }
        if has(b"[never]") {
            return Given::Never;
        }
    }
    Given::Never
}

/// Make a block one huge page (MADV_COLLAPSE, Linux 6.1): a block of anonymous memory, or a block
/// that maps a memory file privately, page for page as it lies there. No byte changes, and other
/// threads may use the memory meanwhile. A block that is one already stays so.
///
/// # Errors
/// EAGAIN if a page of it is in use by the kernel or a device at this moment, ENOMEM or EBUSY if
/// there is no free block of memory, EINVAL if it cannot be a huge page, or the kernel is too old.
pub fn collapse(start: usize) -> Result<()> {
    let call = [start, BYTES, libc::MADV_COLLAPSE as usize, 0, 0, 0];
    // SAFETY: it changes no byte. (rustix does not know this advice.)
    let done = unsafe { raw::syscall(libc::SYS_madvise, call) };
    done.map(|_| ()).map_err(Errno::from_raw_os_error)
}

/// Make a block of anonymous memory one huge page, where other blocks are to stay small
/// (MADV_NOHUGEPAGE): there the kernel makes none by itself, which would bring back the zero pages
/// that merging has given back.
///
/// # Errors
/// The errors of `collapse`; ENOMEM at the limit on mappings.
pub fn collapse_small(start: usize) -> Result<()> {
    let at = start as *mut libc::c_void;
    // SAFETY: advice that changes no byte.
    unsafe { rustix::mm::madvise(at, BYTES, Advice::LinuxHugepage) }?;
    let done = collapse(start);
    // A huge page stays one: the advice is about pages that are not there yet. If this fails, which
    // it can only at the limit on mappings, the kernel may go on to keep this block huge.
    // SAFETY: as above.
    let _ = unsafe { rustix::mm::madvise(at, BYTES, Advice::LinuxNoHugepage) };
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mappings::Mappings;
    use crate::slab;
    use rustix::mm::{MapFlags, ProtFlags};
    use std::time::Duration;

    #[test]
    fn the_setting_of_the_size_comes_first() {
        let of = |texts: &[&'static str]| chosen(texts.iter().map(|text| text.as_bytes()));
        assert_eq!(of(&["always [madvise] never\n"]), Given::Asked);
        assert_eq!(
            of(&["always [inherit] madvise never\n", "[always] madvise never\n"]),
            Given::Always
        );
        assert_eq!(
            of(&["always inherit madvise [never]\n", "[always] madvise never\n"]),
            Given::Never
        );
        assert_eq!(of(&["always", ""]), Given::Never);
        assert_eq!(of(&[]), Given::Never);
    }

    /// Three blocks of memory, small pages all of them, each page with its number in it.
    fn blocks() -> usize {
        let (none, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping, which the test fills and never gives back.
        unsafe {
            let made = rustix::mm::mmap_anonymous(none, 4 * BYTES, access, MapFlags::PRIVATE);
            let start = (made.unwrap() as usize).next_multiple_of(BYTES);
            let _ = rustix::mm::madvise(start as *mut _, 3 * BYTES, Advice::LinuxNoHugepage);
            for page in 0..3 * PAGES {
                (start as *mut u64).byte_add(page * PAGE).write_volatile(page as u64);
            }
            start
        }
    }

    fn is_right(start: usize) -> bool {
        (0..3 * PAGES).all(|page| {
            // SAFETY: memory of `blocks`.
            let found = unsafe { (start as *const u64).byte_add(page * PAGE).read_volatile() };
            found == page as u64
        })
    }

    /// The bytes of huge pages in the mapping that holds `start`; None: this kernel has none.
    fn huge(start: usize, field: &str) -> u64 {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut here = false;
        for line in smaps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((Ok(from), Ok(end))) =
                range.map(|(a, b)| (usize::from_str_radix(a, 16), usize::from_str_radix(b, 16)))
            {
                here = (from..end).contains(&start);
            } else if here && line.starts_with(field) {
                let digits = line.split_ascii_whitespace().nth(1).unwrap();
                return digits.parse::<u64>().unwrap() << 10;
            }
        }
        panic!("no {field} of {start:#x}");
    }

    #[test]
    fn a_block_becomes_huge_and_its_neighbours_do_not() {
        let start = blocks();
        let before = Mappings::open().unwrap().at(start).ok().map(|it| it.range);
        match collapse_small(start + BYTES) {
            Err(Errno::INVAL) => return eprintln!("skipped: no MADV_COLLAPSE (Linux 6.1)"),
            Err(Errno::NOMEM) => return eprintln!("skipped: no free block of 2 MiB"),
            done => done.unwrap(),
        }
        assert!(is_right(start));
        assert_eq!(huge(start, "AnonHugePages:"), BYTES as u64);
        assert_eq!(Mappings::open().unwrap().at(start).ok().map(|it| it.range), before);
        collapse_small(start + BYTES).unwrap();
        assert_eq!(huge(start, "AnonHugePages:"), BYTES as u64);
    }

    #[test]
    fn no_more_blocks_are_made_huge_after_one_that_took_too_long() {
        let (_, made) = slab::build_huge(3 * PAGES, 3, Duration::ZERO, |_| Ok(())).unwrap();
        assert!(made <= 0b1, "{made:b}");
    }

    #[test]
    fn a_slab_of_huge_blocks_is_mapped_by_them_until_a_page_is_written() {
        let numbered = |first: &mut u64, bytes: &mut [u8]| {
            for page in bytes.chunks_exact_mut(PAGE) {
                page[..8].copy_from_slice(&first.to_ne_bytes());
                *first += 1;
            }
        };
        let mut next = 0;
        let (fd, made) = slab::build_huge(3 * PAGES, 2, Duration::MAX, |bytes| {
            numbered(&mut next, bytes);
            Ok(())
        })
        .unwrap();
        if made == 0 {
            return eprintln!("skipped: no huge pages of memory files, or no free block of 2 MiB");
        }
        assert_eq!(made, 0b11);
        let start = blocks();
        let (access, piece) = (ProtFlags::READ | ProtFlags::WRITE, 64 * PAGE);
        for at in (0..3 * BYTES).step_by(piece) {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED;
            // SAFETY: it maps over the test's own memory.
            unsafe {
                rustix::mm::mmap((start + at) as *mut _, piece, access, flags, &fd, at as u64)
                    .unwrap();
            }
        }
        assert!(is_right(start));
        collapse(start).unwrap();
        assert_eq!(huge(start, "ShmemPmdMapped:"), BYTES as u64);
        // SAFETY: the test's own memory.
        unsafe { (start as *mut u64).byte_add(5 * PAGE).write_volatile(5) };
        assert!(is_right(start));
        assert_eq!(huge(start, "ShmemPmdMapped:"), 0);
        assert_eq!(collapse(start), Err(Errno::INVAL), "a page of it is the process's own");
        collapse(start + BYTES).unwrap();
        assert!(is_right(start));
        let view = slab::open(&fd).unwrap();
        assert!(view
            .bytes()
            .chunks_exact(PAGE)
            .zip(0_u64..)
            .all(|(page, number)| { page[..8] == number.to_ne_bytes() }));
    }
}
