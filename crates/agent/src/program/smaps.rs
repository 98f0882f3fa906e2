//! What the kernel says about this process's memory: /proc/self/smaps (proc(5)).
//!
//! The paths in it can hold any bytes, so lines are bytes. Reading it is slow, and is done only
//! where memory is marked, after calls that failed, and in forked copies without a table. It may
//! fail (no /proc after a chroot, no descriptor left); that does not mean that there is no memory.

use crate::region::Wish;
use pagemerge_pages::barrier::window::{Backing, Keep};
use pagemerge_pages::slab;
use rustix::fs::{Mode, OFlags};
use rustix::mm::{Advice, ProtFlags};
use std::ffi::CStr;
use std::ops::Range;

/// A part of a range that is private memory.
#[derive(Debug)]
pub struct Memory {
    /// The addresses of the part.
    pub range: Range<usize>,
    /// What memory that takes its place must keep.
    pub keep: Keep,
    /// What it stands on.
    pub backing: Backing,
    /// Whether merging can cope with this kind of memory.
    pub fit: bool,
    /// Its protection and flags, without those of `VAGUE`: equal for all parts of what was one
    /// mapping.
    pub kind: Vec<u8>,
    /// Whether mseal(2) has sealed it.
    pub is_sealed: bool,
}

/// Flags that may differ between parts of one mapping, because we or the kernel have changed them.
const VAGUE: [&[u8]; 6] = [b"ac", b"sd", b"nh", b"hg", b"mg", b"gu"];

/// What merging cannot cope with: shared memory, devices, huge pages, and memory that is wiped on
/// fork, watched by a userfaultfd, sealed, grows downwards, or has a protection key.
const UNFIT: [&[u8]; 10] = [b"sh", b"io", b"pf", b"ht", b"wf", b"um", b"uw", b"sl", b"gd", b"key"];

/// A mapping's line.
struct Line {
    range: Range<usize>,
    access: [u8; 4],
    /// 0 if the mapping is of no file.
    inode: u64,
    is_slab: bool,
}

impl Line {
    /// Returns None for a line that describes no mapping.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
        let (first, access) = (fields.next()?, fields.next()?);
        let dash = first.iter().position(|&byte| byte == b'-')?;
        let range = hexadecimal(&first[..dash])?..hexadecimal(&first[dash + 1..])?;
        let access = access.try_into().ok()?;
        let inode = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
        let is_slab = fields.next().is_some_and(|path| path.starts_with(slab::PATH.as_bytes()));
        Some(Self { range, access, inode, is_slab })
    }

    fn protection(&self) -> ProtFlags {
        let mut protection = ProtFlags::empty();
        protection.set(ProtFlags::READ, self.access[0] == b'r');
        protection.set(ProtFlags::WRITE, self.access[1] == b'w');
        protection.set(ProtFlags::EXEC, self.access[2] == b'x');
        protection
    }

    /// What it stands on, if it is private memory that may be merged.
    fn backing(&self) -> Option<Backing> {
        match (self.access[3], self.inode, self.is_slab) {
            (b'p', 0, _) => Some(Backing::Anonymous),
            (b'p', _, true) => Some(Backing::Slab),
            _ => None,
        }
    }
}

