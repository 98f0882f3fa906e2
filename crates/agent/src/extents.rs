//! Ranges of addresses: above all the anonymous memory that the program itself has mapped, as far as
//! we saw its calls.
//!
//! Only such memory can become a region. We must not replace what libc maps inside malloc: libc
//! unmaps it by calls that we do not see.

use std::ops::Range;

/// The largest number of ranges that are remembered: each call about memory searches them.
const MOST: usize = 1 << 14;

/// Disjoint ranges in order of address.
#[derive(Debug, Clone, Default)]
pub struct Extents {
    ranges: Vec<(usize, usize)>,
    /// Whether there was no room for a range.
    full: bool,
}

impl Extents {
    /// Add `[start, end)`.
    pub fn insert(&mut self, start: usize, end: usize) {
        self.remove(start, end);
        let at = self.ranges.partition_point(|range| range.0 < start);
        let joins_last = at > 0 && self.ranges[at - 1].1 == start;
        let joins_next = at < self.ranges.len() && self.ranges[at].0 == end;
        match (joins_last, joins_next) {
            (true, true) => {
                self.ranges[at - 1].1 = self.ranges[at].1;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].1 = end,
            (false, true) => self.ranges[at].0 = start,
            (false, false) => self.place(at, (start, end)),
        }
    }

    /// Remove `[start, end)`.
    pub fn remove(&mut self, start: usize, end: usize) {
        let mut at = self.ranges.partition_point(|range| range.1 <= start);
        while at < self.ranges.len() && self.ranges[at].0 < end {
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
                    self.ranges.remove(at);
                    continue;
                }
            }
            at += 1;
        }
    }

    /// Returns the parts of `[start, end)` that are in it.
    pub fn within(&self, start: usize, end: usize) -> Vec<Range<usize>> {
        let first = self.ranges.partition_point(|range| range.1 <= start);
        self.ranges[first..]
            .iter()
            .take_while(|range| range.0 < end)
            .map(|&(first, last)| first.max(start)..last.min(end))
            .filter(|range| !range.is_empty())
            .collect()
    }

    /// Returns the parts of `range` that are not in it.
    pub fn without(&self, range: &Range<usize>) -> Vec<Range<usize>> {
        let mut at = range.start;
        let mut rest = Vec::new();
        for held in self.within(range.start, range.end) {
            rest.push(at..held.start);
            at = held.end;
        }
        rest.push(at..range.end);
        rest.retain(|range| !range.is_empty());
        rest
    }

    /// Returns whether `address` is in it.
    pub fn has(&self, address: usize) -> bool {
        let at = self.ranges.partition_point(|range| range.1 <= address);
        self.ranges.get(at).is_some_and(|range| range.0 <= address)
    }

    /// Returns whether something is missing, because there were too many ranges.
    pub const fn is_full(&self) -> bool {
        self.full
    }

    /// The addresses where a range starts or ends.
    pub fn edges(&self) -> impl Iterator<Item = usize> + '_ {
        self.ranges.iter().flat_map(|&(start, end)| [start, end])
    }

    fn place(&mut self, at: usize, range: (usize, usize)) {
        if self.ranges.len() < MOST {
            self.ranges.insert(at, range);
        } else {
            self.full = true;
        }
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
        assert_eq!(extents.without(&(0..25)), [0..10, 15..20]);
        assert!(extents.has(10) && !extents.has(15) && extents.has(39) && !extents.has(40));
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
