//! The find stage for Python: it takes buffers and fills buffers, and releases the GIL while it
//! works.

use pagemerge_pages::digest::{Digester, ABSENT, ZERO};
use pagemerge_pages::pagemap::{Kind, Pagemap, Run};
use pagemerge_pages::read::remote;
use pagemerge_pages::{Error, Result, PAGE};
use pyo3::buffer::{Element, PyBuffer};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::slice;

use crate::errors::raise;

/// Add the functions and constants of this file to `module`.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("ABSENT", ABSENT)?;
    module.add("ZERO", ZERO)?;
    module.add("CHUNK", remote::CHUNK)?;
    module.add_function(wrap_pyfunction!(digest, module)?)?;
    module.add_function(wrap_pyfunction!(present_runs, module)?)?;
    module.add_function(wrap_pyfunction!(huge_runs, module)?)?;
    module.add_function(wrap_pyfunction!(pagemap, module)?)?;
    module.add_function(wrap_pyfunction!(read_digests, module)?)?;
    module.add_function(wrap_pyfunction!(read_only, module)?)?;
    module.add_function(wrap_pyfunction!(read_pages, module)?)?;
    module.add_function(wrap_pyfunction!(look, module)?)?;
    module.add_function(wrap_pyfunction!(sort, module)?)?;
    module.add_function(wrap_pyfunction!(count, module)?)
}

#[pyfunction]
fn digest(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    seed: u64,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let data = buffer::<u8>(data, "data")?;
    let out = buffer::<u64>(out, "out")?;
    let (data, out) = (shared(py, &data, "data")?, exclusive(py, &out, "out")?);
    apart(py, data.as_ptr_range(), out.as_ptr_range())?;
    detached(py, || Digester::new(seed).digest_pages(data, out))
}

#[pyfunction]
#[pyo3(signature = (pid, start, end, anonymous = true))]
fn present_runs<'py>(
    py: Python<'py>,
    pid: i32,
    start: u64,
    end: u64,
    anonymous: bool,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    found(py, pid, start, end, if anonymous { Kind::Anonymous } else { Kind::Any })
}

#[pyfunction]
fn huge_runs<'py>(
    py: Python<'py>,
    pid: i32,
    start: u64,
    end: u64,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    found(py, pid, start, end, Kind::Huge)
}

fn found<'py>(
    py: Python<'py>,
    pid: i32,
    start: u64,
    end: u64,
    kind: Kind,
) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let runs = detached(py, || Pagemap::open(pid)?.present_runs(start, end, kind))?;
    let starts: Vec<u8> = runs.iter().flat_map(|run| run.start.to_ne_bytes()).collect();
    let pages: Vec<u8> = runs.iter().flat_map(|run| run.pages.to_ne_bytes()).collect();
    Ok((PyBytes::new(py, &starts), PyBytes::new(py, &pages)))
}

#[pyfunction]
fn pagemap(
    py: Python<'_>,
    pid: i32,
    starts: &Bound<'_, PyAny>,
    pages: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let runs = runs(py, starts, pages)?;
    let out = buffer::<u64>(out, "out")?;
    let out = exclusive(py, &out, "out")?;
    detached(py, || Pagemap::open(pid)?.entries_of(&runs, out))
}

#[pyfunction]
#[pyo3(signature = (pid, starts, pages, entries, seed, out, threads = 1))]
#[allow(clippy::too_many_arguments)] // As many arguments as the stub shows, which names them.
fn read_digests(
    py: Python<'_>,
    pid: i32,
    starts: &Bound<'_, PyAny>,
    pages: &Bound<'_, PyAny>,
    entries: &Bound<'_, PyAny>,
    seed: u64,
    out: &Bound<'_, PyAny>,
    threads: usize,
) -> PyResult<(u64, u64)> {
    let runs = runs(py, starts, pages)?;
    let entries = buffer::<u64>(entries, "entries")?;
    let out = buffer::<u64>(out, "out")?;
    let (entries, out) = (shared(py, &entries, "entries")?, exclusive(py, &out, "out")?);
    apart(py, entries.as_ptr_range(), out.as_ptr_range())?;
    figures(detached(py, || remote::read_digests(pid, &runs, entries, seed, out, threads))?)
}

#[pyfunction]
#[pyo3(signature = (pid, starts, pages, out, threads = 1, chunk = remote::CHUNK))]
fn read_only(
    py: Python<'_>,
    pid: i32,
    starts: &Bound<'_, PyAny>,
    pages: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    threads: usize,
    chunk: usize,
) -> PyResult<(u64, u64)> {
    let runs = runs(py, starts, pages)?;
    let out = buffer::<u64>(out, "out")?;
    let out = exclusive(py, &out, "out")?;
    figures(detached(py, || remote::read_only(pid, &runs, out, threads, chunk))?)
}

#[pyfunction]
fn read_pages(
    py: Python<'_>,
    pid: i32,
    starts: &Bound<'_, PyAny>,
    pages: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
) -> PyResult<(u64, u64)> {
    let runs = runs(py, starts, pages)?;
    let out = buffer::<u8>(out, "out")?;
    let out = exclusive(py, &out, "out")?;
    figures(detached(py, || remote::read_pages(pid, &runs, out))?)
}

