//! Pages that ksmd has merged become a process's own again, in many short stops.
//!
//! The kernel copies page by page, and holds the process's memory map meanwhile: who maps memory or
//! takes a page fault waits. To copy a gigabyte takes it about a second. So it is asked for pieces
//! that it needs some milliseconds for, and the process runs in between.

use super::{stopped, Call, Tracee, Trouble};
use crate::error::Result;
use std::time::{Duration, Instant};

/// No call is begun that would likely end later than this after the stop began.
const HOLD: Duration = Duration::from_millis(20);
/// The process runs for this part of the time that it was held.
const RUN: f64 = 0.3;
/// So long a call should take; the next piece is made so.
const CALL: Duration = Duration::from_millis(10);
/// Bytes of the first piece: 3 ms on a common processor if all of them are merged.
const FIRST: u64 = 4 << 20;
const LEAST: u64 = 64 << 10;
/// What follows a large piece that was not merged may be merged: it must not take long, either.
const MOST: u64 = 32 << 20;
/// What lies between two ranges is no reason for two calls, up to so many bytes.
const GAP: u64 = 1 << 20;

/// What came of `separate`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Separated {
    /// Stops of a thread.
    pub stops: u64,
    /// Calls that it made.
    pub calls: u64,
    /// ... of which so many were refused, or had to do with memory that is not mapped any more.
    pub refused: u64,
    /// How long a thread was held, all stops together.
    pub held: Duration,
    /// The longest stop.
    pub longest: Duration,
}

/// Have process `pid` call madvise(MADV_UNMERGEABLE) on `ranges` (start, end; ascending).
///
/// `across`: what lies between ranges may be named in a call, too, so that few are needed for many
/// small ranges. Nothing becomes of memory that is not mergeable. But a call on memory that has
/// holes answers ENOMEM however well it went (madvise(2)), so then that is not counted as refused:
/// look at what the kernel says of the process afterwards.
///
/// `tell` hears after each stop how many bytes of the ranges it was about; at its `false` no other
/// stop follows.
///
/// # Errors
/// `Refused` and why, `Os` with `ESRCH` or `EPERM`. What was separated until then stays so.
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

/// At least one call, and as many as fit into `HOLD`; what is left to be done then.
fn one_stop<'a>(tracee: &mut Tracee, begun: &Work<'a>) -> std::result::Result<Work<'a>, Trouble> {
    let (mut work, began) = (*begun, Instant::now());
    while let Some(piece) = work.next() {
        let since = Instant::now();
        let arguments = [piece.start, piece.end - piece.start, libc::MADV_UNMERGEABLE as u64, 0, 0];
        match tracee.call(&Call { number: libc::SYS_madvise, arguments }) {
            Ok(result) => work.did(&piece, result, since.elapsed()),
            // What was done is done; the rest is for the next stop.
            Err(Trouble::Again(_)) if work.calls > begun.calls => break,
            Err(trouble) => return Err(trouble),
        }
        if began.elapsed() + since.elapsed() > HOLD {
            break;
        }
    }
    Ok(work)
}

/// What there is to do, and how far it is done.
#[derive(Debug, Clone, Copy)]
struct Work<'a> {
    ranges: &'a [(u64, u64)],
    /// Where the first of them begins now.
    at: u64,
    gap: u64,
    /// Bytes that the next piece is to have.
    pace: u64,
    calls: u64,
    refused: u64,
    /// Done.
    bytes: u64,
}

/// What one call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    start: u64,
    end: u64,
    /// Bytes of ranges in it.
    bytes: u64,
    /// Ranges that are done with it.
    whole: usize,
    /// Is there anything between them?
    gaps: bool,
}

impl<'a> Work<'a> {
    fn new(ranges: &'a [(u64, u64)], gap: u64) -> Self {
        let at = ranges.first().map_or(0, |range| range.0);
        Self { ranges, at, gap, pace: FIRST, calls: 0, refused: 0, bytes: 0 }
    }

    /// The next piece; none when all is done.
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

    /// `piece` took so long, and the kernel answered `result`.
    fn did(&mut self, piece: &Piece, result: i64, took: Duration) {
        self.calls += 1;
        let holes = piece.gaps && result == -i64::from(libc::ENOMEM);
        self.refused += u64::from(result != 0 && !holes);
        self.bytes += piece.bytes;
        self.ranges = self.ranges.get(piece.whole..).unwrap_or_default();
        let next = self.ranges.first().map_or(0, |range| range.0);
        self.at = next.max(piece.end);
        // The last piece of a range can be small: that it was quick means nothing for large ones.
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

    /// All pieces, if each takes `took` a page.
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
