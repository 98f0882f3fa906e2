//! The numbers of the wire protocol, so that Python gets them from where they are defined.

use pagemerge_pages::wire::{barrier, kind, mark, MOST_BODY, OWN, VERSION, WHOLE};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Add the constants of this file to `module`.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("WIRE_VERSION", VERSION)?;
    module.add("WIRE_MOST_BODY", MOST_BODY)?;
    module.add("WIRE_OWN", OWN)?;
    module.add("WIRE_WHOLE", WHOLE)?;
    module.add("WIRE_HUGE", mark::HUGE)?;
    module.add("WIRE_CLOSED", mark::CLOSED)?;
    module.add("WIRE_SLABBED", mark::SLABBED)?;
    let kinds = [
        ("HELLO", kind::HELLO),
        ("REGIONS", kind::REGIONS),
        ("INTERN", kind::INTERN),
        ("MERGED", kind::MERGED),
        ("HANDBACK", kind::HANDBACK),
        ("NOTE", kind::NOTE),
        ("WELCOME", kind::WELCOME),
        ("LIST", kind::LIST),
        ("SLAB", kind::SLAB),
        ("MERGE", kind::MERGE),
        ("DROP", kind::DROP),
        ("REFUSED", kind::REFUSED),
        ("SAVED", kind::SAVED),
        ("STATUS", kind::STATUS),
        ("COUNTERS", kind::COUNTERS),
    ];
    module.add("WIRE_KINDS", kinds.into_iter().collect::<std::collections::HashMap<_, _>>())?;
    let barriers = PyDict::new(module.py());
    for (number, name) in barrier::NAMES {
        barriers.set_item(number, name)?;
    }
    module.add("BARRIERS", barriers)
}
