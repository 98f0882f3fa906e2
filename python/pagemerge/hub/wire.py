"""The wire protocol, hub side: the same structs as crates/pages/src/wire.rs, as numpy dtypes."""

from __future__ import annotations

import struct
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from pagemerge import _core
from pagemerge.errors import ProtocolError

VERSION: int = _core.WIRE_VERSION
MOST_BODY: int = _core.WIRE_MOST_BODY
BARRIERS: dict[int, str] = _core.BARRIERS
"""Number on the wire -> name."""


class Kind(IntEnum):
    """Kinds of frames; crates/pages/src/wire.rs tells what each carries."""

    HELLO = _core.WIRE_KINDS["HELLO"]
    REGIONS = _core.WIRE_KINDS["REGIONS"]
    INTERN = _core.WIRE_KINDS["INTERN"]
    MERGED = _core.WIRE_KINDS["MERGED"]
    HANDBACK = _core.WIRE_KINDS["HANDBACK"]
    NOTE = _core.WIRE_KINDS["NOTE"]
    WELCOME = _core.WIRE_KINDS["WELCOME"]
    LIST = _core.WIRE_KINDS["LIST"]
    SLAB = _core.WIRE_KINDS["SLAB"]
    MERGE = _core.WIRE_KINDS["MERGE"]
    DROP = _core.WIRE_KINDS["DROP"]
    REFUSED = _core.WIRE_KINDS["REFUSED"]
    SAVED = _core.WIRE_KINDS["SAVED"]
    STATUS = _core.WIRE_KINDS["STATUS"]
    COUNTERS = _core.WIRE_KINDS["COUNTERS"]


HEADER = struct.Struct("=IIQ")
"""Body length, kind, sequence number."""
HELLO = struct.Struct("=II")
"""Version, barrier; the domain's name, a NUL and a note follow (UTF-8)."""
SAVED = struct.Struct("=QQ")
"""Bytes that are merged, bytes that this saves."""
INTERN = struct.Struct("=QQQQ")
"""Source address, target address, pages, id of the region that holds the target."""
MERGED = struct.Struct("=QQQQQQ")
"""Pages left alone, by reason."""
LEFT_ALONE = ("differed", "busy", "vanished", "unmapped", "refused", "unwanted")
"""The reasons, in the order of ``MERGED``."""

REGION = np.dtype([(name, "u8") for name in ("id", "start", "pages", "marks", "left")])
MARKS = _core.WIRE_HUGE | _core.WIRE_CLOSED | _core.WIRE_SLABBED
RUN = np.dtype([("address", "u8"), ("slab", "u8"), ("slot", "u4"), ("pages", "u4")])


def rows(body: bytes, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return the structs of a body. Raises ``ProtocolError`` if the length does not fit."""
    if len(body) % dtype.itemsize:
        raise ProtocolError(f"a body of {len(body)} bytes does not fit")
    return np.frombuffer(body, dtype)


def runs(
    address: npt.NDArray[np.uint64],
    slab: npt.NDArray[np.uint64],
    slot: npt.NDArray[np.uint32],
    pages: npt.NDArray[np.int64],
) -> npt.NDArray[np.void]:
    """Return the runs that a ``MERGE`` carries: each array has one element a run; ``slot`` counts
    within its slab."""
    found = np.empty(len(address), RUN)
    found["address"], found["slab"], found["slot"], found["pages"] = address, slab, slot, pages
    return found


def unpack(body: bytes, form: struct.Struct) -> tuple[int, ...]:
    """Return the integers at the start of a body. Raises ``ProtocolError`` if it is too short."""
    if len(body) < form.size:
        raise ProtocolError(f"a body of {len(body)} bytes is too short")
    return form.unpack_from(body)


def report(body: bytes, pages: int) -> tuple[tuple[int, ...], npt.NDArray[np.bool_]]:
    """Return what a ``MERGED`` frame about a plan of ``pages`` pages says: the pages that were left
    alone, by reason, and which pages are what was planned: bool[pages]. Raises ``ProtocolError`` if
    the frame does not fit the plan."""
    left = unpack(body, MERGED)
    bits = np.frombuffer(body, np.uint8, offset=MERGED.size)
    if len(bits) != -(-pages // 8):
        raise ProtocolError("a report does not fit its plan")
    return left, np.unpackbits(bits, count=pages, bitorder="little").astype(np.bool_)
