"""Parsers for small formats of the kernel's files: a number, ``name: value``, a list of choices.

Every function takes bytes, and returns ``None`` for (or leaves out) what is not in that format.
"""

from __future__ import annotations

import os
import re

from pagemerge.linux.text import decoded, lines, read

_NUMBER = re.compile(rb"-?[0-9]{1,20}")
"""Numbers that fit into 64 bits; ``int`` alone would accept ``1_000`` and any length."""


def number(data: bytes | None, unit: bytes = b"") -> int | None:
    """Parse a whole number with white space around it, and with ``unit`` after it if given."""
    if data is None:
        return None
    data = data.strip().removesuffix(unit).rstrip() if unit else data.strip()
    return int(data) if _NUMBER.fullmatch(data) else None


def hexadecimal(data: bytes | None) -> int | None:
    """Parse a whole number in hexadecimal without a prefix, with white space around it."""
    if data is None or not re.fullmatch(rb"\s*[0-9a-fA-F]{1,16}\s*", data):
        return None
    return int(data, 16)


def pairs(data: bytes, between: bytes = b":") -> dict[bytes, bytes]:
    """Parse the lines ``name: value`` of ``data``; each value keeps the white space around it.

    If several lines have the same name, the first one counts.
    """
    found: dict[bytes, bytes] = {}
    for line in lines(data):
        name, found_between, value = line.partition(between)
        if found_between:
            found.setdefault(name, value)
    return found


def chosen(data: bytes) -> str | None:
    """Return the choice in brackets of a list of choices (``always [madvise] never``)."""
    return decoded(data.partition(b"[")[2].partition(b"]")[0]) or None


def contents(path: str | bytes | os.PathLike[str]) -> bytes | None:
    """Read all of a small file; None if it does not exist or may not be read."""
    try:
        return read(path, 1 << 24)
    except (OSError, ValueError):  # ValueError: the path has a NUL in it
        return None


def number_in(path: str | bytes | os.PathLike[str]) -> int | None:
    """Read the number in a file; None if there is none."""
    return number(contents(path))
