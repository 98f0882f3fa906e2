//! A set of the pages of one window, without allocation.

/// The largest number of pages of one window.
pub const WINDOW: usize = 4096;

const WORDS: usize = WINDOW / 64;

/// A set of page numbers below `WINDOW`.
///
/// It consists of plain words, because it is used while other threads are held: nothing may
/// allocate then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask([u64; WORDS]);

impl Default for Mask {
    fn default() -> Self {
        Self::NONE
    }
}

impl Mask {
    /// The empty set.
    pub const NONE: Self = Self([0; WORDS]);

    /// Add `count` pages from `first` on.
    pub fn insert(&mut self, first: usize, count: usize) {
        for page in first..first + count {
            self.0[page / 64] |= 1 << (page % 64);
        }
    }

    /// Returns whether `page` is in the set.
    #[must_use]
    pub const fn has(&self, page: usize) -> bool {
        self.0[page / 64] >> (page % 64) & 1 == 1
    }

    /// The number of pages in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// The pages that are in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// The pages that are in either set.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// The pages that are in this set and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    /// The runs of consecutive pages, in order: (first page, pages).
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = self.next(next, true)?;
            let end = self.next(first, false).unwrap_or(WINDOW);
            next = end;
            Some((first, end - first))
        })
    }

    /// The first page from `page` on that is in the set (`present`) or not in it, a word at a time.
    fn next(&self, page: usize, present: bool) -> Option<usize> {
        let (mut word, mut below) = (page / 64, (1 << (page % 64)) - 1);
        while word < WORDS {
            let wanted = if present { self.0[word] } else { !self.0[word] } & !below;
            if wanted != 0 {
                return Some(word * 64 + wanted.trailing_zeros() as usize);
            }
            (word, below) = (word + 1, 0);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_maximal_and_in_order() {
        let mut mask = Mask::NONE;
        mask.insert(0, 3);
        mask.insert(3, 2);
        mask.insert(62, 4);
        mask.insert(511, 1);
        assert_eq!(mask.runs().collect::<Vec<_>>(), [(0, 5), (62, 4), (511, 1)]);
        assert_eq!(mask.len(), 10);
        mask.insert(128, 64);
        assert_eq!(mask.runs().nth(2), Some((128, 64)));
        assert_eq!(Mask::NONE.runs().count(), 0);
    }

    #[test]
    fn set_algebra() {
        let (mut a, mut b) = (Mask::NONE, Mask::NONE);
        a.insert(0, 100);
        b.insert(50, 100);
        assert_eq!(a.and(&b).runs().collect::<Vec<_>>(), [(50, 50)]);
        assert_eq!(a.minus(&b).runs().collect::<Vec<_>>(), [(0, 50)]);
        assert_eq!(a.or(&b).runs().collect::<Vec<_>>(), [(0, 150)]);
    }
}
