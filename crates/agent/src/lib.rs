//! The part of pagemerge that lives inside a target process.
//!
//! One thread, the agent, holds the connection to the hub and makes every change of mapping. One
//! lock orders these changes with the program's own calls: a thread that holds the lock may rely on
//! the regions being mapped as the table says. Nothing of the agent survives a fork. The child's
//! memory is correct without an agent, and the child gets an agent of its own with its first call.

mod adopt;
pub mod all;
mod apply;
mod barriers;
mod bits;
mod ending;
mod errand;
mod extents;
mod gate;
mod ground;
pub mod hull;
mod own;
pub mod program;
mod region;
mod retreat;
mod slabs;
mod spawn;
mod thread;
mod whole;
mod windows;
pub use ending::end_with_program;
pub use retreat::{confine, is_confined, is_only_thread, stop};

pub use barriers::Choice;
use extents::Extents;
use gate::lock;
pub use gate::{watch_forks, Quiet};
use pagemerge_pages::barrier::window::Keep;
use pagemerge_pages::{huge, Error, Result, PAGE};
use region::{Table, Wish};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::collections::VecDeque;
use std::ffi::CString;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How the agent finds its hub, and how it merges.
#[derive(Debug, Clone)]
pub struct Config {
    /// The hub's socket.
    pub socket: PathBuf,
    /// The command (absolute path first) that starts a hub if none listens; empty: start none.
    pub hub: Vec<CString>,
    /// The barrier for background merging.
    pub barrier: Choice,
    /// This process's name for the part of its trust domain that it belongs to; empty: no part.
    pub domain: String,
}

/// The state of merging in this process.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Mergeable ranges.
    pub regions: usize,
    /// Bytes in them.
    pub bytes: usize,
    /// Pages that map a slab, including those that were written since.
    pub slabbed_pages: usize,
    /// One of `wire::barrier`, once the agent has chosen.
    pub barrier: Option<u32>,
    /// Why the barrier is not a better one.
    pub reason: String,
    /// The hub's process, while connected.
    pub hub: Option<i32>,
}

/// Everything that the lock protects.
#[derive(Debug, Default)]
pub(crate) struct State {
    table: Table,
    config: Option<Config>,
    /// The process that the agent's thread belongs to; after a fork, that is not this process.
    process: i32,
    agent: i32,
    /// The agent's thread as libc knows it.
    thread: Option<own::Thread>,
    /// Whether the agent is to end.
    ends: bool,
    /// The thread that ends the process in the agent's place (`ending`).
    keeper: Option<own::Thread>,
    /// Whether the agent has been signalled and has not looked yet.
    poked: bool,
    /// Why there is no agent although one was started.
    broken: Option<Error>,
    jobs: VecDeque<Arc<Job>>,
    summary: Summary,
    /// What the program itself has mapped.
    extents: Extents,
    /// Ranges where merging has split one mapping into several, and where there are no regions any
    /// more.
    scattered: Extents,
    /// Bytes that the program has mapped since the last look at what can be merged (`all`).
    fresh: usize,
    /// What must be known of the program's memory before it becomes a region (`all`).
    marks: all::Marks,
    /// This is a forked copy whose table could not be relied on: only the kernel knows what is
    /// mapped.
    orphan: bool,
}

/// Pages that a caller wants merged before it goes on.
#[derive(Debug)]
pub(crate) struct Job {
    source: usize,
    target: usize,
    pages: usize,
    cancelled: AtomicBool,
    answer: Mutex<Option<Result<Vec<u8>>>>,
    answered: Condvar,
}

impl Job {
    /// Where the contents of the page at `target` are.
    fn source_of(&self, target: usize) -> usize {
        self.source.wrapping_add(target.wrapping_sub(self.target))
    }

    /// Returns whether the caller named all of these pages.
    fn holds(&self, start: usize, end: usize) -> bool {
        start >= self.target && end <= self.target + self.pages * PAGE
    }

