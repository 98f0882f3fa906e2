"""Text from other users and programs: file names, thread names, arguments, cgroups, labels.

The kernel forbids only a newline and NUL in a mapped file's path. Such text need not be UTF-8, and
may contain terminal escapes or characters that end a line for Python (``\\r``, ``\\x0b``,
``\\x85``, U+2028). So this module reads the kernel's files as bytes (``read``), splits them at
``\\n`` only (``lines``), and decodes them without loss (``decoded``). All text that is printed or
logged goes through ``plain``.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # not from typing, for `pagemerge --help`: see pagemerge.cli
if TYPE_CHECKING:
    from typing import Any

ROOM = 1 << 16
"""Bytes that one read(2) asks for."""


def read(path: str | bytes | os.PathLike[str], most: int = 1 << 30) -> bytes:
    """Read a file, up to ``most`` bytes.

    A read of a list such as maps returns only whole lines, less than a page of them, even if it
    asks for more: only an empty read is the end. Raises the kernel's ``OSError``.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces, left = [], most
        while left and (piece := os.read(file, min(ROOM, left))):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(file)
    return b"".join(pieces)


def open_quietly(path: str | bytes | os.PathLike[str], flags: int) -> int:
    """Open a file without changing its access time, if the kernel allows that (O_NOATIME, open(2)).

    Raises ``OSError``.
    """
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # only its owner and root may ask for that
        return os.open(path, flags)


def lines(data: bytes) -> list[bytes]:
    """Split a file of the kernel into lines, without their newlines. Only ``\\n`` ends a line."""
    found = data.split(b"\n")
    if not found[-1]:
        found.pop()
    return found


def decoded(data: bytes) -> str:
    """Decode bytes without loss: bytes that are not UTF-8 become lone surrogates (PEP 383).

    The result is for comparisons and for calls to the kernel; print it through ``plain`` only.
    """
    return data.decode("utf-8", "surrogateescape")


def plain(text: str | bytes, most: int = 0) -> str:
    """Make text safe to print: one line, and nothing that controls a terminal.

    Characters that are not printable are written as Python escapes (``\\x1b``, ``\\n``,
    ``\\u2028``), and a byte that is not UTF-8 as ``\\xff``. The result has at most ``most``
    characters, or all of them if ``most`` is 0; if text was left out, the last one is ``…``.
    """
    if isinstance(text, bytes):
        text = decoded(text)
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)
    return text if not most or len(text) <= most else text[: most - 1] + "…"


def representable(value: Any) -> Any:
    """Replace what JSON cannot represent in texts, lists and dicts: lone surrogates (``decoded``)
    become ``\\xff``."""
    if isinstance(value, str):
        return "".join(plain(it) if "\ud800" <= it <= "\udfff" else it for it in value)
    if isinstance(value, dict):
        return {representable(key): representable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [representable(item) for item in value]
    return value


def _escaped(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that ``decoded`` could not decode
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
