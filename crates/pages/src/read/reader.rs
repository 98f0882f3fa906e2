//! Two ways to copy pages out of another process, behind one interface.

use std::ffi::c_void;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::{Error, Result, PAGE};

/// The largest number of pieces that one process_vm_readv takes (`UIO_MAXIOV`).
const PIECES: usize = 1024;

/// The result of a look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// The number of bytes read.
    pub read: u64,
    /// The number of pages that were there a moment before and could not be read.
    pub unreadable: u64,
}

impl Look {
    /// Add the figures of another look.
    pub fn add(&mut self, other: Self) {
        self.read += other.read;
        self.unreadable += other.unreadable;
    }
}

/// A way to read the memory of another process.
pub enum Reader {
    /// process_vm_readv: many pieces in one call, pins pages.
    Direct { pid: i32 },
    /// `/proc/PID/mem`: pins nothing.
    Gentle { pid: i32, memory: File },
}

impl Reader {
    /// A reader of process `pid` that does not pin.
    pub fn gentle(pid: i32) -> Result<Self> {
        match File::open(format!("/proc/{pid}/mem")) {
            Ok(memory) => Ok(Self::Gentle { pid, memory }),
            Err(error) => Err(Error::of_proc("open /proc/PID/mem", &error, pid)),
        }
    }

    /// Read `pieces`, which are `into.len()` bytes in all. The number of each page that cannot be
    /// read goes to `gap`, and zeros take its place.
    pub fn read_all(
        &self,
        mut pieces: &mut [libc::iovec],
        into: &mut [u8],
        mut gap: impl FnMut(usize),
    ) -> Result<Look> {
        let mut look = Look::default();
        let mut at = 0;
        while at < into.len() {
            let mut done = self.read(pieces, &mut into[at..])?;
            look.read += done as u64;
            if done == 0 {
                gap(at / PAGE);
                look.unreadable += 1;
                into[at..at + PAGE].fill(0);
                done = PAGE;
            }
            at += done;
            pieces = skip(pieces, done);
        }
        Ok(look)
    }

    /// Read from the start of `pieces`, as far as one call gets: whole pages; 0 if the first page
    /// is not there.
    fn read(&self, pieces: &[libc::iovec], into: &mut [u8]) -> Result<usize> {
        let outcome = match self {
            Self::Direct { pid } => read_directly(*pid, pieces, into),
            Self::Gentle { pid, memory } => read_gently(*pid, memory, pieces, into),
        };
        match outcome {
            Ok(bytes) => Ok(bytes - bytes % PAGE),
            Err(error) if matches!(error.errno(), Some(libc::EFAULT | libc::EIO)) => Ok(0),
            Err(error) => Err(error),
        }
    }
}

fn read_directly(pid: i32, pieces: &[libc::iovec], into: &mut [u8]) -> Result<usize> {
    let pieces = &pieces[..pieces.len().min(PIECES)];
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: the kernel writes only into `into`, borrowed for writing; the addresses in `pieces`
    // are those of another address space, which the kernel checks.
    let got = unsafe {
        libc::process_vm_readv(pid, &raw const local, 1, pieces.as_ptr(), pieces.len() as _, 0)
    };
    usize::try_from(got).map_err(|_| Error::last_os("process_vm_readv").of_pid(pid))
}

fn read_gently(pid: i32, memory: &File, pieces: &[libc::iovec], into: &mut [u8]) -> Result<usize> {
    let Some(piece) = pieces.first() else { return Ok(0) };
    let address = piece.iov_base as u64;
    match memory.read_at(&mut into[..piece.iov_len], address) {
        // The address space that the file was opened on is gone.
        Ok(0) => Err(Error::os("read /proc/PID/mem", libc::ESRCH).of_pid(pid)),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(Error::of_proc("read /proc/PID/mem", &error, pid).at(address)),
    }
}

/// The rest of `pieces` after their first `bytes`.
fn skip(pieces: &mut [libc::iovec], mut bytes: usize) -> &mut [libc::iovec] {
    let mut whole = 0;
    while whole < pieces.len() && pieces[whole].iov_len <= bytes {
        bytes -= pieces[whole].iov_len;
        whole += 1;
    }
    let rest = &mut pieces[whole..];
    if let Some(first) = rest.first_mut() {
        first.iov_base = (first.iov_base as usize + bytes) as *mut c_void;
        first.iov_len -= bytes;
    }
    rest
}