    /// Returns whether the job reads or merges some of these pages.
    fn concerns(&self, start: usize, end: usize) -> bool {
        let mut ranges = [self.source, self.target].into_iter();
        ranges.any(|at| start < at.saturating_add(self.pages * PAGE) && at < end)
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    fn finish(&self, answer: Result<Vec<u8>>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.answered.notify_all();
    }
}

/// Returns the barrier that this process would get (one of `wire::barrier`), and why it is not a
/// better one.
#[must_use]
pub fn probe(choice: Choice) -> (u32, String) {
    let barriers = barriers::Barriers::choose(choice);
    (barriers.kind(), barriers.reason().to_owned())
}

/// Start this process's agent, if it has none.
///
/// # Errors
/// `Os` if the thread cannot be started.
pub fn start(config: Config) -> Result<()> {
    let process = std::process::id() as i32;
    watch_forks(None);
    if is_confined() {
        return Err(Error::Unsupported("this process has confined itself (seccomp(2))".into()));
    }
    {
        let mut state = lock();
        if state.process != 0 {
            return Ok(()); // this process's agent, or that of a process whose memory we share
        }
        state.config = Some(config.clone());
        state.jobs.clear();
        (state.poked, state.agent, state.broken, state.ends) = (false, 0, None, false);
        state.summary = Summary::default();
        state.process = process;
    }
    // Without the lock: libc allocates memory for a thread, and the program's allocator may be
    // waiting in a call of ours while it holds a lock of its own.
    match thread::start(config) {
        Ok(thread) => {
            lock().thread = Some(thread);
            ending::keep();
            Ok(())
        }
        Err(error) => {
            lock().process = 0;
            Err(error)
        }
    }
}

/// The bytes from which NumPy asks for huge pages for an array (numpy/_core/src/multiarray/alloc.c).
const ARRAY: usize = 4 << 20;

/// Map `bytes` bytes of mergeable memory, filled with zeros.
///
/// # Errors
/// `Usage` for no bytes, `Memory` when memory runs out.
pub fn allocate(bytes: usize) -> Result<NonNull<u8>> {
    if bytes == 0 || bytes > isize::MAX as usize - PAGE {
        return Err(Error::Usage(format!("cannot make mergeable memory of {bytes} bytes")));
    }
    let len = bytes.next_multiple_of(PAGE);
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let mut state = lock();
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let base =
        unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, access, MapFlags::PRIVATE) }
            .map_err(|errno| match errno.raw_os_error() {
                libc::ENOMEM => Error::Memory { bytes },
                other => Error::os("mmap", other),
            })?;
    // As for all regions (`program::make_regions`). EINVAL: the kernel has no huge pages.
    // SAFETY: advice about our own fresh mapping.
    let _ = unsafe { rustix::mm::madvise(base, len, Advice::LinuxNoHugepage) };
    let wish = if len >= ARRAY { Wish::Huge } else { Wish::None };
    let huge = wish.is_granted(huge::given());
    state.table.insert(base as usize, len / PAGE, Keep::default(), huge);
    if state.summary.hub.is_none() {
        poke(&mut state); // an agent without regions may be waiting for its first
    }
    NonNull::new(base.cast()).ok_or_else(|| Error::os("mmap", libc::ENOMEM))
}

/// The size in bytes (whole pages) of the region that starts at `address`, if there is one.
#[must_use]
pub fn region_bytes(address: usize) -> Option<usize> {
    lock().table.starting_at(address).map(|region| region.pages * PAGE)
}

/// Returns whether `[address, address + bytes)` lies in one region.
#[must_use]
pub fn is_mergeable(address: usize, bytes: usize) -> bool {
    lock().table.holding(address, address.saturating_add(bytes)).is_some()
}

/// The error for memory that is in no region.
#[must_use]
pub fn not_mergeable() -> Error {
    Error::Usage(
        "this is not mergeable memory: allocate it with pagemerge.empty, buffer or \
         mergeable_arrays (256 KiB and more), or use pagemerge.copy"
            .into(),
    )
}

/// Give mergeable memory back. Does nothing if no region starts there.
///
/// # Safety
/// The caller and all other threads must have stopped using the memory.
pub unsafe fn release(address: usize) {
    let mut state = lock();
    if let Some(region) = state.table.remove(address) {
        // SAFETY: the region was mapped by `allocate`, and the caller gives it up. ENOMEM (the
        // mapping limit) leaves it mapped, which loses memory and nothing else.
        let _ = unsafe { rustix::mm::munmap(address as *mut _, region.pages * PAGE) };
    }
}

