"""Files of safetensors: a header of JSON that says where each tensor lies, and the tensors.

Source: the format in the README of https://github.com/huggingface/safetensors. Its own library
reads a tensor to memory of its own only, which would be a second copy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pagemerge.data.files import Source, needed, read_full
from pagemerge.data.npy import named
from pagemerge.data.room import Room
from pagemerge.data.words import reason, type_name
from pagemerge.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

MOST_HEADER = 100_000_000
"""Bytes of the largest header that the format allows."""
NUMPY = {"BOOL": "bool", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2"}
NUMPY |= {"U32": "<u4", "I32": "<i4", "F32": "<f4", "C64": "<c8"}
NUMPY |= {"U64": "<u8", "I64": "<i8", "F64": "<f8"}
FLOATS = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
"""What numpy does not have, by the names of ml_dtypes and of torch."""
TORCH = FLOATS | {name: str(np.dtype(code)) for name, code in NUMPY.items()}
SIZES = {name: np.dtype(code).itemsize for name, code in NUMPY.items()}
SIZES |= {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""Bytes of an element."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """What the header says of a tensor: its bytes are [start, end) after the header."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    end: int


def looks_like(head: bytes, size: int) -> bool:
    """Can a file that begins so be one of safetensors? It has no magic number."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def read_safetensors(source: Source, room: Room, tensors: str) -> dict[str, Any]:
    """Read all tensors as arrays (``tensors`` "numpy") or tensors of torch ("torch")."""
    nbytes = int.from_bytes(_read(source, 8, "the length of the header"), "little")
    if nbytes > min(MOST_HEADER, source.size - 8):
        raise source.damaged(f"its header would have {nbytes} bytes")
    header = _read(source, nbytes, "the header")
    found = _checked(_parsed(header, source), source.size - 8 - nbytes, source)
    maker = _torch if tensors == "torch" else _numpy
    makers = {tensor.name: maker(tensor.kind, tensor.name) for tensor in found}
    made: dict[str, Any] = {}
    for tensor in sorted(found, key=lambda it: it.start):
        read = partial(_read_part, source, f"tensor {tensor.name!r}")
        data = room.fill(tensor.end - tensor.start, read)
        try:
            made[tensor.name] = makers[tensor.name](data, tensor.shape)
        except (ValueError, RuntimeError, OverflowError) as error:
            why = f"tensor {tensor.name!r} has an impossible shape ({reason(error)})"
            raise source.damaged(why) from None
    return {tensor.name: made[tensor.name] for tensor in found}


def write_safetensors(obj: object, file: IO[bytes]) -> None:
    """Write a dict of arrays or tensors; larger elements come first, so that all are aligned."""
    arrays = {name: _bytes_of(value, name) for name, value in named(obj, ".safetensors").items()}
    if "__metadata__" in arrays:
        raise UsageError(
            "a tensor of a .safetensors file cannot be named '__metadata__': rename it"
        )
    order = sorted(arrays, key=lambda name: (-SIZES[arrays[name][0]], name))
    places, end = {}, 0
    for name in order:
        start, end = end, end + len(arrays[name][2])
        places[name] = [start, end]
    header = {
        name: {"dtype": kind, "shape": shape, "data_offsets": places[name]}
        for name, (kind, shape, _) in arrays.items()
    }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(arrays[name][2].data)


def _read_part(source: Source, what: str, part: Bytes) -> None:
    read_full(source.file, part, source, what)


def _read(source: Source, nbytes: int, what: str) -> bytes:
    part = np.zeros(nbytes, np.uint8)
    read_full(source.file, part, source, what)
    return part.tobytes()


def _parsed(header: bytes, source: Source) -> dict[str, Any]:
    """The header as a dict. Raises ``UsageError`` if it is no JSON, or names one thing twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands there twice")
        return found

    try:
        found = json.loads(header.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise source.damaged(f"its header cannot be read ({reason(error)})") from None
    if not isinstance(found, dict):
        raise source.damaged("its header is no object of JSON")
    return found


def _checked(header: dict[str, Any], room: int, source: Source) -> list[Tensor]:
    """The tensors of a header, which must fill ``room`` bytes without holes, as the format says."""
    found = []
    for name, value in header.items():
        if name == "__metadata__":
            continue
        match value:
            case {"dtype": str(kind), "shape": list(shape), "data_offsets": [start, end]} if all(
                type(number) is int and 0 <= number < 1 << 63 for number in (*shape, start, end)
            ):
                found.append(Tensor(name, kind, tuple(shape), start, end))
            case _:
                raise source.damaged(f"its header is wrong about tensor {name!r}")
    position = 0
    for tensor in sorted(found, key=lambda it: (it.start, it.end)):
        if tensor.kind not in SIZES:
            raise source.refused(
                f"has tensor {tensor.name!r} of type {tensor.kind!r}, which cannot be loaded: "
                "convert it, for example to BF16"
            )
        size = prod(tensor.shape) * SIZES[tensor.kind]
        if tensor.start != position or tensor.end - tensor.start != size:
            raise source.damaged(f"tensor {tensor.name!r} does not lie where its header says")
        position = tensor.end
    if position != room:
        raise source.damaged(f"its tensors have {position} bytes, and {room} follow the header")
    return found


def _numpy(kind: str, name: str) -> Callable[[Bytes, tuple[int, ...]], Any]:
    """A maker of arrays of a type. Raises ``Unsupported`` if numpy needs ml_dtypes for it."""
    if kind in FLOATS:
        what = f"an array of {FLOATS[kind]} (tensor {name!r})"
        dtype: np.dtype[Any] = np.dtype(getattr(needed("ml_dtypes", what), FLOATS[kind]))
    else:
        dtype = np.dtype(NUMPY[kind])
    return lambda data, shape: data.view(dtype).reshape(shape)


def _torch(kind: str, _: str) -> Callable[[Bytes, tuple[int, ...]], Any]:
    """A maker of tensors of a type."""
    torch = needed("torch", 'tensors="torch"')
    dtype = getattr(torch, TORCH[kind])

    def make(data: Bytes, shape: tuple[int, ...]) -> Any:
        if len(data) == 0:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)

    return make


def _bytes_of(value: Any, name: str) -> tuple[str, list[int], Bytes]:
    """The type, shape and bytes of an array or tensor to be written. Raises ``UsageError``."""
    kinds = {dtype: kind for kind, dtype in TORCH.items()}
    if type(value) in (np.ndarray, np.memmap):
        kind = kinds.get(str(value.dtype)) if value.dtype.isnative else None
        array = np.ascontiguousarray(value)
    elif type(value).__module__.startswith("torch") and value.device.type == "cpu":
        torch = needed("torch", "a tensor")
        kind = kinds.get(str(value.dtype).removeprefix("torch."))
        flat = value.detach().contiguous().reshape(-1)
        array = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    else:
        raise UsageError(
            f".safetensors holds arrays and tensors on the CPU, and {name!r} is a "
            f"{type_name(type(value))}: give np.asarray(it), or .cpu() of a tensor"
        )
    if kind is None:
        raise UsageError(
            f".safetensors cannot hold {value.dtype} ({name!r}): convert it with astype"
        )
    return kind, list(value.shape), array.reshape(-1).view(np.uint8)
