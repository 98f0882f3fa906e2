//! Writers against a merger that only merges: no write may be lost, under any barrier.
//!
//! Each page belongs to one writer, which remembers what the page must hold and checks that before
//! each change. Without a barrier the same test loses writes within moments: it can fail.
//! `PAGEMERGE_RACE_SECONDS` sets the time for each barrier (default 3).

#![allow(clippy::unwrap_used)] // a test

mod common;

use common::{need, one_at_a_time, slab_of, Random};
use pagemerge_pages::barrier::birth::Birth;
use pagemerge_pages::barrier::moving::Mover;
use pagemerge_pages::barrier::park::Parker;
use pagemerge_pages::barrier::protect::Protector;
use pagemerge_pages::barrier::window::{
    merge, Backing, Barrier, Content, Keep, Outcome, Piece, Window,
};
use pagemerge_pages::slab::{self, View};
use pagemerge_pages::{huge, Error, PAGE};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const PAGES: usize = huge::PAGES;
const WRITERS: usize = 2;
/// The number of contents that pages have: few, so that there is much to merge. The first is zero.
const FILLS: u64 = 8;

fn seconds() -> Duration {
    let text = std::env::var("PAGEMERGE_RACE_SECONDS").unwrap_or_default();
    Duration::from_secs_f64(text.parse().unwrap_or(3.0))
}

