//! Windows in which a step fails: the memory is as it was, under each barrier.

#![allow(clippy::unwrap_used)] // a test

use pagemerge_pages::barrier::keep::is_locked;
use pagemerge_pages::barrier::mask::Mask;
use pagemerge_pages::barrier::moving::Mover;
use pagemerge_pages::barrier::park::Parker;
use pagemerge_pages::barrier::protect::Protector;
use pagemerge_pages::barrier::window::{
    merge, Backing, Barrier, Content, Keep, Outcome, Piece, Swapped, Window,
};
use pagemerge_pages::uffd::{Userfault, Watch, FEATURE_EVENT_FORK};
use pagemerge_pages::{barrier::pins, slab};
use pagemerge_pages::{Error, PAGE};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::sync::Mutex;
use std::time::Duration;

const PAGES: usize = 16;

/// Parking stops the threads of the other tests.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Map pages, each filled with its number, from 1 on; they are never unmapped.
fn memory() -> usize {
    let (none, access) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a fresh mapping.
    unsafe {
        let base = rustix::mm::mmap_anonymous(none, PAGES * PAGE, access, MapFlags::PRIVATE);
        let base = base.unwrap();
        let _ = rustix::mm::madvise(base, PAGES * PAGE, Advice::LinuxNoHugepage);
        for page in 0..PAGES {
            let at = base.cast::<u8>().add(page * PAGE);
            std::ptr::write_bytes(at, page as u8 + 1, PAGE);
        }
        base as usize
    }
}

fn first_bytes(base: usize) -> Vec<u8> {
    // SAFETY: the test's own memory.
    (0..PAGES).map(|page| unsafe { ((base + page * PAGE) as *const u8).read_volatile() }).collect()
}

fn as_filled() -> Vec<u8> {
    (1..=PAGES as u8).collect()
}

fn window<'a>(start: usize, pieces: &'a [Piece<'a>]) -> Window<'a> {
    Window { start, pages: PAGES, backing: Backing::Anonymous, keep: Keep::default(), pieces }
}

/// Run the test with every barrier that this host has, one after the other.
fn with_each(mut test: impl FnMut(&str, &mut dyn Barrier)) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|broken| broken.into_inner());
    // One after the other: while a userfaultfd is told of forks, pinned pages cannot be looked for.
    match Mover::new() {
        Ok(mut mover) => test("move", &mut mover),
        Err(error) => {
            let required = std::env::var("PAGEMERGE_REQUIRE").unwrap_or_default();
            assert!(!required.contains("uffd"), "{error}");
            eprintln!("without userfaultfd: {error}");
        }
    }
    if let Ok(mut protector) = Protector::new(0) {
        test("write-protect", &mut protector);
    }
    test("park", &mut Parker::new().unwrap());
}

/// Merge; a busy host may not stop all threads in time.
fn merged(barrier: &mut dyn Barrier, window: &Window<'_>) -> Outcome {
    for _ in 0..100 {
        let mut outcome = Outcome::default();
        // SAFETY: the memory is the test's own.
        match unsafe { merge(barrier, window, &mut outcome) } {
            Err(Error::Os { errno: libc::EAGAIN, .. }) => {}
            done => {
                done.unwrap();
                return outcome;
            }
        }
    }
    panic!("the threads did not stop");
}

#[test]
fn equal_digests_of_different_pages_change_nothing() {
    with_each(|name, barrier| {
        let slab = slab::build(PAGES, |bytes| {
            for (page, bytes) in bytes.chunks_exact_mut(PAGE).enumerate() {
                bytes.fill(page as u8 + 1);
                if page % 2 == 0 {
                    bytes[PAGE - 1] ^= 1; // a digest that collides would not show this
                }
            }
            Ok(())
        })
        .unwrap();
        let view = slab::open(&slab).unwrap();
        for bytes in [Some(view.page(0)), None] {
            let base = memory();
            let content = Content::Slots { bytes, slab: slab.as_fd(), offset: 0 };
            let pieces = [Piece { first: 0, pages: PAGES, content }];
            let outcome = merged(barrier, &window(base, &pieces));
            assert_eq!(
                (outcome.differed, outcome.merged.len()),
                (PAGES as u32 / 2, PAGES / 2),
                "{name}"
            );
            for page in 0..PAGES {
                assert_eq!(outcome.merged.has(page), page % 2 == 1, "{name}");
                // SAFETY: the test's own memory.
                let bytes =
                    unsafe { std::slice::from_raw_parts((base + page * PAGE) as *const u8, PAGE) };
                assert!(bytes.iter().all(|&byte| byte == page as u8 + 1), "{name}: page {page}");
            }
        }
    });
}

