//! Finds a hub, or starts one, and greets it.

use super::Agent;
use crate::spawn::Claim;
use crate::{lock, spawn, HUBLESS};
use pagemerge_pages::wire::{self, bytes_of, kind, Connection, Hello};
use pagemerge_pages::{Error, Result};
use rustix::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Tries to connect, 10 ms apart; the others are 2 s apart.
const FAST: u32 = 200;

/// Whether to start a hub, after so many tries without one: at once, after 0.25, 0.5, 1 and 2 s,
/// after 10, 20, 40, ... s more, and every 400 s. The hub may be killed while it starts, when memory
/// is short.
fn is_start(tries: u32) -> bool {
    let (step, since) = if tries <= FAST { (25, tries) } else { (5, tries - FAST) };
    since % step == 0 && ((since / step).count_ones() <= 1 || since % 200 == 0)
}

/// Let the hub read this process. Under Yama it may do so only with our permission; EINVAL: there
/// is no Yama.
fn admit(hub: i32) {
    // SAFETY: prctl with integers.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, hub, 0, 0, 0) };
}

/// The process that listens at the other end. (The pid is 0 for a process of another PID namespace,
/// and then it is no pid.)
fn peer_of(stream: &UnixStream) -> Result<libc::ucred> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into `found`, which has that size.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut size,
        )
    };
    if done == 0 {
        Ok(found)
    } else {
        Err(Error::last_os("getsockopt SO_PEERCRED"))
    }
}

/// What decides, beside a name, to which trust domain a process belongs.
#[derive(PartialEq, Eq)]
pub struct Standing {
    user: u32,
    namespaces: [u64; 3],
    label: Vec<u8>,
}

/// Returns this process's standing as it is now.
pub fn standing() -> Standing {
    let inode =
        |name: &str| rustix::fs::stat(format!("/proc/self/ns/{name}")).map_or(0, |it| it.st_ino);
    Standing {
        user: rustix::process::geteuid().as_raw(),
        namespaces: ["user", "pid", "cgroup"].map(inode),
        label: std::fs::read("/proc/self/attr/current").unwrap_or_default(),
    }
}

impl Agent<'_> {
    /// Connect to the hub; start a hub if none listens and there is work for it.
    pub fn connect(&mut self) {
        let wanted = self.current.is_some() || {
            let state = lock();
            !state.jobs.is_empty() || state.table.iter().next().is_some()
        };
        if self.connection.is_some() || !wanted || Instant::now() < self.next_try {
            return;
        }
        match UnixStream::connect(&self.config.socket) {
            Ok(stream) => {
                self.tries = 0;
                self.dismissed += 1; // a welcome takes it back
                if let Err(error) = self.greet(stream) {
                    self.disconnect(&error);
                }
            }
            Err(error) => {
                if is_start(self.tries) && !self.config.hub.is_empty() {
                    if let Claim::Ours(lock) = spawn::claim(&self.config.socket) {
                        let _ = spawn::detached(&self.config.hub, lock.as_ref());
                    }
                }
                self.tries = self.tries.saturating_add(1);
                // 10 ms at first, while a new hub starts; every 2 s in the long run.
                let pause = Duration::from_millis(if self.tries < FAST { 10 } else { 2000 });
                if self.tries == FAST {
                    HUBLESS.store(true, Ordering::Relaxed);
                }
                self.next_try = Instant::now() + pause;
                let path = self.config.socket.display();
                self.trouble = Error::Hub(format!(
                    "no hub answers at {path}: {error}; start one: pagemerge daemon"
                ));
            }
        }
    }

    fn greet(&mut self, stream: UnixStream) -> Result<()> {
        let path = self.config.socket.display();
        let hub = peer_of(&stream)?;
        if hub.uid != rustix::process::geteuid().as_raw() && hub.uid != 0 {
            return Err(Error::Hub(format!("the hub at {path} belongs to another user")));
        }
        let standing = standing();
        if self.standing != standing {
            // This process must not use what processes of another user, label or namespace share.
            self.standing = standing;
            self.slabs.clear();
        }
        // 0 for a hub outside our PID namespace: we cannot name such a process to Yama. A hub that
        // runs as root needs no permission; another one reports that it may not read us.
        let pid = hub.pid;
        if pid != 0 {
            admit(pid);
        }
        self.barriers.reader = pid;
        let mut connection = Connection::new(stream);
        let hello = Hello { version: wire::VERSION, barrier: self.barriers.kind() };
        let (domain, reason) = (self.config.domain.as_bytes(), self.barriers.reason().as_bytes());
        connection.send(kind::HELLO, 0, &[bytes_of(&[hello]), domain, b"\0", reason], None)?;
        for slab in self.slabs.values() {
            connection.send(kind::HANDBACK, 0, &[], Some(slab.descriptor.as_fd()))?;
        }
        self.connection = Some(connection);
        self.last_note.clear();
        lock().summary.hub = Some(pid);
        self.resume_job()
    }

    /// The connection has ended, or could not be made.
    pub fn disconnect(&mut self, error: &Error) {
        self.connection = None;
        self.trouble = if self.dismissed == 0 {
            error.clone()
        } else {
            Error::Hub(format!("the hub does not let us join ({error}); its log may tell why"))
        };
        lock().summary.hub = None;
        self.tries = 0;
        // If a hub dies, the agent looks for the next one at once. A hub that refuses us (because
        // it has another version, or is short of descriptors) will not change its mind if we ask
        // all the time.
        let pause = if self.dismissed == 0 { 0 } else { 10 << self.dismissed.min(8) };
        self.next_try = Instant::now() + Duration::from_millis(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_of_a_hub_come_soon_and_then_seldom() {
        let fast: Vec<u32> = (0..=FAST).filter(|&it| is_start(it)).collect();
        assert_eq!(fast, [0, 25, 50, 100, 200]);
        let slow: Vec<u32> = (1..=600).filter(|&it| is_start(FAST + it)).collect();
        assert_eq!(slow, [5, 10, 20, 40, 80, 160, 200, 320, 400, 600]);
    }
}
