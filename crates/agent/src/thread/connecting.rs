//! Finding a hub, or starting one, and greeting it.

use super::Agent;
use crate::{lock, spawn, HUBLESS};
use pagemerge_pages::wire::{self, bytes_of, kind, Connection, Hello};
use pagemerge_pages::{Error, Result};
use rustix::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Let the hub read us. Where Yama is, it may by our leave only; EINVAL: there is no Yama.
fn admit(hub: i32) {
    // SAFETY: prctl with integers.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, hub, 0, 0, 0) };
}

/// Who listens at the other end. (The pid is 0 for a process of another PID namespace, and then
/// it is no pid.)
fn peer_of(stream: &UnixStream) -> Result<libc::ucred> {
    let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes no more than `size` bytes into `found`, which has as many.
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

/// What decides, beside a name, of which trust domain a process is.
#[derive(PartialEq, Eq)]
pub struct Standing {
    user: u32,
    namespaces: [u64; 3],
    label: Vec<u8>,
}

/// As it is now.
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
    /// Connect to the hub; start one if none listens and somebody has use for it.
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
                self.dismissed += 1; // until it is taken back by a welcome
                if let Err(error) = self.greet(stream) {
                    self.disconnect(&error);
                }
            }
            Err(error) => {
                if self.tries == 0 && !self.config.hub.is_empty() {
                    let _ = spawn::detached(&self.config.hub);
                }
                self.tries += 1;
                // 10 ms at first, while a new hub starts; every 2 s in the long run.
                let pause = Duration::from_millis(if self.tries < 200 { 10 } else { 2000 });
                if self.tries % 400 == 0 {
                    self.tries = 0; // it may have ended as soon as it was started: once more
                }
                if self.tries == 200 {
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
            return Err(Error::Hub(format!("the hub at {path} belongs to somebody else")));
        }
        let standing = standing();
        if self.standing != standing {
            // What the processes of another user, label or namespace share is not for this one's.
            self.standing = standing;
            self.slabs.clear();
        }
        // 0 for a hub outside our PID namespace: Yama can be told of no such process. A hub of
        // root's needs no leave; another one says that it may not read us.
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
        // A hub that dies is followed at once. One that does not want us (of another version, or
        // short of descriptors) will not change its mind for being asked all the time.
        let pause = if self.dismissed == 0 { 0 } else { 10 << self.dismissed.min(8) };
        self.next_try = Instant::now() + Duration::from_millis(pause);
    }
}
