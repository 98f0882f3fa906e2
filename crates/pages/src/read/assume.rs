//! Asks the kernel with other credentials: for one question the calling thread takes over the
//! credentials by which the kernel decides which processes may look into `/proc/PID`, and then
//! gives them back.
//!
//! The kernel never refuses a process with `CAP_SYS_PTRACE`. So such a process cannot learn by
//! trying whether its client, which has no such capability, would be refused. Credentials belong to
//! threads in Linux (credentials(7)). The kernel decides on the files of `/proc` by the file system
//! uid and gid. These give no other process a right over this thread: its real and saved uid, which
//! decide on signals and ptrace, stay ours.

use std::mem::size_of_val;

/// `_LINUX_CAPABILITY_VERSION_3` of `linux/capability.h`.
const VERSION: u32 = 0x2008_0522;

/// `CAP_SYS_PTRACE`.
pub const SYS_PTRACE: u64 = 1 << 19;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The capabilities of the calling thread: both halves of each set.
#[derive(Clone, Copy, Default)]
struct Capabilities([Half; 2]);

impl Capabilities {
    fn own() -> Option<Self> {
        let mut found = Self::default();
        let header = Header { version: VERSION, pid: 0 };
        // SAFETY: both structs are those of the system call, and live until it returns.
        let done =
            unsafe { libc::syscall(libc::SYS_capget, &raw const header, found.0.as_mut_ptr()) };
        (done == 0).then_some(found)
    }

    /// Make these the capabilities of the calling thread; returns false if the kernel refuses.
    fn set(&self) -> bool {
        debug_assert_eq!(size_of_val(&self.0), 24);
        let header = Header { version: VERSION, pid: 0 };
        // SAFETY: as in `own`; the kernel only reads them.
        unsafe { libc::syscall(libc::SYS_capset, &raw const header, self.0.as_ptr()) == 0 }
    }

    fn effective(&self) -> u64 {
        u64::from(self.0[0].effective) | u64::from(self.0[1].effective) << 32
    }

    /// The same capabilities, with only those in `wanted` in effect.
    fn limited(mut self, wanted: u64) -> Self {
        self.0[0].effective = self.0[0].permitted & wanted as u32;
        self.0[1].effective = self.0[1].permitted & (wanted >> 32) as u32;
        self
    }
}

/// Returns whether the calling thread may read any process.
pub fn is_privileged() -> bool {
    Capabilities::own().is_some_and(|own| own.effective() & SYS_PTRACE != 0)
}

/// Call `ask` with the file system ids `uid` and `gid` and the capabilities `wanted` (as far as we
/// have them) in effect. Returns None if the kernel does not permit that.
///
/// `ask` must be short: it opens files with the rights of those credentials.
pub fn with_credentials<T>(uid: u32, gid: u32, wanted: u64, ask: impl FnOnce() -> T) -> Option<T> {
    let own = Capabilities::own()?;
    // SAFETY: plain integers; both calls change the calling thread alone. -1 changes nothing, and
    // returns the present id.
    let (old_uid, old_gid) = unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) };
    // SAFETY: as above.
    unsafe { (libc::setfsgid(gid), libc::setfsuid(uid)) };
    // SAFETY: as above.
    let set = unsafe { (libc::setfsgid(u32::MAX), libc::setfsuid(u32::MAX)) };
    let ready = set == (gid as i32, uid as i32) && own.limited(wanted).set();
    let answer = ready.then(ask);
    // Capabilities first: they let us take our ids back. If that fails, the thread goes on with
    // fewer rights, and everything that it wants to read is refused.
    own.set();
    // SAFETY: as above.
    unsafe { (libc::setfsuid(old_uid as u32), libc::setfsgid(old_gid as u32)) };
    // The kernel takes capabilities away with the file system uid 0, and brings them back with it,
    // unless a bit of the process says otherwise (SECBIT_NO_SETUID_FIXUP).
    own.set();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_given_back() {
        let before = Capabilities::own().unwrap().effective();
        if before & SYS_PTRACE == 0 || rustix::process::geteuid().as_raw() != 0 {
            eprintln!("only root can take over other credentials: not tested");
            return;
        }
        let open = || std::fs::File::open("/proc/self/pagemap").is_ok();
        assert_eq!(with_credentials(65534, 65534, 0, open), Some(false));
        assert_eq!(Capabilities::own().unwrap().effective(), before);
        assert_eq!(with_credentials(0, 0, u64::MAX, open), Some(true));
        assert!(open());
        // SAFETY: plain integers.
        assert_eq!(unsafe { (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX)) }, (0, 0));
    }
}
