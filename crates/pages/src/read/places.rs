//! Finds where the pages of runs are, where their output goes, and how each may be read.

use crate::pagemap::{entry, Kind, Pagemap, Run};
use crate::read::chunks::Place;
use crate::{Error, Result, PAGE};

/// The places of `runs`, with their output one after the other.
pub fn in_order(runs: &[Run]) -> Vec<Place> {
    let mut at = 0;
    let place = |run: &Run| {
        let place = Place { start: run.start, pages: run.pages as usize, at };
        at += place.pages;
        place
    };
    runs.iter().map(place).collect()
}

/// Check that an array of `room` elements fits `runs`.
pub fn check(runs: &[Run], room: usize) -> Result<()> {
    let wanted: u64 = runs.iter().map(|run| run.pages).sum();
    if wanted == room as u64 {
        return Ok(());
    }
    Err(Error::Usage(format!("room for {room} of {wanted} pages")))
}

/// Check that `runs` fill `into` exactly.
pub fn check_room(runs: &[Run], into: &[u8]) -> Result<()> {
    if into.len() % PAGE != 0 {
        return Err(Error::Usage(format!("{} bytes are not whole pages", into.len())));
    }
    check(runs, into.len() / PAGE)
}

/// The present pages of `runs`: those that may be pinned, and those that must not be.
pub fn sort_out(runs: &[Run], entries: &[u64], kind: Kind) -> (Vec<Place>, Vec<Place>) {
    let unwanted = if kind == Kind::Anonymous { entry::FILE } else { 0 };
    let (mut direct, mut gentle) = (Vec::new(), Vec::new());
    for run in in_order(runs) {
        let classes = entries[run.at..run.at + run.pages].chunk_by(|a, b| class(*a) == class(*b));
        let mut done = 0;
        for alike in classes {
            let start = run.start + (done * PAGE) as u64;
            let place = Place { start, pages: alike.len(), at: run.at + done };
            done += place.pages;
            match class(alike[0]) {
                bits if bits & entry::PRESENT == 0 || bits & unwanted != 0 => {}
                // Pages of files are not copied when they are pinned for reading.
                bits if bits & (entry::EXCLUSIVE | entry::FILE) != 0 => direct.push(place),
                _ => gentle.push(place),
            }
        }
    }
    (direct, gentle)
}

/// The part of a pagemap entry that decides how its page is read.
const fn class(entry: u64) -> u64 {
    entry & (entry::PRESENT | entry::EXCLUSIVE | entry::FILE)
}

/// `places` without the kernel's page of zeros, whose entry looks like that of a shared page.
pub fn without_zero_page(map: &Pagemap, places: &[Place]) -> Result<Vec<Place>> {
    let mut real = Vec::new();
    for place in places {
        let end = place.start + (place.pages * PAGE) as u64;
        for run in map.present_runs(place.start, end, Kind::Anonymous)? {
            let at = place.at + (run.start - place.start) as usize / PAGE;
            real.push(Place { start: run.start, pages: run.pages as usize, at });
        }
    }
    Ok(real)
}
