//! The anonymous memory that the program itself has mapped, as far as we saw its calls.
//!
//! Only such memory can become a region. We must not replace what malloc maps: libc unmaps it by
//! calls that we do not see. The record has a fixed size, because we maintain it inside mmap, where
//! an allocator may be waiting for us; what does not fit is not mergeable.

use std::ops::Range;

/// The largest number of ranges that are remembered.
const MOST: usize = 1024;

/// Disjoint ranges in order of address.
#[derive(Debug, Clone)]
pub struct Extents {
    ranges: [(usize, usize); MOST],
    count: usize,
}

impl Default for Extents {
    fn default() -> Self {
        Self { ranges: [(0, 0); MOST], count: 0 }
    }
}

impl Extents {
    /// Record that the program has mapped `[start, end)`, anonymous and private.
    pub fn insert(&mut self, start: usize, end: usize) {
        self.remove(start, end);
        let at = self.ranges[..self.count].partition_point(|range| range.0 < start);
        let joins_last = at > 0 && self.ranges[at - 1].1 == start;
        let joins_next = at < self.count && self.ranges[at].0 == end;
        match (joins_last, joins_next) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.delete(at);
            }
            (true, false) => self.ranges[at - 1].1 = end,
            (false, true) => self.ranges[at].0 = start,
            (false, false) => self.place(at, (start, end)),
        }
    }

    /// Record that the program has unmapped `[start, end)`, or mapped something else there.
    pub fn remove(&mut self, start: usize, end: usize) {
        let mut at = self.ranges[..self.count].partition_point(|range| range.1 <= start);
        while at < self.count && self.ranges[at].0 < end {
            let (first, last) = self.ranges[at];
            match (first < start, last > end) {
                (true, true) => {
                    self.ranges[at].1 = start;
                    self.place(at + 1, (end, last));
                    return;
                }
                (true, false) => self.ranges[at].1 = start,
                (false, true) => self.ranges[at].0 = end,
                (false, false) => {
                    self.delete(at);
                    continue;
                }
            }
            at += 1;
        }
    }

    /// Returns the parts of `[start, end)` that are known.
    pub fn within(&self, start: usize, end: usize) -> Vec<Range<usize>> {
        self.ranges[..self.count]
            .iter()
            .map(|&(first, last)| first.max(start)..last.min(end))
            .filter(|range| !range.is_empty())
            .collect()
    }

    fn place(&mut self, at: usize, range: (usize, usize)) {
        if self.count < MOST {
            self.ranges.copy_within(at..self.count, at + 1);
            self.ranges[at] = range;
            self.count += 1;
        }
    }

    fn delete(&mut self, at: usize) {
        self.ranges.copy_within(at + 1..self.count, at);
        self.count -= 1;
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_split_and_go() {
        let mut extents = Extents::default();
        extents.insert(10, 20);
        extents.insert(30, 40);
        extents.insert(20, 30);
        assert_eq!(extents.within(0, 100), [10..40]);
        extents.remove(15, 20);
        assert_eq!(extents.within(0, 100), [10..15, 20..40]);
        assert_eq!(extents.within(12, 25), [12..15, 20..25]);
        extents.insert(5, 50);
        assert_eq!(extents.within(0, 100), [5..50]);
        extents.remove(0, 100);
        assert!(extents.within(0, 100).is_empty());
    }

    #[test]
    fn agrees_with_a_bitmap() {
        let (mut extents, mut bits) = (Extents::default(), [false; 64]);
        let mut random = 1_u32;
        for _ in 0..4000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (start, len) = ((random >> 10) as usize % 56, (random >> 20) as usize % 8 + 1);
            let on = random >> 31 == 1;
            if on {
                extents.insert(start, start + len);
            } else {
                extents.remove(start, start + len);
            }
            bits[start..start + len].fill(on);
            for (at, &bit) in bits.iter().enumerate() {
                assert_eq!(!extents.within(at, at + 1).is_empty(), bit);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_unknown() {
        let mut extents = Extents::default();
        for at in 0..2 * MOST {
            extents.insert(2 * at, 2 * at + 1);
        }
        assert_eq!(extents.within(0, usize::MAX).len(), MOST);
    }
}
