//! The barrier that this process uses, and why it is not a better one.

use pagemerge_pages::barrier::keep;
use pagemerge_pages::barrier::moving::Mover;
use pagemerge_pages::barrier::park::Parker;
use pagemerge_pages::barrier::protect::Protector;
use pagemerge_pages::barrier::window::{Backing, Barrier};
use pagemerge_pages::wire::barrier;
use pagemerge_pages::{room, Error, Result, PAGE};
use rustix::mm::{MapFlags, ProtFlags};
use std::time::Duration;

/// After a fork that looked for pinned pages and took a time T, the next such fork comes no sooner
/// than this many times T later: a fork copies page tables, and the next write to each page is a
/// fault, which costs the program about as much again.
const REST: u32 = 8;

/// The longest that a plan waits for the next such fork.
const PATIENCE: Duration = Duration::from_millis(250);

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The best barrier that stops no threads: move, else write-protect, else none.
    Auto,
    /// UFFDIO_MOVE or nothing.
    Move,
    /// UFFDIO_WRITEPROTECT or nothing.
    WriteProtect,
    /// Stop the threads (ptrace).
    Park,
    /// No background merging.
    Intern,
}

impl Choice {
    /// Parse a barrier's name, as `PAGEMERGE_BARRIER` gives it.
    ///
    /// # Errors
    /// `Usage` with the valid names.
    pub fn parse(name: &str) -> Result<Self> {
        if matches!(name, "" | "auto") {
            return Ok(Self::Auto);
        }
        let found = barrier::NAMES.iter().find(|(_, known)| *known == name);
        match found.map(|(kind, _)| *kind) {
            Some(barrier::MOVE) => Ok(Self::Move),
            Some(barrier::WRITE_PROTECT) => Ok(Self::WriteProtect),
            Some(barrier::PARK) => Ok(Self::Park),
            Some(barrier::INTERN) => Ok(Self::Intern),
            _ => {
                let names = barrier::NAMES.map(|(_, known)| known).join(", ");
                Err(Error::Usage(format!("no barrier is called {name:?}: there are auto, {names}")))
            }
        }
    }
}

