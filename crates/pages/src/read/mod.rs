//! Reads the memory of other processes.

pub(crate) mod assume;
pub(crate) mod chunks;
pub mod peer;
pub(crate) mod places;
pub(crate) mod reader;
pub mod remote;
pub mod standing;