#[test]
fn a_mapping_that_cannot_be_made_leaves_the_page() {
    with_each(|name, barrier| {
        let base = memory();
        let bytes: Vec<u8> = (0..PAGES).flat_map(|page| vec![page as u8 + 1; PAGE]).collect();
        let (pipe, _end) = std::io::pipe().unwrap();
        // SAFETY: the pipe is open until the end of the test. No pipe can be mapped.
        let slab = unsafe { BorrowedFd::borrow_raw(pipe.as_raw_fd()) };
        let content = Content::Slots { bytes: Some(bytes.as_ptr()), slab, offset: 0 };
        let pieces = [Piece { first: 0, pages: PAGES, content }];
        let outcome = merged(barrier, &window(base, &pieces));
        assert_eq!((outcome.unmapped, outcome.merged.len()), (PAGES as u32, 0), "{name}");
        assert_eq!(first_bytes(base), as_filled(), "{name}");
        // And it can be written again.
        // SAFETY: the test's own memory.
        unsafe { (base as *mut u8).write_volatile(99) };
    });
}

#[test]
fn a_locked_page_stays() {
    with_each(|name, barrier| {
        let base = memory();
        // SAFETY: the test's own memory.
        unsafe {
            std::ptr::write_bytes(base as *mut u8, 0, PAGES * PAGE);
            rustix::mm::mlock((base + 5 * PAGE) as *mut _, PAGE).unwrap();
        }
        let (before, zeros) =
            (5 * PAGE, [Piece { first: 0, pages: PAGES, content: Content::Zero }]);
        assert!(is_locked(&(base..base + PAGES * PAGE)) && !is_locked(&(base..base + before)));
        let outcome = merged(barrier, &window(base, &zeros));
        assert_eq!(outcome.busy as usize + outcome.merged.len(), PAGES, "{name}");
        assert!(!outcome.merged.has(5), "{name}");
        assert!(is_locked(&(base + before..base + before + PAGE)), "{name}");
        // SAFETY: the test's own memory.
        unsafe { rustix::mm::munlock((base + before) as *mut _, PAGE).unwrap() };
        assert!(merged(barrier, &window(base, &zeros)).merged.has(5), "{name}");
    });
}

#[test]
fn what_a_filter_answers_in_the_place_of_the_kernel_says_nothing_of_locks() {
    let base = memory();
    let filtered = std::thread::spawn(move || {
        let op = |code: u32, k: u32, miss: u8| libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf: miss,
            k,
        };
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let mut program = [
            op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0), // the number of the call
            op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_msync as u32, 1),
            op(libc::BPF_RET | libc::BPF_K, refused, 0),
            op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
        ];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        assert!(!is_locked(&(base..base + PAGE)));
        // SAFETY: a filter for this thread alone; the program outlives the call.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            assert_eq!(
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &filter),
                0
            );
        }
        is_locked(&(base..base + PAGE))
    });
    assert!(filtered.join().unwrap());
}

#[test]
fn an_empty_page_is_left_out_or_held() {
    with_each(|name, barrier| {
        let base = memory();
        let zeros = [Piece { first: 0, pages: PAGES, content: Content::Zero }];
        // SAFETY: the test's own memory.
        unsafe {
            rustix::mm::madvise(base as *mut _, PAGES * PAGE, Advice::LinuxDontNeed).unwrap();
            // One page of zeros between holes.
            ((base + 5 * PAGE) as *mut u8).write_volatile(0);
        }
        let window = window(base, &zeros);
        let mut planned = Mask::NONE;
        planned.insert(0, PAGES);
        let held = loop {
            match barrier.raise(&window, &planned) {
                Err(Error::Os { errno: libc::EAGAIN, .. }) => {}
                held => break held.unwrap(),
            }
        };
        let left_out = PAGES - held.pages.len();
        assert_eq!(held.vanished as usize, left_out, "{name}");
        assert_eq!(left_out, if name == "move" { PAGES - 1 } else { 0 }, "{name}");
        // A write to a hole that is held waits; a write to a hole that was left out does not wait.
        // Neither is lost. Under `park` no thread can write: the thread that would write is
        // stopped.
        if name == "park" {
            barrier.lower(&window, &held.pages, &Swapped::default()).unwrap();
            return;
        }
        let (told, hears) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            told.send(()).unwrap();
            // SAFETY: the test's own memory.
            unsafe { ((base + 3 * PAGE) as *mut u8).write_volatile(7) };
            told.send(()).unwrap();
        });
        hears.recv().unwrap();
        assert!(hears.recv_timeout(Duration::from_millis(100)).is_err(), "{name}: it did not wait");
        barrier.lower(&window, &held.pages, &Swapped::default()).unwrap();
        hears.recv_timeout(Duration::from_secs(10)).unwrap();
        writer.join().unwrap();
        assert_eq!(first_bytes(base)[3], 7, "{name}");
    });
}

