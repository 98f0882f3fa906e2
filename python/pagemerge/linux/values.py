"""The small formats that files of the kernel's have: a number, ``name: value``, a list of choices.

Every function takes bytes, and answers ``None`` (or leaves out) what is not in that format.
"""

from __future__ import annotations

import os
import re

from pagemerge.linux.text import decoded, lines, read

_NUMBER = re.compile(rb"-?[0-9]{1,20}")
"""All that fits into a word of the kernel's; ``int`` would take ``1_000`` and any length."""


def number(data: bytes | None, unit: bytes = b"") -> int | None:
    """A whole number with white space around it, and the ``unit`` behind it if one is given."""
    if data is None:
        return None
    data = data.strip().removesuffix(unit).rstrip() if unit else data.strip()
    return int(data) if _NUMBER.fullmatch(data) else None


def hexadecimal(data: bytes | None) -> int | None:
    """The same, in hexadecimal without a prefix."""
    if data is None or not re.fullmatch(rb"\s*[0-9a-fA-F]{1,16}\s*", data):
        return None
    return int(data, 16)


def pairs(data: bytes, between: bytes = b":") -> dict[bytes, bytes]:
    """The lines ``name: value`` of ``data``, each value with the white space around it.

    The first line of a name counts.
    """
    found: dict[bytes, bytes] = {}
    for line in lines(data):
        name, found_between, value = line.partition(between)
        if found_between:
            found.setdefault(name, value)
    return found


def chosen(data: bytes) -> str | None:
    """Of a list of choices (``always [madvise] never``), the one in brackets."""
    return decoded(data.partition(b"[")[2].partition(b"]")[0]) or None


def contents(path: str | bytes | os.PathLike[str]) -> bytes | None:
    """All of a small file, or None where it is not there or may not be read."""
    try:
        return read(path, 1 << 24)
    except (OSError, ValueError):  # a path with NUL in it is no path
        return None


def number_in(path: str | bytes | os.PathLike[str]) -> int | None:
    """The number that a file holds."""
    return number(contents(path))
