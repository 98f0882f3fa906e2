//! Our own mappings, one question at a time (`PROCMAP_QUERY`, Linux 6.11).

use crate::error::{Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{self, opcode, Updater};

/// struct procmap_query (linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    /// What we do not ask for: flags, page size, offset, inode and device.
    rest: [u64; 5],
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

const PROCMAP_QUERY: ioctl::Opcode = opcode::read_write::<Query>(b'f', 17);
const SHARED: u64 = 0x08;
const COVERING_OR_NEXT: u64 = 0x10;
const FILE_BACKED: u64 = 0x20;

/// Where the kernel is asked.
#[derive(Debug)]
pub struct Mappings {
    maps: OwnedFd,
}

impl Mappings {
    /// Of this process.
    ///
    /// # Errors
    /// `Os` when descriptors run out.
    pub fn open() -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let maps = rustix::fs::open(c"/proc/self/maps", flags, Mode::empty())
            .map_err(|errno| Error::os("open of maps", errno.raw_os_error()))?;
        Ok(Self { maps })
    }

    /// Where the mapping that holds `address` ends.
    ///
    /// # Errors
    /// ENOENT if there is none; ENOTTY before Linux 6.11.
    pub fn end_of(&self, address: u64) -> rustix::io::Result<u64> {
        self.ask(Query { address, ..Query::default() })
    }

    /// Where the next shared mapping of a file ends that holds `address` or lies behind it; its
    /// name goes to `name`, if that is not empty.
    ///
    /// # Errors
    /// As `end_of`; ENAMETOOLONG.
    pub fn next_shared(&self, address: u64, name: &mut [u8]) -> rustix::io::Result<u64> {
        let at = if name.is_empty() { 0 } else { name.as_mut_ptr() as u64 };
        self.ask(Query {
            flags: SHARED | COVERING_OR_NEXT | FILE_BACKED,
            address,
            name_size: name.len() as u32,
            name: at,
            ..Query::default()
        })
    }

    fn ask(&self, mut query: Query) -> rustix::io::Result<u64> {
        query.size = size_of::<Query>() as u64;
        // SAFETY: the opcode is PROCMAP_QUERY and the argument is its struct; the name's buffer is
        // the caller's, and outlives the call.
        unsafe { ioctl::ioctl(&self.maps, Updater::<PROCMAP_QUERY, _>::new(&mut query)) }?;
        Ok(query.end)
    }
}
