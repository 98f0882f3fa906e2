//! A process that asked to be read, for as long as it is what it was when it asked.
//!
//! Whoever reads with `CAP_SYS_PTRACE` is refused by nobody, so it has to ask itself what the
//! kernel would have asked. [`Peer::open`] remembers all that decides who may read a process, and
//! opens its page map and its memory. Each read ([`Peer::visit`]) compares before and after, and
//! what was read is the caller's only if nothing has changed.
//!
//! A program that is executed has another address space. The open files go on naming the old one:
//! they show nothing any more once nobody uses it. process_vm_readv, which is twice as fast as
//! `/proc/PID/mem`, names a process, so it may read the new one; and the old address space may live
//! on in a process that shares it (`clone(CLONE_VM)`). Therefore a direct read counts only if the
//! process still has the address space of the open files afterwards: if one page that was read,
//! which no other page table maps, is the same page frame in both. An address space that a process
//! has left never comes back, so it was the right one before as well. Where that cannot be shown,
//! the pages are read again through the open memory file.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::assume;
use crate::pagemap::{entry, Pagemap};
use crate::remote::Target;
use crate::{Error, Result, PAGE};

/// The lines of `/proc/PID/status` that tell a process's credentials.
const LINES: [&[u8]; 8] =
    [b"Uid:", b"Gid:", b"Groups:", b"CapInh:", b"CapPrm:", b"CapEff:", b"CapBnd:", b"CapAmb:"];

/// The longest `/proc/PID/status`: 65,536 supplementary groups of eleven characters, and the rest.
const MOST_STATUS: u64 = 1 << 20;

/// All that decides who may read a process, and which trust domain it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The lines of `/proc/PID/status` about uids, gids, groups and capabilities.
    pub credentials: Vec<u8>,
    /// The label of the security module (`/proc/PID/attr/current`), empty where there is none.
    pub label: Vec<u8>,
    /// The inode numbers of its user, pid and cgroup namespaces; 0 where the kernel has none.
    pub namespaces: [u64; 3],
}

/// A process, from its greeting on.
#[derive(Debug)]
pub struct Peer {
    pid: i32,
    /// `/proc/PID`: this very process, whoever has its number later.
    folder: OwnedFd,
    map: Pagemap,
    memory: File,
    standing: Standing,
    uid: u32,
    gid: u32,
    permitted: u64,
    /// Are we never refused, so that we have to ask as the process itself?
    privileged: bool,
    /// Is it of our user namespace, so that its ids and capabilities mean what ours mean?
    at_home: bool,
    /// We are privileged, and yet the kernel does not show us page frames.
    blind: AtomicBool,
}

