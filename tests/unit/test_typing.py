"""The types of the Python API: mypy checks what ``assert_type`` says, and pytest that it is so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
import numpy.typing as npt

import pagemerge

if TYPE_CHECKING:
    # Never called: making these needs a hub.
    def copies(
        plain: npt.NDArray[np.int8], flat: np.ndarray[tuple[int], np.dtype[np.float32]]
    ) -> None:
        assert_type(pagemerge.copy(plain), npt.NDArray[np.int8])
        assert_type(pagemerge.copy(flat), np.ndarray[tuple[int], np.dtype[np.float32]])
        assert_type(pagemerge.copy(b"bytes"), npt.NDArray[np.uint8])
        assert_type(pagemerge.copy([1, 2]), npt.NDArray[Any])
        assert_type(pagemerge.intern(plain), npt.NDArray[np.int8])
        assert_type(pagemerge.unmerge(pagemerge.buffer(1)), pagemerge.Memory)


def test_an_empty_array_has_the_type_that_was_asked_for() -> None:
    # Of no elements: these need neither an agent nor a hub.
    floats = assert_type(pagemerge.empty(0), npt.NDArray[np.float64])
    shorts = assert_type(pagemerge.empty((0, 2), np.int16), npt.NDArray[np.int16])
    bytes_ = assert_type(pagemerge.empty([3, 0], np.dtype(np.uint8)), npt.NDArray[np.uint8])
    named = assert_type(pagemerge.empty(0, "f4"), npt.NDArray[Any])
    made = (floats, shorts, bytes_, named)
    assert [array.dtype for array in made] == ["f8", "i2", "u1", "f4"]
    assert [array.shape for array in made] == [(0,), (0, 2), (3, 0), (0,)]


def test_every_error_is_public() -> None:
    from pagemerge import errors

    raised = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.PagemergeError)
    }
    assert raised <= set(pagemerge.__all__)
