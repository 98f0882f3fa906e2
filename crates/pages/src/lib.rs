//! Pages of memory: digests, remote reads, pagemap, barriers, remapping. No Python here.

pub mod barrier;
pub mod digest;
pub mod error;
pub mod huge;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub mod inject;
mod listing;
pub mod mappings;
mod memory;
pub mod pagemap;
pub mod raw;
pub mod read;
pub mod room;
pub mod scheduling;
pub mod slab;
pub mod soft;
pub mod sort;
mod trace;
pub mod uffd;
pub mod wire;
#[cfg(target_arch = "x86_64")]
mod xxh3;

pub use error::{Error, Result};

/// Bytes in a page. pagemerge runs on 4 KiB pages only; the binding checks that at import.
pub const PAGE: usize = 4096;
