//! The clients of a hub, as the hub reads them.

use std::sync::{Arc, Mutex, PoisonError};

use pagemerge_pages::pagemap::Kind;
use pagemerge_pages::read::peer::Peer as Inner;
use pagemerge_pages::read::remote;
use pagemerge_pages::Error;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::raise;
use crate::find::{buffer, detached, exclusive, figures, runs};

/// Add the class of this file to `module`.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Peer>()
}

/// See `_core.pyi`.
#[pyclass(frozen, module = "pagemerge._core")]
pub struct Peer {
    /// None when the client is closed: its files are closed then, even if other code still holds
    /// the object.
    inner: Mutex<Option<Arc<Inner>>>,
}

impl Peer {
    /// Returns the process, for one call.
    pub fn inner(&self, py: Python<'_>) -> PyResult<Arc<Inner>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clone().ok_or_else(|| raise(py, &Error::Hub("the client has gone".into())))
    }
}

#[pymethods]
impl Peer {
    #[new]
    fn new(py: Python<'_>, pid: i32) -> PyResult<Self> {
        let inner = Arc::new(detached(py, || Inner::open(pid))?);
        Ok(Self { inner: Mutex::new(Some(inner)) })
    }

    #[getter]
    fn credentials<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.inner(py)?.standing().credentials))
    }

    #[getter]
    fn label<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.inner(py)?.standing().label))
    }

    #[getter]
    fn namespaces(&self, py: Python<'_>) -> PyResult<(u64, u64, u64)> {
        Ok(self.inner(py)?.standing().namespaces.into())
    }

    fn close(&self) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(inner);
    }

    fn check(&self, py: Python<'_>) -> PyResult<()> {
        {
            let inner = self.inner(py)?;
            detached(py, || inner.check())
        }
    }

    fn look(
        &self,
        py: Python<'_>,
        starts: &Bound<'_, PyAny>,
        pages: &Bound<'_, PyAny>,
        seed: u64,
        out: &Bound<'_, PyAny>,
    ) -> PyResult<(u64, u64)> {
        let runs = runs(py, starts, pages)?;
        let out = buffer::<u64>(out, "out")?;
        let out = exclusive(py, &out, "out")?;
        let inner = self.inner(py)?;
        let look = || inner.visit(|target| remote::look_at_runs(target, &runs, seed, out));
        figures(detached(py, look)?)
    }

    fn digest_stretches(
        &self,
        py: Python<'_>,
        start: u64,
        seed: u64,
        out: &Bound<'_, PyAny>,
    ) -> PyResult<(u64, u64)> {
        let out = buffer::<u64>(out, "out")?;
        let out = exclusive(py, &out, "out")?;
        let inner = self.inner(py)?;
        let look = || inner.visit(|target| remote::digest_stretches(target, start, seed, out, 1));
        figures(detached(py, look)?)
    }

    fn present_runs<'py>(
        &self,
        py: Python<'py>,
        start: u64,
        end: u64,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let inner = self.inner(py)?;
        let find = || inner.visit(|target| target.map.present_runs(start, end, Kind::Anonymous));
        let runs = detached(py, find)?;
        let starts: Vec<u8> = runs.iter().flat_map(|run| run.start.to_ne_bytes()).collect();
        let pages: Vec<u8> = runs.iter().flat_map(|run| run.pages.to_ne_bytes()).collect();
        Ok((PyBytes::new(py, &starts), PyBytes::new(py, &pages)))
    }

    fn maps<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &{
            let inner = self.inner(py)?;
            detached(py, || inner.maps())?
        }))
    }

    fn pages(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        {
            let inner = self.inner(py)?;
            detached(py, || inner.pages())
        }
    }
}
