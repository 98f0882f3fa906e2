//! A hub's plan, carried out window by window under the agent's lock.
//!
//! The hub is trusted with nothing: each address, slab, slot and length is checked here, and the
//! bytes decide. The worst a wrong plan can do is to waste time.

use crate::barriers::Barriers;
use crate::policy::Policies;
use crate::region::Region;
use crate::{lock, Job};
use pagemerge_pages::slab::View;
use pagemerge_pages::window::{self, Backing, Barrier, Birth, Content, Outcome, Piece, Window};
use pagemerge_pages::wire::{Merged, Run, OWN};
use pagemerge_pages::{Error, Result, PAGE};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::HashMap;

/// A slab that this process may map.
#[derive(Debug)]
pub struct Slab {
    /// The descriptor that every mapping of it uses: mappings coalesce only through the same one.
    pub descriptor: OwnedFd,
    /// Pages.
    pub pages: u32,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// Pages that were left alone, by reason.
    pub report: Merged,
    /// A bit a planned page, in order: it is what was planned now.
    pub bits: Vec<u8>,
}

impl Applied {
    fn set(&mut self, index: usize) {
        self.bits[index / 8] |= 1 << (index % 8);
    }

    /// Is planned page `index` what was planned?
    pub fn has(&self, index: usize) -> bool {
        self.bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }
}

/// A part of a run that lies in one window.
#[derive(Debug, Clone, Copy)]
struct Part {
    run: Run,
    /// Number of its first page in the plan.
    index: usize,
}

/// Carry out `runs`: behind the process's barrier, or at birth for a job whose caller waits.
pub fn apply(
    barriers: &mut Barriers,
    slabs: &HashMap<u64, Slab>,
    runs: &[Run],
    birth: Option<&Job>,
) -> Applied {
    let total: usize = runs.iter().map(|run| run.pages as usize).sum();
    let mut applied = Applied { bits: vec![0; total.div_ceil(8)], ..Applied::default() };
    let ready = views(slabs, runs)
        .and_then(|views| barriers.prepare(birth.is_some(), stand_on_slabs(runs)).map(|()| views));
    let views = match ready {
        Ok(views) => views,
        Err(error) => {
            barriers.note(&error);
            applied.report.refused += total as u64;
            return applied;
        }
    };
    let limit = if birth.is_some() { pagemerge_pages::mask::WINDOW } else { barriers.most_pages() };
    let policies = Policies::open();
    let (mut index, mut end) = (0, 0);
    let mut parts: Vec<Part> = Vec::new();
    for &run in runs {
        let mut rest = run;
        while rest.pages > 0 {
            let behind = parts.last().map_or(0, |part| end_of(&part.run));
            if !parts.is_empty() && !(behind..end).contains(&rest.address) {
                window_of(barriers, slabs, &views, &policies, &parts, birth, &mut applied);
                parts.clear();
            }
            if parts.is_empty() {
                end = window_end(rest.address, limit);
            }
            let room = (end - rest.address) / PAGE as u64;
            let pages = rest.pages.min(room as u32);
            parts.push(Part { run: Run { pages, ..rest }, index });
            index += pages as usize;
            rest = Run {
                address: rest.address + u64::from(pages) * PAGE as u64,
                slot: rest.slot.wrapping_add(if rest.slab == 0 || rest.slab == OWN {
                    0
                } else {
                    pages
                }),
                pages: rest.pages - pages,
                ..rest
            };
        }
    }
    if !parts.is_empty() {
        window_of(barriers, slabs, &views, &policies, &parts, birth, &mut applied);
    }
    barriers.finish();
    applied
}

/// Address behind the last page of a run.
fn end_of(run: &Run) -> u64 {
    run.address + u64::from(run.pages) * PAGE as u64
}

/// Where a window that starts at `address` ends at the latest: with its region, because a plan runs
/// on where the program has split one in two (mprotect, madvise).
fn window_end(address: u64, limit: usize) -> u64 {
    let most = address + (limit * PAGE) as u64;
    let start = address as usize;
    let mut state = lock();
    state.table.holding(start, start + PAGE).map_or(most, |region| most.min(region.end() as u64))
}

