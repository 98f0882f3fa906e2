//! The Python binding: conversions, errors, and the release of the GIL; nothing else.

use pyo3::prelude::*;

mod errors;
mod find;

/// The Rust core of pagemerge; its typed contract is `_core.pyi`.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PAGE_SIZE", pagemerge_pages::PAGE)?;
    find::register(module)
}
