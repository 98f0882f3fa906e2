//! Slabs for the hub: made from pages of clients, or adopted after a check.

use pagemerge_pages::digest::Digester;
use pagemerge_pages::pagemap::Run;
use pagemerge_pages::read::peer::Peer as Inner;
use pagemerge_pages::read::remote::Target;
use pagemerge_pages::{read::remote, slab, Error, Result, PAGE};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::fd::{BorrowedFd, IntoRawFd, OwnedFd};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::errors::raise;
use crate::find::{buffer, shared};
use crate::peer::Peer;

/// Add the functions of this file to `module`.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("SLAB_NAME", slab::NAME)?;
    module.add("SLAB_PAGES", slab::MOST_PAGES)?;
    module.add_function(wrap_pyfunction!(build_slab, module)?)?;
    module.add_function(wrap_pyfunction!(copy_slots, module)?)?;
    module.add_function(wrap_pyfunction!(open_slab, module)?)
}

#[pyfunction]
fn build_slab<'py>(
    py: Python<'py>,
    peers: Vec<PyRef<'py, Peer>>,
    whose: &Bound<'py, PyAny>,
    starts: &Bound<'py, PyAny>,
    pages: &Bound<'py, PyAny>,
    seed: u64,
    whole: (usize, f64),
) -> PyResult<(i32, u64, Bound<'py, PyBytes>, u64)> {
    let whose = buffer::<u64>(whose, "whose")?;
    let starts = buffer::<u64>(starts, "starts")?;
    let pages = buffer::<u64>(pages, "pages")?;
    let rows = shared(py, &whose, "whose")?
        .iter()
        .zip(shared(py, &starts, "starts")?)
        .zip(shared(py, &pages, "pages")?);
    let rows: Vec<Row> =
        rows.map(|((&peer, &start), &pages)| (peer as usize, Run { start, pages })).collect();
    let peers = peers.iter().map(|peer| peer.inner(py)).collect::<PyResult<Vec<Arc<Inner>>>>()?;
    if rows.iter().any(|row| row.0 >= peers.len()) {
        return Err(raise(py, &Error::Usage("a row names a peer that does not exist".into())));
    }
    let (blocks, longest) = whole;
    let longest = Duration::try_from_secs_f64(longest).unwrap_or(Duration::MAX);
    let whole = Whole { blocks, longest };
    let built = py.detach(|| build_from(&peers, &rows, seed, whole));
    let (descriptor, id, digests, huge) = built.map_err(|error| raise(py, &error))?;
    Ok((descriptor.into_raw_fd(), id, PyBytes::new(py, &digests), huge))
}

/// The blocks at the start of a slab that are to be huge pages, and the longest that the kernel may
/// take for one: after that, the others stay small.
#[derive(Clone, Copy)]
struct Whole {
    blocks: usize,
    longest: Duration,
}

/// Consecutive pages of one of several peers.
type Row = (usize, Run);

/// A sealed slab, its name, the digests of its pages, and which of its blocks are huge pages.
type Built = (OwnedFd, u64, Vec<u8>, u64);

/// Make a slab of pages of peers, if all of them have stayed what they were at their greetings
/// until everything was copied. Otherwise no slab remains.
fn build_from(peers: &[Arc<Inner>], rows: &[Row], seed: u64, whole: Whole) -> Result<Built> {
    let total: usize = rows.iter().map(|(_, run)| run.pages as usize).sum();
    peers.iter().try_for_each(|peer| peer.check())?;
    let copy = |direct: bool| -> Result<_> {
        let targets: Vec<_> = peers.iter().map(|peer| peer.target(direct)).collect();
        let mut rows = VecDeque::from(rows.to_vec());
        let built = build(total, whole, seed, |bytes| {
            fill(&targets, &mut rows, bytes);
            Ok(())
        })?;
        for (peer, target) in peers.iter().zip(&targets) {
            if !peer.is_proven(target)? {
                return Ok(None);
            }
        }
        Ok(Some(built))
    };
    let built = match copy(true)? {
        Some(built) => Some(built),
        None => copy(false)?,
    };
    peers.iter().try_for_each(|peer| peer.check())?;
    built.ok_or_else(|| Error::os("read of /proc/PID/mem", libc::ESRCH))
}

