//! XXH3-64 of exactly one page, with AVX2: the same value as `twox-hash`, a quarter faster.
//!
//! Source: the XXH3 specification, <https://github.com/Cyan4973/xxHash>, `doc/xxhash_spec.md`,
//! "long input". The processor's vector ports limit the loop, not the cache. So it drops one of six
//! operations in each step: XXH3 adds the input with its neighbouring lanes swapped, and the swap
//! commutes with addition, so it is done once for each block instead of for each stripe. And values
//! that depend on the seed alone are computed once for each seed, laid out for aligned loads.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi64, _mm256_load_si256, _mm256_loadu_si256, _mm256_mul_epu32,
    _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_shuffle_epi32, _mm256_slli_epi64,
    _mm256_srli_epi64, _mm256_storeu_si256, _mm256_xor_si256,
};

use crate::PAGE;

const PRIME32_1: u64 = 0x9E37_79B1;
const PRIME64_1: u64 = 0x9E37_79B1_85EB_CA87;
const PRIME_MX1: u64 = 0x1656_6791_9E37_79F9;

/// The accumulators before the first stripe.
const START: Lanes = Lanes([
    0xC2B2_AE3D,
    PRIME64_1,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x85EB_CA77,
    0x27D4_EB2F_1656_67C5,
    PRIME32_1,
]);

/// The default secret, as little-endian words.
#[rustfmt::skip]
const SECRET: [u64; 24] = [
    0xbe4b_a423_396c_feb8, 0x1cad_21f7_2c81_017c, 0xdb97_9083_e96d_d4de, 0x1f67_b3b7_a4a4_4072,
    0x78e5_c0cc_4ee6_79cb, 0x2172_ffcc_7dd0_5a82, 0x8e24_43f7_7446_08b8, 0x4c26_3a81_e690_35e0,
    0xcb00_c391_bb52_283c, 0xa32e_531b_8b65_d088, 0x4ef9_0da2_9748_6471, 0xd8ac_dea9_46ef_1938,
    0x3f34_9ce3_3f76_faa8, 0x1d4f_0bc7_c7bb_dcf9, 0x3159_b4cd_4be0_518a, 0x6473_78d9_c97e_9fc8,
    0xc3eb_d334_83ac_c5ea, 0xeb63_13fa_ffa0_81c5, 0x49da_f0b7_51dd_0d17, 0x9e68_d429_2655_16d3,
    0xfca1_477d_58be_162b, 0xce31_d07a_d1b8_f88f, 0x2804_1695_8f3a_cb45, 0x7e40_4bbb_cafb_d7af,
];

/// Bytes in a stripe, and stripes in a block.
const STRIPE: usize = 64;
const STRIPES: usize = 16;
const BLOCKS: usize = PAGE / STRIPE / STRIPES;

/// Eight 64-bit lanes: a stripe, its key, or the accumulators.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Lanes([u64; 8]);

/// The two halves of `Lanes` in registers.
type Halves = [__m256i; 2];

/// Everything that follows from the seed.
#[derive(Debug, Clone)]
pub struct PageHasher {
    /// For each stripe of a block.
    stripes: [Lanes; STRIPES],
    /// For the last stripe of the page, which has a key of its own.
    last: Lanes,
    /// For the scramble at the end of a block.
    scramble: Lanes,
    /// For the final merge.
    merge: Lanes,
}

impl PageHasher {
    /// Make a hasher with `seed`; None on a processor without AVX2.
    #[must_use]
    pub fn new(seed: u64) -> Option<Self> {
        if !is_x86_feature_detected!("avx2") {
            return None;
        }
        let mut secret = [0; 8 * SECRET.len()];
        for (index, (word, bytes)) in SECRET.iter().zip(secret.chunks_exact_mut(8)).enumerate() {
            let signed = if index % 2 == 0 { seed } else { seed.wrapping_neg() };
            bytes.copy_from_slice(&word.wrapping_add(signed).to_le_bytes());
        }
        let lanes = |at: usize| {
            Lanes(
                std::array::from_fn(|lane| {
                    let from = at + 8 * lane;
                    std::array::from_fn(|byte| secret[from + byte])
                })
                .map(u64::from_le_bytes),
            )
        };
        Some(Self {
            stripes: std::array::from_fn(|stripe| lanes(8 * stripe)),
            last: lanes(secret.len() - STRIPE - 7),
            scramble: lanes(secret.len() - STRIPE),
            merge: lanes(11),
        })
    }

    /// XXH3-64 of `page`.
    #[inline]
    #[must_use]
    pub fn hash(&self, page: &[u8; PAGE]) -> u64 {
        // SAFETY: `new` makes a hasher only where the processor has AVX2.
        let sums = unsafe { self.accumulate(page) };
        let mut hash = (PAGE as u64).wrapping_mul(PRIME64_1);
        for (sum, key) in sums.0.chunks_exact(2).zip(self.merge.0.chunks_exact(2)) {
            let product = u128::from(sum[0] ^ key[0]) * u128::from(sum[1] ^ key[1]);
            hash = hash.wrapping_add(product as u64 ^ (product >> 64) as u64);
        }
        hash ^= hash >> 37;
        hash = hash.wrapping_mul(PRIME_MX1);
        hash ^ hash >> 32
    }