/// Merge pages at once; `source` may be anywhere, `target` lies in a region.
///
/// `target` is `source` for merging in place, or untouched memory for a copy: then the caller
/// copies what is not merged. Returns one bit for each page. `patient` is called ten times a
/// second; the call gives up when it returns false.
///
/// # Errors
/// `Usage` if the target is not mergeable memory; `Hub` if there is no hub, or the hub refuses.
/// Then the target is as it was, or partly merged with the right contents.
///
/// # Safety
/// `source` must be readable, and no thread may write source or target during the call.
pub unsafe fn intern(
    source: usize,
    target: usize,
    pages: usize,
    mut patient: impl FnMut() -> bool,
) -> Result<Vec<u8>> {
    let job = Arc::new(Job {
        source,
        target,
        pages,
        cancelled: AtomicBool::new(false),
        answer: Mutex::new(None),
        answered: Condvar::new(),
    });
    {
        let mut state = lock();
        if state.table.holding(target, target + pages * PAGE).is_none() {
            return Err(not_mergeable());
        }
        if let Some(error) = &state.broken {
            return Err(error.clone());
        }
        state.jobs.push_back(Arc::clone(&job));
        poke(&mut state);
    }
    let mut answer = job.answer.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(answer) = answer.take() {
            return answer;
        }
        let slice = Duration::from_millis(100);
        answer =
            job.answered.wait_timeout(answer, slice).map_or_else(|e| e.into_inner().0, |r| r.0);
        if answer.is_none() && !patient() {
            drop(answer);
            // Under the lock, so that no window of this job is open when we return.
            let _state = lock();
            job.cancelled.store(true, Ordering::Release);
            return Err(Error::Hub("interrupted before the hub had answered".into()));
        }
    }
}

/// Give `[address, address + bytes)` pages of its own again, and keep it from being merged.
///
/// Other threads may write meanwhile: the kernel separates the pages, as on a write.
///
/// # Errors
/// `Usage` if it is not mergeable memory, `Os` when memory runs out: the pages that were separated
/// by then stay separated.
pub fn unmerge(address: usize, bytes: usize) -> Result<()> {
    let (start, end) = (address & !(PAGE - 1), (address + bytes).next_multiple_of(PAGE));
    let mut state = lock();
    let region = state
        .table
        .holding(start, end)
        .ok_or_else(|| Error::Usage("this is not mergeable memory".into()))?;
    let pages = region.pages_in(start, end);
    region.set_mergeable(pages, false);
    let runs = region.slabbed_runs(start, end);
    runs.into_iter().try_for_each(|run| separate(run.start, run.len()))
}

/// Have the kernel give pages of a slab's mapping their own memory, as it does on a write.
fn separate(start: usize, len: usize) -> Result<()> {
    // SAFETY: it faults pages in for writing (Linux 5.14) and changes no byte.
    unsafe { rustix::mm::madvise(start as *mut _, len, Advice::LinuxPopulateWrite) }.map_err(
        |errno| Error::os("madvise(MADV_POPULATE_WRITE)", errno.raw_os_error()).at(start as u64),
    )
}

/// Set when no hub has answered for two seconds; cleared when a hub lets us join.
static HUBLESS: AtomicBool = AtomicBool::new(false);

/// Returns whether memory waits to be merged, and there is no hub. May be called with any lock
/// held.
#[must_use]
pub fn is_hubless() -> bool {
    HUBLESS.load(Ordering::Relaxed)
}

/// The most bytes of this process that were merged at a time, and the bytes that this saved.
static SAVED: (AtomicU64, AtomicU64) = (AtomicU64::new(0), AtomicU64::new(0));

/// Returns the most bytes of this process that were merged at a time, and the bytes that this
/// saved, as far as a hub has told us. May be called with any lock held.
#[must_use]
pub fn saved() -> (u64, u64) {
    (SAVED.0.load(Ordering::Relaxed), SAVED.1.load(Ordering::Relaxed))
}

/// Returns the state of merging in this process.
#[must_use]
pub fn summary() -> Summary {
    let state = lock();
    let own = state.process == std::process::id() as i32;
    let mut summary = if own { state.summary.clone() } else { Summary::default() };
    for region in state.table.iter() {
        summary.regions += 1;
        summary.bytes += region.pages * PAGE;
        summary.slabbed_pages += region.slabbed_pages();
    }
    summary
}

/// Wake the agent by a signal to its thread alone, since it shares no descriptor with us.
fn poke(state: &mut State) {
    if state.agent != 0 && !state.poked {
        // A real-time signal fails where the user has too many pending (RLIMIT_SIGPENDING). An
        // ordinary signal always arrives, at worst without its details.
        state.poked = [own::wake_signal(), own::LAST_SIGNAL].into_iter().any(|signal| {
            // SAFETY: the thread is ours and never ends; all signals are blocked in it.
            unsafe { libc::syscall(libc::SYS_tgkill, state.process, state.agent, signal) == 0 }
        });
    }
}
