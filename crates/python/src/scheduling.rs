//! How the kernel lets our threads run, for Python.

use pyo3::prelude::*;

use crate::find::detached;

/// Add the functions of this file to `module`.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(lengthen_slice, module)?)
}

#[pyfunction]
fn lengthen_slice(py: Python<'_>, thread: i32, lengthened: bool) -> PyResult<bool> {
    detached(py, || pagemerge_pages::scheduling::lengthen_slice(thread, lengthened))
}
