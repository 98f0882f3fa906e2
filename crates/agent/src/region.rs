//! The mergeable regions of this process.

use crate::bits::Bits;
use pagemerge_pages::barrier::window::{Backing, Keep};
use pagemerge_pages::huge::Given;
use pagemerge_pages::wire::mark;
use pagemerge_pages::PAGE;
use std::collections::BTreeMap;
use std::ops::Range;

/// What a program has said about huge pages for some memory (madvise(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    #[default]
    None,
    /// MADV_HUGEPAGE.
    Huge,
    /// MADV_NOHUGEPAGE.
    Small,
}

impl Wish {
    /// Returns whether the kernel would give such memory huge pages.
    pub fn is_granted(self, given: Given) -> bool {
        match self {
            Self::None => given == Given::Always,
            Self::Huge => given != Given::Never,
            Self::Small => false,
        }
    }
}

/// A mergeable range of this process.
#[derive(Debug)]
pub struct Region {
    /// The region's number; never used twice in a process.
    pub id: u64,
    /// The address of the first page.
    pub start: usize,
    /// The number of pages.
    pub pages: usize,
    /// The protection and flags that every mapping there must have.
    pub keep: Keep,
    /// Whether it would have huge pages without us. Then blocks in which little is merged get them
    /// back, when the hub says so.
    pub huge: bool,
    /// How many times `correct` has found pages that are not a slab's any more.
    pub left: u64,
    /// The pages whose mapping is a slab's, including those that were written since.
    slabbed: Bits,
    /// The pages that the program does not want merged.
    excluded: Bits,
}

impl Region {
    /// Returns what page `page` stands on.
    pub fn backing(&self, page: usize) -> Backing {
        if self.slabbed.has(page) {
            Backing::Slab
        } else {
            Backing::Anonymous
        }
    }

    /// Record what some pages stand on now. The hub learns of it by our report of its plan.
    pub fn set_backing(&mut self, pages: Range<usize>, backing: Backing) {
        self.slabbed.set(pages, backing == Backing::Slab);
    }

    /// Record what some pages stand on now, whatever the hub has planned: it learns by `left` that
    /// its records are wrong.
    pub fn correct(&mut self, pages: Range<usize>, backing: Backing) {
        let leave = backing == Backing::Anonymous && pages.clone().any(|it| self.slabbed.has(it));
        self.left += u64::from(leave);
        self.set_backing(pages, backing);
    }

    /// Returns whether page `page` may be merged in the background.
    pub fn is_mergeable(&self, page: usize) -> bool {
        self.keep.is_open() && !self.excluded.has(page)
    }

    /// Record whether some pages may be merged.
    pub fn set_mergeable(&mut self, pages: Range<usize>, mergeable: bool) {
        self.excluded.set(pages, !mergeable);
    }

    /// Returns whether there is a page that may be merged.
    pub fn is_wanted(&self) -> bool {
        self.keep.is_open() && self.excluded.count() < self.pages
    }

    /// The number of pages whose mapping is a slab's.
    pub fn slabbed_pages(&self) -> usize {
        self.slabbed.count()
    }

    /// Returns what the hub is told of it; None if that is nothing, because no page is merged or may
    /// be. If only some are merged, the hub keeps its records of them until more may be.
    pub fn marks(&self) -> Option<u64> {
        let slabbed = self.slabbed.any();
        let open = self.is_wanted();
        let marks = [(self.huge, mark::HUGE), (!open, mark::CLOSED), (slabbed, mark::SLABBED)];
        let held = marks.iter().filter(|(holds, _)| *holds).map(|(_, mark)| mark).sum();
        (open || slabbed).then_some(held)
    }

    /// The runs of pages in `[start, end)` whose mapping is a slab's, as addresses.
    pub fn slabbed_runs(&self, start: usize, end: usize) -> Vec<Range<usize>> {
        let at = |page: usize| self.start + page * PAGE;
        let mut runs: Vec<Range<usize>> = Vec::new();
        for page in self.pages_in(start, end).filter(|&page| self.slabbed.has(page)) {
            match runs.last_mut() {
                Some(run) if run.end == at(page) => run.end += PAGE,
                _ => runs.push(at(page)..at(page + 1)),
            }
        }
        runs
    }

    /// The region's pages that lie in `[start, end)`, by number.
    pub fn pages_in(&self, start: usize, end: usize) -> Range<usize> {
        let first = start.max(self.start).min(self.end());
        let last = end.max(first).min(self.end());
        (first - self.start) / PAGE..(last - self.start).div_ceil(PAGE)
    }

