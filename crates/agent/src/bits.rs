//! A bit for each page of a region.

use std::ops::Range;

/// One bit for each page; empty until a bit is set, because most regions never need one.
#[derive(Debug)]
pub struct Bits {
    words: Vec<u64>,
    pages: usize,
}

impl Bits {
    /// `pages` bits, none of them set.
    pub const fn new(pages: usize) -> Self {
        Self { words: Vec::new(), pages }
    }

    /// Returns whether a page's bit is set.
    pub fn has(&self, page: usize) -> bool {
        self.words.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// Set or clear the bits of some pages.
    pub fn set(&mut self, pages: Range<usize>, on: bool) {
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

    /// Keep the first `pages` bits, and return the others.
    pub fn split_off(&mut self, pages: usize) -> Self {
        let mut rest = Self::new(self.pages - pages);
        for page in (pages..self.pages).filter(|&page| self.has(page)) {
            rest.set(page - pages..page - pages + 1, true);
        }
        self.set(pages..self.pages, false);
        self.pages = pages;
        rest
    }

    /// Returns whether any bit is set.
    pub fn any(&self) -> bool {
        self.words.iter().any(|word| *word != 0)
    }

    /// The number of bits that are set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }
}