/// Do some pages of a plan stand on slabs, because they were merged before?
fn stand_on_slabs(runs: &[Run]) -> bool {
    let mut state = lock();
    runs.iter().any(|run| {
        let end = run.address.saturating_add(u64::from(run.pages) * PAGE as u64);
        state.table.holding(run.address as usize, end as usize).is_some_and(|region| {
            let first = (run.address as usize - region.start) / PAGE;
            let mut pages = first..first + run.pages as usize;
            pages.any(|page| region.backing(page) == Backing::Slab)
        })
    })
}

/// Map the slabs that a plan names, for as long as it is carried out.
fn views(slabs: &HashMap<u64, Slab>, runs: &[Run]) -> Result<HashMap<u64, View>> {
    let mut views = HashMap::new();
    for run in runs {
        let lawful = run.address % PAGE as u64 == 0 && run.address < 1 << 56;
        if !lawful {
            return Err(Error::Protocol(format!("a run at address {:#x}", run.address)));
        }
        if run.slab == 0 || run.slab == OWN {
            continue;
        }
        let slab = slabs.get(&run.slab).ok_or_else(|| {
            let why = "raise RLIMIT_NOFILE, if it is short of descriptors";
            Error::Hub(format!("slab {} has not come to this process: {why}", run.slab))
        })?;
        if run.slot.checked_add(run.pages).is_none_or(|end| end > slab.pages) {
            return Err(Error::Protocol(format!("a run beyond the end of slab {}", run.slab)));
        }
        if let std::collections::hash_map::Entry::Vacant(entry) = views.entry(run.slab) {
            entry.insert(pagemerge_pages::slab::open(&slab.descriptor)?);
        }
    }
    Ok(views)
}

/// Merge the parts of one window, which are in order of address.
fn window_of(
    barriers: &mut Barriers,
    slabs: &HashMap<u64, Slab>,
    views: &HashMap<u64, View>,
    policies: &Policies,
    parts: &[Part],
    birth: Option<&Job>,
    applied: &mut Applied,
) {
    let (first, last) = (&parts[0].run, &parts[parts.len() - 1].run);
    let start = first.address as usize;
    let end = last.address as usize + last.pages as usize * PAGE;
    let total: u64 = parts.iter().map(|part| u64::from(part.run.pages)).sum();
    let mut state = lock();
    // A caller that has given up wants nothing done to its memory any more; and it gave its word
    // that nobody writes for the pages it named, whatever the hub names now.
    let wrong = birth.is_some_and(|job| job.is_cancelled() || !job.holds(start, end));
    let region = state.table.holding(start, end);
    let Some(region) = region.filter(|_| !wrong && !policies.any(start, end)) else {
        applied.report.refused += total;
        return;
    };
    let mut tried = already_own(region, parts, applied);
    let unwanted = if birth.is_some() { 0 } else { unwanted(region, parts) };
    applied.report.unwanted += unwanted;
    // Both before either: what is merged now stands on a slab afterwards.
    let planned = [Backing::Anonymous, Backing::Slab].map(|backing| {
        (backing, pieces(region, start, parts, backing, birth.is_some(), slabs, views))
    });
    for (backing, pieces) in planned {
        let pages: usize = pieces.iter().map(|piece| piece.pages).sum();
        if pages == 0 {
            continue;
        }
        let pages_in_window = (end - start) / PAGE;
        let window =
            Window { start, pages: pages_in_window, backing, keep: region.keep, pieces: &pieces };
        let mut outcome = Outcome::default();
        let mut at_birth = Birth { source: std::ptr::null() };
        let barrier: &mut dyn Barrier = match (birth, barriers.barrier(backing)) {
            (Some(job), _) => {
                at_birth.source = job.source_of(start) as *const u8;
                &mut at_birth
            }
            (None, Some(barrier)) => barrier,
            (None, None) => continue,
        };
        tried += pages as u64;
        // SAFETY: the region is ours, and the lock keeps it as it is.
        if let Err(error) = unsafe { window::merge(barrier, &window, &mut outcome) } {
            barriers.failed(&error);
        }
        account(region, start, parts, &outcome, backing, applied);
    }
    applied.report.refused += total - unwanted - tried;
}

