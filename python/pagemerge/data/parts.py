"""The buffers of an object: where each lies, which overlap, and how they lie in their copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pagemerge.data.room import PIECE, Room

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

Kind = Literal["array", "buffer", "memory", "storage"]


@dataclass(frozen=True, slots=True)
class Form:
    """How an array lies in its bytes: ``first`` is the offset of its element [0, 0, ...]."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    first: int
    writable: bool

    def on(self, data: Bytes) -> npt.NDArray[Any]:
        """Make the array on ``data`` (u8), which it keeps alive.

        Raises ``ValueError`` or ``TypeError`` if it does not fit there.
        """
        if prod(self.shape) * self.dtype.itemsize == 0:
            made: npt.NDArray[Any] = np.ndarray(self.shape, self.dtype)
        else:
            made = np.ndarray(self.shape, self.dtype, data, self.first, self.strides)
        made.flags.writeable = self.writable
        return made


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One buffer of an object: ``nbytes`` bytes at ``address``. ``owner`` keeps them alive."""

    kind: Kind
    owner: object
    address: int
    nbytes: int
    form: Form | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Bytes that are copied together: those of parts that overlap, from ``address`` on.

    ``parts`` are indices. ``dense`` is the array whose elements alone are copied, if it is the only
    part and its elements leave gaps. ``apart``: a part is a ``Memory``, and so must the copy be.
    """

    parts: tuple[int, ...]
    address: int
    nbytes: int
    dense: npt.NDArray[Any] | None = None
    apart: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part lies in its copy: offset in bytes in block number ``block``."""

    block: int
    offset: int
    nbytes: int
    kind: Kind
    form: Form | None


def part_of(array: npt.NDArray[Any]) -> Part:
    """The part of a plain array of any strides, without references."""
    low, high = np.lib.array_utils.byte_bounds(array) if array.nbytes else (0, 0)
    first = array.ctypes.data - low if array.nbytes else 0
    form = Form(array.dtype, array.shape, array.strides, first, array.flags.writeable)
    return Part("array", array, low, high - low, form)


def laid_out(parts: Sequence[Part]) -> tuple[list[Block], list[Place]]:
    """Decide what is copied together, and where each part lies then."""
    blocks: list[Block] = []
    places: dict[int, Place] = {}
    for group, address, end in _overlapping(parts):
        array = parts[group[0]].owner
        gaps = isinstance(array, np.ndarray) and 0 < array.nbytes < end - address
        if len(group) == 1 and isinstance(array, np.ndarray) and gaps:
            form = Form(array.dtype, array.shape, _dense(array), 0, array.flags.writeable)
            places[group[0]] = Place(len(blocks), 0, array.nbytes, "array", form)
            blocks.append(Block((group[0],), address, array.nbytes, array))
            continue
        for index in group:
            part = parts[index]
            offset = part.address - address
            places[index] = Place(len(blocks), offset, part.nbytes, part.kind, part.form)
        apart = any(parts[index].kind == "memory" for index in group)
        blocks.append(Block(tuple(group), address, end - address, apart=apart))
    return blocks, [places[index] for index in range(len(parts))]


def copied(block: Block, room: Room) -> Bytes:
    """Copy a block into ``room``."""
    if block.dense is None:
        return room.copy(raw(block), apart=block.apart)
    return room.fill(block.nbytes, elements(block.dense))


def raw(block: Block) -> Bytes:
    """The bytes of a block where they are, u8, read-only. Its parts must stay alive meanwhile."""
    if block.nbytes == 0:
        return np.empty(0, np.uint8)
    return np.asarray(_Bytes(block.address, block.nbytes))


class _Bytes:
    """Memory by its address, for numpy (its array interface protocol, version 3)."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__array_interface__ = {
            "data": (address, True),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


def _overlapping(parts: Sequence[Part]) -> list[tuple[list[int], int, int]]:
    """Group parts that share bytes: indices, first address, and the address after the last."""
    found: list[tuple[list[int], int, int]] = []
    for index in sorted(range(len(parts)), key=lambda it: parts[it].address):
        start, end = parts[index].address, parts[index].address + parts[index].nbytes
        if found and start < end and start < found[-1][2]:
            group, first, last = found[-1]
            group.append(index)
            found[-1] = group, first, max(last, end)
        else:
            found.append(([index], start, end))
    return found


def _axes(array: npt.NDArray[Any]) -> list[int]:
    """The axes in the order in which they lie in memory, the outermost first."""
    return sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))


def _dense(array: npt.NDArray[Any]) -> tuple[int, ...]:
    """The strides of ``array`` without gaps, in the same order in memory."""
    strides, step = [0] * array.ndim, array.itemsize
    for axis in reversed(_axes(array)):
        strides[axis] = step
        step *= array.shape[axis]
    return tuple(strides)


def elements(array: npt.NDArray[Any]) -> Callable[[Bytes], None]:
    """Make a writer of the elements of ``array``, without gaps, in their order in memory.

    It fills the arrays of bytes that it is called with, one after another.
    """
    rows = array.transpose(_axes(array))
    if rows.ndim == 1:
        rows = rows[:, None]
    row = rows[0].nbytes
    done = 0
    left = np.empty(0, np.uint8)

    def write(part: Bytes) -> None:
        nonlocal done, left
        start = min(len(left), len(part))
        part[:start], left = left[:start], left[start:]
        while start < len(part):
            count = min(max(PIECE // 16 // row, 1), len(rows) - done)
            piece = np.ascontiguousarray(rows[done : done + count]).reshape(-1).view(np.uint8)
            done += count
            taken = min(len(piece), len(part) - start)
            part[start : start + taken] = piece[:taken]
            start, left = start + taken, piece[taken:]

    return write
