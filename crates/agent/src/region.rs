//! The mergeable regions of this process, and the one lock that orders everything done to them.

use pagemerge_pages::window::Backing;
use pagemerge_pages::PAGE;
use std::collections::BTreeMap;
use std::ops::Range;

/// A mergeable range of this process.
#[derive(Debug)]
pub struct Region {
    /// Never used twice in a process.
    pub id: u64,
    /// Address of the first page.
    pub start: usize,
    /// Pages.
    pub pages: usize,
    /// Pages whose mapping is a slab's, whether or not they were written since.
    slabbed: Bits,
    /// Pages that their owner does not want merged.
    excluded: Bits,
}

impl Region {
    /// What stands under page `page`.
    pub fn backing(&self, page: usize) -> Backing {
        if self.slabbed.has(page) {
            Backing::Slab
        } else {
            Backing::Anonymous
        }
    }

    /// Record what stands under some pages now.
    pub fn set_backing(&mut self, pages: Range<usize>, backing: Backing) {
        self.slabbed.set(pages, backing == Backing::Slab);
    }

    /// May page `page` be merged in the background?
    pub fn is_mergeable(&self, page: usize) -> bool {
        !self.excluded.has(page)
    }

    /// Let some pages be merged, or not.
    pub fn set_mergeable(&mut self, pages: Range<usize>, mergeable: bool) {
        self.excluded.set(pages, !mergeable);
    }

    /// Pages whose mapping is a slab's.
    pub fn slabbed_pages(&self) -> usize {
        self.slabbed.count()
    }

    /// Address behind the last page.
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
    /// Take in a new region.
    pub fn insert(&mut self, start: usize, pages: usize) {
        self.last_id += 1;
        let (slabbed, excluded) = (Bits::new(pages), Bits::new(pages));
        self.regions.insert(start, Region { id: self.last_id, start, pages, slabbed, excluded });
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

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }
}

/// A bit a page; empty until a bit is set, because most regions never need one.
#[derive(Debug)]
struct Bits {
    words: Vec<u64>,
    pages: usize,
}

impl Bits {
    const fn new(pages: usize) -> Self {
        Self { words: Vec::new(), pages }
    }

    fn has(&self, page: usize) -> bool {
        self.words.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    fn set(&mut self, pages: Range<usize>, on: bool) {
        if self.words.is_empty() {
            if !on {
                return;
            }
            self.words.resize(self.pages.div_ceil(64), 0);
        }
        for page in pages {
            let bit = 1 << (page % 64);
            if on {
                self.words[page / 64] |= bit;
            } else {
                self.words[page / 64] &= !bit;
            }
        }
    }

    fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_held_by_one_region_or_none() {
        let mut table = Table::default();
        table.insert(0x10000, 4);
        table.insert(0x20000, 1);
        assert_eq!(table.holding(0x11000, 0x14000).map(|region| region.start), Some(0x10000));
        assert!(table.holding(0x11000, 0x15000).is_none());
        assert!(table.holding(0x14000, 0x14000).is_none());
        assert!(table.holding(0x1000, 0x2000).is_none());
        assert!(table.remove(0x10000).is_some());
        assert!(table.holding(0x11000, 0x12000).is_none());
    }

    #[test]
    fn backing_is_remembered_page_by_page() {
        let mut table = Table::default();
        table.insert(0x10000, 100);
        let region = table.holding(0x10000, 0x11000).unwrap();
        region.set_backing(60..70, Backing::Slab);
        region.set_backing(65..66, Backing::Anonymous);
        assert_eq!(region.slabbed_pages(), 9);
        assert_eq!(region.backing(65), Backing::Anonymous);
        assert_eq!(region.backing(69), Backing::Slab);
        assert!(region.is_mergeable(99));
        region.set_mergeable(99..100, false);
        assert!(!region.is_mergeable(99));
    }
}
