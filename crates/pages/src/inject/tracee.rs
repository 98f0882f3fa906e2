//! One thread of another process, stopped, made to do calls, and let go exactly as it was.

#[cfg(target_arch = "aarch64")]
mod aarch64;

use super::trouble::Trouble;
use super::{arch, candidates, sequences, Call};
use crate::error::Error;
use crate::trace::{has_ended, ptrace};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// A thread that has not stopped after this time is left alone: it waits for a device, or in a
/// vfork.
const DEADLINE: Duration = Duration::from_millis(500);
/// How long to wait for a thread that waits for a processor, on a busy host: it will get one.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for a stop without sleeping.
const EAGER: Duration = Duration::from_micros(50);
/// How long a sleep lasts at most, if the kernel does not end it with SIGCHLD: a process that
/// ignores SIGCHLD gets none.
const NAP: Duration = Duration::from_micros(100);

/// How often we try to trace a thread before we take it as forbidden.
const SEIZES: usize = 5;
/// How the reasons begin.
const NOT_STOPPED: &str = "did not stop";

const NT_PRSTATUS: usize = 1;
/// Linux, include/linux/errno.h: these never leave the kernel; the caller has to try again.
const RESTARTS: std::ops::RangeInclusive<i64> = -516..=-512;
/// Distinguishes stops at a call from stops by a signal (ptrace(2), PTRACE_O_TRACESYSGOOD).
const AT_CALL: i32 = libc::SIGTRAP | 0x80;
const PTRACE_EVENT_STOP: i32 = 128;

/// The reason for which a thread has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// We asked for it, or the whole process is stopped (SIGSTOP), or has just been continued.
    Asked,
    /// This signal is about to be delivered.
    Signal(i32),
    /// The thread enters or leaves a call.
    Call,
}

/// The guard: when it is dropped, on any path, the thread gets its registers and signals back.
pub struct Tracee {
    pub pid: i32,
    pub thread: i32,
    /// The address of a system call instruction.
    place: u64,
    memory: File,
    /// Why the thread is stopped; None while it runs.
    stop: Option<Stop>,
    /// Whether the thread has entered a call of ours and not left it.
    inside: bool,
    /// The thread's registers, as they have to be again.
    saved: Option<arch::Registers>,
    /// Whether the registers have been changed since.
    changed: bool,
    /// The signals that the thread had blocked, while it has all of them blocked.
    mask: Option<u64>,
    gone: bool,
}

