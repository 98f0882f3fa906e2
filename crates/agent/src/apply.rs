//! The agent carries out a hub's plan here, window by window, under the agent's lock.
//!
//! The agent trusts the hub with nothing: it checks each address, slab, slot and length here, and
//! the bytes decide. A wrong plan can at worst waste time.

use crate::barriers::Barriers;
use crate::ground::{Found, Ground};
use crate::region::{Region, Table};
use crate::{lock, Job};
use pagemerge_pages::barrier::keep::LOCKS_FUTURE;
use pagemerge_pages::barrier::mask::WINDOW;
use pagemerge_pages::barrier::window::{
    self, Backing, Barrier, Birth, Content, Outcome, Piece, Window,
};
use pagemerge_pages::slab::View;
use pagemerge_pages::wire::{Merged, Run, OWN};
use pagemerge_pages::{Error, Result, PAGE};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// A slab that this process may map.
#[derive(Debug)]
pub struct Slab {
    /// The descriptor that every mapping of it uses: mappings coalesce only through the same one.
    pub descriptor: OwnedFd,
    /// Number of pages of the slab.
    pub pages: u32,
}

/// The result of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// Pages that were left alone, by reason.
    pub report: Merged,
    /// One bit for each planned page, in order: set if the page is now what was planned.
    pub bits: Vec<u8>,
}

impl Applied {
    fn set(&mut self, index: usize) {
        self.bits[index / 8] |= 1 << (index % 8);
    }

    /// Returns whether planned page `index` is now what was planned.
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
    let on_slabs = stand_on_slabs(runs);
    let ready = views(slabs, runs)
        .and_then(|views| barriers.prepare(birth.is_some(), on_slabs).map(|()| views));
    let views = match ready {
        Ok(views) => views,
        Err(error) => {
            barriers.note(&error);
            applied.report.refused += total as u64;
            return applied;
        }
    };
    let mut work =
        Work { barriers, slabs, views: &views, ground: Ground::open(), birth, applied, tried: 0 };
    // First the pages that stand on slabs, because a page that is merged now stands on a slab
    // afterwards. Each backing has its own barrier, and its own size of window.
    for backing in on_slabs.then_some(Backing::Slab).into_iter().chain([Backing::Anonymous]) {
        let limit = work.limit(backing);
        work.windows(runs, limit, |work, parts| work.window(parts, backing));
    }
    let Work { barriers, mut applied, tried, .. } = work;
    barriers.finish();
    applied.report.refused += (total as u64).saturating_sub(tried);
    applied
}

/// A plan that is being carried out.
struct Work<'a> {
    barriers: &'a mut Barriers,
    slabs: &'a HashMap<u64, Slab>,
    views: &'a HashMap<u64, View>,
    ground: Ground,
    birth: Option<&'a Job>,
    applied: Applied,
    /// Pages that were tried, or left alone for a reason that was counted.
    tried: u64,
}

impl<'a> Work<'a> {
    /// The largest number of pages of a window.
    fn limit(&mut self, backing: Backing) -> usize {
        let most = if self.birth.is_some() { window::FEW } else { WINDOW };
        self.barriers.barrier(backing).map_or(most, |barrier| barrier.most_pages().min(most))
    }

    /// Cut runs, which are in order of address, into windows.
    fn windows(&mut self, runs: &[Run], limit: usize, mut merge: impl FnMut(&mut Self, &[Part])) {
        let (mut index, mut end) = (0, 0);
        let mut parts: Vec<Part> = Vec::new();
        for &run in runs {
            let mut rest = run;
            while rest.pages > 0 {
                let behind = parts.last().map_or(0, |part| end_of(&part.run));
                if !parts.is_empty() && !(behind..end).contains(&rest.address) {
                    merge(self, &parts);
                    parts.clear();
                }
                if parts.is_empty() {
                    end = window_end(rest.address, limit);
                }
                let room = (end - rest.address) / PAGE as u64;
                let pages = rest.pages.min(room as u32);
                parts.push(Part { run: Run { pages, ..rest }, index });
                index += pages as usize;
                let moves = rest.slab != 0 && rest.slab != OWN;
                rest = Run {
                    address: rest.address + u64::from(pages) * PAGE as u64,
                    slot: rest.slot.wrapping_add(if moves { pages } else { 0 }),
                    pages: rest.pages - pages,
                    ..rest
                };
            }
        }
        if !parts.is_empty() {
            merge(self, &parts);
        }
    }