#[pyfunction]
#[pyo3(signature = (pid, start, pages, seed, out, threads = 1))]
fn look(
    py: Python<'_>,
    pid: i32,
    start: u64,
    pages: usize,
    seed: u64,
    out: &Bound<'_, PyAny>,
    threads: usize,
) -> PyResult<(u64, u64)> {
    let out = buffer::<u64>(out, "out")?;
    let out = exclusive(py, &out, "out")?;
    if out.len() != pages {
        let text = format!("room for {} digests of {pages} pages", out.len());
        return Err(raise(py, &Error::Usage(text)));
    }
    figures(detached(py, || remote::look(pid, start, seed, out, threads))?)
}

#[pyfunction]
#[pyo3(signature = (keys, threads = 1))]
fn sort(py: Python<'_>, keys: &Bound<'_, PyAny>, threads: usize) -> PyResult<()> {
    let keys = buffer::<u64>(keys, "keys")?;
    let keys = exclusive(py, &keys, "keys")?;
    detached(py, || {
        pagemerge_pages::sort::sort(keys, threads);
        Ok(())
    })
}

/// Count values in place. numpy's bincount would first copy the values to 64 bits, which is slow.
#[pyfunction]
fn count(py: Python<'_>, values: &Bound<'_, PyAny>, counts: &Bound<'_, PyAny>) -> PyResult<()> {
    let values = buffer::<u32>(values, "values")?;
    let counts = buffer::<u32>(counts, "counts")?;
    let (values, counts) = (shared(py, &values, "values")?, exclusive(py, &counts, "counts")?);
    apart(py, values.as_ptr_range(), counts.as_ptr_range())?;
    detached(py, || {
        for &value in values {
            if let Some(count) = counts.get_mut(value as usize) {
                *count += 1;
            }
        }
        Ok(())
    })
}

/// Run `work` without the GIL.
pub fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| raise(py, &error))
}

pub fn figures(look: remote::Look) -> PyResult<(u64, u64)> {
    Ok((look.read, look.unreadable))
}

/// Copy the runs that two arrays describe. Their sum is known to fit an address space.
pub fn runs(
    py: Python<'_>,
    starts: &Bound<'_, PyAny>,
    pages: &Bound<'_, PyAny>,
) -> PyResult<Vec<Run>> {
    let starts = buffer::<u64>(starts, "starts")?;
    let pages = buffer::<u64>(pages, "pages")?;
    let (starts, pages) = (shared(py, &starts, "starts")?, shared(py, &pages, "pages")?);
    let mut total = 0_u64;
    let fits = starts.len() == pages.len()
        && starts.iter().zip(pages).all(|(start, pages)| {
            total = total.saturating_add(*pages);
            let end = pages.checked_mul(PAGE as u64).and_then(|bytes| start.checked_add(bytes));
            end.is_some() && total < 1 << 51
        });
    if !fits {
        let text = "starts and pages must be equally long, of addresses and page counts";
        return Err(raise(py, &Error::Usage(text.into())));
    }
    Ok(starts.iter().zip(pages).map(|(&start, &pages)| Run { start, pages }).collect())
}

/// The buffer behind `object`, whose elements must be `T`.
pub fn buffer<T: Element>(object: &Bound<'_, PyAny>, name: &str) -> PyResult<PyBuffer<T>> {
    PyBuffer::get(object).map_err(|error| {
        let bits = 8 * size_of::<T>();
        let text = format!("{name} must be a buffer of {bits}-bit unsigned elements: {error}");
        raise(object.py(), &Error::Usage(text))
    })
}

/// The elements of `buffer`, for reading.
pub fn shared<'a, T: Element>(
    py: Python<'_>,
    buffer: &'a PyBuffer<T>,
    name: &str,
) -> PyResult<&'a [T]> {
    if !buffer.is_c_contiguous() {
        return Err(raise(py, &Error::Usage(format!("{name} must be contiguous"))));
    }
    if buffer.item_count() == 0 {
        return Ok(&[]);
    }
    // SAFETY: the caller holds the buffer for the lifetime of the slice; it is contiguous, aligned
    // (PyBuffer checked it) and that long. The contract in `_core.pyi` says that no other thread
    // writes to it meanwhile.
    Ok(unsafe { slice::from_raw_parts(buffer.buf_ptr().cast(), buffer.item_count()) })
}

/// The elements of `buffer`, for writing.
#[allow(clippy::mut_from_ref)] // The buffer is only the handle; it owns the memory as a whole.
pub fn exclusive<'a, T: Element>(
    py: Python<'_>,
    buffer: &'a PyBuffer<T>,
    name: &str,
) -> PyResult<&'a mut [T]> {
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(raise(py, &Error::Usage(format!("{name} must be writable and contiguous"))));
    }
    if buffer.item_count() == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `shared`; and the buffer is writable. Each function makes one such slice, and
    // `apart` makes sure that it does not overlap what else is in use.
    Ok(unsafe { slice::from_raw_parts_mut(buffer.buf_ptr().cast(), buffer.item_count()) })
}

/// Refuse an output that overlaps its input.
fn apart<T, U>(
    py: Python<'_>,
    input: std::ops::Range<*const T>,
    output: std::ops::Range<*const U>,
) -> PyResult<()> {
    if input.start.cast() < output.end && output.start < input.end.cast() {
        return Err(raise(py, &Error::Usage("the input overlaps out".into())));
    }
    Ok(())
}
