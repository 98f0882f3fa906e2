//! A NumPy allocator of mergeable memory (NEP 49).
//!
//! Large arrays get a region of their own; small ones stay with malloc. NumPy frees an array with
//! the handler it was made with, so arrays may outlive the context that made them.

use pagemerge_agent as agent;
use pagemerge_pages::PAGE;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::{c_char, c_void, CStr};

/// Arrays smaller than this stay with malloc: 64 pages.
const LARGE: usize = 64 * PAGE;

/// The place of PyDataMem_SetHandler in NumPy's table (numpy/_core/code_generators/numpy_api.py).
const SET_HANDLER: usize = 304;

/// The name that NumPy requires for the capsule.
const CAPSULE: &CStr = c"mem_handler";

/// PyDataMemAllocator (numpy/ndarraytypes.h).
#[repr(C)]
struct Allocator {
    context: *mut c_void,
    malloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void, usize),
}

/// PyDataMem_Handler (numpy/ndarraytypes.h), version 1.
#[repr(C)]
struct Handler {
    name: [c_char; 127],
    version: u8,
    allocator: Allocator,
}

// SAFETY: the handler never changes; its functions may be called from any thread.
unsafe impl Sync for Handler {}

static HANDLER: Handler = Handler {
    name: {
        let (mut name, text) = ([0; 127], b"pagemerge");
        let mut at = 0;
        while at < text.len() {
            name[at] = text[at] as c_char;
            at += 1;
        }
        name
    },
    version: 1,
    allocator: Allocator { context: std::ptr::null_mut(), malloc, calloc, realloc, free },
};

/// Add the function of this file to `module`.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("LARGE_ARRAY", LARGE)?;
    module.add_function(wrap_pyfunction!(set_numpy_handler, module)?)
}

/// Make `handler` (a capsule from an earlier call; None: ours) NumPy's handler in this context, and
/// return the one before.
#[pyfunction]
#[pyo3(signature = (handler=None))]
fn set_numpy_handler<'py>(
    py: Python<'py>,
    handler: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let own = || {
        // SAFETY: NumPy only reads the handler, which is static; the name is static, too.
        unsafe {
            let data = (&raw const HANDLER).cast_mut().cast();
            Bound::from_owned_ptr_or_err(py, ffi::PyCapsule_New(data, CAPSULE.as_ptr(), None))
        }
    };
    let handler = handler.map_or_else(own, Ok)?;
    // SAFETY: NumPy's own type check refuses an object that is not such a capsule.
    if unsafe { ffi::PyCapsule_IsValid(handler.as_ptr(), CAPSULE.as_ptr()) } == 0 {
        return Err(PyRuntimeError::new_err("not a NumPy memory handler"));
    }
    let api = py.import("numpy._core._multiarray_umath")?.getattr("_ARRAY_API")?;
    // SAFETY: the capsule holds NumPy's table of functions, whose places never change; the function
    // takes and returns a reference to a capsule, under the GIL.
    unsafe {
        let table = ffi::PyCapsule_GetPointer(api.as_ptr(), std::ptr::null()).cast::<*mut c_void>();
        if table.is_null() {
            return Err(PyErr::fetch(py));
        }
        let set: unsafe extern "C" fn(*mut ffi::PyObject) -> *mut ffi::PyObject =
            std::mem::transmute(*table.add(SET_HANDLER));
        Bound::from_owned_ptr_or_err(py, set(handler.as_ptr()))
    }
}

/// The bytes of the region at `pointer`, if it is one of ours. The lock is not needed to recognize
/// malloc's pointers: glibc never returns the start of a page.
fn region(pointer: *mut c_void) -> Option<usize> {
    let address = pointer as usize;
    if address % PAGE == 0 && address != 0 {
        agent::region_bytes(address)
    } else {
        None
    }
}

unsafe extern "C" fn malloc(_: *mut c_void, size: usize) -> *mut c_void {
    if size >= LARGE {
        if let Ok(base) = agent::allocate(size) {
            return base.as_ptr().cast();
        }
    }
    // SAFETY: malloc takes any size.
    unsafe { libc::malloc(size) }
}

unsafe extern "C" fn calloc(_: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) if bytes >= LARGE => {
            if let Ok(base) = agent::allocate(bytes) {
                return base.as_ptr().cast();
            }
        }
        _ => {}
    }
    // SAFETY: calloc takes any sizes and checks their product.
    unsafe { libc::calloc(count, size) }
}

unsafe extern "C" fn realloc(
    context: *mut c_void,
    pointer: *mut c_void,
    size: usize,
) -> *mut c_void {
    let Some(bytes) = region(pointer) else {
        // SAFETY: the pointer comes from malloc.
        return unsafe { libc::realloc(pointer, size) };
    };
    // SAFETY: both are at least as long as what is copied, and NumPy gives the old one up.
    unsafe {
        let fresh = malloc(context, size);
        if !fresh.is_null() {
            std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), fresh.cast(), bytes.min(size));
            agent::release(pointer as usize);
        }
        fresh
    }
}

unsafe extern "C" fn free(_: *mut c_void, pointer: *mut c_void, _: usize) {
    // SAFETY: NumPy gives the memory up.
    unsafe {
        if region(pointer).is_some() {
            agent::release(pointer as usize);
        } else {
            libc::free(pointer);
        }
    }
}
