//! userfaultfd, as far as merging needs it (ioctl_userfaultfd(2), mm/userfaultfd.c).
//!
//! Written by hand because the crates that wrap it lack `UFFDIO_MOVE` and newer features.

use crate::error::{Error, Result};
use rustix::fd::{AsFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{self, opcode, Setter, Updater};
use std::ffi::CString;

/// Write protection also covers pages that have never been touched (Linux 6.4).
pub const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
/// Write protection of anonymous memory (Linux 5.7).
pub const FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
/// Write protection of shared memory's private mappings, which is what slabs are (Linux 5.19).
pub const FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
/// `UFFDIO_MOVE` (Linux 6.8).
pub const FEATURE_MOVE: u64 = 1 << 16;
/// A fork waits until it has been reported, and what is watched stays watched in the child (Linux
/// 4.11; since 5.4 for CAP_SYS_PTRACE only).
pub const FEATURE_EVENT_FORK: u64 = 1 << 1;

const EVENT_FORK: u8 = 0x13;

const API: u64 = 0xAA;
const REGISTER_MODE_MISSING: u64 = 1 << 0;
const REGISTER_MODE_WP: u64 = 1 << 1;
const WRITEPROTECT_MODE_WP: u64 = 1 << 0;

#[repr(C)]
struct ApiArg {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct RegisterArg {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtectArg {
    range: Range,
    mode: u64,
}

#[repr(C)]
struct MoveArg {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    moved: i64,
}

#[repr(C)]
struct CopyArg {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

#[repr(C)]
struct PoisonArg {
    range: Range,
    mode: u64,
    updated: i64,
}

/// struct uffd_msg: the event, and after it the new descriptor of a fork.
#[repr(C)]
#[derive(Default)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    descriptor: u32,
    rest: [u32; 5],
}

const GROUP: u8 = 0xAA;
const IOC_NEW: ioctl::Opcode = opcode::none(GROUP, 0x00);
const IOC_API: ioctl::Opcode = opcode::read_write::<ApiArg>(GROUP, 0x3F);
const IOC_REGISTER: ioctl::Opcode = opcode::read_write::<RegisterArg>(GROUP, 0x00);
const IOC_UNREGISTER: ioctl::Opcode = opcode::read::<Range>(GROUP, 0x01);
const IOC_WAKE: ioctl::Opcode = opcode::read::<Range>(GROUP, 0x02);
const IOC_COPY: ioctl::Opcode = opcode::read_write::<CopyArg>(GROUP, 0x03);
const IOC_POISON: ioctl::Opcode = opcode::read_write::<PoisonArg>(GROUP, 0x08);
const IOC_MOVE: ioctl::Opcode = opcode::read_write::<MoveArg>(GROUP, 0x05);
const IOC_WRITEPROTECT: ioctl::Opcode = opcode::read_write::<WriteProtectArg>(GROUP, 0x06);

/// What a registered range makes threads wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Any access to a page that is not there.
    Missing,
    /// Any write to a page that is write-protected.
    Write,
}

/// A full-mode userfaultfd of this process: faults inside system calls wait, too.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
    features: u64,
}

impl Userfault {
    /// Open a userfaultfd with all of `wanted` that the kernel has.
    ///
    /// # Errors
    /// `Unsupported`, with the cure, where this user or kernel may not do that.
    pub fn open(wanted: u64) -> Result<Self> {
        // UFFDIO_API answers only once and refuses unknown features, so ask on a first descriptor.
        let supported = handshake(&descriptor()?, 0)?;
        let fd = descriptor()?;
        let features = wanted & supported;
        match handshake(&fd, features) {
            Err(error)
                if error.errno() == Some(libc::EPERM) && features & FEATURE_EVENT_FORK != 0 =>
            {
                Err(Error::Unsupported(
                    "a child that a raw clone or _Fork makes would lack the pages that are being \
                     compared; userfaultfd tells of such forks only with CAP_SYS_PTRACE"
                        .into(),
                ))
            }
            other => other.map(|_| Self { fd, features }),
        }
    }

    /// Returns whether it has all of these features.
    #[must_use]
    pub const fn has(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// Make accesses to `[start, start + len)` wait, as `watch` says.
    ///
    /// # Errors
    /// The errors of ioctl_userfaultfd(2): EBUSY if another userfaultfd has the range, EINVAL if a
    /// mapping in it is of an unsuitable kind.
    pub fn register(&self, start: usize, len: usize, watch: Watch) -> Result<()> {
        let mode = match watch {
            Watch::Missing => REGISTER_MODE_MISSING,
            Watch::Write => REGISTER_MODE_WP,
        };
        let mut arg = RegisterArg { range: range(start, len), mode, ioctls: 0 };
        // SAFETY: the opcode is UFFDIO_REGISTER and the argument is its struct.
        unsafe { ioctl::ioctl(&self.fd, Updater::<IOC_REGISTER, _>::new(&mut arg)) }
            .map_err(|errno| failed("UFFDIO_REGISTER", errno, start))
    }

    /// Stop watching a range; threads that wait in its parts that are still registered are woken.
    ///
    /// # Errors The errors of ioctl_userfaultfd(2); then the caller closes the descriptor, which
    /// frees all threads.
    pub fn unregister(&self, start: usize, len: usize) -> Result<()> {
        // SAFETY: the opcode is UFFDIO_UNREGISTER and the argument is its struct.
        unsafe { ioctl::ioctl(&self.fd, Setter::<IOC_UNREGISTER, _>::new(range(start, len))) }
            .map_err(|errno| failed("UFFDIO_UNREGISTER", errno, start))
    }

    /// Wake the threads that wait in a range, whatever is mapped there by now.
    ///
    /// # Errors The errors of ioctl_userfaultfd(2).
    pub fn wake(&self, start: usize, len: usize) -> Result<()> {
        // SAFETY: the opcode is UFFDIO_WAKE and the argument is its struct.
        unsafe { ioctl::ioctl(&self.fd, Setter::<IOC_WAKE, _>::new(range(start, len))) }
            .map_err(|errno| failed("UFFDIO_WAKE", errno, start))
    }

    /// Write-protect a range, or lift the protection.
    ///
    /// # Errors The errors of ioctl_userfaultfd(2): ENOENT if part of the range is not registered
    /// for writes.
    pub fn write_protect(&self, start: usize, len: usize, on: bool) -> Result<()> {
        let mode = if on { WRITEPROTECT_MODE_WP } else { 0 };
        let mut arg = WriteProtectArg { range: range(start, len), mode };
        loop {
            // SAFETY: the opcode is UFFDIO_WRITEPROTECT and the argument is its struct.
            let done =
                unsafe { ioctl::ioctl(&self.fd, Updater::<IOC_WRITEPROTECT, _>::new(&mut arg)) };
            match done {
                // A fork or an munmap in another thread changes the address space: it passes.
                Err(rustix::io::Errno::AGAIN) => std::hint::spin_loop(),
                Err(errno) => return Err(failed("UFFDIO_WRITEPROTECT", errno, start)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Move pages from `src` to `dst`, both in this process, without copying.
    ///
    /// Returns how many bytes were moved, and the error that stopped the move if not all were:
    /// EBUSY for a page that is pinned or shared with a fork child, ENOENT for a hole, EINVAL for a
    /// page of a mapping that is not anonymous, EAGAIN to try again.
    #[must_use]
    pub fn move_pages(&self, dst: usize, src: usize, len: usize) -> (usize, Option<i32>) {
        let mut arg =
            MoveArg { dst: dst as u64, src: src as u64, len: len as u64, mode: 0, moved: 0 };
        // SAFETY: the opcode is UFFDIO_MOVE and the argument is its struct; the callers own both
        // ranges and hold the agent's lock.
        let done = unsafe { ioctl::ioctl(&self.fd, Updater::<IOC_MOVE, _>::new(&mut arg)) };
        match done {
            Ok(()) => (len, None),
            Err(errno) => (arg.moved.max(0) as usize, Some(errno.raw_os_error())),
        }
    }

    /// Check that this process can open one more descriptor.
    ///
    /// # Errors
    /// `Os` if it cannot.
    pub fn has_room(&self) -> Result<()> {
        let room = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0);
        room.map(|_| ()).map_err(|errno| Error::os("dup", errno.raw_os_error()))
    }

    /// Take the child's own userfaultfd from a fork that waits to be reported. The fork then goes
    /// on.
    ///
    /// Page faults that are reported in between are passed over: their threads wait to be woken.
    pub fn next_fork(&self) -> Option<Self> {
        loop {
            let mut message = Message::default();
            // SAFETY: one message is read, of the size and layout of struct uffd_msg.
            let read = unsafe {
                let size = std::mem::size_of::<Message>();
                libc::read(as_raw(&self.fd), (&raw mut message).cast(), size)
            };
            if read <= 0 {
                return None; // EAGAIN: nothing has happened
            }
            if message.event == EVENT_FORK {
                // SAFETY: the kernel has just given us this descriptor.
                let fd = unsafe { OwnedFd::from_raw_fd(message.descriptor as i32) };
                return Some(Self { fd, features: self.features });
            }
        }
    }

    /// Returns whether a fork is on its way: from the moment it has copied what we watch until it
    /// has been reported.
    #[must_use]
    pub fn is_forking(&self) -> bool {
        // Then the kernel answers EAGAIN to any request; else it answers EINVAL to a range of no
        // bytes.
        self.move_pages(0, 0, 0).1 == Some(libc::EAGAIN)
    }

    /// Put a copy of the page at `src` in the place of the missing page at `dst`.
    ///
    /// # Errors
    /// The errors of ioctl_userfaultfd(2): EEXIST if a page is there, ENOENT if `dst` is not
    /// watched.
    pub fn copy(&self, dst: usize, src: usize, len: usize) -> Result<()> {
        let (dst, src) = (dst as u64, src as u64);
        let mut arg = CopyArg { dst, src, len: len as u64, mode: 0, copied: 0 };
        // SAFETY: the opcode is UFFDIO_COPY and the argument is its struct.
        unsafe { ioctl::ioctl(&self.fd, Updater::<IOC_COPY, _>::new(&mut arg)) }
            .map_err(|errno| failed("UFFDIO_COPY", errno, dst as usize))
    }

    /// Make threads that touch the missing pages of a range get SIGBUS (Linux 6.6).
    ///
    /// # Errors The errors of ioctl_userfaultfd(2).
    pub fn poison(&self, start: usize, len: usize) -> Result<()> {
        let mut arg = PoisonArg { range: range(start, len), mode: 0, updated: 0 };
        // SAFETY: the opcode is UFFDIO_POISON and the argument is its struct.
        unsafe { ioctl::ioctl(&self.fd, Updater::<IOC_POISON, _>::new(&mut arg)) }
            .map_err(|errno| failed("UFFDIO_POISON", errno, start))
    }
}

const fn range(start: usize, len: usize) -> Range {
    Range { start: start as u64, len: len as u64 }
}

fn failed(call: &'static str, errno: rustix::io::Errno, start: usize) -> Error {
    Error::os(call, errno.raw_os_error()).at(start as u64)
}

/// Open a new full-mode descriptor: by the system call, else by the device node (Linux 6.1).
fn descriptor() -> Result<OwnedFd> {
    let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as usize;
    // SAFETY: userfaultfd(2) takes one integer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    if fd >= 0 {
        // SAFETY: the kernel has just given us this descriptor.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    }
    let node = CString::from(c"/dev/userfaultfd");
    let refused = |errno: rustix::io::Errno| {
        let why = crate::error::strerror(errno.raw_os_error());
        Error::Unsupported(format!(
            "this user gets no full-mode userfaultfd (/dev/userfaultfd: {why}). Run as root, set \
             vm.unprivileged_userfaultfd=1, or give this user read and write access to \
             /dev/userfaultfd"
        ))
    };
    let device = rustix::fs::open(node.as_c_str(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(refused)?;
    // SAFETY: USERFAULTFD_IOC_NEW takes its flags as a plain integer and returns a descriptor.
    let fd = unsafe { libc::ioctl(as_raw(&device), IOC_NEW as _, flags) };
    if fd < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EPERM);
        return Err(refused(rustix::io::Errno::from_raw_os_error(errno)));
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn as_raw(fd: &OwnedFd) -> i32 {
    use rustix::fd::AsRawFd;
    fd.as_fd().as_raw_fd()
}

/// UFFDIO_API: agree on `features`, and learn which the kernel has.
fn handshake(fd: &OwnedFd, features: u64) -> Result<u64> {
    let mut arg = ApiArg { api: API, features, ioctls: 0 };
    // SAFETY: the opcode is UFFDIO_API and the argument is its struct.
    unsafe { ioctl::ioctl(fd, Updater::<IOC_API, _>::new(&mut arg)) }
        .map_err(|errno| failed("UFFDIO_API", errno, 0))?;
    Ok(arg.features)
}