/// The barriers of this process.
pub struct Barriers {
    choice: Choice,
    kind: u32,
    mover: Option<Mover>,
    protector: Option<Protector>,
    parker: Option<Parker>,
    /// Whether some pages of the plan stand on slabs.
    slabs: bool,
    reason: String,
    note: String,
    /// The process that may read this one (Yama). Parking names another process for a while.
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
        // Beside move, write-protect serves pages that were merged before: those cannot be moved.
        if matches!(self.choice, Choice::Auto | Choice::Move | Choice::WriteProtect) {
            match Protector::new(REST) {
                Ok(protector) => {
                    self.protector = Some(protector);
                    if self.mover.is_none() && self.choice != Choice::Move {
                        self.kind = barrier::WRITE_PROTECT;
                    }
                }
                // There is no userfaultfd at all: one reason that says so is enough.
                Err(_) if self.mover.is_none() && self.choice != Choice::WriteProtect => {}
                Err(error) => reasons.push(format!("write-protect: {error}")),
            }
        }
        match self.choice {
            Choice::Park => self.kind = barrier::PARK,
            Choice::Intern => reasons.push("background merging is switched off".into()),
            _ => {}
        }
        self.reason = reasons.join("; ");
    }

    /// Returns a mover that fills the holes of children that are born in a window. A mover that
    /// cannot do that would leave such a child with wrong bytes, so it is used only if the user
    /// asked for move by name. Then the reason comes with it.
    fn new_mover(&self) -> Result<(Mover, Option<Error>)> {
        match Mover::new() {
            Ok(mover) => Ok((mover, None)),
            Err(lack) if self.choice == Choice::Move => Ok((Mover::without_forks()?, Some(lack))),
            Err(lack) => Err(lack),
        }
    }

    /// The barrier of this process, one of `wire::barrier`.
    pub const fn kind(&self) -> u32 {
        self.kind
    }

    /// Why the barrier is not a better one; empty if there is no better one.
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

    /// Get ready for a plan. A plan that is carried out at birth needs no barrier. `slabs`: some of
    /// its pages stand on slabs, which cannot be moved.
    ///
    /// # Errors
    /// `Unsupported`, with the cause, if this process must not be merged now.
    pub fn prepare(&mut self, birth: bool, slabs: bool) -> Result<()> {
        self.note.clear();
        self.slabs = slabs;
        refuse_kernel_ksm()?;
        refuse_locks_to_come()?;
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

    /// Wait until the agent may look for pinned pages, if a window needs that and the wait is
    /// short.
    pub fn rest(&self, backing: Backing, birth: bool) {
        let looks = backing == Backing::Slab || self.kind == barrier::WRITE_PROTECT;
        if let (true, false, Some(protector)) = (looks, birth, &self.protector) {
            let wait = protector.rest();
            if !wait.is_zero() && wait <= PATIENCE {
                std::thread::sleep(wait);
            }
        }
    }

    /// What write-protects pages that stand on slabs, if that is how they are held.
    pub fn protector(&mut self) -> Option<&mut Protector> {
        // Pages may have come to stand on slabs after `prepare`.
        let serves =
            self.kind == barrier::WRITE_PROTECT || self.kind == barrier::MOVE && self.slabs;
        self.protector.as_mut().filter(|protector| serves && protector.takes_slabs())
    }

    /// The barrier for memory that stands on `backing`.
    pub fn barrier(&mut self, backing: Backing) -> Option<&mut dyn Barrier> {
        let slabs = backing == Backing::Slab;
        match self.kind {
            barrier::PARK => self.parker.as_mut().map(|parker| parker as &mut dyn Barrier),
            barrier::MOVE if !slabs => self.mover.as_mut().map(|mover| mover as &mut dyn Barrier),
            barrier::MOVE | barrier::WRITE_PROTECT if slabs => {
                self.protector().map(|protector| protector as &mut dyn Barrier)
            }
            barrier::MOVE | barrier::WRITE_PROTECT => {
                self.protector.as_mut().map(|protector| protector as &mut dyn Barrier)
            }
            _ => None,
        }
    }

    /// A barrier could not be raised or lowered. Dropping the barrier closes its userfaultfd, which
    /// wakes any thread that still waits.
    pub fn failed(&mut self, error: &Error) {
        if let Error::Unsupported(_) = error {
            // The barrier refused before it did anything. It stays out for the rest of the plan.
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

    /// A plan is done: no thread stays traced between plans.
    pub fn finish(&mut self) {
        if self.parker.take().is_some() {
            // SAFETY: prctl with integers. EINVAL: there is no Yama.
            unsafe { libc::prctl(libc::PR_SET_PTRACER, self.reader, 0, 0, 0) };
        }
    }
}

/// A range belongs to one engine at a time, and ksmd takes all memory of a process where this is
/// on.
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

/// Where the kernel locks what is mapped from now on (mlockall(2)), it would lock, and fill, what
/// takes the place of merged memory.
fn refuse_locks_to_come() -> Result<()> {
    let page = room::map(PAGE, ProtFlags::empty(), MapFlags::empty())
        .map_err(|errno| Error::os("mmap of a page", errno.raw_os_error()))?;
    let start = page as usize;
    let is_locked = keep::is_locked(&(start..start + PAGE));
    // SAFETY: nobody else knows of the page.
    unsafe { room::unmap(page, PAGE) };
    if is_locked {
        return Err(Error::Unsupported(
            "the kernel locks all memory that this process maps (mlockall(2)), or a filter of system \
             calls (seccomp(2)) keeps the agent from asking (msync(2))"
                .into(),
        ));
    }
    Ok(())
}
