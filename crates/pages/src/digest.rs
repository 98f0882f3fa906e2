//! One 64-bit digest a page: XXH3-64 with a seed, two values set apart.
//!
//! A digest only nominates pages: bytes are compared again before anything is merged. The seed is
//! drawn anew by every scanner, so that nobody can prepare pages that collide.

use twox_hash::XxHash3_64;

use crate::{Error, Result, PAGE};

/// The page was not looked at: a hole, swapped, not ours to merge, or gone meanwhile.
pub const ABSENT: u64 = 0;

/// Every byte of the page is zero; found by comparison, so this value is exact.
pub const ZERO: u64 = 1;

/// Is every byte of `page` zero? Leaves at the first block that is not, mostly the first.
#[must_use]
pub fn is_zero(page: &[u8]) -> bool {
    // 64 bytes OR-ed together are a few vector registers; the compiler makes them so.
    let mut blocks = page.chunks_exact(64);
    let none = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) == 0;
    blocks.by_ref().all(none) && none(blocks.remainder())
}

/// The digest of `page` (any length, in practice `PAGE`): [`ZERO`], or XXH3-64 with `seed`; never
/// [`ABSENT`].
#[inline]
#[must_use]
pub fn digest(page: &[u8], seed: u64) -> u64 {
    if is_zero(page) {
        return ZERO;
    }
    set_apart(XxHash3_64::oneshot_with_seed(seed, page))
}

/// Digest the consecutive pages of `data` into `out`.
///
/// # Errors
/// [`Error::Usage`] unless `data` is exactly `out.len()` pages.
pub fn digest_pages(data: &[u8], seed: u64, out: &mut [u64]) -> Result<()> {
    if data.len() != out.len() * PAGE {
        return Err(Error::Usage(format!(
            "{} bytes are not the {} pages that the output has room for",
            data.len(),
            out.len()
        )));
    }
    for (page, digest_of) in data.chunks_exact(PAGE).zip(out) {
        *digest_of = digest(page, seed);
    }
    Ok(())
}

/// A hash that happens to be a reserved value becomes one that is not.
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
        let mut page = vec![0_u8; PAGE];
        assert_eq!(digest(&page, 7), ZERO);
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
        assert_ne!(digest(&page, 1), digest(&page, 2));
        assert_eq!(digest(&page, 1), digest(&page, 1));
    }

    #[test]
    fn lengths_must_agree() {
        assert!(matches!(digest_pages(&[0; PAGE], 0, &mut [0; 2]), Err(Error::Usage(_))));
    }
}
