"""Puts an object together again, on copies of its parts."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pagemerge._core import Memory
from pagemerge.data import tensors
from pagemerge.data.parts import Place
from pagemerge.data.words import reason
from pagemerge.errors import PagemergeError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]


class Rebuilder(pickle.Unpickler):
    """Unpickles what ``collecting.Collector`` has pickled.

    ``blocks`` are the copied bytes, u8, each the base of all that is made on it. Raises what
    unpickling raises, and ``ValueError`` where a part does not lie in its block.
    """

    def __init__(
        self,
        stream: IO[bytes],
        places: Sequence[Place],
        blocks: Sequence[Bytes],
        buffers: Sequence[int],
        kept: Sequence[object] = (),
    ) -> None:
        self._blocks, self._kept = blocks, kept
        self._made = [self._on(place) for place in places]
        super().__init__(stream, buffers=[self._made[number] for number in buffers])

    def persistent_load(self, number: int) -> Any:
        """The part (even) or the kept object (odd) of this number."""
        return self._kept[number // 2] if number % 2 else self._made[number // 2]

    def _on(self, place: Place) -> Any:
        if place.nbytes == 0 and place.form:
            return place.form.on(np.empty(0, np.uint8))
        block = self._blocks[place.block]
        if not 0 <= place.offset <= place.offset + place.nbytes <= len(block):
            raise ValueError("a part lies outside its block")
        # The whole block is its own base, so that ``dropped`` sees who keeps it.
        whole = place.offset == 0 and place.nbytes == len(block)
        data = block if whole else block[place.offset : place.offset + place.nbytes]
        if place.kind == "array":
            if place.form is None:
                raise ValueError("an array has no form")
            return place.form.on(data)
        if place.kind == "storage":
            return tensors.storage_on(data)
        if place.kind == "memory":
            return _memory_of(data)
        return data


def rebuilt(
    stream: IO[bytes],
    places: Sequence[Place],
    blocks: Sequence[Bytes],
    buffers: Sequence[int],
    kept: Sequence[object] = (),
) -> Any:
    """Make the object. Raises ``UsageError`` for whatever its types raise."""
    try:
        return Rebuilder(stream, places, blocks, buffers, kept).load()
    except (PagemergeError, MemoryError):
        raise
    except Exception as error:  # types run code of their own here
        raise UsageError(
            f"the object cannot be put together again ({reason(error)}): give its arrays and "
            "tables one by one"
        ) from error


class Watch:
    """Tells which blocks nothing holds any more: a type has copied their bytes."""

    def __init__(self, blocks: Sequence[Bytes]) -> None:
        self._blocks = [(weakref.ref(block), len(block)) for block in blocks]

    def dropped(self) -> list[int]:
        """Indices of blocks that have bytes and are gone. The caller must hold none of them."""
        return [
            index
            for index, (block, nbytes) in enumerate(self._blocks)
            if nbytes and block() is None
        ]


def _memory_of(block: Bytes) -> Memory:
    """The mergeable memory whose bytes ``block`` views."""
    base: Any = block
    while not isinstance(base, Memory):
        base = base.obj if isinstance(base, memoryview) else base.base
    return base
