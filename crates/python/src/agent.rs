//! The agent for Python: mergeable memory with the buffer protocol, and merging on demand.

use pagemerge_agent::{self as agent, Choice, Config};
use pagemerge_pages::{Error, PAGE};
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::ffi::{c_int, CString};
use std::ptr::NonNull;

use crate::errors::raise;
use crate::find::{buffer, shared};

/// Add the functions and classes of this file to `module`.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Memory>()?;
    module.add_function(wrap_pyfunction!(start_agent, module)?)?;
    module.add_function(wrap_pyfunction!(probe_barrier, module)?)?;
    module.add_function(wrap_pyfunction!(intern_pages, module)?)?;
    module.add_function(wrap_pyfunction!(copy_into, module)?)?;
    module.add_function(wrap_pyfunction!(unmerge_range, module)?)?;
    module.add_function(wrap_pyfunction!(is_mergeable, module)?)?;
    module.add_function(wrap_pyfunction!(agent_summary, module)?)
}

/// Mergeable memory: a writable buffer of bytes, zero at first, page-aligned.
#[pyclass(frozen, weakref, module = "pagemerge._core")]
pub struct Memory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the value only names a mapping; access to its bytes goes through the buffer protocol.
unsafe impl Send for Memory {}
// SAFETY: as above; the value itself is never changed.
unsafe impl Sync for Memory {}

#[pymethods]
impl Memory {
    #[new]
    fn new(py: Python<'_>, nbytes: usize) -> PyResult<Self> {
        let base = agent::allocate(nbytes).map_err(|error| raise(py, &error))?;
        Ok(Self { base, bytes: nbytes })
    }

    /// Address of the first byte.
    #[getter]
    fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    fn __len__(&self) -> usize {
        self.bytes
    }

    fn __repr__(&self) -> String {
        format!("<pagemerge.Memory of {} bytes at {:#x}>", self.bytes, self.address())
    }

    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view"));
        }
        let this = slf.get();
        let len = this.bytes as ffi::Py_ssize_t;
        // SAFETY: the memory lives as long as this object, which the view keeps alive.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), this.base.as_ptr().cast(), len, 0, flags)
        };
        if filled == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: every view of the memory keeps this object alive, so no view exists any more.
        unsafe { agent::release(self.base.as_ptr() as usize) };
    }
}

#[pyfunction]
fn start_agent(
    py: Python<'_>,
    socket: String,
    hub: Vec<String>,
    barrier: &str,
    domain: String,
) -> PyResult<()> {
    let hub: Result<Vec<CString>, _> = hub.into_iter().map(CString::new).collect();
    let hub = hub.map_err(|_| PyValueError::new_err("a NUL byte in the hub's command"))?;
    let barrier = Choice::parse(barrier).map_err(|error| raise(py, &error))?;
    py.detach(|| agent::start(Config { socket: socket.into(), hub, barrier, domain }))
        .map_err(|error| raise(py, &error))
}

#[pyfunction]
fn probe_barrier(py: Python<'_>, barrier: &str) -> PyResult<(u32, String)> {
    let choice = Choice::parse(barrier).map_err(|error| raise(py, &error))?;
    Ok(agent::probe(choice))
}

/// Merge without the GIL, and look for a Ctrl-C ten times a second.
fn intern(py: Python<'_>, source: usize, target: usize, pages: usize) -> PyResult<Vec<u8>> {
    let mut interrupted = None;
    let bits = py.detach(|| {
        let patient = || {
            interrupted = Python::attach(|py| py.check_signals()).err();
            interrupted.is_none()
        };
        // SAFETY: the caller holds both buffers, and promises that no thread writes them.
        unsafe { agent::intern(source, target, pages, patient) }
    });
    match interrupted {
        Some(interrupt) => Err(interrupt),
        None => bits.map_err(|error| raise(py, &error)),
    }
}

#[pyfunction]
fn intern_pages(py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<usize> {
    let data = buffer::<u8>(data, "data")?;
    let (start, bytes) = (data.buf_ptr() as usize, data.len_bytes());
    // Check also what is too small to be merged: its owner believes that it can be merged.
    if bytes > 0 && !agent::is_mergeable(start, bytes) {
        return Err(raise(py, &agent::not_mergeable()));
    }
    // Whole pages only: the rest of a page may belong to other code.
    let (first, last) = (start.next_multiple_of(PAGE), (start + bytes) & !(PAGE - 1));
    if last <= first {
        return Ok(0);
    }
    let bits = intern(py, first, first, (last - first) / PAGE)?;
    Ok(bits.iter().map(|byte| byte.count_ones() as usize).sum())
}

#[pyfunction]
fn copy_into(py: Python<'_>, data: &Bound<'_, PyAny>, memory: &Memory) -> PyResult<usize> {
    let data = buffer::<u8>(data, "data")?;
    let bytes = shared(py, &data, "data")?;
    if bytes.len() > memory.bytes {
        return Err(raise(py, &Error::Usage("the memory is too small".into())));
    }
    let (source, target) = (bytes.as_ptr() as usize, memory.address());
    let pages = bytes.len() / PAGE;
    let bits = if pages > 0 { intern(py, source, target, pages)? } else { Vec::new() };
    let mut merged = 0;
    py.detach(|| {
        for page in 0..=pages {
            if bits.get(page / 8).is_some_and(|byte| byte >> (page % 8) & 1 == 1) {
                merged += 1;
                continue;
            }
            let rest = &bytes[(page * PAGE).min(bytes.len())..bytes.len().min((page + 1) * PAGE)];
            // SAFETY: the memory is new and at least as long as the data, and no other code uses
            // it.
            unsafe {
                let to = memory.base.as_ptr().add(page * PAGE);
                std::ptr::copy_nonoverlapping(rest.as_ptr(), to, rest.len());
            }
        }
    });
    Ok(merged)
}

#[pyfunction]
fn unmerge_range(py: Python<'_>, address: usize, nbytes: usize) -> PyResult<()> {
    py.detach(|| agent::unmerge(address, nbytes)).map_err(|error| raise(py, &error))
}

#[pyfunction]
fn is_mergeable(address: usize, nbytes: usize) -> bool {
    agent::is_mergeable(address, nbytes)
}

#[pyfunction]
fn agent_summary(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let summary = agent::summary();
    let row = PyDict::new(py);
    row.set_item("regions", summary.regions)?;
    row.set_item("bytes", summary.bytes)?;
    row.set_item("slabbed_pages", summary.slabbed_pages)?;
    row.set_item("barrier", summary.barrier)?;
    row.set_item("reason", summary.reason)?;
    row.set_item("hub_pid", summary.hub)?;
    Ok(row)
}
