//! Children that are born in the middle of a window, by a raw clone that no handler can hold back.
//!
//! One thread rewrites its pages and forks, over and over; it knows every byte that the child must
//! have. Another thread merges without a pause, and a third scribbles: its pages hold one of the
//! fills in each word, and never a zero, so that a hole shows. `PAGEMERGE_FORKS` sets how many
//! children are born under each barrier (default 500).

#![allow(clippy::unwrap_used)] // a test

mod common;

use common::{need, one_at_a_time, slab_of, Random};
use pagemerge_pages::barrier::moving::Mover;
use pagemerge_pages::barrier::protect::Protector;
use pagemerge_pages::barrier::window::{
    merge, Backing, Barrier, Content, Keep, Outcome, Piece, Window,
};
use pagemerge_pages::slab::{self, View};
use pagemerge_pages::PAGE;
use rustix::fd::{AsFd, OwnedFd};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Mutex;

const WINDOW: usize = 64;
/// The pages of the forking thread; the scribbler has as many.
const PAGES: usize = 2 * WINDOW;
const FILLS: u64 = 8;

/// The words of a fill: never zero.
const fn word(fill: u64) -> u64 {
    (fill + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

struct Arena {
    base: usize,
    /// The agent's lock: which pages are mapped from the slab.
    slabbed: Mutex<[bool; 2 * PAGES]>,
    waiting: AtomicU64,
    slab: OwnedFd,
    view: View,
    stop: AtomicBool,
}

impl Arena {
    fn new() -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let (none, len) = (std::ptr::null_mut(), 2 * PAGES * PAGE);
        // SAFETY: a fresh mapping, and advice about it.
        let base = unsafe {
            let base = rustix::mm::mmap_anonymous(none, len, access, MapFlags::PRIVATE).unwrap();
            let _ = rustix::mm::madvise(base, len, Advice::LinuxNoHugepage);
            base as usize
        };
        let slab = slab_of(FILLS, word);
        let view = slab::open(&slab).unwrap();
        let arena = Self {
            base,
            slabbed: Mutex::new([false; 2 * PAGES]),
            waiting: AtomicU64::new(0),
            slab,
            view,
            stop: AtomicBool::new(false),
        };
        (0..2 * PAGES).for_each(|page| arena.fill(page, 0, 0));
        arena
    }

    fn words(&self, page: usize) -> *mut u64 {
        (self.base + page * PAGE) as *mut u64
    }

    /// Write a page. `own` changes its last word, so that the page is not merged.
    fn fill(&self, page: usize, fill: u64, own: u64) {
        for at in 0..PAGE / 8 {
            let own = if at == PAGE / 8 - 1 { own } else { 0 };
            // SAFETY: the page belongs to its writer.
            unsafe { self.words(page).add(at).write_volatile(word(fill) ^ own) };
        }
    }

    /// Map fresh anonymous memory with contents in it, where a slab may be mapped.
    fn renew(&self, page: usize, fill: u64, own: u64) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut slabbed = self.slabbed.lock().unwrap();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let fixed = MapFlags::PRIVATE | MapFlags::FIXED;
        let at = self.words(page).cast();
        // SAFETY: the page belongs to its writer, which has given its contents up.
        unsafe {
            rustix::mm::mmap_anonymous(at, PAGE, access, fixed).unwrap();
            let _ = rustix::mm::madvise(at, PAGE, Advice::LinuxNoHugepage);
        }
        self.fill(page, fill, own);
        slabbed[page] = false;
    }
}

/// Merge window after window over all pages, whether or not they are equal to the slot named for
/// them.
fn merger(arena: &Arena, barrier: &mut dyn Barrier, backing: Backing) -> u64 {
    let (mut merged, mut number) = (0, 0);
    while !arena.stop.load(Ordering::Relaxed) {
        while arena.waiting.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        let first = number % (2 * PAGES / WINDOW) * WINDOW;
        number += 1;
        let mut slabbed = arena.slabbed.lock().unwrap();
        let mut pieces = Vec::new();
        for page in 0..WINDOW {
            if slabbed[first + page] != (backing == Backing::Slab) {
                continue;
            }
            // SAFETY: a racy read of a page, as a finder in another process does it.
            let seen = unsafe { arena.words(first + page).read_volatile() };
            let fill = (0..FILLS).find(|&fill| word(fill) == seen).unwrap_or(0);
            let content = Content::Slots {
                bytes: (fill % 2 == 0).then(|| arena.view.page(fill as usize)),
                slab: arena.slab.as_fd(),
                offset: fill * PAGE as u64,
            };
            pieces.push(Piece { first: page, pages: 1, content });
        }
        let start = arena.base + first * PAGE;
        let keep = Keep::default();
        let window = Window { start, pages: WINDOW, backing, keep, pieces: &pieces };
        let mut outcome = Outcome::default();
        // SAFETY: the arena is ours, and its lock keeps the mappings as they are.
        unsafe { merge(barrier, &window, &mut outcome) }.unwrap();
        for page in (0..WINDOW).filter(|&page| outcome.merged.has(page)) {
            merged += 1;
            slabbed[first + page] = true;
        }
    }
    merged
}

