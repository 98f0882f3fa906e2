//! Finds the thread of a process that notices least when it is stopped for a moment.
//!
//! A thread that computes notices nothing. A thread that waits is woken, and the kernel makes its
//! call again: most calls do not show that, some do (signal(7), "Interruption of system calls by
//! stop signals"; docs/kernel.md has what was measured).

use super::{arch, refusals};
use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::fs;

/// Read a file of /proc. A process's name in it can hold any bytes.
fn text(path: impl AsRef<std::path::Path>) -> std::io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A thread, and how much it would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    pub notices: Notices,
    /// Ticks in user mode. A thread that runs may be about to wait: the thread that has computed
    /// most is the one that will most likely still compute in a moment.
    computed: Reverse<u64>,
    pub thread: i32,
}

impl Candidate {
    /// Returns whether the thread still notices as little as when it was chosen.
    pub fn is_still(&self, pid: i32) -> bool {
        let call = text(format!("/proc/{pid}/task/{}/syscall", self.thread));
        call.is_ok_and(|call| waiting_in(&call) <= self.notices)
    }
}

/// Returns whether a thread runs, or waits only for a processor.
pub fn is_runnable(pid: i32, thread: i32) -> bool {
    let stat = text(format!("/proc/{pid}/task/{thread}/stat"));
    stat.is_ok_and(|stat| refusals::stat_fields(&stat).first() == Some(&"R"))
}

/// How much a thread notices; the order is the order in which threads are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notices {
    /// It computes.
    Nothing,
    /// It waits in a call that goes on waiting until its original timeout.
    Time,
    /// It waits in a call that begins again.
    Restart,
    /// It waits in a call that may return early: EINTR, or less than was asked for.
    Early,
    /// It cannot be stopped before something else happens.
    Stuck,
}

/// Returns whether another process has begun to trace a thread. It may be another pagemerge, which
/// is done soon.
pub fn is_traced(pid: i32, thread: i32) -> bool {
    let status = text(format!("/proc/{pid}/task/{thread}/status"));
    status.is_ok_and(|status| refusals::field(&status, "TracerPid:") != Some("0"))
}

/// The threads of process `pid`; the thread that notices least comes first. Threads that seccomp(2)
/// confines are left out: a filter may kill them for a call that it does not know.
///
/// # Errors
/// `Refused` if all are confined; `Os` if the process has gone or may not be looked at.
pub fn of(pid: i32) -> Result<Vec<Candidate>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))
        .map_err(|error| Error::of_proc("read of task", &error, pid))?;
    let mut found = Vec::new();
    let mut confined = false;
    for entry in entries.flatten() {
        let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let read = |name: &str| text(entry.path().join(name));
        let (Ok(status), Ok(call)) = (read("status"), read("syscall")) else {
            continue; // it has ended
        };
        match refusals::field(&status, "Seccomp:") {
            None | Some("0") => {}
            Some(_) => {
                confined = true;
                continue;
            }
        }
        let state = refusals::field(&status, "State:").and_then(|text| text.chars().next());
        let notices = match state {
            None | Some('Z' | 'X') => continue,
            Some('D') => Notices::Stuck,
            Some(_) => waiting_in(&call),
        };
        let stat = if notices == Notices::Nothing { read("stat") } else { Ok(String::new()) };
        let stat = stat.unwrap_or_default();
        let computed = refusals::stat_fields(&stat).get(11).and_then(|ticks| ticks.parse().ok());
        found.push(Candidate { notices, computed: Reverse(computed.unwrap_or(0)), thread });
    }
    if found.is_empty() {
        let why = if confined {
            "is confined by seccomp(2), whose filter might kill it for a prctl or madvise that it \
             did not ask for itself: start it with `pagemerge run --engine kernel` instead"
        } else {
            "has no thread that runs"
        };
        return Err(Error::Refused { pid, why: why.into() });
    }
    found.sort_unstable();
    Ok(found)
}

/// Returns what a thread would notice, by the text of /proc/PID/task/TID/syscall (proc(5)).
fn waiting_in(text: &str) -> Notices {
    let mut words = text.split_ascii_whitespace();
    let Some(number) = words.next().and_then(|word| word.parse::<i64>().ok()) else {
        return Notices::Nothing; // "running"
    };
    let mut arguments = [0_u64; 6];
    for (argument, word) in arguments.iter_mut().zip(words) {
        *argument = u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap_or(0);
    }
    if PATIENT.contains(&number) || arch::PATIENT.contains(&number) {
        return Notices::Time;
    }
    if arch::is_forgiven(number, &arguments) {
        return Notices::Restart;
    }
    if TOUCHY.contains(&number) || arch::TOUCHY.contains(&number) {
        return Notices::Early;
    }
    Notices::Restart
}

/// Calls that wait until a point in time, or for something that they cannot take half of.
const PATIENT: [i64; 8] = [
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_rt_sigsuspend,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// Calls that a stop may end early, or with only part of what was asked for.
const TOUCHY: [i64; 22] = [
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    libc::SYS_io_uring_enter,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_vmsplice,
    libc::SYS_copy_file_range,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_getrandom,
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    #[test]
    fn who_computes_comes_first_and_who_may_return_early_last() {
        let call = |number: i64, fourth: &str| {
            waiting_in(&format!("{number} 0x3 0x1 0x1 {fourth} 0x0 0x0 0x7ffe 0x7f00\n"))
        };
        assert_eq!(waiting_in("running\n"), Notices::Nothing);
        assert_eq!(waiting_in("-1 0x7ffe 0x7f00\n"), Notices::Restart);
        assert_eq!(call(libc::SYS_nanosleep, "0x0"), Notices::Time);
        assert_eq!(call(libc::SYS_read, "0x0"), Notices::Restart);
        assert_eq!(call(libc::SYS_write, "0x0"), Notices::Early);
        assert_eq!(call(libc::SYS_epoll_pwait, "0x64"), Notices::Early);
        assert!(Notices::Nothing < Notices::Time && Notices::Early < Notices::Stuck);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn an_endless_wait_begins_again() {
        let endless = format!("{} 0x3 0x1 0x1 0xffffffff 0x0 0x0 0x7ffe 0x7f00\n", 232);
        assert_eq!(waiting_in(&endless), Notices::Restart);
        assert_eq!(waiting_in(&endless.replace("0xffffffff", "0x64")), Notices::Early);
    }

    #[test]
    fn a_thread_that_computes_is_the_first_of_its_process() {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut first = Notices::Stuck;
            while first != Notices::Nothing && Instant::now() < deadline {
                first = of(std::process::id() as i32).unwrap()[0].notices;
            }
            over.store(true, Ordering::Relaxed);
            assert_eq!(first, Notices::Nothing);
        });
    }
}
