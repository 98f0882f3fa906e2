//! Asks the kernel about single mappings, usually our own (`PROCMAP_QUERY`, Linux 6.11).

use crate::error::{Error, Result};
use crate::slab;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{self, opcode, Updater};
use std::ops::Range;

/// struct procmap_query (linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    access: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    device: [u32; 2],
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

const PROCMAP_QUERY: ioctl::Opcode = opcode::read_write::<Query>(b'f', 17);
const READ_AND_WRITE: u64 = 0x03;
const ACCESS: u64 = 0x07;
const EXECUTE: u64 = 0x04;
const CODE: u64 = 0x05;
const SHARED: u64 = 0x08;
const OR_NEXT: u64 = 0x10;

/// The mapping at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The mapping's addresses.
    pub range: Range<usize>,
    /// The kind of memory.
    pub kind: Kind,
    /// Whether it can be read and written.
    pub open: bool,
    /// Whether it can be executed.
    pub executable: bool,
}

/// The kind of memory of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Private and anonymous.
    Anonymous,
    /// A private mapping of a slab.
    Slab,
    /// Anything else.
    Other,
}

/// The open list of mappings of a process.
#[derive(Debug)]
pub struct Mappings {
    maps: OwnedFd,
}

impl Mappings {
    /// Open the list of this process.
    ///
    /// # Errors
    /// `Os` when descriptors run out.
    pub fn open() -> Result<Self> {
        Self::at_path("/proc/self/maps")
    }

    /// Open the list of process `pid`; it stays valid as long as the process executes no other
    /// program.
    ///
    /// # Errors
    /// `Os` if the process may not be looked at, or has gone.
    pub fn of(pid: i32) -> Result<Self> {
        Self::at_path(&format!("/proc/{pid}/maps"))
    }

    fn at_path(path: &str) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let maps = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::os("open of maps", errno.raw_os_error()))?;
        Ok(Self { maps })
    }

    /// Returns whether there is code at `address`, which the program can execute and not write.
    ///
    /// # Errors
    /// ENOENT if nothing is mapped there; ENOTTY before Linux 6.11.
    pub fn is_code(&self, address: u64) -> rustix::io::Result<bool> {
        let mut query = Query { address, ..Query::default() };
        self.ask(&mut query)?;
        Ok(query.access & ACCESS == CODE)
    }

    /// Returns the mapping that holds `address`.
    ///
    /// # Errors
    /// ENOENT if there is none; ENOTTY before Linux 6.11.
    pub fn at(&self, address: usize) -> rustix::io::Result<Mapping> {
        self.find(address, 0)
    }

    /// Returns the mapping that holds `address`, or else the next one.
    ///
    /// # Errors
    /// ENOENT if there is none; ENOTTY before Linux 6.11.
    pub fn at_or_behind(&self, address: usize) -> rustix::io::Result<Mapping> {
        self.find(address, OR_NEXT)
    }

    fn find(&self, address: usize, flags: u64) -> rustix::io::Result<Mapping> {
        let mut name = [0_u8; 64];
        let mut query = Query { address: address as u64, flags, ..Query::default() };
        self.ask(&mut query)?;
        let mapped = query.inode != 0 || query.device != [0, 0];
        let kind = if query.access & SHARED != 0 {
            Kind::Other
        } else if !mapped {
            Kind::Anonymous
        } else {
            let mut named = Query {
                address: query.start,
                name_size: name.len() as u32,
                name: name.as_mut_ptr() as u64,
                ..Query::default()
            };
            // ENAMETOOLONG: the mapping is none of our slabs.
            match self.ask(&mut named) {
                Ok(()) if name.starts_with(slab::PATH.as_bytes()) => Kind::Slab,
                _ => Kind::Other,
            }
        };
        Ok(Mapping {
            range: query.start as usize..query.end as usize,
            kind,
            open: query.access & READ_AND_WRITE == READ_AND_WRITE,
            executable: query.access & EXECUTE != 0,
        })
    }

    fn ask(&self, query: &mut Query) -> rustix::io::Result<()> {
        query.size = size_of::<Query>() as u64;
        // SAFETY: the opcode is PROCMAP_QUERY and the argument is its struct; the name's buffer is
        // the caller's, and outlives the call.
        unsafe { ioctl::ioctl(&self.maps, Updater::<PROCMAP_QUERY, _>::new(query)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE;
    use rustix::fd::AsFd;
    use rustix::mm::{MapFlags, ProtFlags};

    #[test]
    fn kinds_are_told_apart() {
        let maps = Mappings::open().unwrap();
        let (none, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        let slab = slab::build(1, |_| Ok(())).unwrap();
        // SAFETY: fresh mappings, never given back.
        let [anonymous, shared, merged] = unsafe {
            let anonymous = |flags| rustix::mm::mmap_anonymous(none, PAGE, access, flags).unwrap();
            let merged = rustix::mm::mmap(none, PAGE, access, MapFlags::PRIVATE, slab.as_fd(), 0);
            [anonymous(MapFlags::PRIVATE), anonymous(MapFlags::SHARED), merged.unwrap()]
        }
        .map(|at| maps.at(at as usize));
        if anonymous == Err(rustix::io::Errno::NOTTY) {
            eprintln!("skipped: no PROCMAP_QUERY before Linux 6.11");
            return;
        }
        let kinds = [anonymous, shared, merged].map(|found| found.unwrap().kind);
        assert_eq!(kinds, [Kind::Anonymous, Kind::Other, Kind::Slab]);
        assert_eq!(maps.at(0), Err(rustix::io::Errno::NOENT));
    }
}
