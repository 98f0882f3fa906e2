//! Which barrier this process uses, and why not a better one.

use pagemerge_pages::barrier::moving::Mover;
use pagemerge_pages::barrier::park::Parker;
use pagemerge_pages::barrier::protect::Protector;
use pagemerge_pages::barrier::window::{Backing, Barrier};
use pagemerge_pages::wire::barrier;
use pagemerge_pages::{Error, Result};
use std::time::Duration;

/// After a fork that looked for pinned pages and took a time, the next one comes this many times that
/// time later: it copies page tables, and the program's next writes are faults.
const REST: u32 = 8;

/// The longest that a plan waits for that.
const PATIENCE: Duration = Duration::from_millis(250);

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The best that stops no threads: move, else write-protect, else none.
    Auto,
    /// UFFDIO_MOVE or nothing.
    Move,
    /// UFFDIO_WRITEPROTECT or nothing.
    WriteProtect,
    /// Stopped threads.
    Park,
    /// No background merging.
    Intern,
}

impl Choice {
    /// Parse a barrier's name, as `PAGEMERGE_BARRIER` gives it.
    ///
    /// # Errors
    /// `Usage` with the names there are.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "" | "auto" => Self::Auto,
            "move" => Self::Move,
            "write-protect" => Self::WriteProtect,
            "park" => Self::Park,
            "intern" => Self::Intern,
            _ => {
                return Err(Error::Usage(format!(
                    "no barrier is called {name:?}: auto, move, write-protect, park or intern"
                )))
            }
        })
    }
}

/// The barriers of this process.
pub struct Barriers {
    choice: Choice,
    kind: u32,
    mover: Option<Mover>,
    protector: Option<Protector>,
    parker: Option<Parker>,
    /// Do some pages of the plan stand on slabs?
    slabs: bool,
    reason: String,
    note: String,
    /// The process that may read this one (Yama); parking names another for a while.
    pub reader: i32,
}

impl Barriers {
    /// Find out what this host allows.
    pub fn choose(choice: Choice) -> Self {
        let mut this = Self {
            choice,
            kind: barrier::INTERN,
            mover: None,
            protector: None,
            parker: None,
            slabs: false,
            reason: String::new(),
            note: String::new(),
            reader: 0,
        };
        this.open();
        this
    }

    fn open(&mut self) {
        let mut reasons = Vec::new();
        if matches!(self.choice, Choice::Auto | Choice::Move) {
            match self.new_mover() {
                Ok((mover, lack)) => {
                    reasons.extend(lack.map(|lack| format!("move, as asked for, but: {lack}")));
                    self.mover = Some(mover);
                    self.kind = barrier::MOVE;
                }
                Err(error) => reasons.push(format!("move: {error}")),
            }
        }
        // Beside move it serves pages that were merged before: those cannot be moved.
        if matches!(self.choice, Choice::Auto | Choice::Move | Choice::WriteProtect) {
            match Protector::new(REST) {
                Ok(protector) => {
                    self.protector = Some(protector);
                    if self.mover.is_none() && self.choice != Choice::Move {
                        self.kind = barrier::WRITE_PROTECT;
                    }
                }
                // No userfaultfd at all: said once is enough.
                Err(_) if self.mover.is_none() && self.choice != Choice::WriteProtect => {}
                Err(error) => reasons.push(format!("write-protect: {error}")),
            }
        }
        match self.choice {
            Choice::Park => self.kind = barrier::PARK,
            Choice::Intern => reasons.push("background merging was not wanted".into()),
            _ => {}
        }
        self.reason = reasons.join("; ");
    }

    /// A mover that fills the holes of children that are born in a window; without one such child
    /// would have wrong bytes, so one that cannot is taken only where it was asked for by name: then
    /// with the reason.
    fn new_mover(&self) -> Result<(Mover, Option<Error>)> {
        match Mover::new() {
            Ok(mover) => Ok((mover, None)),
            Err(lack) if self.choice == Choice::Move => Ok((Mover::without_forks()?, Some(lack))),
            Err(lack) => Err(lack),
        }
    }

    /// One of `wire::barrier`.
    pub const fn kind(&self) -> u32 {
        self.kind
    }

    /// Why it is not a better one; empty if there is none.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What holds merging back now; empty if nothing does.
    pub fn current_note(&self) -> &str {
        &self.note
    }

    /// Remember what holds merging back.
    pub fn note(&mut self, error: &Error) {
        self.note = error.to_string();
    }