    /// The address behind the last page.
    pub const fn end(&self) -> usize {
        self.start + self.pages * PAGE
    }
}

/// All regions, by address.
#[derive(Debug, Default)]
pub struct Table {
    regions: BTreeMap<usize, Region>,
    last_id: u64,
}

impl Table {
    /// Add a new region; `huge` as in `Region`.
    pub fn insert(&mut self, start: usize, pages: usize, keep: Keep, huge: bool) {
        let (slabbed, excluded) = (Bits::new(pages), Bits::new(pages));
        let id = self.new_id();
        let region = Region { id, start, pages, keep, huge, left: 0, slabbed, excluded };
        self.regions.insert(start, region);
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// All regions, mutable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Region> {
        self.regions.values_mut()
    }

    /// Forget the region that starts at `start`.
    pub fn remove(&mut self, start: usize) -> Option<Region> {
        self.regions.remove(&start)
    }

    /// The region that starts at `start`.
    pub fn starting_at(&self, start: usize) -> Option<&Region> {
        self.regions.get(&start)
    }

    /// The region that holds all of `[start, end)`.
    pub fn holding(&mut self, start: usize, end: usize) -> Option<&mut Region> {
        let (_, region) = self.regions.range_mut(..=start).next_back()?;
        (start < region.end() && end <= region.end()).then_some(region)
    }

    /// The regions that share a page with `[start, end)`.
    pub fn touching(&mut self, start: usize, end: usize) -> impl Iterator<Item = &mut Region> {
        self.regions
            .range_mut(..end)
            .rev()
            .take_while(move |(_, it)| it.end() > start)
            .map(|it| it.1)
    }

    /// What all of `[start, end)` must keep, if regions that keep the same cover it.
    pub fn all_alike(&mut self, start: usize, end: usize) -> Option<Keep> {
        let mut at = end;
        let mut alike = None;
        for region in self.touching(start, end) {
            if region.end() < at || alike.is_some_and(|keep| keep != region.keep) {
                return None;
            }
            (at, alike) = (region.start, Some(region.keep));
        }
        alike.filter(|_| at <= start)
    }

    /// Split the region that has `at` inside it, so that one region ends and another starts there.
    pub fn split(&mut self, at: usize) {
        let Some(region) = self.holding(at, at) else { return };
        if region.start == at {
            return;
        }
        let pages = (at - region.start) / PAGE;
        let (slabbed, excluded) =
            (region.slabbed.split_off(pages), region.excluded.split_off(pages));
        let (rest, keep, huge) = (region.pages - pages, region.keep, region.huge);
        region.pages = pages;
        let (id, start, pages) = (self.new_id(), at, rest);
        let region = Region { id, start, pages, keep, huge, left: 0, slabbed, excluded };
        self.regions.insert(start, region);
    }

    /// Split regions at both ends of `[start, end)`, and return those in between.
    pub fn within(&mut self, start: usize, end: usize) -> impl Iterator<Item = &mut Region> {
        self.split(start);
        self.split(end);
        self.touching(start, end)
    }

    /// Do as `Region::correct` does, for all regions in `[start, end)`.
    pub fn correct(&mut self, start: usize, end: usize, backing: Backing) {
        for region in self.touching(start, end) {
            let pages = region.pages_in(start, end);
            region.correct(pages, backing);
        }
    }

    /// Record that what was at `[start, end)` is at `to` now.
    pub fn relocate(&mut self, start: usize, end: usize, to: usize) {
        self.split(start);
        self.split(end);
        let moved: Vec<usize> = self.regions.range(start..end).map(|(&start, _)| start).collect();
        let moved: Vec<Region> =
            moved.into_iter().filter_map(|start| self.regions.remove(&start)).collect();
        self.forget(to, to + (end - start));
        for mut region in moved {
            // The hub knows a region by its id and its place: at a new place it is a new region.
            (region.id, region.start) = (self.new_id(), region.start - start + to);
            self.regions.insert(region.start, region);
        }
    }

    /// Forget all of `[start, end)`, including parts of regions.
    pub fn forget(&mut self, start: usize, end: usize) {
        self.split(start);
        self.split(end);
        let gone: Vec<usize> = self.regions.range(start..end).map(|(&start, _)| start).collect();
        for start in gone {
            self.regions.remove(&start);
        }
    }

    /// All regions.
    pub fn iter(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }

