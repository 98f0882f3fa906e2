"""How arrays are taken apart that pickle would copy into its stream, or would change.

Each function returns what ``object.__reduce_ex__`` returns: what to call, with which arguments, a
state, and last, if there is one, a function that sets this state.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np


def reduced(obj: object) -> tuple[Any, ...] | None:
    """Take an array apart that is not plain, or holds objects; None if pickle does it right."""
    if not isinstance(obj, np.ndarray):
        return None
    kind = type(obj)
    if kind is np.ma.MaskedArray:
        return _masked, (obj.data, *_mask(cast("np.ma.MaskedArray[Any, Any]", obj)))
    if obj.dtype.hasobject:
        made = obj.__reduce__()
        return (*made[:2], (made[2], obj.flags.writeable), None, None, _set_objects)
    if kind is np.memmap:
        return _viewed, (obj.view(np.ndarray), kind)  # as pickle does: without its file
    if _pickles_as_plain(kind):
        state = getattr(obj, "__dict__", None) or None
        return _viewed, (obj.view(np.ndarray), kind), state, None, None, _set_attributes
    return None


def as_it_is(obj: object) -> object:
    """Return ``obj``, which stands here for itself."""
    return obj


def _mask(array: np.ma.MaskedArray[Any, Any]) -> tuple[Any, Any, bool]:
    """The mask, the fill value (each None if there is none), and whether the mask is hard."""
    mask = None if array.mask is np.ma.nomask else array.mask
    fill = None if array._fill_value is None else array.fill_value  # type: ignore[attr-defined]
    return mask, fill, bool(array.hardmask)


def _pickles_as_plain(kind: type) -> bool:
    """Does a subclass add nothing but attributes to how an array is pickled?"""
    names = ("__reduce__", "__reduce_ex__", "__setstate__")
    return all(getattr(kind, name) == getattr(np.ndarray, name) for name in names)


def _viewed(array: np.ndarray[Any, Any], kind: type[np.ndarray[Any, Any]]) -> Any:
    return array.view(kind)


def _set_attributes(array: Any, state: dict[str, Any]) -> None:
    vars(array).update(state)


def _set_objects(array: np.ndarray[Any, Any], state: tuple[Any, bool]) -> None:
    array.__setstate__(state[0])
    array.flags.writeable = state[1]


def _masked(data: np.ndarray[Any, Any], mask: Any, fill: Any, hard: bool) -> Any:
    return np.ma.MaskedArray(
        data, np.ma.nomask if mask is None else mask, fill_value=fill, hard_mask=hard, copy=False
    )