/// How many pages their owner wants left alone.
fn unwanted(region: &Region, parts: &[Part]) -> u64 {
    let merged = parts.iter().filter(|part| part.run.slab != OWN);
    let pages = merged.flat_map(|Part { run, .. }| {
        let first = (run.address as usize - region.start) / PAGE;
        first..first + run.pages as usize
    });
    pages.filter(|&page| !region.is_mergeable(page)).count() as u64
}

/// Pages that shall leave a slab and stand on none: done, as it were. Returns how many.
fn already_own(region: &Region, parts: &[Part], applied: &mut Applied) -> u64 {
    let mut count = 0;
    for Part { run, index } in parts.iter().filter(|part| part.run.slab == OWN) {
        let first = (run.address as usize - region.start) / PAGE;
        for page in 0..run.pages as usize {
            if region.backing(first + page) == Backing::Anonymous {
                applied.set(index + page);
                count += 1;
            }
        }
    }
    count
}

/// The pieces of a window that stand on one backing and may be merged.
fn pieces<'a>(
    region: &mut Region,
    start: usize,
    parts: &[Part],
    backing: Backing,
    birth: bool,
    slabs: &'a HashMap<u64, Slab>,
    views: &HashMap<u64, View>,
) -> Vec<Piece<'a>> {
    let mut pieces: Vec<Piece<'a>> = Vec::new();
    for Part { run, .. } in parts {
        let base = (run.address as usize - region.start) / PAGE;
        let first = (run.address as usize - start) / PAGE;
        let mut open = false;
        for page in 0..run.pages as usize {
            if birth {
                region.set_mergeable(base + page..base + page + 1, true);
            }
            let stays = run.slab == OWN && backing == Backing::Anonymous;
            // Leaving a slab is no merging: it is done to pages their owner wants left alone, too.
            let wanted = region.is_mergeable(base + page) || run.slab == OWN;
            if region.backing(base + page) != backing || stays || !wanted {
                open = false;
                continue;
            }
            match pieces.last_mut() {
                Some(piece) if open => piece.pages += 1,
                _ => pieces.push(Piece {
                    first: first + page,
                    pages: 1,
                    content: content(run, page, slabs, views),
                }),
            }
            open = true;
        }
    }
    pieces
}

fn content<'a>(
    run: &Run,
    page: usize,
    slabs: &'a HashMap<u64, Slab>,
    views: &HashMap<u64, View>,
) -> Content<'a> {
    if run.slab == OWN {
        return Content::Own;
    }
    let (Some(slab), Some(view)) = (slabs.get(&run.slab), views.get(&run.slab)) else {
        return Content::Zero; // slab 0; `views` has checked all others
    };
    let slot = run.slot as usize + page;
    Content::Slots {
        bytes: view.page(slot),
        slab: slab.descriptor.as_fd(),
        offset: (slot * PAGE) as u64,
    }
}

/// Write down what a window came to.
fn account(
    region: &mut Region,
    start: usize,
    parts: &[Part],
    outcome: &Outcome,
    backing: Backing,
    applied: &mut Applied,
) {
    applied.report.differed += u64::from(outcome.differed);
    applied.report.busy += u64::from(outcome.busy);
    applied.report.vanished += u64::from(outcome.vanished);
    applied.report.unmapped += u64::from(outcome.unmapped);
    let base = (start - region.start) / PAGE;
    for Part { run, index } in parts {
        let first = (run.address as usize - start) / PAGE;
        for page in first..first + run.pages as usize {
            if outcome.merged.has(page) {
                applied.set(index + page - first);
                if outcome.slabbed.has(page) {
                    region.set_backing(base + page..base + page + 1, Backing::Slab);
                } else if backing == Backing::Slab {
                    region.set_backing(base + page..base + page + 1, Backing::Anonymous);
                }
            }
        }
    }
}
