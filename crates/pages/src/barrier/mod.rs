//! The barriers: they keep every writer out of a window of memory while its pages are compared and
//! replaced.

pub mod alone;
pub mod birth;
pub mod exclusive;
pub(crate) mod forks;
pub(crate) mod holder;
pub mod keep;
pub mod mask;
pub mod moving;
pub mod park;
pub mod pinned;
pub mod pins;
pub mod protect;
pub(crate) mod sharers;
pub mod window;
