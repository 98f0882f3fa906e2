//! The agent carries out a hub's plan here, window by window, under the agent's lock.
//!
//! The agent trusts the hub with nothing: it checks each address, slab, slot and length here, and
//! the bytes decide. A wrong plan can at worst waste time.

use crate::barriers::Barriers;
use crate::ground::Ground;
use crate::region::{Region, Table};
use crate::slabs::{views, Slab};
use crate::windows::{account, already_own, behind, end_of, unlocked, Applied, Part, Ready};
use crate::{lock, whole, Job};
use pagemerge_pages::barrier::birth::Birth;
use pagemerge_pages::barrier::keep::LOCKS_FUTURE;
use pagemerge_pages::barrier::mask::WINDOW;
use pagemerge_pages::barrier::protect::TOGETHER;
use pagemerge_pages::barrier::window::{self, Backing, Barrier, Content, Outcome, Piece};
use pagemerge_pages::slab::View;
use pagemerge_pages::wire::{Run, OWN, WHOLE};
use pagemerge_pages::{Error, PAGE};
use rustix::fd::AsFd;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

/// Carry out `runs`: behind the process's barrier, or at birth for a job whose caller waits.
/// `awaited`: the job whose plan the hub is making now.
pub fn apply(
    barriers: &mut Barriers,
    slabs: &HashMap<u64, Slab>,
    runs: &[Run],
    birth: Option<&Job>,
    awaited: Option<&Job>,
) -> Applied {
    let total: usize = runs.iter().map(|run| run.pages as usize).sum();
    let mut applied = Applied { bits: vec![0; total.div_ceil(8)], ..Applied::default() };
    if birth.is_none() && runs.first().is_some_and(|run| run.slab == WHOLE) {
        for (index, done) in whole::make(runs).into_iter().enumerate() {
            if done {
                applied.set(index);
            } else {
                applied.report.refused += 1;
            }
        }
        return applied;
    }
    let on_slabs = stand_on_slabs(runs);
    // Views come after the question whether the kernel locks what is mapped from now on.
    let ready = barriers.prepare(birth.is_some(), on_slabs).and_then(|()| views(slabs, runs));
    let views = match ready {
        Ok(views) => views,
        Err(error) => {
            barriers.note(&error);
            barriers.finish();
            applied.report.refused += total as u64;
            return applied;
        }
    };
    let (views, ground) = (&views, Ground::open());
    let mut work = Work { barriers, slabs, views, ground, birth, awaited, applied, tried: 0 };
    // First the pages that stand on slabs, because a page that is merged now stands on a slab
    // afterwards. Each backing has its own barrier, and its own size of window.
    if on_slabs && birth.is_none() && work.barriers.protector().is_some() {
        let (limit, mut windows) = (work.limit(Backing::Slab), Vec::new());
        work.windows(runs, limit, |_, parts| windows.extend(unlocked(parts)));
        windows.chunks(TOGETHER).for_each(|some| work.windows_together(some));
    } else if on_slabs {
        let limit = work.limit(Backing::Slab);
        work.windows(runs, limit, |work, parts| work.window(parts, Backing::Slab));
    }
    let limit = work.limit(Backing::Anonymous);
    work.windows(runs, limit, |work, parts| work.window(parts, Backing::Anonymous));
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
    awaited: Option<&'a Job>,
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
                let last = parts.last().map_or(0, |part| end_of(&part.run));
                if !parts.is_empty() && !(last..end).contains(&rest.address) {
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
                rest = behind(rest, pages);
            }
        }
        if !parts.is_empty() {
            merge(self, &parts);
        }
    }

    /// Merge the pages of one window that stand on `backing`.
    fn window(&mut self, parts: &[Part], backing: Backing) {
        let windows = unlocked(parts);
        if backing == Backing::Anonymous {
            self.leave_locked(parts, &windows);
        }
        for window in &windows {
            self.barriers.rest(backing, self.birth.is_some());
            let mut state = lock();
            if let Some(ready) = self.ready(&mut state.table, window, backing) {
                self.carry_out(&mut state.table, &ready);
            }
        }
    }

    /// Count the pages of a window that are in none of `windows` as busy: they are locked, or
    /// between locked ones. The hub leaves busy pages alone for longer and longer.
    fn leave_locked(&mut self, parts: &[Part], windows: &[Vec<Part>]) {
        let pages =
            |parts: &[Part]| parts.iter().map(|part| u64::from(part.run.pages)).sum::<u64>();
        if windows.iter().map(|window| pages(window)).sum::<u64>() == pages(parts) {
            return;
        }
        let (start, end) = (parts[0].run.address, end_of(&parts[parts.len() - 1].run));
        if let Some(region) = lock().table.holding(start as usize, end as usize) {
            self.tried += already_own(region, parts, &mut self.applied);
        }
        let open: HashSet<usize> = windows.iter().flatten().flat_map(Part::indices).collect();
        let left = parts.iter().flat_map(Part::indices);
        let left = left.filter(|it| !open.contains(it) && !self.applied.has(*it)).count() as u64;
        self.applied.report.busy += left;
        self.tried += left;
        if left > 0 {
            self.barriers.note(&Error::Unsupported(
                "some of its memory is locked (mlock(2)), and stays as it is".into(),
            ));
        }
    }

    /// Merge some windows whose pages stand on slabs. All are held at once, because finding out
    /// which of their pages are pinned takes a fork, whatever their number. While they are held,
    /// nothing here allocates.
    fn windows_together(&mut self, windows: &[Vec<Part>]) {
        self.barriers.rest(Backing::Slab, false);
        let mut state = lock();
        let mut ready: Vec<_> = windows
            .iter()
            .filter_map(|parts| self.ready(&mut state.table, parts, Backing::Slab))
            .collect();
        let Some(protector) = self.barriers.protector() else { return };
        // What is left out here counts as refused, which the hub takes as no fault of the pages:
        // what would have to wait, and, whatever the hub plans, a window that does not lie behind
        // the one before it. One that is let go would let go the other's pages with its own.
        let mut behind = 0;
        ready.retain(|it| {
            let taken = it.start >= behind && !protector.must_wait(&it.window());
            behind = if taken { it.end() } else { behind };
            taken
        });
        let held: Vec<_> = ready.iter().map(Ready::window).collect();
        let mut outcomes = vec![None; ready.len()];
        protector.hold(&held);
        let mut merged = Ok(());
        for (window, outcome) in held.iter().zip(&mut outcomes) {
            // Once more: a fork takes a while.
            let end = window.start + window.pages * PAGE;
            if merged.is_ok() && self.ground.is_fit(window.start, end) {
                let outcome = outcome.insert(Outcome::default());
                // SAFETY: the region is ours, and the lock keeps it as it is.
                merged = unsafe { window::merge(protector, window, outcome) };
            }
        }
        let released = protector.release();
        if let Err(error) = merged.and(released) {
            self.barriers.failed(&error);
        }
        for (it, outcome) in ready.iter().zip(&outcomes) {
            if let (Some(outcome), Some(region)) =
                (outcome, state.table.holding(it.start, it.end()))
            {
                self.tried += it.count();
                account(region, it, outcome, &mut self.applied);
            }
        }
    }

    /// Returns what there is to merge in a window, if its memory is what it is said to be.
    fn ready<'p>(
        &mut self,
        table: &mut Table,
        parts: &'p [Part],
        backing: Backing,
    ) -> Option<Ready<'a, 'p>> {
        let (first, last) = (&parts[0].run, &parts[parts.len() - 1].run);
        let start = first.address as usize;
        let end = last.address as usize + last.pages as usize * PAGE;
        // A caller that has given up wants no more changes to its memory. And the caller's promise
        // that no thread writes holds only for the pages that it named, whatever pages the hub
        // names now.
        let wrong = self.birth.is_some_and(|job| job.is_cancelled() || !job.holds(start, end))
            || LOCKS_FUTURE.load(Ordering::Relaxed) // a slab's mapping would be filled at once
            // The hub reads these pages now: behind a barrier it might find none there.
            || self.awaited.is_some_and(|job| job.concerns(start, end));
        let region = table.holding(start, end).filter(|_| !wrong)?;
        if backing == Backing::Anonymous {
            self.tried += already_own(region, parts, &mut self.applied);
        }
        let (pieces, unwanted) = self.pieces(region, start, parts, backing);
        self.applied.report.unwanted += unwanted;
        self.tried += unwanted;
        if pieces.is_empty() {
            return None;
        }
        let (pages, keep) = ((end - start) / PAGE, region.keep);
        let found = self.ground.look(start, end);
        if !found.fit {
            found.correct(table);
            return None;
        }
        Some(Ready { start, pages, backing, keep, pieces, parts })
    }

    /// Merge a window.
    fn carry_out(&mut self, table: &mut Table, ready: &Ready<'_, '_>) {
        let mut outcome = Outcome::default();
        let mut at_birth;
        let barrier: &mut dyn Barrier = match (self.birth, self.barriers.barrier(ready.backing)) {
            (Some(job), _) => {
                at_birth = Birth::at(job.source_of(ready.start));
                &mut at_birth
            }
            (None, Some(barrier)) => barrier,
            (None, None) => return,
        };
        self.tried += ready.count();
        // SAFETY: the region is ours, and the lock keeps it as it is.
        if let Err(error) = unsafe { window::merge(barrier, &ready.window(), &mut outcome) } {
            self.barriers.failed(&error);
        }
        if let Some(region) = table.holding(ready.start, ready.end()) {
            account(region, ready, &outcome, &mut self.applied);
        }
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

fn content<'a>(
    run: &Run,
    page: usize,
    slabs: &'a HashMap<u64, Slab>,
    views: &HashMap<u64, View>,
) -> Content<'a> {
    if run.slab == OWN {
        return Content::Own;
    }
    let Some(slab) = slabs.get(&run.slab) else {
        return Content::Zero; // slab 0; `views` has checked all others
    };
    let slot = run.slot as usize + page;
    Content::Slots {
        bytes: views.get(&run.slab).map(|view| view.page(slot)),
        slab: slab.descriptor.as_fd(),
        offset: (slot * PAGE) as u64,
    }
}