impl Peer {
    /// Remember process `pid` as it is now. The caller makes sure that the number is still the
    /// process's afterwards.
    ///
    /// # Errors
    /// [`Error::Left`] if the process may not be read by its own user: it is not dumpable, runs
    /// with another user's or group's rights, or has ended; [`Error::Os`] for what we lack.
    pub fn open(pid: i32) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())
            .map_err(|errno| trouble(pid, "open /proc/PID", errno))?;
        let standing = standing(pid, &folder)?;
        let uid = same(pid, &standing.credentials, b"Uid:")?;
        let gid = same(pid, &standing.credentials, b"Gid:")?;
        let permitted = mask(&standing.credentials, b"CapPrm:");
        let privileged = assume::is_privileged();
        let home = rustix::fs::stat("/proc/self/ns/user").map_or(0, |found| found.st_ino);
        let at_home = standing.namespaces[0] == home;
        let map = Pagemap::of(file(pid, &folder, "pagemap")?, pid);
        let memory = file(pid, &folder, "mem")?;
        let peer = Self {
            pid,
            folder,
            map,
            memory,
            standing,
            uid,
            gid,
            permitted,
            privileged,
            at_home,
            blind: AtomicBool::new(false),
        };
        peer.check()?;
        Ok(peer)
    }

    /// What it was at its greeting.
    #[must_use]
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Make sure that it is what it was.
    ///
    /// # Errors
    /// [`Error::Left`] that says what has changed; [`Error::Os`] for what we lack.
    pub fn check(&self) -> Result<()> {
        let now = standing(self.pid, &self.folder)?;
        if now.credentials != self.standing.credentials {
            return Err(self.refused("runs with other users, groups or capabilities now"));
        }
        if now.label != self.standing.label {
            return Err(self.refused("has another security label now"));
        }
        if now.namespaces != self.standing.namespaces {
            return Err(self.refused("is in other namespaces now"));
        }
        self.check_access()?;
        match self.map.is_alive() {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.refused("runs another program now, or has ended")),
            Err(error) => Err(error),
        }
    }

    /// Could another process with its credentials read it (`PTRACE_MODE_READ`, see ptrace(2))?
    fn check_access(&self) -> Result<()> {
        let hidden = "does not let its own user read it (PR_SET_DUMPABLE), or runs a program with \
                      more rights than its user has";
        let stat = rustix::fs::statat(&self.folder, "status", AtFlags::empty())
            .map_err(|errno| trouble(self.pid, "stat /proc/PID/status", errno))?;
        // What is not dumpable belongs to root (proc(5)).
        if (stat.st_uid, stat.st_gid) != (self.uid, self.gid) {
            return Err(self.refused(hidden));
        }
        let open = || file(self.pid, &self.folder, "pagemap").map(drop);
        if !(self.privileged && self.at_home) {
            return open();
        }
        match assume::with_credentials(self.uid, self.gid, self.permitted, open) {
            Some(Err(Error::Left { .. })) => Err(self.refused(hidden)),
            Some(outcome) => outcome,
            None => Err(Error::os("setfsuid, capset", libc::EPERM)),
        }
    }

    /// Have `work` read it, and return what `work` returns if the process is and was what it has
    /// been since its greeting.
    ///
    /// `work` may be called twice. What it has written is not to be used after an error.
    ///
    /// # Errors
    /// As [`Peer::check`], and whatever `work` returns.
    pub fn visit<T>(&self, mut work: impl FnMut(&Target<'_>) -> Result<T>) -> Result<T> {
        self.check()?;
        let mut target = self.target(true);
        let mut outcome = work(&target);
        if !self.is_proven(&target)? {
            target = self.target(false);
            outcome = work(&target);
        }
        self.check()?;
        outcome
    }

    /// To read it by: with `direct` false, only through files that were open at the greeting.
    ///
    /// The caller asks [`Peer::check`] before; afterwards first [`Peer::is_proven`], then `check`.
    #[must_use]
    pub fn target(&self, direct: bool) -> Target<'_> {
        Target {
            pid: self.pid,
            map: &self.map,
            memory: Some(&self.memory),
            direct: direct && !self.blind.load(Ordering::Relaxed),
            witnesses: RefCell::default(),
        }
    }

    /// Is it certain that all that was read by `target` is of the address space of the greeting?
    ///
    /// # Errors
    /// As [`Peer::check`], also if it is certain that the process has another one now.
    pub fn is_proven(&self, target: &Target<'_>) -> Result<bool> {
        let witnesses = target.witnesses.borrow();
        // Whoever is not privileged is asked by the kernel at each read: it reads what it may.
        if !witnesses.used || !self.privileged {
            return Ok(true);
        }
        let now = Pagemap::of(file(self.pid, &self.folder, "pagemap")?, self.pid);
        for &address in &witnesses.pages {
            let (mut before, mut here, mut after) = ([0], [0], [0]);
            self.map.entries(address, &mut before)?;
            now.entries(address, &mut here)?;
            self.map.entries(address, &mut after)?;
            if before[0] & entry::PRESENT != 0 && before[0] & entry::FRAME == 0 {
                self.blind.store(true, Ordering::Relaxed); // no CAP_SYS_ADMIN
                return Ok(false);
            }
            if !is_own(before[0]) || !alike(before[0], after[0]) {
                continue; // it is just being merged, or written
            }
            if alike(here[0], before[0]) {
                return Ok(true);
            }
            return Err(self.refused("runs another program now, or has ended"));
        }
        Ok(false)
    }

    /// The text of `/proc/PID/maps`, of the program of the greeting.
    ///
    /// # Errors
    /// As [`Peer::check`].
    pub fn maps(&self) -> Result<Vec<u8>> {
        self.check()?;
        let text = text(self.pid, &self.folder, "maps", u64::MAX)?;
        self.check()?;
        Ok(text)
    }

    /// How many pages its address space has (`/proc/PID/statm`).
    ///
    /// # Errors
    /// As [`Peer::check`].
    pub fn pages(&self) -> Result<u64> {
        let text = text(self.pid, &self.folder, "statm", PAGE as u64)?;
        let first = text.split(|byte| *byte == b' ').next().unwrap_or_default();
        number(first, 10).ok_or_else(|| self.refused("has ended"))
    }

    fn refused(&self, why: &str) -> Error {
        Error::Left { pid: self.pid, why: why.into() }
    }
}

const SAME: u64 = entry::PRESENT | entry::EXCLUSIVE | entry::FILE | entry::FRAME;

/// Is this a page of memory that one page table alone maps?
const fn is_own(found: u64) -> bool {
    found & (entry::PRESENT | entry::EXCLUSIVE | entry::FILE) == entry::PRESENT | entry::EXCLUSIVE
}

