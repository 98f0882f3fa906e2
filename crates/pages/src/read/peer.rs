//! A process that asked to be read, for as long as it is what it was when it asked.
//!
//! The kernel does not refuse a reader with `CAP_SYS_PTRACE`, so such a reader has to check itself
//! what the kernel would have checked. [`Peer::open`] remembers all that decides which processes
//! may read this one, and opens its page map and its memory. Each read ([`Peer::visit`]) compares
//! before and after, and the caller may use what was read only if nothing has changed.
//!
//! A process that executes another program gets another address space. The open files go on naming
//! the old one: they show nothing any more once no process uses it. process_vm_readv, which is
//! twice as fast as `/proc/PID/mem`, names a process, so it may read the new one; and the old
//! address space may live on in a process that shares it (`clone(CLONE_VM)`). Therefore a direct
//! read counts only if the process still has the address space of the open files afterwards. That
//! is so if one page that was read, and that no other page table maps, is the same page frame in
//! both. An address space that a process has left never comes back, so it was the right one before
//! as well. Where that cannot be shown, the pages are read again through the open memory file.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::pagemap::{entry, Pagemap};
use crate::read::assume;
use crate::read::remote::Target;
use crate::read::standing::{file, mask, number, same, standing, text, trouble, Standing};
use crate::{Error, Result, PAGE};

/// A process, from its greeting on.
#[derive(Debug)]
pub struct Peer {
    pid: i32,
    /// `/proc/PID`: this very process, even if another process gets its number later.
    folder: OwnedFd,
    map: Pagemap,
    memory: File,
    standing: Standing,
    uid: u32,
    gid: u32,
    permitted: u64,
    /// Whether the kernel never refuses us, so that we have to ask as the process itself.
    privileged: bool,
    /// Whether it is of our user namespace, so that its ids and capabilities mean what ours mean.
    at_home: bool,
    /// Whether the kernel does not show us page frames, although we are privileged.
    blind: AtomicBool,
}

impl Peer {
    /// Remember process `pid` as it is now. The caller makes sure that the number still belongs to
    /// the process afterwards.
    ///
    /// # Errors [`Error::Left`] if its own user may not read the process: it is not dumpable, runs
    /// with another user's or group's rights, or has ended; [`Error::Os`] if we lack a resource or
    /// a right.
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

    /// The standing of the process at its greeting.
    #[must_use]
    pub const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Make sure that the process is what it was.
    ///
    /// # Errors [`Error::Left`], with what has changed; [`Error::Os`] if we lack a resource or a
    /// right.
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

    /// Check that another process with its credentials could read it (`PTRACE_MODE_READ`, see
    /// ptrace(2)).
    fn check_access(&self) -> Result<()> {
        let hidden = "does not let its own user read it (PR_SET_DUMPABLE), or runs a program with \
                      more rights than its user has";
        let stat = rustix::fs::statat(&self.folder, "status", AtFlags::empty())
            .map_err(|errno| trouble(self.pid, "stat /proc/PID/status", errno))?;
        // The files of a process that is not dumpable belong to root (proc(5)).
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

    /// Have `work` read the process, and return the result of `work` if the process is, and has
    /// been all the time, what it was at its greeting.
    ///
    /// `work` may be called twice. After an error the caller must not use what `work` has written.
    ///
    /// # Errors
    /// Those of [`Peer::check`], and those of `work`.
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

    /// Returns the target to read the process by; with `direct` false, only through files that were
    /// open at the greeting.
    ///
    /// The caller must call [`Peer::check`] before; afterwards first [`Peer::is_proven`], then
    /// `check`.
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

    /// Returns whether it is certain that everything that was read by `target` is of the address
    /// space of the greeting.
    ///
    /// # Errors
    /// Those of [`Peer::check`], also if it is certain that the process has another one now.
    pub fn is_proven(&self, target: &Target<'_>) -> Result<bool> {
        let witnesses = target.witnesses.borrow();
        // The kernel checks a reader that is not privileged at each read: it reads only what it
        // may.
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

    /// Returns the text of `/proc/PID/maps`, of the program of the greeting.
    ///
    /// # Errors
    /// Those of [`Peer::check`].
    pub fn maps(&self) -> Result<Vec<u8>> {
        self.check()?;
        let text = text(self.pid, &self.folder, "maps", u64::MAX)?;
        self.check()?;
        Ok(text)
    }

    /// Returns the number of pages of its address space, and of its anonymous pages that are present
    /// (`/proc/PID/statm`: size, and resident less shared).
    ///
    /// The kernel may count the second with an error of some dozen pages for each processor.
    ///
    /// # Errors
    /// Those of [`Peer::check`].
    pub fn pages(&self) -> Result<(u64, u64)> {
        let text = text(self.pid, &self.folder, "statm", PAGE as u64)?;
        let mut fields = text.split(|byte| *byte == b' ').map_while(|field| number(field, 10));
        match (fields.next(), fields.next(), fields.next()) {
            (Some(all), Some(resident), Some(shared)) => Ok((all, resident.saturating_sub(shared))),
            _ => Err(self.refused("has ended")),
        }
    }

    fn refused(&self, why: &str) -> Error {
        Error::Left { pid: self.pid, why: why.into() }
    }
}

const SAME: u64 = entry::PRESENT | entry::EXCLUSIVE | entry::FILE | entry::FRAME;

/// Returns whether this is an anonymous page that only one page table maps.
const fn is_own(found: u64) -> bool {
    found & (entry::PRESENT | entry::EXCLUSIVE | entry::FILE) == entry::PRESENT | entry::EXCLUSIVE
}

const fn alike(one: u64, other: u64) -> bool {
    one & SAME == other & SAME
}

impl Pagemap {
    /// Returns whether a process still uses the address space that the pagemap was opened on.
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
    use crate::{memory, read::remote};
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
    fn memory_that_is_filled_is_counted() {
        let peer = own();
        let (all, before) = peer.pages().unwrap();
        let mut memory = memory::Anonymous::new(8192).unwrap();
        memory.bytes().fill(1);
        let (more, after) = peer.pages().unwrap();
        assert!(more > before && all >= before);
        assert!(after > before + 4096, "{after} after {before}: other tests come and go, too");
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
