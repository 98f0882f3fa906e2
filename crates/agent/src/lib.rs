//! The part of pagemerge that lives inside a target process.
