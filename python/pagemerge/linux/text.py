"""Text that other people chose: file names, thread names, arguments, cgroups, labels.

The kernel forbids a newline and NUL in a mapped file's path, and nothing else: such text need not
be UTF-8, and may hold terminal escapes or what Python takes for the end of a line (``\\r``,
``\\x0b``, ``\\x85``, U+2028). So the kernel's files are read as bytes (``read``), cut at ``\\n``
alone (``lines``), and decoded without loss (``decoded``); and whatever is printed or logged goes
through ``plain``.
"""

from __future__ import annotations

import os

ROOM = 1 << 16
"""Bytes of a read."""


def read(path: str | bytes | os.PathLike[str], most: int = 1 << 30) -> bytes:
    """All of a file, up to ``most`` bytes.

    A read of a list such as maps gives whole lines only, less than a page of them, whatever it
    asks for: nothing but an empty read is the end. Raises ``OSError``, as the kernel says.
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


def lines(data: bytes) -> list[bytes]:
    """The lines of a file of the kernel's, without their ends. Only ``\\n`` ends a line."""
    found = data.split(b"\n")
    if not found[-1]:
        found.pop()
    return found


def decoded(data: bytes) -> str:
    """Bytes as text, without loss: what is not UTF-8 becomes lone surrogates (PEP 383).

    For comparing and for calls to the kernel; print it through ``plain`` only.
    """
    return data.decode("utf-8", "surrogateescape")


def plain(text: str | bytes, most: int = 0) -> str:
    """Text that is safe to print: one line, and nothing that steers a terminal.

    What is not printable is written as Python escapes it (``\\x1b``, ``\\n``, ``\\u2028``); a byte
    that is not UTF-8 as ``\\xff``. At most ``most`` characters, of which the last is ``…`` where
    text was left out; 0: all of it.
    """
    if isinstance(text, bytes):
        text = decoded(text)
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)
    return text if not most or len(text) <= most else text[: most - 1] + "…"


def _escaped(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that ``decoded`` could not decode
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