/// Copy the next rows, in order, until `bytes` is full. A page that cannot be read any more stays
/// zero: its slot's digest shows that, and no client will get it.
fn fill(targets: &[Target<'_>], rows: &mut VecDeque<Row>, bytes: &mut [u8]) {
    let mut rest = bytes;
    while let Some(&(peer, _)) = rows.front().filter(|_| !rest.is_empty()) {
        // Take all pages that come next from one process in one read.
        let (mut runs, mut taken) = (Vec::new(), 0);
        while taken < rest.len() / PAGE && rows.front().is_some_and(|row| row.0 == peer) {
            let Some((_, mut run)) = rows.pop_front() else { break };
            let pages = run.pages.min((rest.len() / PAGE - taken) as u64);
            if pages < run.pages {
                let start = run.start + pages * PAGE as u64;
                rows.push_front((peer, Run { start, pages: run.pages - pages }));
                run.pages = pages;
            }
            taken += pages as usize;
            runs.push(run);
        }
        let (own, others) = rest.split_at_mut(taken * PAGE);
        let aligned = runs.iter().all(|run| run.start % PAGE as u64 == 0);
        let read = if aligned { remote::read_pages_of } else { remote::read_stretches };
        let _ = read(&targets[peer], &runs, own);
        rest = others;
    }
}

#[pyfunction]
fn copy_slots<'py>(
    py: Python<'py>,
    descriptors: &Bound<'py, PyAny>,
    slots: &Bound<'py, PyAny>,
    seed: u64,
) -> PyResult<(i32, u64, Bound<'py, PyBytes>)> {
    let descriptors = buffer::<u64>(descriptors, "descriptors")?;
    let slots = buffer::<u64>(slots, "slots")?;
    let rows = shared(py, &descriptors, "descriptors")?.iter().zip(shared(py, &slots, "slots")?);
    let rows: Vec<(i32, u64)> = rows.map(|(&fd, &slot)| (fd as i32, slot)).collect();
    let built = py.detach(|| -> Result<_> {
        let mut rest = rows.iter();
        build(rows.len(), Whole { blocks: 0, longest: Duration::MAX }, seed, |bytes| {
            for (page, &(fd, slot)) in bytes.chunks_exact_mut(PAGE).zip(&mut rest) {
                // SAFETY: the caller keeps the descriptors open during the call.
                let from = unsafe { BorrowedFd::borrow_raw(fd) };
                let read = rustix::io::pread(from, page, slot * PAGE as u64);
                if read != Ok(PAGE) {
                    return Err(Error::os("pread of a slab", libc::EIO));
                }
            }
            Ok(())
        })
    });
    let (descriptor, id, digests, _) = built.map_err(|error| raise(py, &error))?;
    Ok((descriptor.into_raw_fd(), id, PyBytes::new(py, &digests)))
}

#[pyfunction]
fn open_slab<'py>(
    py: Python<'py>,
    descriptor: i32,
    seed: u64,
) -> PyResult<(u64, Bound<'py, PyBytes>)> {
    // SAFETY: the caller keeps the descriptor open during the call.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let (id, digests) = py
        .detach(|| Ok((slab::id(borrowed)?, digests_of(borrowed, seed)?)))
        .map_err(|error| raise(py, &error))?;
    Ok((id, PyBytes::new(py, &digests)))
}

/// Build a sealed slab, of which the blocks `whole` are to be huge pages. The digests are those of
/// what was written into it, computed while it is in the cache: until a slab is sealed, no other
/// process can have it open.
fn build(
    pages: usize,
    whole: Whole,
    seed: u64,
    mut fill: impl FnMut(&mut [u8]) -> Result<()>,
) -> Result<Built> {
    let (digester, mut digests) = (Digester::new(seed), Vec::with_capacity(pages * 8));
    let (descriptor, huge) = slab::build_huge(pages, whole.blocks, whole.longest, |bytes| {
        fill(bytes)?;
        add_digests(&digester, bytes, &mut digests)
    })?;
    let id = slab::id(&descriptor)?;
    Ok((descriptor, id, digests, huge))
}

fn add_digests(digester: &Digester, bytes: &[u8], digests: &mut Vec<u8>) -> Result<()> {
    let mut part = vec![0_u64; bytes.len() / PAGE];
    digester.digest_pages(bytes, &mut part)?;
    digests.extend(part.iter().flat_map(|digest| digest.to_ne_bytes()));
    Ok(())
}

/// The digests of a slab's pages, from the sealed bytes themselves (u64, native order).
fn digests_of(descriptor: BorrowedFd<'_>, seed: u64) -> Result<Vec<u8>> {
    let (digester, mut digests) = (Digester::new(seed), Vec::new());
    slab::read(descriptor, |bytes| add_digests(&digester, bytes, &mut digests))?;
    Ok(digests)
}
