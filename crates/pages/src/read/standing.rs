//! What decides which processes may read a process, as `/proc/PID` tells it.

use std::fs::File;
use std::io::Read;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result, PAGE};

/// The lines of `/proc/PID/status` that tell a process's credentials.
const LINES: [&[u8]; 8] =
    [b"Uid:", b"Gid:", b"Groups:", b"CapInh:", b"CapPrm:", b"CapEff:", b"CapBnd:", b"CapAmb:"];

/// The longest `/proc/PID/status`: 65,536 supplementary groups of eleven characters, and the rest.
const MOST_STATUS: u64 = 1 << 20;

/// All that decides which processes may read a process, and to which trust domain it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The lines of `/proc/PID/status` about uids, gids, groups and capabilities.
    pub credentials: Vec<u8>,
    /// The label of the security module (`/proc/PID/attr/current`), empty where there is none.
    pub label: Vec<u8>,
    /// The inode numbers of its user, pid and cgroup namespaces; 0 where the kernel has none.
    pub namespaces: [u64; 3],
}

/// Returns the standing of the process now. The errors are those of [`trouble`].
pub fn standing(pid: i32, folder: &OwnedFd) -> Result<Standing> {
    let status = text(pid, folder, "status", MOST_STATUS)?;
    let mut credentials = Vec::with_capacity(256);
    for line in status.split(|byte| *byte == b'\n') {
        if LINES.iter().any(|name| line.starts_with(name)) {
            credentials.extend_from_slice(line);
            credentials.push(b'\n');
        }
    }
    let mut namespaces = [0; 3];
    for (name, number) in ["ns/user", "ns/pid", "ns/cgroup"].iter().zip(&mut namespaces) {
        *number = match rustix::fs::readlinkat(folder, *name, Vec::with_capacity(64)) {
            Ok(link) => inode(link.as_bytes()),
            Err(Errno::NOENT) => 0, // the kernel has no such namespaces, or the process has ended
            Err(errno) => return Err(trouble(pid, "readlink /proc/PID/ns", errno)),
        };
    }
    // What we cannot read because we lack a resource is not absent: a domain without its label
    // would be too wide.
    let label = match text(pid, folder, "attr/current", PAGE as u64) {
        Err(error @ Error::Os { errno: libc::EMFILE | libc::ENFILE | libc::ENOMEM, .. }) => {
            return Err(error)
        }
        found => found.unwrap_or_default(),
    };
    Ok(Standing { credentials, label, namespaces })
}

/// The number in `user:[4026531837]`.
fn inode(link: &[u8]) -> u64 {
    let digits: Vec<u8> = link.iter().copied().filter(u8::is_ascii_digit).collect();
    number(&digits, 10).unwrap_or(0)
}

/// A number in ASCII digits.
pub fn number(digits: &[u8], base: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?.trim(), base).ok()
}

/// The text that follows `name` in one of the lines.
fn line<'a>(lines: &'a [u8], name: &[u8]) -> &'a [u8] {
    lines.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name)).unwrap_or_default()
}

/// The id that occurs four times in a line of `status`: real, effective, saved, and for files.
pub fn same(pid: i32, lines: &[u8], name: &[u8]) -> Result<u32> {
    let ids: Vec<_> = line(lines, name)
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| number(word, 10))
        .collect();
    match ids.first() {
        Some(Some(id)) if ids.len() == 4 && ids.iter().all(|other| *other == Some(*id)) => {
            Ok(*id as u32)
        }
        _ => Err(Error::Left {
            pid,
            why: "runs with the rights of several users or groups, or has ended".into(),
        }),
    }
}

/// A set of capabilities in one of the lines.
pub fn mask(lines: &[u8], name: &[u8]) -> u64 {
    number(line(lines, name), 16).unwrap_or(0)
}

/// Open a file of `/proc/PID`.
pub fn file(pid: i32, folder: &OwnedFd, name: &'static str) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(folder, name, flags, Mode::empty());
    opened.map(File::from).map_err(|errno| trouble(pid, "open a file of /proc/PID", errno))
}

/// Read a file of `/proc/PID`, up to `most` bytes.
pub fn text(pid: i32, folder: &OwnedFd, name: &'static str, most: u64) -> Result<Vec<u8>> {
    let mut found = Vec::with_capacity(PAGE);
    match file(pid, folder, name)?.take(most).read_to_end(&mut found) {
        Ok(_) => Ok(found),
        Err(error) => {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Err(trouble(pid, "read a file of /proc/PID", errno))
        }
    }
}

/// An error that the process causes ends it as a peer; an error because we lack something does not.
pub fn trouble(pid: i32, call: &'static str, errno: Errno) -> Error {
    let why = match errno {
        Errno::NOENT | Errno::SRCH => "has ended",
        Errno::ACCESS | Errno::PERM => {
            "may not be read by this hub: see PR_SET_DUMPABLE, the Yama setting \
             kernel.yama.ptrace_scope, and the user that the hub runs as"
        }
        _ => return Error::os(call, errno.raw_os_error()).of_pid(pid),
    };
    Error::Left { pid, why: why.into() }
}
