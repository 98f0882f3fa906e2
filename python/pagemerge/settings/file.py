"""Reads and writes configuration files; never waits for a pipe or a device."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from pagemerge.errors import UsageError

MOST_BYTES = 256 << 10
"""A file with thousands of rules has less."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def read(path: Path) -> bytes:
    """Read the file at ``path``.

    Raises ``UsageError`` if it cannot be read, is no regular file, or has more than ``MOST_BYTES``.
    """
    try:
        # Before it is opened, because that alone starts the timer of a watchdog, for example.
        _regular(path, path.stat().st_mode)
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            _regular(path, os.fstat(file).st_mode)
            pieces, left = [], MOST_BYTES + 1
            while left and (piece := os.read(file, left)):
                pieces.append(piece)
                left -= len(piece)
        finally:
            os.close(file)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    if not left:
        told = f"{path} has more than {MOST_BYTES >> 10} KiB: give a configuration file"
        raise UsageError(told, path=str(path))
    return b"".join(pieces)


def write(path: Path, text: str, *, force: bool) -> None:
    """Write ``text`` to a new file; with ``force``, replace an existing one in one step.

    A link is followed, and a file that is replaced keeps its mode and owner. Raises ``UsageError``
    if the file cannot be written; an existing file is then as before.
    """
    try:
        try:
            _create(
                os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666),
                path,
                text,
            )
        except FileExistsError:
            if not force:
                raise
            _replace(path.resolve(strict=True), text)
    except FileExistsError as error:
        told = f"{path} exists already, and was left as it is: --force replaces it"
        raise UsageError(told, path=str(path)) from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", path=str(path)) from error


def _replace(path: Path, text: str) -> None:
    before = path.stat()
    _regular(path, before.st_mode)
    file, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    new = Path(name)
    os.fchmod(file, stat.S_IMODE(before.st_mode))
    _create(file, new, text)
    try:
        if (os.geteuid(), os.getegid()) != (before.st_uid, before.st_gid):
            os.chown(new, before.st_uid, before.st_gid)
        new.replace(path)
    except OSError:
        new.unlink()
        raise


def _create(file: int, path: Path, text: str) -> None:
    """Fill and close the new file at ``path``; remove it if that fails."""
    try:
        with os.fdopen(file, "w", encoding="utf-8") as opened:
            opened.write(text)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise UsageError(f"{path} is {kind}: give a regular file", path=str(path))
