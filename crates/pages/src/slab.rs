//! Slabs: sealed memory files of stable pages. Once a slab is sealed, no process can change a byte.

use crate::error::{Error, Result};
use crate::huge;
use crate::room;
use crate::PAGE;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::ops::Range;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

/// The name that /proc/PID/maps shows for a slab: `/memfd:pagemerge-slab (deleted)`.
pub const NAME: &str = "pagemerge-slab";

/// How the path of a slab starts in /proc/PID/maps.
pub const PATH: &str = "/memfd:pagemerge-slab";

/// The largest number of pages of a slab (16 MiB): small enough to die, few enough descriptors.
pub const MOST_PAGES: usize = 4096;

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// The read-only bytes of a slab, mapped for as long as this value lives.
#[derive(Debug)]
pub struct View {
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: the bytes are sealed, or (while a slab is being filled) owned by one thread.
unsafe impl Send for View {}
// SAFETY: as above; a shared view is only read.
unsafe impl Sync for View {}

impl View {
    fn map(
        fd: impl AsFd,
        pages: Range<usize>,
        protection: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self> {
        let (offset, pages) = ((pages.start * PAGE) as u64, pages.len());
        let len = pages * PAGE;
        let base = room::map_file(len, protection, flags, fd.as_fd(), offset)
            .map_err(|errno| Error::os("mmap of a slab", errno.raw_os_error()))?;
        let base = NonNull::new(base.cast()).ok_or_else(|| Error::os("mmap", libc::ENOMEM))?;
        Ok(Self { base, pages })
    }

    /// The address of page `slot`.
    ///
    /// # Panics
    /// If the slab has no such page.
    #[must_use]
    pub fn page(&self, slot: usize) -> *const u8 {
        assert!(slot < self.pages, "slot {slot} of a slab of {} pages", self.pages);
        // SAFETY: inside the mapping, by the check above.
        unsafe { self.base.as_ptr().add(slot * PAGE) }
    }

    /// The number of pages of the slab.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.pages
    }

    /// All bytes of the slab.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as self, and sealed bytes never change.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.pages * PAGE) }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which no code can borrow any more. It fails only at the mapping
        // limit, where keeping the mapping is harmless.
        unsafe { room::unmap(self.base.as_ptr().cast(), self.pages * PAGE) };
    }
}

/// TMPFS_MAGIC (linux/magic.h): the file system of memory files with ordinary pages.
const TMPFS: u32 = 0x0102_1994;

/// The pages of a slab that a process fills or digests at once: this memory counts as the process's
/// own.
const CHUNK: usize = 64;

/// Make a slab of `pages` pages, let `fill` write it piece by piece, in order, and seal it for
/// good. The pieces that `fill` gets are zero.
///
/// # Errors
/// `Os` when memory or descriptors run out; the errors of `fill`. Then nothing remains.
pub fn build(pages: usize, fill: impl FnMut(&mut [u8]) -> Result<()>) -> Result<OwnedFd> {
    Ok(build_huge(pages, 0, Duration::MAX, fill)?.0)
}

