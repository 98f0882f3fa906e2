//! Memory with a NUMA policy of its own (mbind(2)). On a slab's mapping it would apply to everybody
//! who shares the slab, so such memory is left alone.

use pagemerge_pages::mappings::Mappings;
use pagemerge_pages::PAGE;

/// Looks policies up, mapping by mapping.
#[derive(Debug)]
pub struct Policies {
    maps: Option<Mappings>,
}

impl Policies {
    /// For one plan.
    pub fn open() -> Self {
        Self { maps: Mappings::open().ok() }
    }

    /// Does any page of `[start, end)` have a policy of its own? The caller holds the agent's lock.
    pub fn any(&self, start: usize, end: usize) -> bool {
        let mut at = start;
        while at < end {
            if is_set(at) {
                return true;
            }
            at = self.mapping_end(at);
        }
        false
    }

    /// Where the mapping that holds `at` ends: a policy is that of a whole mapping. Before Linux
    /// 6.11 the next page.
    fn mapping_end(&self, at: usize) -> usize {
        let end = self.maps.as_ref().and_then(|maps| maps.end_of(at as u64).ok());
        end.map_or(at + PAGE, |end| (end as usize).max(at + PAGE))
    }
}

/// Does the mapping that holds this address have a policy?
fn is_set(address: usize) -> bool {
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
    fn a_policy_strictly_inside_is_seen() {
        let (none, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a fresh mapping.
        let base = unsafe {
            rustix::mm::mmap_anonymous(none, 9 * PAGE, access, MapFlags::PRIVATE).unwrap() as usize
        };
        let by_mapping = Policies::open();
        let by_page = Policies { maps: None };
        for policies in [&by_mapping, &by_page] {
            assert!(!policies.any(base, base + 9 * PAGE));
        }
        let (bind, node) = (2_usize, 1_u64);
        // SAFETY: policy of our own page; the mask is one word.
        let bound = unsafe {
            let page = base + 4 * PAGE;
            libc::syscall(libc::SYS_mbind, page, PAGE, bind, &node, 64_usize, 0_usize)
        };
        if bound != 0 {
            eprintln!("mbind(2) is not to be had here");
            return;
        }
        for policies in [&by_mapping, &by_page] {
            assert!(policies.any(base, base + 9 * PAGE));
            assert!(!policies.any(base, base + 4 * PAGE));
            assert!(!policies.any(base + 5 * PAGE, base + 9 * PAGE));
        }
    }
}