    /// From the first address of the first region to the end of the last.
    pub fn hull(&self) -> Range<usize> {
        let first = self.regions.values().next().map_or(0, |region| region.start);
        first..self.regions.values().next_back().map_or(0, Region::end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(regions: &[(usize, usize)]) -> Table {
        let mut table = Table::default();
        for &(start, pages) in regions {
            table.insert(start, pages, Keep::default(), false);
        }
        table
    }

    #[test]
    fn a_range_is_held_by_one_region_or_none() {
        let mut table = table(&[(0x10000, 4), (0x20000, 1)]);
        assert_eq!(table.holding(0x11000, 0x14000).map(|region| region.start), Some(0x10000));
        assert!(table.holding(0x11000, 0x15000).is_none());
        assert!(table.holding(0x14000, 0x14000).is_none());
        assert!(table.holding(0x1000, 0x2000).is_none());
        assert!(table.remove(0x10000).is_some());
        assert!(table.holding(0x11000, 0x12000).is_none());
    }

    #[test]
    fn regions_side_by_side_that_keep_the_same_are_alike() {
        let mut table = table(&[(0x10000, 4), (0x14000, 4), (0x19000, 1)]);
        assert_eq!(table.all_alike(0x11000, 0x17000), Some(Keep::default()));
        assert_eq!(table.all_alike(0x17000, 0x1a000), None);
        assert_eq!(table.all_alike(0xf000, 0x11000), None);
        assert_eq!(table.all_alike(0x18000, 0x19000), None);
        table.holding(0x14000, 0x15000).unwrap().keep.dont_fork = true;
        assert_eq!(table.all_alike(0x11000, 0x17000), None);
    }

    #[test]
    fn backing_is_remembered_page_by_page() {
        let mut table = table(&[(0x10000, 100)]);
        let region = table.holding(0x10000, 0x11000).unwrap();
        region.set_backing(60..70, Backing::Slab);
        region.set_backing(65..66, Backing::Anonymous);
        assert_eq!(region.slabbed_pages(), 9);
        assert_eq!(region.backing(65), Backing::Anonymous);
        assert_eq!(region.backing(69), Backing::Slab);
        assert!(region.is_mergeable(99));
        region.set_mergeable(99..100, false);
        assert!(!region.is_mergeable(99));
        region.keep.locked = true;
        assert!(!region.is_mergeable(0) && !region.is_wanted());
        let runs = region.slabbed_runs(0x10000 + 62 * PAGE, 0x10000 + 68 * PAGE);
        let at = |page| 0x10000 + page * PAGE;
        assert_eq!(runs, [at(62)..at(65), at(66)..at(68)]);
    }

    #[test]
    fn what_is_wished_counts_where_the_system_allows_it() {
        let granted =
            |given| [Wish::None, Wish::Huge, Wish::Small].map(|wish: Wish| wish.is_granted(given));
        assert_eq!(granted(Given::Always), [true, true, false]);
        assert_eq!(granted(Given::Asked), [false, true, false]);
        assert_eq!(granted(Given::Never), [false; 3]);
        let mut table = table(&[(0x10000, 4)]);
        table.within(0x11000, 0x13000).for_each(|region| region.huge = true);
        let huge: Vec<_> = table.iter().map(|it| (it.start, it.huge)).collect();
        assert_eq!(huge, [(0x10000, false), (0x11000, true), (0x13000, false)]);
        table.relocate(0x11000, 0x13000, 0x50000);
        assert!(table.starting_at(0x50000).unwrap().huge);
    }

    #[test]
    fn forgetting_the_middle_leaves_both_ends_as_they_were() {
        let mut table = table(&[(0x10000, 100), (0x100_0000, 2)]);
        table.holding(0x10000, 0x11000).unwrap().set_backing(0..100, Backing::Slab);
        table.forget(0x10000 + 30 * PAGE, 0x10000 + 70 * PAGE);
        let left: Vec<_> =
            table.iter().map(|it| (it.start, it.pages, it.slabbed_pages())).collect();
        let end = 0x10000 + 70 * PAGE;
        assert_eq!(left, [(0x10000, 30, 30), (end, 30, 30), (0x100_0000, 2, 0)]);
        let touched: Vec<_> = table.touching(0x10000, end + 1).map(|it| it.start).collect();
        assert_eq!(touched, [end, 0x10000]);
        assert_eq!(table.hull(), 0x10000..0x100_0000 + 2 * PAGE);
        table.relocate(end, end + 30 * PAGE, 0x200_0000);
        let there: Vec<_> = table.iter().map(|it| (it.start, it.slabbed_pages())).collect();
        assert_eq!(there, [(0x10000, 30), (0x100_0000, 0), (0x200_0000, 30)]);
        table.forget(0, usize::MAX / PAGE * PAGE);
        assert_eq!(table.iter().count(), 0);
    }
}