/// Do as `build` does, and make the first `blocks` blocks of the slab huge pages, where there is
/// memory for that. Returns the slab, and one bit for each block: set if it is one huge page. After
/// one that took more than `longest`, no more are made: meanwhile the kernel let nobody else have
/// this processor, unless it is a kernel that can be interrupted.
///
/// # Errors
/// The errors of `build`.
pub fn build_huge(
    pages: usize,
    mut blocks: usize,
    longest: Duration,
    mut fill: impl FnMut(&mut [u8]) -> Result<()>,
) -> Result<(OwnedFd, u64)> {
    if pages == 0 || pages > MOST_PAGES {
        return Err(Error::Usage(format!("a slab has 1 to {MOST_PAGES} pages, not {pages}")));
    }
    let os = |call| move |errno: rustix::io::Errno| Error::os(call, errno.raw_os_error());
    let fd = rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(os("memfd_create"))?;
    // Before anything else: memory files are created with mode 0777, and a process that may look
    // into /proc/PID/fd could re-open one for writing.
    rustix::fs::fchmod(&fd, Mode::RUSR).map_err(os("fchmod"))?;
    rustix::fs::ftruncate(&fd, (pages * PAGE) as u64).map_err(os("ftruncate"))?;
    // Through a buffer that stays in the cache, never through a mapping: a fault for each page, and
    // the kernel zeroing what is overwritten at once, take longer than the copy.
    let mut buffer = vec![0_u8; pages.min(CHUNK) * PAGE];
    let mut made = 0;
    for first in (0..pages).step_by(CHUNK) {
        let part = &mut buffer[..(pages - first).min(CHUNK) * PAGE];
        part.fill(0);
        fill(part)?;
        write_at(&fd, part, (first * PAGE) as u64)?;
        let block = first / huge::PAGES;
        if first % huge::PAGES == 0 && first + huge::PAGES <= pages && block < blocks {
            let began = Instant::now();
            let done = collapse(&fd, first);
            made |= u64::from(done) << block;
            if !done || began.elapsed() > longest {
                blocks = 0; // looking for free blocks of memory takes time, too
            }
        }
    }
    rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(os("F_ADD_SEALS"))?;
    Ok((fd, made))
}

/// Make the block of a memory file that begins with page `first`, and of which a page has been
/// written, one huge page: what is written next goes there. (The kernel makes no huge page of a
/// block without a page, and to copy a block that is full would take twice the memory.) Returns
/// whether it is one.
fn collapse(fd: &OwnedFd, first: usize) -> bool {
    let (len, flags) = (2 * huge::BYTES, MapFlags::NORESERVE);
    let Ok(room) = room::map(len, ProtFlags::empty(), flags) else { return false };
    let at = (room as usize).next_multiple_of(huge::BYTES);
    let (flags, offset) = (MapFlags::PRIVATE | MapFlags::FIXED, (first * PAGE) as u64);
    // SAFETY: it maps inside our own fresh mapping, and unmaps that.
    unsafe {
        let place = at as *mut libc::c_void;
        let mapped = rustix::mm::mmap(place, huge::BYTES, ProtFlags::READ, flags, fd, offset);
        let done = mapped.is_ok() && huge::collapse(at).is_ok();
        room::unmap(room, len);
        done
    }
}

/// Write all of `bytes` at `offset`.
fn write_at(fd: &OwnedFd, bytes: &[u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pwrite(fd, &bytes[done..], offset + done as u64) {
            Ok(0) => return Err(Error::os("write of a slab", libc::ENOSPC)),
            Ok(written) => done += written,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::os("write of a slab", errno.raw_os_error())),
        }
    }
    Ok(())
}

/// Check that `fd` is a slab that no process can change, and return the number of its pages.
///
/// Both sides do this with every slab that comes out of a socket.
///
/// # Errors
/// `Protocol` if it is not a sealed memory file of a valid size.
pub fn check(fd: impl AsFd) -> Result<usize> {
    let no = |why: &str| Error::Protocol(format!("not a slab: {why}"));
    let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| no("it has no seals"))?;
    if !seals.contains(SEALS) {
        return Err(no("its seals allow changes"));
    }
    let stat = rustix::fs::fstat(&fd).map_err(|_| no("it cannot be examined"))?;
    let size = usize::try_from(stat.st_size).unwrap_or(0);
    // A memory file of huge pages has seals as well, and cannot be mapped page by page. (The block
    // size does not tell: if shmem_enabled is `always`, that of every file is huge.)
    let tmpfs = rustix::fs::fstatfs(&fd).is_ok_and(|about| about.f_type as u32 == TMPFS);
    if !tmpfs || size % PAGE != 0 {
        return Err(no("its pages are not 4 KiB"));
    }
    if size == 0 || size / PAGE > MOST_PAGES {
        return Err(no("its size is out of bounds"));
    }
    Ok(size / PAGE)
}