const fn alike(one: u64, other: u64) -> bool {
    one & SAME == other & SAME
}

fn standing(pid: i32, folder: &OwnedFd) -> Result<Standing> {
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
    // What we cannot read for want of something of our own is not absent: a domain without its
    // label would be too wide.
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

fn number(digits: &[u8], base: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?.trim(), base).ok()
}

/// What follows `name` in one of the lines.
fn line<'a>(lines: &'a [u8], name: &[u8]) -> &'a [u8] {
    lines.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name)).unwrap_or_default()
}

/// The id that stands four times in a line of `status`: real, effective, saved, and for files.
fn same(pid: i32, lines: &[u8], name: &[u8]) -> Result<u32> {
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

fn mask(lines: &[u8], name: &[u8]) -> u64 {
    number(line(lines, name), 16).unwrap_or(0)
}

fn file(pid: i32, folder: &OwnedFd, name: &'static str) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(folder, name, flags, Mode::empty());
    opened.map(File::from).map_err(|errno| trouble(pid, "open a file of /proc/PID", errno))
}

fn text(pid: i32, folder: &OwnedFd, name: &'static str, most: u64) -> Result<Vec<u8>> {
    let mut found = Vec::with_capacity(PAGE);
    match file(pid, folder, name)?.take(most).read_to_end(&mut found) {
        Ok(_) => Ok(found),
        Err(error) => {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Err(trouble(pid, "read a file of /proc/PID", errno))
        }
    }
}

/// What the process has to do with is its end as a peer; what we lack is not.
fn trouble(pid: i32, call: &'static str, errno: Errno) -> Error {
    let why = match errno {
        Errno::NOENT | Errno::SRCH => "has ended",
        Errno::ACCESS | Errno::PERM => {
            "may not be read by this hub: see PR_SET_DUMPABLE, the Yama setting \
             kernel.yama.ptrace_scope, and who the hub runs as"
        }
        _ => return Error::os(call, errno.raw_os_error()).of_pid(pid),
    };
    Error::Left { pid, why: why.into() }
}

impl Pagemap {
    /// Has the address space that it was opened on users still?
    fn is_alive(&self) -> Result<bool> {
        let mut first = [0; 8];
        match self.file().read_at(&mut first, 0) {
            Ok(count) => Ok(count > 0),
            Err(error) => Err(Error::of_proc("read /proc/PID/pagemap", &error, self.pid())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{memory, remote};
    use std::process::Command;

    fn own() -> Peer {
        Peer::open(std::process::id() as i32).unwrap()
    }

    #[test]
    fn a_process_is_read_as_by_its_number() {
        let mut memory = memory::Anonymous::new(8).unwrap();
        memory.bytes()[..PAGE].fill(1);
        memory.bytes()[5 * PAGE] = 2;
        let pid = std::process::id() as i32;
        let (mut one, mut other) = ([9; 8], [9; 8]);
        remote::look(pid, memory.address(), 3, &mut one, 1).unwrap();
        let peer = own();
        let start = memory.address();
        let direct = peer.target(true);
        remote::look_at(&direct, start, 3, &mut other, 1).unwrap();
        assert_eq!(one, other);
        assert!(peer.is_proven(&direct).unwrap() || peer.blind.load(Ordering::Relaxed));
        other.fill(9);
        remote::look_at(&peer.target(false), start, 3, &mut other, 1).unwrap();
        assert_eq!(one, other);
        other.fill(9);
        peer.visit(|target| remote::look_at(target, start, 3, &mut other, 1)).unwrap();
        assert_eq!(one, other);
    }

    #[test]
    fn a_frame_of_another_address_space_proves_nothing() {
        if !assume::is_privileged() {
            eprintln!("without CAP_SYS_PTRACE the kernel asks: nothing to prove");
            return;
        }
        let mut one = memory::Anonymous::new(1).unwrap();
        one.bytes()[0] = 1;
        let mut other = Command::new("sleep").arg("9").spawn().unwrap();
        let (peer, stranger) = (own(), Peer::open(other.id() as i32).unwrap());
        let mixed = Peer { map: peer.map, ..stranger };
        let target = mixed.target(true);
        target.witnesses.borrow_mut().used = true;
        target.witnesses.borrow_mut().pages.push(one.address());
        assert!(matches!(mixed.is_proven(&target), Err(Error::Left { .. })));
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn what_has_ended_is_no_peer() {
        let mut child = Command::new("sleep").arg("9").spawn().unwrap();
        let peer = Peer::open(child.id() as i32).unwrap();
        peer.check().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(peer.check(), Err(Error::Left { .. })));
        assert!(matches!(Peer::open(child.id() as i32), Err(Error::Left { .. })));
    }
}