/// Raise the mover's barrier, do something to the window that replaces some pages, and lower it.
fn disturbed(replaced: Mask, disturb: impl Fn(usize)) -> Option<(usize, Mover, Result<(), Error>)> {
    let mut mover = match Mover::new() {
        Ok(mover) => mover,
        Err(error) => {
            let required = std::env::var("PAGEMERGE_REQUIRE").unwrap_or_default();
            assert!(!required.contains("uffd"), "{error}");
            eprintln!("skipped: {error}");
            return None;
        }
    };
    let base = memory();
    let pieces = [Piece { first: 0, pages: PAGES, content: Content::Own }];
    let window = window(base, &pieces);
    let mut planned = Mask::NONE;
    planned.insert(0, PAGES);
    let held = mover.raise(&window, &planned).unwrap();
    assert_eq!(held.pages.len(), PAGES);
    disturb(base);
    let swapped = Swapped { remapped: replaced, ..Swapped::default() };
    let lowered = mover.lower(&window, &held.pages, &swapped);
    Some((base, mover, lowered))
}

#[test]
fn a_page_whose_place_is_gone_gets_a_new_one() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|broken| broken.into_inner());
    // Kernels do this that unmap before they find that they cannot map.
    // SAFETY: the test's own memory.
    let unmap = |base: usize| unsafe {
        rustix::mm::munmap((base + 4 * PAGE) as *mut _, 3 * PAGE).unwrap();
    };
    let Some((base, mut mover, lowered)) = disturbed(Mask::NONE, unmap) else { return };
    lowered.unwrap();
    assert_eq!(first_bytes(base), as_filled());
    // The next window is like any other.
    let pieces = [Piece { first: 0, pages: PAGES, content: Content::Zero }];
    let outcome = merged(&mut mover, &window(base, &pieces));
    assert_eq!(outcome.differed, PAGES as u32);
    assert_eq!(first_bytes(base), as_filled());
}

#[test]
fn a_barrier_that_cannot_be_lowered_is_closed_and_nobody_waits() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|broken| broken.into_inner());
    let (told, hears) = mpsc::channel();
    let Ok(other) = Userfault::open(0) else { return };
    // Another userfaultfd watches memory in the middle of the window, while one thread waits for
    // the page that was there and another thread for a page that will be put back.
    let disturb = |base: usize| {
        for page in [2, 8] {
            let told = told.clone();
            std::thread::spawn(move || {
                // SAFETY: the test's own memory.
                let _ = unsafe { ((base + page * PAGE) as *const u8).read_volatile() };
                told.send(page).unwrap();
            });
        }
        assert!(hears.recv_timeout(Duration::from_millis(100)).is_err(), "threads did not wait");
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        let at = base + 8 * PAGE;
        // SAFETY: over a page of the test's own.
        unsafe {
            let flags = flags | MapFlags::FIXED;
            rustix::mm::mmap_anonymous(at as *mut _, PAGE, access, flags).unwrap();
        }
        other.register(at, PAGE, Watch::Missing).unwrap();
    };
    let mut replaced = Mask::NONE;
    replaced.insert(8, 1);
    let Some((base, mover, lowered)) = disturbed(replaced, disturb) else { return };
    assert_eq!(lowered.unwrap_err().errno(), Some(libc::EINVAL));
    drop(mover);
    assert_eq!(hears.recv_timeout(Duration::from_secs(10)), Ok(2), "page 2's reader still waits");
    drop(other);
    assert_eq!(hears.recv_timeout(Duration::from_secs(10)), Ok(8), "page 8's reader still waits");
    let (mut found, mut wanted) = (first_bytes(base), as_filled());
    // The test does not judge the memory that replaced this page.
    (found[8], wanted[8]) = (0, 0);
    assert_eq!(found, wanted);
}

/// This test is here because another test's userfaultfd would be seen, too.
#[test]
fn a_userfaultfd_is_named_and_whether_it_is_told_of_forks() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(|broken| broken.into_inner());
    assert_eq!((pins::find(), pins::is_told_of_forks()), (Ok(None), Ok(false)));
    let Ok(open) = Userfault::open(0) else {
        eprintln!("skipped: no full-mode userfaultfd");
        return;
    };
    let named = Ok(Some("a userfaultfd"));
    assert_eq!((pins::find(), pins::is_told_of_forks()), (named, Ok(false)));
    if let Ok(told) = Userfault::open(FEATURE_EVENT_FORK) {
        assert_eq!(pins::is_told_of_forks(), Ok(true));
        drop(told);
    }
    drop(open);
    assert_eq!(pins::find(), Ok(None));
}
