//! Pages of memory: digests, remote reads, pagemap, barriers, remapping. No Python here.

pub mod alone;
mod assume;
mod chunks;
pub mod digest;
pub mod error;
pub mod exclusive;
mod forks;
mod holder;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub mod inject;
pub mod keep;
mod listing;
pub mod mappings;
pub mod mask;
mod memory;
pub mod moving;
pub mod pagemap;
pub mod park;
pub mod peer;
pub mod pinned;
pub mod pins;
pub mod protect;
pub mod raw;
mod reader;
pub mod remote;
pub mod room;
mod sharers;
pub mod slab;
pub mod soft;
pub mod sort;
mod trace;
pub mod uffd;
pub mod window;
pub mod wire;
#[cfg(target_arch = "x86_64")]
mod xxh3;

pub use error::{Error, Result};

/// Bytes in a page. pagemerge runs on 4 KiB pages only; the binding checks that at import.
pub const PAGE: usize = 4096;
