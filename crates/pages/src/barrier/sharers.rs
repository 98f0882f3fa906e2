//! Finds processes that share our memory without being our threads: clone(CLONE_VM), vfork.
//!
//! Parking stops threads only. Comparing all processes takes long, so it is not done while threads
//! are stopped; then we only check whether any process or thread has been born since we compared.

use crate::error::{Error, Result};
use crate::listing;
use rustix::fs::{Mode, OFlags};

/// The end of /proc/loadavg: the number that a process or thread was given last (proc(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastBorn([u8; 16]);

impl LastBorn {
    /// Read the number. Does not allocate. Returns None if it cannot be read.
    #[must_use]
    pub fn read() -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(c"/proc/loadavg", flags, Mode::empty()).ok()?;
        let mut text = [0_u8; 128];
        let len = rustix::io::read(&file, &mut text).ok()?;
        let text = text.get(..len)?.trim_ascii_end();
        let number = text.rsplit(|&byte| byte == b' ').next()?;
        let mut last = Self::default();
        last.0.get_mut(..number.len())?.copy_from_slice(number);
        Some(last)
    }
}

/// Refuse if a process other than `holder` shares our memory without being one of our threads.
///
/// # Errors
/// `Unsupported` with the process's number; `Os` if processes cannot be listed.
pub fn refuse(holder: i32) -> Result<()> {
    const KCMP_VM: i32 = 1;
    let own = std::process::id() as i32;
    let mut found = None;
    listing::numbers(c"/proc", |pid| {
        // SAFETY: kcmp only compares; the last two arguments are unused for KCMP_VM.
        let same = unsafe { libc::syscall(libc::SYS_kcmp, own, pid, KCMP_VM, 0, 0) == 0 };
        if pid != own && pid != holder && same {
            found = Some(pid);
        }
        found.is_none()
    })?;
    found.map_or(Ok(()), |pid| {
        Err(Error::Unsupported(format!(
            "process {pid} shares this process's memory without being one of its threads, so it \
             cannot be parked"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_birth_is_noticed() {
        let before = LastBorn::read().unwrap();
        std::thread::spawn(|| {}).join().unwrap();
        assert_ne!(LastBorn::read().unwrap(), before);
    }
}
