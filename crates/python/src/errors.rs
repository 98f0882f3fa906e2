//! The only table from Rust errors to Python exceptions (`pagemerge.errors`).

use pagemerge_pages::Error;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The Python exception for `error`, with pid and address attached.
pub fn raise(py: Python<'_>, error: &Error) -> PyErr {
    let (class, pid, address) = match error {
        Error::Os { errno, pid, address, .. } => {
            let class = match *errno {
                libc::ESRCH => "NoSuchProcess",
                libc::EPERM | libc::EACCES => "AccessDenied",
                libc::ENOMEM => "OutOfMemory",
                _ => "PagemergeError",
            };
            (class, *pid, *address)
        }
        Error::Memory { .. } => ("OutOfMemory", None, None),
        Error::Refused { pid, .. } => ("PagemergeError", Some(*pid), None),
        Error::Left { pid, .. } => ("AccessDenied", Some(*pid), None),
        Error::Unsupported(_) => ("Unsupported", None, None),
        Error::Usage(_) => ("UsageError", None, None),
        Error::Hub(_) => ("HubError", None, None),
        Error::Protocol(_) => ("ProtocolError", None, None),
    };
    match build(py, class, &error.to_string(), pid, address) {
        Ok(exception) => exception,
        Err(broken) => broken,
    }
}

fn build(
    py: Python<'_>,
    class: &str,
    message: &str,
    pid: Option<i32>,
    address: Option<u64>,
) -> PyResult<PyErr> {
    let extra = PyDict::new(py);
    extra.set_item("pid", pid)?;
    extra.set_item("address", address)?;
    let class = py.import("pagemerge.errors")?.getattr(class)?;
    Ok(PyErr::from_value(class.call((message,), Some(&extra))?))
}
