//! Goes through pages chunk by chunk, on several threads, each with one small buffer.

use std::ffi::c_void;
use std::panic::resume_unwind;
use std::slice;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::digest::{pages, ABSENT};
use crate::read::reader::{Look, Reader};
use crate::{Result, PAGE};

/// Consecutive pages, and where their digests go.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub start: u64,
    pub pages: usize,
    /// Index of the first page's digest in the output.
    pub at: usize,
}

impl Place {
    pub fn piece(&self) -> libc::iovec {
        libc::iovec { iov_base: self.start as *mut c_void, iov_len: self.pages * PAGE }
    }
}

/// The number of pages at all `places`.
pub fn page_count(places: &[Place]) -> usize {
    places.iter().map(|place| place.pages).sum()
}

/// Read all pages at `places`, which ascend in `out`, and put `value` of each there.
pub fn each_page<V>(
    reader: &Reader,
    places: &[Place],
    out: &mut [u64],
    threads: usize,
    chunk: usize,
    value: V,
) -> Result<Look>
where
    V: Fn(&[u8; PAGE]) -> u64 + Sync,
{
    let count = page_count(places);
    let at_once = (chunk / PAGE).clamp(1, count.max(1));
    let feed = Mutex::new(Feed { places: places.iter(), rest: None, out, base: 0 });
    let work = || work(reader, &feed, at_once, &value);
    thread::scope(|scope| {
        let useful = threads.min(count.div_ceil(at_once));
        let others: Vec<_> = (1..useful).map(|_| scope.spawn(work)).collect();
        let mut total = work();
        for other in others {
            let part = other.join().unwrap_or_else(|panic| resume_unwind(panic));
            total = total.and_then(|mut sum| {
                sum.add(part?);
                Ok(sum)
            });
        }
        total
    })
}

/// One thread's part of [`each_page`]: chunk after chunk until none is left.
fn work<V>(reader: &Reader, feed: &Mutex<Feed<'_>>, at_once: usize, value: &V) -> Result<Look>
where
    V: Fn(&[u8; PAGE]) -> u64,
{
    let mut buffer = Buffer::of(at_once);
    let mut places = Vec::new();
    let mut total = Look::default();
    loop {
        let next = feed.lock().unwrap_or_else(PoisonError::into_inner).next(at_once, &mut places);
        let Some(out) = next else { return Ok(total) };
        let bytes = &mut flatten(&mut buffer.pages)[..page_count(&places) * PAGE];
        let mut pieces: Vec<_> = places.iter().map(Place::piece).collect();
        let mut gaps = Vec::new();
        total.add(reader.read_all(&mut pieces, bytes, |page| gaps.push(page))?);
        let mut gaps = gaps.into_iter().peekable();
        let targets = places.iter().flat_map(|place| place.at..place.at + place.pages);
        for ((number, page), target) in pages(bytes).enumerate().zip(targets) {
            let gone = gaps.next_if_eq(&number).is_some();
            out[target] = if gone { ABSENT } else { value(page) };
        }
    }
}

/// The largest number of buffers that are kept while no thread reads.
const MOST_SPARE: usize = 4;

static SPARE: Mutex<Vec<Vec<Page>>> = Mutex::new(Vec::new());

/// The buffer that one thread reads into. It is used again: the page faults of a new one take
/// longer than reading into it.
struct Buffer {
    pages: Vec<Page>,
}

impl Buffer {
    /// A buffer of at least `pages` pages, of any contents.
    fn of(pages: usize) -> Self {
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut this = Self { pages: spare.unwrap_or_default() };
        if this.pages.len() < pages {
            this.pages.resize(pages, Page([0; PAGE]));
        }
        this
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.push(std::mem::take(&mut self.pages));
        }
    }
}

/// A page of a buffer, aligned like a page: vector loads then never straddle a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

fn flatten(pages: &mut [Page]) -> &mut [u8] {
    // SAFETY: a Page is exactly PAGE bytes, any of which are valid, and the borrow is passed on.
    unsafe { slice::from_raw_parts_mut(pages.as_mut_ptr().cast(), size_of_val(pages)) }
}

/// Deals out places and the output that belongs to them, chunk by chunk.
struct Feed<'a> {
    places: slice::Iter<'a, Place>,
    /// The rest of a place that was cut.
    rest: Option<Place>,
    /// The output not yet dealt out, and the index of its first element.
    out: &'a mut [u64],
    base: usize,
}

impl<'a> Feed<'a> {
    /// Put the places of up to `pages` next pages into `places`, counted from the start of the
    /// output that is returned.
    fn next(&mut self, pages: usize, places: &mut Vec<Place>) -> Option<&'a mut [u64]> {
        places.clear();
        let mut room = pages;
        while room > 0 {
            let Some(place) = self.rest.take().or_else(|| self.places.next().copied()) else {
                break;
            };
            let taken = room.min(place.pages);
            places.push(Place { pages: taken, ..place });
            room -= taken;
            let start = place.start + (taken * PAGE) as u64;
            let left = Place { start, pages: place.pages - taken, at: place.at + taken };
            self.rest = (left.pages > 0).then_some(left);
        }
        let (first, last) = (places.first()?.at, places.last()?);
        let end = last.at + last.pages;
        let out = std::mem::take(&mut self.out);
        let (now, later) = out[first - self.base..].split_at_mut(end - first);
        (self.out, self.base) = (later, end);
        places.iter_mut().for_each(|place| place.at -= first);
        Some(now)
    }
}
