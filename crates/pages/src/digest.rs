//! One 64-bit digest for each page: XXH3-64 with a seed, and two reserved values.
//!
//! A digest only nominates pages: bytes are compared again before anything is merged. Every scanner
//! draws a new seed, so that no process can prepare pages that collide.

use twox_hash::XxHash3_64;

#[cfg(target_arch = "x86_64")]
use crate::xxh3::PageHasher;
use crate::{Error, Result, PAGE};

/// The page was not looked at: it is a hole, swapped, not ours to merge, or gone meanwhile.
pub const ABSENT: u64 = 0;

/// Every byte of the page is zero; found by comparison, so this value is exact.
pub const ZERO: u64 = 1;

/// Returns whether every byte of `page` is zero. Stops at the first block that is not, mostly the
/// first.
#[must_use]
pub fn is_zero(page: &[u8]) -> bool {
    // The first word decides for most pages that are not zero.
    if !matches!(page.first_chunk(), Some([0, 0, 0, 0, 0, 0, 0, 0])) {
        return false;
    }
    // 64 bytes OR-ed together fit into a few vector registers; the compiler vectorizes this.
    let mut blocks = page.chunks_exact(64);
    let none = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) == 0;
    blocks.by_ref().all(none) && none(blocks.remainder())
}

/// Makes digests with one seed.
#[derive(Debug, Clone)]
pub struct Digester {
    seed: u64,
    #[cfg(target_arch = "x86_64")]
    fast: Option<PageHasher>,
}

impl Digester {
    /// Make a digester with `seed`. It costs about as much as the digest of a page, so keep it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            #[cfg(target_arch = "x86_64")]
            fast: PageHasher::new(seed),
        }
    }

    /// The digest of `page`: [`ZERO`], or XXH3-64; never [`ABSENT`].
    #[inline]
    #[must_use]
    pub fn digest(&self, page: &[u8; PAGE]) -> u64 {
        if is_zero(page) {
            return ZERO;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(fast) = &self.fast {
            return set_apart(fast.hash(page));
        }
        set_apart(XxHash3_64::oneshot_with_seed(self.seed, page))
    }

    /// Digest the consecutive pages of `data` into `out`.
    ///
    /// # Errors
    /// [`Error::Usage`] unless `data` is exactly `out.len()` pages.
    pub fn digest_pages(&self, data: &[u8], out: &mut [u64]) -> Result<()> {
        if data.len() != out.len() * PAGE {
            return Err(Error::Usage(format!(
                "{} bytes are not the {} pages that the output has room for",
                data.len(),
                out.len()
            )));
        }
        for (page, value) in pages(data).zip(out) {
            *value = self.digest(page);
        }
        Ok(())
    }
}

/// The whole pages of `data`.
pub fn pages(data: &[u8]) -> impl Iterator<Item = &[u8; PAGE]> {
    data.chunks_exact(PAGE).filter_map(|page| page.try_into().ok())
}

/// Change a hash that happens to be a reserved value into one that is not.
const fn set_apart(hash: u64) -> u64 {
    if hash <= ZERO {
        hash | 1 << 63
    } else {
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_nonzero_byte_anywhere_is_seen() {
        let mut page = [0_u8; PAGE];
        assert_eq!(Digester::new(7).digest(&page), ZERO);
        for at in 0..PAGE {
            page[at] = 1;
            assert!(!is_zero(&page), "byte {at}");
            page[at] = 0;
        }
    }

    #[test]
    fn reserved_values_are_never_a_hash() {
        assert!(set_apart(ABSENT) > ZERO);
        assert!(set_apart(ZERO) > ZERO);
        assert_ne!(set_apart(ABSENT), set_apart(ZERO));
        assert_eq!(set_apart(2), 2);
        assert_eq!(set_apart(u64::MAX), u64::MAX);
    }

    #[test]
    fn the_seed_changes_the_digest() {
        let page = [3_u8; PAGE];
        assert_ne!(Digester::new(1).digest(&page), Digester::new(2).digest(&page));
        assert_eq!(Digester::new(1).digest(&page), Digester::new(1).digest(&page));
    }

    #[test]
    fn lengths_must_agree() {
        let outcome = Digester::new(0).digest_pages(&[0; PAGE], &mut [0; 2]);
        assert!(matches!(outcome, Err(Error::Usage(_))));
    }
}
