//! The slabs that this process may map, and where a plan reads their slots: in a view, or one by one.

use pagemerge_pages::slab::View;
use pagemerge_pages::wire::{Run, OWN};
use pagemerge_pages::{Error, Result, PAGE};
use rustix::fd::OwnedFd;
use std::collections::HashMap;

/// A slab that this process may map.
#[derive(Debug)]
pub struct Slab {
    /// The descriptor that every mapping of it uses: mappings coalesce only through the same one.
    pub descriptor: OwnedFd,
    /// Number of pages of the slab.
    pub pages: u32,
}

/// How a plan uses a slab.
#[derive(Debug, Default)]
struct Use {
    pages: u64,
    /// How often the plan goes from one group of `NEAR` slots to another: about the number of faults
    /// in a view of the slab.
    visits: u64,
    last: Option<u32>,
}

/// The number of pages that the kernel maps at one fault (fault_around_bytes).
const NEAR: u32 = 16;

/// The least number of pages for each fault with which a view of a slab costs less than to read the
/// slots one by one: a fault takes about 3.6 us with the unmapping of what it has mapped, a read
/// 0.8 us.
const DENSE: u64 = 4;

impl Use {
    fn add(&mut self, run: &Run) {
        let (first, last) = (run.slot / NEAR, (run.slot + run.pages.max(1) - 1) / NEAR);
        self.pages += u64::from(run.pages);
        self.visits += u64::from(last - first) + u64::from(self.last != Some(first));
        self.last = Some(last);
    }
}

/// Check a plan, and map those of its slabs of which it compares many neighbours, for as long as the
/// plan is carried out. The slots of the others are read one by one.
///
/// # Errors
/// `Protocol` for a run with a wrong address or slot, `Hub` for a slab that is not here, and the
/// errors of `slab::open`.
pub fn views(slabs: &HashMap<u64, Slab>, runs: &[Run]) -> Result<HashMap<u64, View>> {
    let mut uses = HashMap::<u64, Use>::new();
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
        uses.entry(run.slab).or_default().add(run);
    }
    let dense = uses.into_iter().filter(|(_, used)| used.pages >= DENSE * used.visits);
    let open = |(id, _)| Ok((id, pagemerge_pages::slab::open(&slabs[&id].descriptor)?));
    dense.map(open).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagemerge_pages::slab;

    fn mapped(slots: impl IntoIterator<Item = (u32, u32)>) -> bool {
        let descriptor = slab::build(slab::MOST_PAGES, |_| Ok(())).unwrap();
        let slabs = HashMap::from([(7, Slab { descriptor, pages: slab::MOST_PAGES as u32 })]);
        let mut address = 1 << 30;
        let mut runs = Vec::new();
        for (slot, pages) in slots {
            runs.push(Run { address, slab: 7, slot, pages });
            address += u64::from(pages + 1) * PAGE as u64;
        }
        views(&slabs, &runs).unwrap().contains_key(&7)
    }

    #[test]
    fn slots_that_lie_together_are_read_in_a_view() {
        assert!(mapped([(0, 4096)]));
        assert!(mapped((0..64).map(|run| (run * 64, 4))), "short runs, each at one fault");
        assert!(mapped((0..1024).map(|slot| (slot, 1))), "single pages on neighbouring slots");
    }

    #[test]
    fn slots_that_lie_apart_are_read_one_by_one() {
        assert!(!mapped((0..1024).map(|run| (run * 1237 % 4096, 1))));
        assert!(!mapped((0..64).map(|run| (run * 64, 3))));
        assert!(!mapped([(15, 2)]), "two pages, and two faults");
    }
}