    /// The accumulators after the last stripe.
    ///
    /// # Safety
    /// The processor must have AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn accumulate(&self, page: &[u8; PAGE]) -> Lanes {
        // SAFETY: the caller guarantees AVX2; all loads are of whole stripes inside the page, or of
        // `Lanes`, which are aligned.
        unsafe {
            let stripe = |number: usize| page.as_ptr().add(number * STRIPE);
            let mut products = halves(&START);
            let mut inputs = [_mm256_setzero_si256(); 2];
            for block in 0..BLOCKS {
                // The last stripe of the page comes after all blocks, with its own key.
                let whole = STRIPES - usize::from(block == BLOCKS - 1);
                for (number, key) in self.stripes[..whole].iter().enumerate() {
                    step(&mut products, &mut inputs, stripe(block * STRIPES + number), key);
                }
                if whole == STRIPES {
                    products = scrambled(merged(products, inputs), &self.scramble);
                    inputs = [_mm256_setzero_si256(); 2];
                }
            }
            step(&mut products, &mut inputs, stripe(PAGE / STRIPE - 1), &self.last);
            let sums = merged(products, inputs);
            let mut out = START;
            _mm256_storeu_si256(out.0.as_mut_ptr().cast(), sums[0]);
            _mm256_storeu_si256(out.0.as_mut_ptr().add(4).cast(), sums[1]);
            out
        }
    }
}

/// # Safety
/// The processor must have AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn halves(lanes: &Lanes) -> Halves {
    let at = lanes.0.as_ptr().cast::<__m256i>();
    // SAFETY: `Lanes` is two aligned vectors long.
    unsafe { [_mm256_load_si256(at), _mm256_load_si256(at.add(1))] }
}

/// Add one stripe.
///
/// # Safety
/// The processor must have AVX2, and `stripe` must point to that many readable bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn step(products: &mut Halves, inputs: &mut Halves, stripe: *const u8, key: &Lanes) {
    // SAFETY: the caller guarantees AVX2 and the stripe's bytes.
    unsafe {
        let key = halves(key);
        for half in 0..2 {
            let input = _mm256_loadu_si256(stripe.cast::<__m256i>().add(half));
            let keyed = _mm256_xor_si256(input, key[half]);
            let product = _mm256_mul_epu32(keyed, _mm256_srli_epi64::<32>(keyed));
            products[half] = _mm256_add_epi64(products[half], product);
            inputs[half] = _mm256_add_epi64(inputs[half], input);
        }
    }
}

/// The accumulators proper: products, and inputs with neighbouring lanes swapped.
///
/// # Safety
/// The processor must have AVX2.
#[inline]
#[target_feature(enable = "avx2")]
#[allow(unused_unsafe)] // These intrinsics need no `unsafe` from Rust 1.87 on.
unsafe fn merged(products: Halves, inputs: Halves) -> Halves {
    const SWAP: i32 = 0b01_00_11_10;
    // SAFETY: the caller guarantees AVX2.
    unsafe {
        [
            _mm256_add_epi64(products[0], _mm256_shuffle_epi32::<SWAP>(inputs[0])),
            _mm256_add_epi64(products[1], _mm256_shuffle_epi32::<SWAP>(inputs[1])),
        ]
    }
}

/// The end of a block: `(sum ^ sum >> 47 ^ key) * PRIME32_1` in each lane.
///
/// # Safety
/// The processor must have AVX2.
#[inline]
#[target_feature(enable = "avx2")]
#[allow(unused_unsafe)] // As above.
unsafe fn scrambled(mut sums: Halves, key: &Lanes) -> Halves {
    // SAFETY: the caller guarantees AVX2.
    unsafe {
        let prime = _mm256_set1_epi64x(PRIME32_1 as i64);
        let key = halves(key);
        for (sum, key) in sums.iter_mut().zip(key) {
            let mixed = _mm256_xor_si256(*sum, _mm256_srli_epi64::<47>(*sum));
            let mixed = _mm256_xor_si256(mixed, key);
            // AVX2 multiplies 32 by 32 bits: the low and the high half one after the other.
            let low = _mm256_mul_epu32(mixed, prime);
            let high = _mm256_mul_epu32(_mm256_srli_epi64::<32>(mixed), prime);
            *sum = _mm256_add_epi64(low, _mm256_slli_epi64::<32>(high));
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use twox_hash::XxHash3_64;

    #[test]
    fn it_is_xxh3() {
        let mut state = 1_u64;
        for seed in [0, 1, 0xdead_beef, u64::MAX, 1 << 63] {
            let Some(hasher) = PageHasher::new(seed) else {
                eprintln!("no AVX2 here");
                return;
            };
            for content in 0..50_u32 {
                let page: [u8; PAGE] = std::array::from_fn(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // From all zeros over sparse to random.
                    if state >> 48 & 0xff < u64::from(content) * 6 {
                        (state >> 56) as u8
                    } else {
                        0
                    }
                });
                assert_eq!(hasher.hash(&page), XxHash3_64::oneshot_with_seed(seed, &page));
            }
        }
    }
}