    /// Merge the pages of one window that stand on `backing`.
    fn window(&mut self, parts: &[Part], backing: Backing) {
        self.barriers.rest(backing, self.birth.is_some());
        let (first, last) = (&parts[0].run, &parts[parts.len() - 1].run);
        let start = first.address as usize;
        let end = last.address as usize + last.pages as usize * PAGE;
        let mut state = lock();
        // A caller that has given up wants no more changes to its memory. And the caller's promise
        // that no thread writes holds only for the pages that it named, whatever pages the hub
        // names now.
        let wrong = self.birth.is_some_and(|job| job.is_cancelled() || !job.holds(start, end))
            || LOCKS_FUTURE.load(Ordering::Relaxed); // a slab's mapping would be filled at once
        let Some(region) = state.table.holding(start, end).filter(|_| !wrong) else { return };
        if backing == Backing::Anonymous {
            self.tried += already_own(region, parts, &mut self.applied);
        }
        let (pieces, unwanted) = self.pieces(region, start, parts, backing);
        self.applied.report.unwanted += unwanted;
        self.tried += unwanted;
        let pages: usize = pieces.iter().map(|piece| piece.pages).sum();
        if pages == 0 {
            return;
        }
        let found = self.ground.look(start, end);
        if !found.fit {
            correct(&mut state.table, &found);
            return;
        }
        let (pages_in_window, keep) = ((end - start) / PAGE, region.keep);
        let window = Window { start, pages: pages_in_window, backing, keep, pieces: &pieces };
        let mut outcome = Outcome::default();
        let mut at_birth;
        let barrier: &mut dyn Barrier = match (self.birth, self.barriers.barrier(backing)) {
            (Some(job), _) => {
                at_birth = Birth::at(job.source_of(start));
                &mut at_birth
            }
            (None, Some(barrier)) => barrier,
            (None, None) => return,
        };
        self.tried += pages as u64;
        // SAFETY: the region is ours, and the lock keeps it as it is.
        if let Err(error) = unsafe { window::merge(barrier, &window, &mut outcome) } {
            self.barriers.failed(&error);
        }
        account(region, start, parts, &outcome, backing, &mut self.applied);
    }

    /// Returns the pieces of a window that stand on one backing and may be merged, and the number
    /// of pages there that the program wants left alone.
    fn pieces(
        &self,
        region: &mut Region,
        start: usize,
        parts: &[Part],
        backing: Backing,
    ) -> (Vec<Piece<'a>>, u64) {
        let (mut pieces, mut unwanted) = (Vec::<Piece<'a>>::new(), 0);
        for Part { run, index } in parts {
            let base = (run.address as usize - region.start) / PAGE;
            let first = (run.address as usize - start) / PAGE;
            let mut open = false;
            for page in 0..run.pages as usize {
                if self.birth.is_some() {
                    region.set_mergeable(base + page..base + page + 1, true);
                }
                let done = self.applied.has(index + page);
                let stays = run.slab == OWN && backing == Backing::Anonymous;
                if done || stays || region.backing(base + page) != backing {
                    open = false;
                    continue;
                }
                // Taking a page off its slab is no merging: it may be done to pages that the
                // program wants left alone.
                if !region.is_mergeable(base + page) && run.slab != OWN {
                    (open, unwanted) = (false, unwanted + 1);
                    continue;
                }
                match pieces.last_mut() {
                    Some(piece) if open => piece.pages += 1,
                    _ => {
                        let content = content(run, page, self.slabs, self.views);
                        pieces.push(Piece { first: first + page, pages: 1, content });
                    }
                }
                open = true;
            }
        }
        (pieces, unwanted)
    }
}

/// The program has changed something by a call that we did not see: believe the kernel.
fn correct(table: &mut Table, found: &Found) {
    for part in &found.other {
        table.forget(part.start, part.end);
    }
    for (parts, backing) in [(&found.anonymous, Backing::Anonymous), (&found.slabs, Backing::Slab)]
    {
        for part in parts {
            for region in table.touching(part.start, part.end) {
                let pages = region.pages_in(part.start, part.end);
                region.set_backing(pages, backing);
            }
        }
    }
}

/// The address behind the last page of a run.
fn end_of(run: &Run) -> u64 {
    run.address + u64::from(run.pages) * PAGE as u64
}

/// The latest address where a window that starts at `address` may end. It ends with its region,
/// because a plan does not end where the program has since split a region in two (mprotect,
/// madvise).
fn window_end(address: u64, limit: usize) -> u64 {
    let most = address + (limit * PAGE) as u64;
    let start = address as usize;
    let mut state = lock();
    state.table.holding(start, start + PAGE).map_or(most, |region| most.min(region.end() as u64))
}

/// Returns whether some pages of a plan stand on slabs, because they were merged before.
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

/// Map the slabs that a plan names, for as long as the plan is carried out.
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
            Error::Hub(format!("this process has not received slab {}: {why}", run.slab))
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

/// Count pages that the plan takes off slabs, but that stand on none, as done. Returns how many.
fn already_own(region: &Region, parts: &[Part], applied: &mut Applied) -> u64 {
    let mut count = 0;
    for Part { run, index } in parts.iter().filter(|part| part.run.slab == OWN) {
        let first = (run.address as usize - region.start) / PAGE;
        for page in 0..run.pages as usize {
            if region.backing(first + page) == Backing::Anonymous && !applied.has(index + page) {
                applied.set(index + page);
                count += 1;
            }
        }
    }
    count
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

/// Record the result of a window.
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
