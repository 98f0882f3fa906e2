//! Makes pages that ksmd has merged a process's own again, in many short stops.
//!
//! The kernel copies page by page, and holds the process's memory map meanwhile: a thread that maps
//! memory or takes a page fault waits. It needs about a second to copy a gigabyte. So each call
//! names a piece that takes the kernel some milliseconds, and the process runs in between.

use super::{stopped, Call, Tracee, Trouble};
use crate::error::Result;
use std::time::{Duration, Instant};

/// No call begins if it would likely end later than this after the stop began.
const HOLD: Duration = Duration::from_millis(20);
/// The process runs for this part of the time that it was held.
const RUN: f64 = 0.3;
/// How long a call should take; the size of the next piece follows from that.
const CALL: Duration = Duration::from_millis(10);
/// The size of the first piece, in bytes: 3 ms on a common processor if all of it is merged.
const FIRST: u64 = 4 << 20;
const LEAST: u64 = 64 << 10;
/// The memory after a large piece that was not merged may be merged: its call must not take long
/// either.
const MOST: u64 = 32 << 20;
/// Two ranges with at most this many bytes between them may share a call.
const GAP: u64 = 1 << 20;

/// The result of `separate`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Separated {
    /// The number of times that a thread was stopped.
    pub stops: u64,
    /// The number of calls that it made.
    pub calls: u64,
    /// The number of calls that were refused, or were about memory that is not mapped any more.
    pub refused: u64,
    /// How long a thread was held, over all stops.
    pub held: Duration,
    /// The longest stop.
    pub longest: Duration,
}

/// Have process `pid` call madvise(MADV_UNMERGEABLE) on `ranges` (start, end; ascending).
///
/// `across`: a call may also name the memory between ranges, so that few calls are needed for many
/// small ranges. A call does nothing to memory that is not mergeable. But a call on memory that has
/// holes answers ENOMEM however well it went (madvise(2)), so then that does not count as refused:
/// look at what the kernel says of the process afterwards.
///
/// After each stop `tell` is called with the number of bytes of the ranges that the stop was about;
/// if it returns `false`, no other stop follows.
///
/// # Errors
/// `Refused` with the reason, `Os` with `ESRCH` or `EPERM`. What was separated by then stays so.
pub fn separate(
    pid: i32,
    ranges: &[(u64, u64)],
    across: bool,
    tell: &mut dyn FnMut(u64) -> bool,
) -> Result<Separated> {
    let (mut all, mut known) = (Separated::default(), None);
    let mut work = Work::new(ranges, if across { GAP } else { 0 });
    while work.next().is_some() {
        let (done, held) = stopped(pid, &mut known, |tracee| one_stop(tracee, &work))?;
        let bytes = done.bytes - work.bytes;
        work = done;
        all.stops += 1;
        all.held += held;
        all.longest = all.longest.max(held);
        if !tell(bytes) {
            break;
        }
        if work.next().is_some() {
            std::thread::sleep(held.mul_f64(RUN));
        }
    }
    Ok(Separated { calls: work.calls, refused: work.refused, ..all })
}

/// Make at least one call, and as many as fit into `HOLD`; returns the work that is left.
fn one_stop<'a>(tracee: &mut Tracee, begun: &Work<'a>) -> std::result::Result<Work<'a>, Trouble> {
    let (mut work, began) = (*begun, Instant::now());
    while let Some(piece) = work.next() {
        let since = Instant::now();
        let arguments = [piece.start, piece.end - piece.start, libc::MADV_UNMERGEABLE as u64, 0, 0];
        match tracee.call(&Call { number: libc::SYS_madvise, arguments }) {
            Ok(result) => work.did(&piece, result, since.elapsed()),
            // The pieces so far are done; the rest is for the next stop.
            Err(Trouble::Again(_)) if work.calls > begun.calls => break,
            Err(trouble) => return Err(trouble),
        }
        if began.elapsed() + since.elapsed() > HOLD {
            break;
        }
    }
    Ok(work)
}

/// The work, and how far it is done.
#[derive(Debug, Clone, Copy)]
struct Work<'a> {
    ranges: &'a [(u64, u64)],
    /// Where the rest of the first range begins.
    at: u64,
    gap: u64,
    /// The size of the next piece, in bytes.
    pace: u64,
    calls: u64,
    refused: u64,
    /// The number of bytes that are done.
    bytes: u64,
}

/// The memory that one call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    start: u64,
    end: u64,
    /// The number of bytes of ranges in it.
    bytes: u64,
    /// The number of ranges that are done with it.
    whole: usize,
    /// Whether there is anything between them.
    gaps: bool,
}

impl<'a> Work<'a> {
    fn new(ranges: &'a [(u64, u64)], gap: u64) -> Self {
        let at = ranges.first().map_or(0, |range| range.0);
        Self { ranges, at, gap, pace: FIRST, calls: 0, refused: 0, bytes: 0 }
    }

