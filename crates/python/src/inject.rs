//! Opts in running processes, for Python.

use pagemerge_pages::Error;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::raise;
use crate::find::{buffer, detached, shared};

const ADVICE: [i32; 2] = [libc::MADV_MERGEABLE, libc::MADV_UNMERGEABLE];

/// Add the functions of this file to `module`.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(inject_check, module)?)?;
    module.add_function(wrap_pyfunction!(inject_prctl, module)?)?;
    module.add_function(wrap_pyfunction!(inject_madvise, module)?)?;
    module.add_function(wrap_pyfunction!(inject_separate, module)?)
}

#[pyfunction]
fn inject_check(py: Python<'_>, pid: i32) -> PyResult<()> {
    detached(py, || pagemerge_pages::inject::check(pid))
}

#[pyfunction]
fn inject_prctl(py: Python<'_>, pid: i32, on: bool) -> PyResult<(bool, f64)> {
    let done = detached(py, || pagemerge_pages::inject::prctl(pid, on))?;
    Ok((done.before, done.held.as_secs_f64()))
}

#[pyfunction]
fn inject_madvise<'py>(
    py: Python<'py>,
    pid: i32,
    starts: &Bound<'_, PyAny>,
    lengths: &Bound<'_, PyAny>,
    advice: i32,
) -> PyResult<(Bound<'py, PyBytes>, u64, f64, f64)> {
    let ranges = pairs(py, starts, lengths, "lengths")?;
    if !ADVICE.contains(&advice) {
        return Err(raise(py, &Error::Usage("advice must be 12 or 13".into())));
    }
    let done = detached(py, || pagemerge_pages::inject::madvise(pid, &ranges, advice))?;
    let results: Vec<u8> = done.results.iter().flat_map(|result| result.to_ne_bytes()).collect();
    let (held, longest) = (done.held.as_secs_f64(), done.longest.as_secs_f64());
    Ok((PyBytes::new(py, &results), done.stops, held, longest))
}

#[pyfunction]
fn inject_separate(
    py: Python<'_>,
    pid: i32,
    starts: &Bound<'_, PyAny>,
    ends: &Bound<'_, PyAny>,
    across: bool,
    tell: Py<PyAny>,
) -> PyResult<(u64, u64, u64, f64, f64)> {
    let ranges = pairs(py, starts, ends, "ends")?;
    let ascending = ranges.windows(2).all(|two| two[0].1 <= two[1].0);
    if !ascending || ranges.iter().any(|(start, end)| start >= end) {
        let text = "starts and ends must be of ranges in order of address";
        return Err(raise(py, &Error::Usage(text.into())));
    }
    let mut interrupted = None;
    let mut told = |bytes: u64| {
        let heard = Python::attach(|py| {
            py.check_signals()?;
            tell.call1(py, (bytes,)).map(drop)
        });
        interrupted = heard.err();
        interrupted.is_none()
    };
    let work = || pagemerge_pages::inject::separate(pid, &ranges, across, &mut told);
    let done = detached(py, work)?;
    interrupted.map_or_else(
        || {
            let (held, longest) = (done.held.as_secs_f64(), done.longest.as_secs_f64());
            Ok((done.stops, done.calls, done.refused, held, longest))
        },
        Err,
    )
}

/// Copy what two arrays of one length say of ranges: their starts, and `others`.
fn pairs(
    py: Python<'_>,
    starts: &Bound<'_, PyAny>,
    others: &Bound<'_, PyAny>,
    name: &str,
) -> PyResult<Vec<(u64, u64)>> {
    let (starts, others) = (buffer::<u64>(starts, "starts")?, buffer::<u64>(others, name)?);
    let (starts, others) = (shared(py, &starts, "starts")?, shared(py, &others, name)?);
    if starts.len() != others.len() {
        let text = format!("starts and {name} must be equally long");
        return Err(raise(py, &Error::Usage(text)));
    }
    Ok(starts.iter().copied().zip(others.iter().copied()).collect())
}