fn hexadecimal(digits: &[u8]) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Read a whole file by plain system calls: libc's functions are cancellation points.
fn read(path: &CStr) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let (mut text, mut done) = (vec![0; 1 << 16], 0);
    loop {
        match rustix::io::read(&file, &mut text[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
        if text.len() - done < 1 << 15 {
            text.resize(2 * text.len(), 0);
        }
    }
    text.truncate(done);
    Some(text)
}

/// The slabs' mappings in a range, in order of address; None if they cannot be found out.
pub fn slabs(from: usize, end: usize) -> Option<Vec<(Range<usize>, Keep)>> {
    let found = memory(from, end)?.into_iter().filter(|it| it.backing == Backing::Slab);
    Some(found.map(|it| (it.range, it.keep)).collect())
}

/// Returns whether there is shared memory in a range; false if that cannot be found out.
#[must_use]
pub fn is_shared(from: usize, end: usize) -> bool {
    let maps = read(c"/proc/self/maps").unwrap_or_default();
    let mut lines = maps.split(|&byte| byte == b'\n').filter_map(Line::parse);
    lines.any(|line| line.access[3] == b's' && line.range.start < end && line.range.end > from)
}

/// The private memory of a range, in order of address; None if it cannot be found out.
pub fn memory(from: usize, end: usize) -> Option<Vec<Memory>> {
    let mut found = Vec::new();
    each(|line, flags| {
        let part = line.range.start.max(from)..line.range.end.min(end);
        if let (false, Some(backing)) = (part.is_empty(), line.backing()) {
            let fit = !flags.iter().any(|flag| UNFIT.contains(flag));
            let (kind, keep) = (kind(line, flags), keep(line, flags));
            let is_sealed = flags.contains(&&b"sl"[..]);
            found.push(Memory { range: part, keep, backing, fit, kind, is_sealed });
        }
    })?;
    Some(found)
}

/// The parts of `known` that merging can cope with, what they must keep, and what the program has
/// said about huge pages there: they are anonymous, readable and writable, not locked, and fit.
pub fn suitable(known: &[Range<usize>]) -> Vec<(Range<usize>, Keep, Wish)> {
    let mut fit = Vec::new();
    let read = each(|line, flags| {
        let open = line.backing() == Some(Backing::Anonymous) && keep(line, flags).is_open();
        if !open || flags.iter().any(|flag| UNFIT.contains(flag)) {
            return;
        }
        let parts = known
            .iter()
            .map(|it| it.start.max(line.range.start)..it.end.min(line.range.end))
            .filter(|part| !part.is_empty());
        fit.extend(parts.map(|part| (part, keep(line, flags), wish(flags))));
    });
    // If smaps cannot be read, no memory is known to be suitable.
    read.map_or_else(Vec::new, |()| fit)
}

fn kind(line: &Line, flags: &[&[u8]]) -> Vec<u8> {
    let telling = flags.iter().filter(|flag| !VAGUE.contains(flag));
    telling.fold(line.access.to_vec(), |kind, flag| [&kind, *flag].concat())
}

fn wish(flags: &[&[u8]]) -> Wish {
    match (flags.contains(&&b"hg"[..]), flags.contains(&&b"nh"[..])) {
        (true, _) => Wish::Huge,
        (_, true) => Wish::Small,
        _ => Wish::None,
    }
}

fn keep(line: &Line, flags: &[&[u8]]) -> Keep {
    let has = |flag: &[u8]| flags.contains(&flag);
    Keep {
        protection: line.protection(),
        dont_fork: has(b"dc"),
        dont_dump: has(b"dd"),
        no_reserve: has(b"nr"),
        read_ahead: match (has(b"rr"), has(b"sr")) {
            (true, _) => Some(Advice::Random),
            (_, true) => Some(Advice::Sequential),
            _ => None,
        },
        locked: has(b"lo"),
        on_fault: has(b"lf"),
    }
}

/// Call `see` for each mapping with its VmFlags. We add "key" and the number behind it for a
/// protection key that is not 0.
fn each(mut see: impl FnMut(&Line, &[&[u8]])) -> Option<()> {
    let smaps = read(c"/proc/self/smaps")?;
    let (mut mapping, mut key) = (None, None);
    for line in smaps.split(|&byte| byte == b'\n') {
        if let Some(flags) = line.strip_prefix(b"VmFlags:") {
            let mut flags: Vec<&[u8]> = flags.split(|&byte| byte == b' ').collect();
            if let Some(number) = key {
                flags.extend([&b"key"[..], number]);
            }
            if let Some(mapping) = mapping.take() {
                see(&mapping, &flags);
            }
        } else if let Some(number) = line.strip_prefix(b"ProtectionKey:") {
            key = Some(number.trim_ascii()).filter(|number| *number != b"0");
        } else if let Some(found) = Line::parse(line) {
            (mapping, key) = (Some(found), None);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_can_be_anything() {
        let line = b"1000-3000 rw-p 00000000 00:01 7 /memfd:pagemerge-slab (deleted)";
        let parsed = Line::parse(line).unwrap();
        assert_eq!((parsed.range.clone(), parsed.backing()), (0x1000..0x3000, Some(Backing::Slab)));
        let line = b"1000-3000 r-xp 00000000 00:01 7 /tmp/\xff\r 0-1 rw-p 0 0 0";
        let parsed = Line::parse(line).unwrap();
        assert_eq!(parsed.backing(), None);
        assert_eq!(parsed.protection(), ProtFlags::READ | ProtFlags::EXEC);
        assert_eq!(Line::parse(b"1000-3000 rw-p 00000000 00:00 0 ").unwrap().inode, 0);
        assert!(Line::parse(b"Size:                  8 kB").is_none());
    }
}
