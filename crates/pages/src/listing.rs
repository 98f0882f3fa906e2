//! Lists the numbered entries of a folder of /proc, by plain system calls.
//!
//! libc's opendir(3) allocates, and the program's allocator may be waiting for the very lock that
//! the agent holds.

use crate::error::{Error, Result};
use rustix::fs::{Mode, OFlags, RawDir};
use std::ffi::CStr;
use std::mem::MaybeUninit;

/// Call `see` with each number; the listing ends when `see` returns `false`.
///
/// # Errors
/// `Os` if the folder cannot be read.
pub fn numbers(folder: &CStr, mut see: impl FnMut(i32) -> bool) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())
        .map_err(|errno| Error::os("open of a folder of /proc", errno.raw_os_error()))?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut entries = RawDir::new(&folder, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|errno| Error::os("getdents", errno.raw_os_error()))?;
        let number = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
        if number.is_some_and(|number| !see(number)) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_thread_is_listed() {
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        let mut found = false;
        numbers(c"/proc/self/task", |task| {
            found |= task == own;
            !found
        })
        .unwrap();
        assert!(found);
        assert!(numbers(c"/proc/self/nothing", |_| true).is_err());
    }
}
