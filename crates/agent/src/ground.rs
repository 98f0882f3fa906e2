//! What the kernel says about the memory where a window is to be merged.
//!
//! The table records the effect of the program's calls, as far as we saw them. A call that we did
//! not see (a system call made without libc) may have put something else there, and the agent must
//! not map over that. Memory with a NUMA policy of its own (mbind(2)) is left alone, too: on a
//! slab's mapping the policy would apply to every process that shares the slab.

use crate::region::Table;
use pagemerge_pages::barrier::window::Backing;
use pagemerge_pages::mappings::{Kind, Mapping, Mappings};
use pagemerge_pages::PAGE;
use rustix::io::Errno;
use std::ops::Range;

/// Looks up mappings, one by one.
#[derive(Debug)]
pub struct Ground {
    maps: Option<Mappings>,
}

/// The mappings found in a range.
#[derive(Debug, Default)]
pub struct Found {
    /// Whether all of it is private memory, readable and writable, and without a policy of its own.
    pub fit: bool,
    /// The parts that are private and anonymous, in order of address.
    pub anonymous: Vec<Range<usize>>,
    /// The parts that map a slab.
    pub slabs: Vec<Range<usize>>,
    /// The parts where nothing, or something else, is mapped. Empty where the kernel cannot tell
    /// (before Linux 6.11).
    pub other: Vec<Range<usize>>,
}

impl Found {
    /// The program has changed something by a call that we did not see: believe the kernel.
    pub fn correct(&self, table: &mut Table) {
        for part in &self.other {
            table.forget(part.start, part.end);
        }
        let known = [(&self.anonymous, Backing::Anonymous), (&self.slabs, Backing::Slab)];
        for (parts, backing) in known {
            for part in parts {
                table.correct(part.start, part.end, backing);
            }
        }
    }
}

impl Ground {
    /// Open the list of mappings for one plan.
    pub fn open() -> Self {
        Self { maps: Mappings::open().ok() }
    }

    /// Look at `[start, end)`. The caller holds the agent's lock.
    pub fn look(&self, start: usize, end: usize) -> Found {
        let mut found = Found::default();
        let Found { anonymous, slabs, other, .. } = &mut found;
        let fit = self.walk(start, end, |part, kind| match kind {
            Kind::Anonymous => anonymous.push(part),
            Kind::Slab => slabs.push(part),
            Kind::Other => other.push(part),
        });
        found.fit = fit;
        found
    }

    /// Returns whether all of `[start, end)` is fit, as in `Found`. Allocates nothing: threads may
    /// be held.
    pub fn is_fit(&self, start: usize, end: usize) -> bool {
        self.walk(start, end, |_, _| {})
    }

    /// Look at a range, mapping by mapping; returns whether all of it is fit.
    fn walk(&self, start: usize, end: usize, mut see: impl FnMut(Range<usize>, Kind)) -> bool {
        let (mut fit, mut at) = (true, start);
        while at < end {
            let here = self.mapping(at);
            let part = at..here.as_ref().map_or(at + PAGE, |here| here.range.end).min(end);
            at = part.end;
            fit &= !has_policy(part.start);
            let kind = match here {
                Err(Errno::NOENT) => Kind::Other,
                Err(_) => continue, // the kernel cannot tell; the look for a policy goes on
                Ok(Mapping { kind, open, .. }) => {
                    fit &= open;
                    kind
                }
            };
            fit &= kind != Kind::Other;
            see(part, kind);
        }
        fit
    }

    fn mapping(&self, at: usize) -> rustix::io::Result<Mapping> {
        self.maps.as_ref().ok_or(Errno::NOTTY)?.at(at)
    }
}

/// Returns whether the mapping that holds this address has a policy; it covers a whole mapping.
fn has_policy(address: usize) -> bool {
    const MPOL_F_ADDR: usize = 1 << 1;
    let mut mode = 0_i32;
    // SAFETY: get_mempolicy writes one integer; without a node mask it writes nothing else.
    let asked = unsafe {
        let none = 0_usize;
        libc::syscall(libc::SYS_get_mempolicy, &mut mode, none, none, address, MPOL_F_ADDR)
    };
    asked == 0 && mode != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, ProtFlags};

    #[test]
    fn what_is_not_private_memory_is_seen() {
        let (none, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping, of which parts are given back and mapped anew.
        let base = unsafe {
            let base = rustix::mm::mmap_anonymous(none, 9 * PAGE, access, MapFlags::PRIVATE);
            let base = base.unwrap();
            rustix::mm::munmap(base.wrapping_byte_add(2 * PAGE), PAGE).unwrap();
            let shared = MapFlags::SHARED | MapFlags::FIXED;
            rustix::mm::mmap_anonymous(base.wrapping_byte_add(5 * PAGE), PAGE, access, shared)
                .unwrap();
            base as usize
        };
        let ground = Ground::open();
        let at = |page| base + page * PAGE;
        if ground.mapping(base) == Err(Errno::NOTTY) {
            eprintln!("skipped: no PROCMAP_QUERY before Linux 6.11");
            return;
        }
        let found = ground.look(base, at(9));
        assert!(!found.fit);
        assert_eq!(found.other, [at(2)..at(3), at(5)..at(6)]);
        assert_eq!(found.anonymous, [at(0)..at(2), at(3)..at(5), at(6)..at(9)]);
        assert!(ground.look(base, at(2)).fit);
    }

    #[test]
    fn a_policy_strictly_inside_is_seen() {
        let (none, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping.
        let base = unsafe {
            rustix::mm::mmap_anonymous(none, 9 * PAGE, access, MapFlags::PRIVATE).unwrap() as usize
        };
        let by_mapping = Ground::open();
        let by_page = Ground { maps: None };
        for ground in [&by_mapping, &by_page] {
            assert!(ground.look(base, base + 9 * PAGE).fit);
        }
        let (bind, node) = (2_usize, 1_u64);
        // SAFETY: policy of our own page; the mask is one word.
        let bound = unsafe {
            let page = base + 4 * PAGE;
            libc::syscall(libc::SYS_mbind, page, PAGE, bind, &node, 64_usize, 0_usize)
        };
        if bound != 0 {
            eprintln!("mbind(2) is not available here");
            return;
        }
        for ground in [&by_mapping, &by_page] {
            assert!(!ground.look(base, base + 9 * PAGE).fit);
            assert!(ground.look(base, base + 4 * PAGE).fit);
            assert!(ground.look(base + 5 * PAGE, base + 9 * PAGE).fit);
        }
    }
}