/// Check a slab as `check` does, and map all of it for reading.
///
/// # Errors
/// The errors of `check`; `Os` if it cannot be mapped.
pub fn open(fd: impl AsFd) -> Result<View> {
    let pages = check(&fd)?;
    // Private, because before Linux 6.12 a write-sealed file could not be mapped shared at all.
    View::map(fd, 0..pages, ProtFlags::READ, MapFlags::PRIVATE)
}

/// Check a slab as `check` does, and show its bytes piece by piece, in order.
///
/// It reads the slab and does not map it: a fault in a hole would fill the hole, with memory that
/// is charged to us, and the process that hands slabs over decides how many holes they have.
///
/// # Errors The errors of `check`; `Os` if it cannot be read; the errors of `look`.
pub fn read(fd: impl AsFd, mut look: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let pages = check(&fd)?;
    let mut buffer = vec![0_u8; pages.min(CHUNK) * PAGE];
    for first in (0..pages).step_by(CHUNK) {
        let part = &mut buffer[..(pages - first).min(CHUNK) * PAGE];
        let read = rustix::io::pread(&fd, &mut *part, (first * PAGE) as u64)
            .map_err(|errno| Error::os("read of a slab", errno.raw_os_error()))?;
        if read != part.len() {
            return Err(Error::os("read of a slab", libc::EIO));
        }
        look(part)?;
    }
    Ok(())
}

/// The name of a slab between hub and agents: its inode number.
///
/// # Errors
/// `Os` if the descriptor cannot be examined.
pub fn id(fd: impl AsFd) -> Result<u64> {
    Ok(rustix::fs::fstat(fd).map_err(|errno| Error::os("fstat", errno.raw_os_error()))?.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_cannot_be_changed_by_anybody() {
        let fd = build(2, |bytes| {
            bytes.fill(7);
            Ok(())
        })
        .unwrap();
        let view = open(&fd).unwrap();
        assert_eq!(view.pages(), 2);
        assert!(view.bytes().iter().all(|&byte| byte == 7));
        let shared = View::map(&fd, 0..2, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        assert_eq!(shared.unwrap_err().errno(), Some(libc::EPERM));
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
        assert!(rustix::io::pwrite(&fd, b"x", 0).is_err());
        assert!(rustix::fs::fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE).is_err());
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_mode & 0o777, 0o400);
    }

    #[test]
    fn a_forged_slab_is_refused() {
        let fd = rustix::fs::memfd_create("forged", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, PAGE as u64).unwrap();
        assert!(matches!(open(&fd), Err(Error::Protocol(_))));
        rustix::fs::fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE | SealFlags::SHRINK).unwrap();
        assert!(matches!(open(&fd), Err(Error::Protocol(_))));
        rustix::fs::fcntl_add_seals(&fd, SEALS).unwrap();
        assert_eq!(open(&fd).unwrap().pages(), 1);
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(matches!(open(&file), Err(Error::Protocol(_))));
    }

    #[test]
    fn looking_at_a_slab_fills_no_holes() {
        let fd = rustix::fs::memfd_create("sparse", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, (100 * PAGE) as u64).unwrap();
        rustix::fs::fcntl_add_seals(&fd, SEALS).unwrap();
        let mut seen = 0;
        read(&fd, |bytes| {
            assert!(bytes.iter().all(|&byte| byte == 0));
            seen += bytes.len();
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 100 * PAGE);
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_blocks, 0);
    }

    #[test]
    fn a_failed_fill_leaves_nothing() {
        assert!(build(1, |_| Err(Error::Usage("no".into()))).is_err());
        assert!(matches!(build(0, |_| Ok(())), Err(Error::Usage(_))));
        assert!(matches!(build(MOST_PAGES + 1, |_| Ok(())), Err(Error::Usage(_))));
    }
}