/// The words of a fill.
const fn word(fill: u64) -> u64 {
    fill.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

struct Arena {
    base: usize,
    /// The agent's lock: the backing of each page.
    slabbed: Mutex<Vec<bool>>,
    /// Writers that want the lock; otherwise the merger would never let them have it.
    waiting: AtomicU64,
    slab: OwnedFd,
    view: View,
    stop: AtomicBool,
    lost: AtomicU64,
    writes: AtomicU64,
}

impl Arena {
    /// The memory is one whole block, which can be a huge page.
    fn new() -> Self {
        let (none, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        let len = PAGES * PAGE;
        // SAFETY: a fresh mapping, and advice about it; what lies around the block is given back.
        let base = unsafe {
            let made = rustix::mm::mmap_anonymous(none, 2 * len, access, MapFlags::PRIVATE);
            let made = made.unwrap() as usize;
            let base = made.next_multiple_of(len);
            let parts = [(made, base - made), (base + len, made + len - base)];
            for (at, len) in parts.into_iter().filter(|part| part.1 > 0) {
                rustix::mm::munmap(at as *mut _, len).unwrap();
            }
            let _ = rustix::mm::madvise(base as *mut _, len, Advice::LinuxNoHugepage);
            // Memory has pages before it is merged. If the first pages came while a part is
            // watched, that part would stay a mapping of its own for ever (`anon_vma`).
            (base as *mut u64).write_volatile(0);
            base
        };
        let slab = slab_of(FILLS, word);
        let view = slab::open(&slab).unwrap();
        Self {
            base,
            slabbed: Mutex::new(vec![false; PAGES]),
            waiting: AtomicU64::new(0),
            slab,
            view,
            stop: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        }
    }

    fn words(&self, page: usize) -> *mut u64 {
        (self.base + page * PAGE) as *mut u64
    }

    /// Map fresh anonymous memory for a page, as a program does that maps beside the agent.
    fn renew(&self, page: usize) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut slabbed = self.slabbed.lock().unwrap();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let fixed = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: the page belongs to its writer, which has given its contents up.
        unsafe {
            let at = self.words(page).cast();
            rustix::mm::mmap_anonymous(at, PAGE, access, fixed).unwrap();
            // Without the same advice as its neighbours it would stay a mapping of its own.
            let _ = rustix::mm::madvise(at, PAGE, Advice::LinuxNoHugepage);
        }
        slabbed[page] = false;
    }
}

/// Ways to write a page.
#[derive(Clone, Copy, PartialEq)]
enum Ways {
    /// Stores of this process only.
    Own,
    /// Also by read(2), process_vm_writev(2) and, if there is a file, O_DIRECT.
    All,
}

/// The loop of one writer: verify, change, remember. `patch` is a word that differs from the fill.
fn writer(arena: &Arena, number: usize, ways: Ways, buffered: &File, direct: Option<&File>) {
    let mut random = Random(number as u64 * 77 + 1);
    let mut fill = vec![0_u64; PAGES];
    let mut patch: Vec<Option<(usize, u64)>> = vec![None; PAGES];
    while !arena.stop.load(Ordering::Relaxed) {
        let page = random.next() as usize % (PAGES / WRITERS) * WRITERS + number;
        let words = arena.words(page);
        for at in 0..PAGE / 8 {
            let wanted = patch[page].filter(|it| it.0 == at).map_or(word(fill[page]), |it| it.1);
            // SAFETY: the page is ours; only this thread writes it.
            if unsafe { words.add(at).read_volatile() } != wanted {
                arena.lost.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        arena.writes.fetch_add(1, Ordering::Relaxed);
        let new = random.next() % FILLS;
        let bytes = word(new).to_ne_bytes();
        let way = random.next() % if ways == Ways::All { 16 } else { 8 };
        (fill[page], patch[page]) = match way {
            0..=3 => {
                let (at, value) = (random.next() as usize % (PAGE / 8), random.next());
                // SAFETY: as above. It writes a word over the old contents: patched pages get a new
                // fill.
                unsafe {
                    if let Some((old, _)) = patch[page] {
                        words.add(old).write_volatile(word(fill[page]));
                    }
                    words.add(at).write_volatile(value);
                }
                (fill[page], Some((at, value)))
            }
            4..=6 => {
                for at in 0..PAGE / 8 {
                    // SAFETY: as above.
                    unsafe { words.add(at).write_volatile(word(new)) };
                }
                (new, None)
            }
            7 => {
                arena.renew(page);
                (0, None)
            }
            8..=10 => {
                let local = [bytes; PAGE / 8];
                let from = libc::iovec { iov_base: local.as_ptr() as *mut _, iov_len: PAGE };
                let to = libc::iovec { iov_base: words.cast(), iov_len: PAGE };
                let own = std::process::id() as i32;
                // SAFETY: writes our own page, through the path that another process would use.
                let done = unsafe { libc::process_vm_writev(own, &from, 1, &to, 1, 0) };
                assert_eq!(done, PAGE as isize);
                (new, None)
            }
            _ => {
                let file = direct.filter(|_| way > 12).unwrap_or(buffered);
                let offset = (new as usize * PAGE) as i64;
                // SAFETY: the kernel, or the device, writes our own page.
                let done = unsafe { libc::pread(file.as_raw_fd(), words.cast(), PAGE, offset) };
                assert_eq!(done, PAGE as isize, "{}", std::io::Error::last_os_error());
                (new, None)
            }
        };
    }
}

/// Lets the writers end, however the merger ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Nominate what a page seems to hold, and merge: the barrier and the comparison must do the rest.
fn merger(
    arena: &Arena,
    mut barrier: Option<&mut dyn Barrier>,
    backings: &[Backing],
    huge: bool,
) -> (u64, u64, u64) {
    let (mut merged, mut busy, mut made, mut turns) = (0, 0, 0_u64, 0_u64);
    let _stop = Stop(&arena.stop);
    let mut random = Random(4711);
    // Without a barrier the first loss is enough, however long a busy host takes to show it.
    let unguarded = barrier.is_none();
    let end = Instant::now() + if unguarded { Duration::from_secs(60) } else { seconds() };
    while Instant::now() < end && !(unguarded && arena.lost.load(Ordering::Relaxed) > 0) {
        while arena.waiting.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        let first = random.next() as usize % (PAGES - 64);
        let mut slabbed = arena.slabbed.lock().unwrap();
        turns += 1;
        if huge && turns % 4 == 0 {
            // EAGAIN: a page is in use by the kernel just now.
            made += u64::from(huge::collapse_small(arena.base).is_ok());
        }
        for &backing in backings {
            let mut pieces = Vec::new();
            for page in 0..64 {
                // SAFETY: a racy read of a page, as a finder in another process does it.
                let seen = unsafe { arena.words(first + page).add(1).read_volatile() };
                // In a huge page, a page that was given back can come back. One that stands on a
                // slab cannot be part of it again.
                let fills = if huge { 1 } else { FILLS };
                let Some(fill) = (0..fills).find(|&fill| word(fill) == seen) else { continue };
                let on_slab = slabbed[first + page];
                if on_slab != (backing == Backing::Slab) {
                    continue;
                }
                let content = if fill == 0 {
                    Content::Zero
                } else {
                    Content::Slots {
                        bytes: (fill % 2 == 0).then(|| arena.view.page(fill as usize)),
                        slab: arena.slab.as_fd(),
                        offset: fill * PAGE as u64,
                    }
                };
                pieces.push(Piece { first: page, pages: 1, content });
            }
            let window = Window {
                start: arena.base + first * PAGE,
                pages: 64,
                backing,
                keep: Keep::default(),
                pieces: &pieces,
            };
            let mut outcome = Outcome::default();
            let mut none = Birth::at(window.start);
            let barrier = match &mut barrier {
                Some(barrier) => &mut **barrier,
                None => &mut none,
            };
            // SAFETY: the arena is ours, and its lock keeps the mappings as they are.
            match unsafe { merge(barrier, &window, &mut outcome) } {
                Ok(()) => {}
                Err(Error::Os { errno: libc::EAGAIN, .. }) => continue, // the threads stopped late
                Err(error) => panic!("{error}"),
            }
            for page in 0..64 {
                if outcome.merged.has(page) {
                    merged += 1;
                    slabbed[first + page] = outcome.slabbed.has(page);
                }
            }
            busy += u64::from(outcome.busy);
        }
    }
    (merged, busy, made)
}

fn race(
    barrier: Option<&mut dyn Barrier>,
    backings: &[Backing],
    ways: Ways,
    huge: bool,
) -> (u64, u64) {
    let (arena, direct) = (Arena::new(), ways == Ways::All);
    let path = std::env::temp_dir().join(format!("pagemerge-race-{}", std::process::id()));
    let mut file = File::create(&path).unwrap();
    file.write_all(arena.view.bytes()).unwrap();
    file.sync_all().unwrap();
    let buffered = File::open(&path).unwrap();
    let direct = direct
        .then(|| std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path))
        .and_then(Result::ok);
    std::fs::remove_file(&path).unwrap();
    let (merged, busy, made) = std::thread::scope(|scope| {
        for number in 0..WRITERS {
            let (arena, buffered, direct) = (&arena, &buffered, direct.as_ref());
            scope.spawn(move || writer(arena, number, ways, buffered, direct));
        }
        merger(&arena, barrier, backings, huge)
    });
    if huge {
        eprintln!("{made} times one huge page");
        let can = made > 0 || huge::collapse_small(arena.base) != Err(Errno::INVAL);
        assert!(made > 3 || !can, "it was hardly ever one huge page");
    }
    let (writes, lost) = (arena.writes.into_inner(), arena.lost.into_inner());
    eprintln!("{writes} writes, {merged} merged, {busy} busy, {lost} lost");
    // SAFETY: all threads that knew the arena have ended.
    unsafe { rustix::mm::munmap(arena.base as *mut _, PAGES * PAGE).unwrap() };
    assert!(lost > 0 || writes > 1000, "the writers hardly ran");
    assert!(lost > 0 || merged > 1000, "the merger hardly ran");
    (lost, busy)
}

#[test]
fn without_a_barrier_writes_are_lost() {
    let _one = one_at_a_time();
    let (lost, _) = race(None, &[Backing::Anonymous, Backing::Slab], Ways::Own, false);
    assert!(lost > 0, "this test could not have found a lost write");
}

#[test]
fn moving_loses_nothing_not_even_direct_io() {
    let _one = one_at_a_time();
    let Some(mut mover) = need(Mover::new()) else { return };
    let (lost, _) = race(Some(&mut mover), &[Backing::Anonymous], Ways::All, false);
    assert_eq!(lost, 0);
}

#[test]
fn write_protection_loses_nothing() {
    let _one = one_at_a_time();
    let Some(mut protector) = need(Protector::new(0)) else { return };
    let backings = [Backing::Anonymous, Backing::Slab];
    let (lost, _) = race(Some(&mut protector), &backings, Ways::All, false);
    assert_eq!(lost, 0);
}

#[test]
fn parking_loses_nothing() {
    let _one = one_at_a_time();
    let mut parker = Parker::new().unwrap();
    let (lost, _) = race(Some(&mut parker), &[Backing::Anonymous, Backing::Slab], Ways::All, false);
    assert_eq!(lost, 0);
}

/// The kernel splits a huge page when a part of it moves, is protected, or is given back, and makes
/// it anew while the writers write.
#[test]
fn nothing_is_lost_in_a_huge_page_that_comes_and_goes() {
    let _one = one_at_a_time();
    let backings = [Backing::Anonymous];
    if let Some(mut mover) = need(Mover::new()) {
        assert_eq!(race(Some(&mut mover), &backings, Ways::All, true).0, 0, "move");
    }
    if let Some(mut protector) = need(Protector::new(0)) {
        assert_eq!(race(Some(&mut protector), &backings, Ways::All, true).0, 0, "write-protect");
    }
    let mut parker = Parker::new().unwrap();
    assert_eq!(race(Some(&mut parker), &backings, Ways::All, true).0, 0, "park");
}
