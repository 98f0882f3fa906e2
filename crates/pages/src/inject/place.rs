//! Finds a system call instruction in a target, so that none has to be written there.

use super::arch;
use crate::error::{Error, Result};
use crate::mappings::Mappings;
use crate::pagemap::{Kind, Pagemap};
use crate::PAGE;
use std::fs;
use std::os::unix::fs::FileExt;

/// How many bytes of a mapping are looked at at once; instructions over the edge of two pieces are
/// passed over.
const PIECE: usize = 256 * 1024;
/// No more than this many bytes of one mapping are looked at.
const MOST: u64 = 16 * 1024 * 1024;

/// The address of a system call instruction in the executable memory of process `pid`: usually in
/// the vdso, which belongs to the kernel and stays where it is, else in a library or the program.
///
/// # Errors
/// `Refused` if there is none; `Os` if its memory may not be read.
pub fn find(pid: i32) -> Result<u64> {
    let open = |name: &str| fs::File::open(format!("/proc/{pid}/{name}"));
    let maps = fs::read(format!("/proc/{pid}/maps"))
        .map_err(|error| Error::of_proc("read of maps", &error, pid))?;
    let maps = String::from_utf8_lossy(&maps);
    let mut mappings: Vec<(u64, u64, bool)> = maps.lines().filter_map(executable).collect();
    mappings.sort_by_key(|&(.., vdso)| !vdso);
    let memory = open("mem").map_err(|error| Error::of_proc("open of mem", &error, pid))?;
    let mut piece = vec![0; PIECE];
    for (start, end, is_vdso) in mappings {
        for (start, end) in readable(pid, start, end.min(start + MOST), is_vdso)? {
            for at in (start..end).step_by(PIECE) {
                let bytes = piece.get_mut(..PIECE.min((end - at) as usize)).unwrap_or_default();
                if memory.read_exact_at(bytes, at).is_err() {
                    break;
                }
                if let Some(offset) = instruction(bytes) {
                    return Ok(at + offset as u64);
                }
            }
        }
    }
    let why = "has no system call instruction in any of its executable mappings";
    Err(Error::Refused { pid, why: why.into() })
}

/// The parts of a mapping that can be read without waiting for its file: those that are present.
///
/// A file system of the process's own (FUSE) may never answer, and then not even SIGKILL ends the
/// read. The vdso is the kernel's.
fn readable(pid: i32, start: u64, end: u64, is_vdso: bool) -> Result<Vec<(u64, u64)>> {
    if is_vdso {
        return Ok(vec![(start, end)]);
    }
    let runs = Pagemap::open(pid)?.present_runs(start, end, Kind::Any)?;
    Ok(runs.iter().map(|run| (run.start, run.start + run.pages * PAGE as u64)).collect())
}

/// Returns whether there is still one at `place`. Quick; false on kernels before 6.11, which cannot
/// tell.
pub fn is_still(pid: i32, place: u64) -> bool {
    let mut bytes = [0; arch::INSTRUCTION.len()];
    let read = |memory: fs::File| memory.read_exact_at(&mut bytes, place);
    let page = place / PAGE as u64 * PAGE as u64;
    let there = readable(pid, page, page + PAGE as u64, false).is_ok_and(|runs| !runs.is_empty());
    there
        && Mappings::of(pid).is_ok_and(|maps| maps.is_code(place).unwrap_or(false))
        && fs::File::open(format!("/proc/{pid}/mem")).and_then(read).is_ok()
        && bytes == arch::INSTRUCTION
}

/// The start, the end, and whether it is the vdso, if a line of maps is of executable memory that
/// the program cannot write.
fn executable(line: &str) -> Option<(u64, u64, bool)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let flags = words.next()?;
    let path = words.nth(3).unwrap_or("");
    if !flags.starts_with("r-x") || path.starts_with("[vsyscall") {
        return None;
    }
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?, path == "[vdso]"))
}

fn instruction(bytes: &[u8]) -> Option<usize> {
    let mut places = bytes.windows(arch::INSTRUCTION.len()).step_by(arch::ALIGNMENT);
    places.position(|place| place == arch::INSTRUCTION).map(|found| found * arch::ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_vdso_has_one() {
        let place = find(std::process::id() as i32).unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let inside = |line: &str| {
            executable(line).is_some_and(|(start, end, vdso)| vdso && (start..end).contains(&place))
        };
        assert!(maps.lines().any(inside), "{place:#x}");
        let own = std::process::id() as i32;
        let old = Mappings::open().unwrap().is_code(place).is_err();
        assert!(old || is_still(own, place));
        assert!(!is_still(own, place + 1) && !is_still(own, 0));
        let data = arch::INSTRUCTION.to_vec(); // no code
        assert!(!is_still(own, data.as_ptr() as u64));
    }
}
