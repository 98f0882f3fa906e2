//! The calls that we answer, by kind. Each has the name and the arguments of libc's.

mod advice;
mod direct;
mod mapping;
mod other;
