//! The Python binding: it only converts values and errors, and releases the GIL.

use pyo3::prelude::*;

mod agent;
mod errors;
mod find;
mod inject;
mod numpy;
mod peer;
mod scheduling;
mod store;
mod wire;

/// The Rust core of pagemerge; its typed contract is `_core.pyi`.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("PAGE_SIZE", pagemerge_pages::PAGE)?;
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    find::register(module)?;
    peer::register(module)?;
    store::register(module)?;
    wire::register(module)?;
    agent::register(module)?;
    inject::register(module)?;
    scheduling::register(module)?;
    numpy::register(module)
}