/// Writes its own half of the pages all the time.
fn scribbler(arena: &Arena) {
    let mut random = Random(4711);
    while !arena.stop.load(Ordering::Relaxed) {
        let page = PAGES + random.next() as usize % PAGES;
        arena.fill(page, random.next() % FILLS, 0);
    }
}

/// clone(2), called without libc's wrapper.
fn raw_fork() -> libc::pid_t {
    // SAFETY: the child calls nothing but _exit.
    unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as libc::pid_t }
}

/// Runs in the child: returns whether a byte is wrong. Calls no function of libc.
fn wrong(base: usize, fills: &[(u64, u64); PAGES]) -> bool {
    let words = base as *const u64;
    let last = PAGE / 8 - 1;
    for page in 0..2 * PAGES {
        let known = fills.get(page);
        for at in 0..PAGE / 8 {
            // SAFETY: the arena is mapped, and a child has it for itself.
            let found = unsafe { words.add(page * (PAGE / 8) + at).read_volatile() };
            let right = match known {
                Some((fill, own)) => found == word(*fill) ^ if at == last { *own } else { 0 },
                None => (0..FILLS).any(|fill| word(fill) == found),
            };
            if !right {
                return true;
            }
        }
    }
    false
}

/// Rewrite and fork; returns how many children saw a wrong byte.
fn forker(arena: &Arena, enough: u64) -> u64 {
    let (mut random, mut fills) = (Random(77), [(0, 0); PAGES]);
    let (mut bad, mut born) = (0, 0);
    // If the test must find a fault, the first one is enough, however long a busy host takes to
    // show it.
    while bad < enough && (born < children() || enough == 1 && born < 60_000) {
        born += 1;
        for (page, is) in fills.iter_mut().enumerate() {
            let fresh = random.next() % 4;
            // Half of them equal a slot, and half are moved back again.
            *is = (random.next() % FILLS, random.next() % 2);
            match fresh {
                0 => arena.renew(page, is.0, is.1),
                _ => arena.fill(page, is.0, is.1),
            }
        }
        let child = raw_fork();
        assert!(child >= 0, "{}", std::io::Error::last_os_error());
        if child == 0 {
            let status = i32::from(wrong(arena.base, &fills));
            // SAFETY: ends the child, which shares nothing with us.
            unsafe { libc::_exit(status) };
        }
        let mut status = 0;
        // SAFETY: waits for our own child.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        bad += u64::from(status != 0);
    }
    assert!(!wrong(arena.base, &fills), "the parent has lost a byte");
    bad
}

fn children() -> usize {
    let text = std::env::var("PAGEMERGE_FORKS").unwrap_or_default();
    text.parse().unwrap_or(500)
}

fn run(barrier: &mut (dyn Barrier + Send), backing: Backing, enough: u64) -> u64 {
    let arena = Arena::new();
    let (bad, merged) = std::thread::scope(|scope| {
        let merging = scope.spawn(|| merger(&arena, barrier, backing));
        scope.spawn(|| scribbler(&arena));
        let bad = forker(&arena, enough);
        arena.stop.store(true, Ordering::Relaxed);
        (bad, merging.join().unwrap())
    });
    eprintln!("{bad} children saw a wrong byte, {merged} pages merged");
    // SAFETY: all threads that knew the arena have ended.
    unsafe { rustix::mm::munmap(arena.base as *mut _, 2 * PAGES * PAGE).unwrap() };
    assert!(enough == 1 || merged > 50, "the merger hardly ran");
    bad
}

#[test]
fn a_child_born_in_a_window_has_every_page() {
    let _one = one_at_a_time();
    let Some(mut mover) = need(Mover::new()) else { return };
    assert_eq!(run(&mut mover, Backing::Anonymous, u64::MAX), 0);
}

#[test]
fn without_events_a_child_misses_pages() {
    let _one = one_at_a_time();
    let Some(mut mover) = need(Mover::without_forks()) else { return };
    let bad = run(&mut mover, Backing::Anonymous, 1);
    assert!(bad > 0, "this test could not have found a hole");
}

#[test]
fn write_protection_is_not_inherited_and_pages_are() {
    let _one = one_at_a_time();
    let Some(mut protector) = need(Protector::new(0)) else { return };
    assert_eq!(run(&mut protector, Backing::Anonymous, u64::MAX), 0);
}
