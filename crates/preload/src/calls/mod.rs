//! The calls that we answer, by kind. Each has the name and the arguments of libc's function. A
//! thread that may be cancelled at any moment (PTHREAD_CANCEL_ASYNCHRONOUS) may end in any of them,
//! as in libc's: hence "C-unwind". Work that must not be left half done is done under `Quiet`.

mod advice;
#[cfg(feature = "all")]
pub mod allocate;
pub mod aside;
mod direct;
pub mod identity;
mod mapping;
mod next;
mod other;
mod process;
mod stack;