    /// Get ready for a plan; one that is carried out at birth needs no barrier. `slabs`: some of
    /// its pages stand on slabs, which cannot be moved.
    ///
    /// # Errors
    /// `Unsupported` if this process must not be merged now, with the cause.
    pub fn prepare(&mut self, birth: bool, slabs: bool) -> Result<()> {
        self.note.clear();
        self.slabs = slabs;
        refuse_kernel_ksm()?;
        refuse_locked()?;
        if birth {
            return Ok(());
        }
        match self.kind {
            barrier::MOVE if self.mover.is_none() => {
                self.mover = Some(self.new_mover()?.0);
            }
            barrier::PARK => self.parker = Some(Parker::new()?),
            barrier::INTERN => {
                return Err(Error::Unsupported("this process merges at birth only".into()))
            }
            _ => {}
        }
        if self.protector.is_none() && self.kind != barrier::PARK {
            self.protector = Protector::new(REST).ok();
        }
        Ok(())
    }

    /// Wait until pinned pages can be looked for, if a window needs that and it is soon.
    pub fn rest(&self, backing: Backing, birth: bool) {
        let looks = backing == Backing::Slab || self.kind == barrier::WRITE_PROTECT;
        if let (true, false, Some(protector)) = (looks, birth, &self.protector) {
            let wait = protector.rest();
            if !wait.is_zero() && wait <= PATIENCE {
                std::thread::sleep(wait);
            }
        }
    }

    /// The barrier for memory that stands on `backing`.
    pub fn barrier(&mut self, backing: Backing) -> Option<&mut dyn Barrier> {
        let slabs = backing == Backing::Slab;
        match self.kind {
            barrier::PARK => self.parker.as_mut().map(|parker| parker as &mut dyn Barrier),
            barrier::MOVE if !slabs => self.mover.as_mut().map(|mover| mover as &mut dyn Barrier),
            barrier::MOVE if !self.slabs => None, // they came after `prepare` was told
            barrier::MOVE | barrier::WRITE_PROTECT => self
                .protector
                .as_mut()
                .filter(|protector| !slabs || protector.takes_slabs())
                .map(|protector| protector as &mut dyn Barrier),
            _ => None,
        }
    }

    /// A barrier could not be raised or lowered. Dropping it closes its userfaultfd, and that
    /// wakes whoever might still wait.
    pub fn failed(&mut self, error: &Error) {
        if let Error::Unsupported(_) = error {
            // Refused before anything was done. The barrier stays out for the rest of the plan.
            self.note(error);
            self.protector = None;
            self.finish();
        } else if error.errno() != Some(libc::EAGAIN) {
            self.note(error);
            (self.mover, self.protector) = (None, None);
            if self.kind == barrier::MOVE {
                self.mover = self.new_mover().ok().map(|it| it.0);
            }
        }
    }

    /// A plan is done: nobody stays traced between plans.
    pub fn finish(&mut self) {
        if self.parker.take().is_some() {
            // SAFETY: prctl with integers. EINVAL: there is no Yama.
            unsafe { libc::prctl(libc::PR_SET_PTRACER, self.reader, 0, 0, 0) };
        }
    }
}

/// A range belongs to one engine at a time: ksmd takes all memory of a process where this is on.
fn refuse_kernel_ksm() -> Result<()> {
    const PR_GET_MEMORY_MERGE: i32 = 68; // Linux 6.4
                                         // SAFETY: prctl with integers; through libc's number, because the preload library answers
                                         // libc's own prctl in the program's place.
    let on = unsafe {
        let none = 0_usize;
        libc::syscall(libc::SYS_prctl, PR_GET_MEMORY_MERGE, none, none, none, none)
    };
    if on <= 0 {
        return Ok(());
    }
    Err(Error::Unsupported(
        "kernel KSM merges this process (PR_SET_MEMORY_MERGE, by itself or inherited): start it \
         with `pagemerge run --engine user`, which switches that off"
            .into(),
    ))
}

/// Locked memory must stay where it is, page by page; the kernel gives only the sum cheaply.
fn refuse_locked() -> Result<()> {
    // The name in it is any bytes.
    let status = std::fs::read("/proc/self/status")
        .map_err(|error| Error::os("read of status", error.raw_os_error().unwrap_or(0)))?;
    let mut lines = status.split(|&byte| byte == b'\n');
    let locked = lines.find_map(|line| line.strip_prefix(b"VmLck:"));
    let locked = locked.map(|amount| String::from_utf8_lossy(amount.trim_ascii()));
    match locked.as_deref() {
        None | Some("0 kB") => Ok(()),
        Some(amount) => Err(Error::Unsupported(format!(
            "this process has locked memory ({amount}, mlock(2)), which must not be remapped"
        ))),
    }
}