impl Tracee {
    /// Begin to trace `thread` of `pid`, and ask it to stop. Only the task whose end lets the
    /// target go may call this.
    pub fn seize(pid: i32, thread: i32, place: u64) -> Result<Self, Trouble> {
        let memory = File::open(format!("/proc/{pid}/mem"))
            .map_err(|error| Error::of_proc("open of mem", &error, pid))?;
        // Without PTRACE_O_EXITKILL: if we end, the thread goes on.
        let options = libc::PTRACE_O_TRACESYSGOOD as usize;
        let mut seized = Err(libc::EPERM);
        for _ in 0..SEIZES {
            seized = ptrace(libc::PTRACE_SEIZE, thread, 0, options);
            if seized != Err(libc::EPERM) {
                break;
            }
            if candidates::is_traced(pid, thread) {
                return Err(Trouble::Again("is traced by another process all the time".into()));
            }
            // It is forbidden; or another process traced the thread just now, which cannot be seen
            // any more.
        }
        let seized = seized.and_then(|()| ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0));
        match seized {
            Ok(()) => {}
            Err(libc::ESRCH) => return Err(Trouble::Again("ends one thread after another".into())),
            Err(errno) => return Err(Error::os("ptrace(PTRACE_SEIZE)", errno).of_pid(pid).into()),
        }
        let (stop, saved, mask) = (None, None, None);
        let (inside, changed, gone) = (false, false, false);
        Ok(Self { pid, thread, place, memory, stop, inside, saved, changed, mask, gone })
    }

    /// Wait until the thread has stopped, and save its state. Signals that come first are delivered
    /// as if we were not there.
    pub fn stop(&mut self) -> Result<(), Trouble> {
        self.wait_asked(Some(Instant::now() + DEADLINE))?;
        sequences::refuse_dispatch(self.thread)?;
        self.note()?;
        self.settle()
    }

    /// Make the thread do `call`; returns its result, which is negative for an error number.
    pub fn call(&mut self, call: &Call) -> Result<i64, Trouble> {
        loop {
            let saved = self.saved.ok_or_else(|| self.lost())?;
            self.set_registers(&arch::calling(&saved, call, self.place))?;
            if self.enter()? {
                break;
            }
            // A signal came first, and its handler: the thread makes our call at the start of the
            // handler.
            self.note()?;
        }
        self.block_signals()?;
        self.leave()?;
        let result = arch::result(&self.registers()?);
        if RESTARTS.contains(&result) {
            let why = "is interrupted whenever it is asked, by SIGSTOP or SIGKILL";
            return Err(Trouble::Again(why.into()));
        }
        Ok(result)
    }

    /// Let the thread go as it was; an error means that it has ended meanwhile.
    pub fn release(mut self) -> Result<(), Trouble> {
        self.let_go()
    }

    /// Run to the entry of the next call. Returns false if a signal came first: the thread then has
    /// its own registers again, perhaps at the start of a handler.
    pub fn enter(&mut self) -> Result<bool, Trouble> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.resume(libc::PTRACE_SYSCALL, 0)?;
            match self.wait(Some(deadline))? {
                Some(Stop::Call) => {
                    self.inside = true;
                    return Ok(true);
                }
                Some(Stop::Asked) => {} // The process was stopped or continued: the thread goes on.
                Some(Stop::Signal(signal)) => {
                    // With all others blocked this signal is SIGSTOP, which has no handler.
                    self.restore_registers()?;
                    self.deliver(signal)?;
                    self.wait_asked(None)?;
                    return Ok(false);
                }
                None => {
                    // The thread got our registers but no processor: it is frozen (cgroup). It must
                    // not keep them.
                    self.let_go()?;
                    let why = format!("{NOT_STOPPED} at its own system call (a frozen cgroup?)");
                    return Err(Trouble::Stuck(why));
                }
            }
        }
    }

    /// Run to the end of the call that the thread has entered, however long that takes: there is no
    /// way back from inside.
    pub fn leave(&mut self) -> Result<(), Trouble> {
        loop {
            self.resume(libc::PTRACE_SYSCALL, 0)?;
            match self.wait(None)? {
                Some(Stop::Call) => {
                    self.inside = false;
                    return Ok(());
                }
                Some(Stop::Signal(signal)) => self.deliver(signal)?,
                Some(Stop::Asked) | None => {}
            }
        }
    }

    /// The thread's registers at this stop.
    pub fn registers(&mut self) -> Result<arch::Registers, Trouble> {
        // SAFETY: a structure of integers.
        let mut registers: arch::Registers = unsafe { std::mem::zeroed() };
        let size = size_of::<arch::Registers>();
        let mut part = libc::iovec { iov_base: (&raw mut registers).cast(), iov_len: size };
        self.ask(libc::PTRACE_GETREGSET, NT_PRSTATUS, (&raw mut part) as usize)?;
        if part.iov_len != size {
            return Err(Trouble::Again("runs 32-bit code".into()));
        }
        Ok(registers)
    }

    /// Does nothing: the kernel has not begun to restart an interrupted call when the thread stops,
    /// and does so by its own rules when the thread goes on with the same registers.
    #[cfg(target_arch = "x86_64")]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)] // as on aarch64
    fn settle(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    /// Read bytes of the thread's memory.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Trouble> {
        self.memory
            .read_exact_at(bytes, address)
            .map_err(|error| Error::of_proc("read of mem", &error, self.pid).at(address).into())
    }

    /// Save the thread's registers, which are its own now.
    fn note(&mut self) -> Result<(), Trouble> {
        let mut registers = self.registers()?;
        sequences::check(self.thread, &registers, |address, bytes| self.read(address, bytes))?;
        arch::forgive(&mut registers);
        self.saved = Some(registers);
        Ok(())
    }

    fn set_registers(&mut self, registers: &arch::Registers) -> Result<(), Trouble> {
        let mut registers = *registers;
        let size = size_of::<arch::Registers>();
        let mut part = libc::iovec { iov_base: (&raw mut registers).cast(), iov_len: size };
        self.changed = true;
        self.ask(libc::PTRACE_SETREGSET, NT_PRSTATUS, (&raw mut part) as usize)
    }

    fn restore_registers(&mut self) -> Result<(), Trouble> {
        if let (true, Some(saved)) = (self.changed, self.saved) {
            self.set_registers(&saved)?;
            self.changed = false;
        }
        Ok(())
    }

    /// Block all signals. Separating pages ends early when a signal comes (`unmerge_ksm_pages`,
    /// mm/ksm.c). So no signal may come before our call has ended; signals that came before it have
    /// been delivered.
    fn block_signals(&mut self) -> Result<(), Trouble> {
        if self.mask.is_some() {
            return Ok(());
        }
        let (mut before, all) = (0_u64, u64::MAX);
        self.ask(libc::PTRACE_GETSIGMASK, 8, (&raw mut before) as usize)?;
        self.mask = Some(before);
        self.ask(libc::PTRACE_SETSIGMASK, 8, (&raw const all) as usize)
    }

    fn restore_mask(&mut self) -> Result<(), Trouble> {
        if let Some(before) = self.mask {
            self.ask(libc::PTRACE_SETSIGMASK, 8, (&raw const before) as usize)?;
            self.mask = None;
        }
        Ok(())
    }

    /// Restore registers and signals, and let the thread go. Whatever it does now, it is brought to
    /// the one kind of stop in which the kernel restarts an interrupted call by its own rule.
    fn let_go(&mut self) -> Result<(), Trouble> {
        if self.gone || (self.saved.is_none() && self.stop.is_none()) {
            return Ok(()); // It still runs: the end of this thread lets it go.
        }
        if self.changed || self.mask.is_some() {
            if self.inside {
                self.leave()?;
            }
            if self.stop != Some(Stop::Asked) {
                self.ask(libc::PTRACE_INTERRUPT, 0, 0)?;
                match self.stop {
                    Some(Stop::Signal(signal)) => self.resume(libc::PTRACE_CONT, signal)?,
                    Some(_) => self.resume(libc::PTRACE_CONT, 0)?,
                    None => {}
                }
                self.wait_asked(None)?;
            }
            self.restore_registers()?;
            self.restore_mask()?;
        } else if let Some(saved) = self.saved {
            // What `forgive` has decided holds even if no call was made.
            self.set_registers(&saved)?;
        }
        let signal = if let Some(Stop::Signal(signal)) = self.stop { signal } else { 0 };
        self.gone = true;
        // ESRCH: it was killed.
        let _ = ptrace(libc::PTRACE_DETACH, self.thread, 0, signal as usize);
        Ok(())
    }

    /// Wait for the stop that we asked for, delivering what comes before it.
    fn wait_asked(&mut self, deadline: Option<Instant>) -> Result<(), Trouble> {
        loop {
            match self.wait(deadline)? {
                Some(Stop::Asked) => return Ok(()),
                Some(Stop::Signal(signal)) => self.deliver(signal)?,
                Some(Stop::Call) => {
                    // The thread has reached a call of ours after all: the call is made, and left.
                    self.ask(libc::PTRACE_INTERRUPT, 0, 0)?;
                    self.resume(libc::PTRACE_CONT, 0)?;
                }
                None => {
                    let why = "in time: it waits for a device or file system, or for the child of \
                               a vfork; try again later";
                    return Err(Trouble::Stuck(format!("{NOT_STOPPED} {why}")));
                }
            }
        }
    }

    /// Give a signal back, and stop again: at the start of its handler if it has one.
    fn deliver(&mut self, signal: i32) -> Result<(), Trouble> {
        self.ask(libc::PTRACE_INTERRUPT, 0, 0)?;
        self.resume(libc::PTRACE_CONT, signal)
    }

    fn resume(&mut self, how: u32, signal: i32) -> Result<(), Trouble> {
        self.stop = None;
        self.ask(how, 0, signal as usize)
    }

    /// The next stop; None at the deadline, which is put off while the thread waits for a
    /// processor.
    fn wait(&mut self, mut deadline: Option<Instant>) -> Result<Option<Stop>, Trouble> {
        let eager = Instant::now() + EAGER;
        let last = eager + PATIENCE;
        loop {
            if let Some(stop) = self.look() {
                self.stop = Some(stop);
                return Ok(self.stop);
            }
            if has_ended(self.thread) {
                return Err(self.lost());
            }
            let now = Instant::now();
            if let Some(until) = deadline.filter(|until| now > *until) {
                if until > last || !candidates::is_runnable(self.pid, self.thread) {
                    return Ok(None);
                }
                deadline = Some(now + DEADLINE / 10);
            }
            if now < eager {
                rustix::thread::sched_yield();
            } else {
                nap();
            }
        }
    }

    /// Why the thread is stopped, if it is. waitpid(2) reports a stop once, to the first task that
    /// asks.
    fn look(&self) -> Option<Stop> {
        // SAFETY: a structure of integers and addresses.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETSIGINFO, self.thread, 0, (&raw mut info) as usize).ok()?;
        Some(match info.si_code {
            AT_CALL => Stop::Call,
            code if code >> 8 == PTRACE_EVENT_STOP => Stop::Asked,
            _ => Stop::Signal(info.si_signo),
        })
    }

    fn ask(&mut self, request: u32, address: usize, data: usize) -> Result<(), Trouble> {
        match ptrace(request, self.thread, address, data) {
            Ok(()) => Ok(()),
            Err(libc::ESRCH) => Err(self.lost()),
            Err(errno) => Err(Error::os("ptrace", errno).of_pid(self.pid).into()),
        }
    }

    /// The thread has been killed, or another thread has called exec: there is nothing to restore.
    fn lost(&mut self) -> Trouble {
        self.gone = true;
        Trouble::Again("has ended meanwhile".into())
    }
}

/// Sleep until a tracee stops, or for `NAP`. All signals are blocked here (`mod.rs`), and a signal
/// sent to this process is for it alone.
fn nap() {
    let timeout = libc::timespec { tv_sec: 0, tv_nsec: NAP.subsec_nanos().into() };
    // SAFETY: the set is ours, and filled in before it is read; no information is asked for.
    unsafe {
        let mut stopped = std::mem::zeroed();
        libc::sigemptyset(&mut stopped);
        libc::sigaddset(&mut stopped, libc::SIGCHLD);
        libc::sigtimedwait(&stopped, std::ptr::null_mut(), &timeout);
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // An error means that the thread has ended.
        let _ = self.let_go();
    }
}