    /// The next piece; None when all is done.
    fn next(&self) -> Option<Piece> {
        let mut piece = Piece { start: self.at, end: self.at, bytes: 0, whole: 0, gaps: false };
        for (number, &(start, end)) in self.ranges.iter().enumerate() {
            let start = if number == 0 { self.at } else { start };
            let between = start.saturating_sub(piece.end);
            if piece.bytes > 0 && (between > self.gap || piece.bytes >= self.pace) {
                break;
            }
            piece.gaps |= between > 0;
            piece.end = end.min(start.saturating_add(self.pace - piece.bytes));
            piece.bytes += piece.end.saturating_sub(start);
            if piece.end < end {
                break;
            }
            piece.whole += 1;
        }
        (piece.bytes > 0).then_some(piece)
    }

    /// Record that the call for `piece` took this long, and that the kernel answered `result`.
    fn did(&mut self, piece: &Piece, result: i64, took: Duration) {
        self.calls += 1;
        let holes = piece.gaps && result == -i64::from(libc::ENOMEM);
        self.refused += u64::from(result != 0 && !holes);
        self.bytes += piece.bytes;
        self.ranges = self.ranges.get(piece.whole..).unwrap_or_default();
        let next = self.ranges.first().map_or(0, |range| range.0);
        self.at = next.max(piece.end);
        // The last piece of a range can be small: that it was quick says nothing about large ones.
        let fits = piece.bytes as f64 * (CALL.as_secs_f64() / took.as_secs_f64().max(1e-6));
        let most = if piece.bytes < self.pace { self.pace } else { self.pace.saturating_mul(2) };
        let pages = (fits as u64).min(most) >> 12;
        self.pace = (pages << 12).clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;
    const QUICK: Duration = Duration::from_micros(1);

    /// Returns all pieces, if each takes `took` for each page.
    fn pieces(ranges: &[(u64, u64)], gap: u64, took: Duration) -> Vec<Piece> {
        let (mut work, mut found) = (Work::new(ranges, gap), Vec::new());
        while let Some(piece) = work.next() {
            work.did(&piece, 0, took * (piece.bytes / PAGE) as u32);
            found.push(piece);
        }
        assert_eq!(work.bytes, ranges.iter().map(|(start, end)| end - start).sum::<u64>());
        found
    }

    #[test]
    fn every_byte_is_named_once_and_in_order() {
        let ranges = [(PAGE, 3 * PAGE), (3 * PAGE, 64 << 20), (1 << 30, (1 << 30) + PAGE)];
        let found = pieces(&ranges, GAP, QUICK);
        assert_eq!(found.first().map(|piece| piece.start), Some(PAGE));
        assert_eq!(found.last().map(|piece| piece.end), Some((1 << 30) + PAGE));
        assert!(found.windows(2).all(|two| two[0].end <= two[1].start));
        assert!(found.iter().all(|piece| piece.bytes == piece.end - piece.start && !piece.gaps));
    }

    #[test]
    fn small_ranges_share_a_call_if_what_is_between_may_be_named() {
        let ranges: Vec<_> =
            (1..1000).map(|page| (2 * page * PAGE, (2 * page + 1) * PAGE)).collect();
        let found = pieces(&ranges, GAP, QUICK);
        assert_eq!(found.len(), 1);
        assert!(found[0].gaps);
        assert_eq!(pieces(&ranges, 0, QUICK).len(), ranges.len());
    }

    #[test]
    fn a_piece_is_as_large_as_its_time_allows() {
        let ranges = [(0, 4 << 30)];
        for microseconds in [1, 5, 100] {
            let page = Duration::from_micros(microseconds);
            let found = pieces(&ranges, GAP, page);
            let longest =
                found.iter().skip(2).map(|piece| page * (piece.bytes / PAGE) as u32).max();
            assert!(longest.unwrap() <= CALL, "{longest:?}");
            assert!(
                found[found.len() / 2].bytes
                    >= (MOST / 4).min(CALL.as_micros() as u64 / microseconds * PAGE)
            );
        }
        assert!(pieces(&ranges, GAP, Duration::ZERO).iter().all(|piece| piece.bytes <= MOST));
        let slow = pieces(&[(0, 16 << 20)], GAP, Duration::from_secs(1));
        assert_eq!(slow.last().unwrap().bytes, LEAST);
    }

    #[test]
    fn a_refusal_counts_but_for_holes_in_what_was_named() {
        let ranges = [(0, PAGE), (2 * PAGE, 3 * PAGE), (1 << 30, (1 << 30) + PAGE)];
        let mut work = Work::new(&ranges, GAP);
        for _ in 0..2 {
            let piece = work.next().unwrap();
            work.did(&piece, -i64::from(libc::ENOMEM), QUICK);
        }
        assert_eq!((work.calls, work.refused, work.next()), (2, 1, None));
    }

    #[test]
    fn nothing_to_do_is_done() {
        assert_eq!(Work::new(&[], GAP).next(), None);
    }
}
