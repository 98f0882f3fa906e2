"""Files: opened only if they are plain files, read in full, written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from pagemerge.errors import AccessDenied, PagemergeError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]


class Source:
    """A file that is being loaded: its open file, size in bytes, and name for messages."""

    def __init__(self, file: IO[bytes], size: int, path: str) -> None:
        self.file, self.size, self.path = file, size, path

    def damaged(self, what: str) -> UsageError:
        """The error that says what is wrong with the file."""
        return UsageError(
            f"{self.path!r} is damaged: {what}. Copy or make the file again", path=self.path
        )

    def refused(self, what: str) -> UsageError:
        """The error for a sound file that cannot be loaded so; ``what`` ends with the cure."""
        return UsageError(f"{self.path!r} {what}", path=self.path)


def read_full(file: IO[bytes], part: Bytes, source: Source, what: str) -> None:
    """Read ``len(part)`` bytes from ``file``. Raises ``UsageError`` if it ends before."""
    view, done = part.data, 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise source.damaged(f"it ends after {done} of {len(view)} bytes of {what}")
        done += count


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Source]:
    """Open a plain file to load it. Raises ``UsageError`` and ``AccessDenied``."""
    name = os.fspath(path)
    if not isinstance(name, str):
        name = os.fsdecode(name)
    try:
        # Without O_NONBLOCK, to open a named pipe waits for a writer.
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        _refuse(error, name, "read")
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):  # a folder cannot even become a file object
        os.close(descriptor)
        raise UsageError(f"{name!r} is not a plain file: give a file to load", path=name)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        source = Source(file, found.st_size, name)
        try:
            yield source
        except OSError as error:
            if isinstance(error, PagemergeError):
                raise
            if error.errno == errno.EINVAL:
                raise source.damaged("it speaks of places outside the file") from None
            raise PagemergeError(f"cannot read {name!r}: {error.strerror}", path=name) from error


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file that takes the place of ``path`` when the context ends without an error.

    The new file lies in the same folder until then, under a hidden name, and is on the disk before
    it is renamed (rename(2) replaces the old file at once). Links are followed.
    """
    given = os.fspath(path)
    name = os.path.realpath(given if isinstance(given, str) else os.fsdecode(given))
    folder, base = os.path.split(name)
    hidden = Path(folder, f".{base[:100]}.{secrets.token_hex(8)}")
    try:
        old = Path(name).stat()
        if not stat.S_ISREG(old.st_mode):
            raise UsageError(f"{name!r} is not a plain file: give another name", path=name)
        mode: int | None = stat.S_IMODE(old.st_mode)
    except FileNotFoundError:
        mode = None
    except (OSError, ValueError) as error:
        _refuse(error, name, "replaced")
    try:
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        _refuse(error, name, "written")
    try:
        with os.fdopen(descriptor, "w+b") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            yield file
            file.flush()
            os.fsync(descriptor)
        hidden.replace(name)
    except OSError as error:
        if isinstance(error, PagemergeError):
            raise
        why = error.strerror or error
        raise PagemergeError(f"cannot write {name!r}: {why}", path=name) from error
    finally:
        with suppress(OSError):
            hidden.unlink()


def _refuse(error: Exception, name: str, verb: str) -> NoReturn:
    """Raise our error for a file that cannot be opened."""
    if isinstance(error, PermissionError):
        raise AccessDenied(
            f"{name!r} may not be {verb}: look at the permissions of the file and its folder",
            path=name,
        ) from None
    why = error.strerror if isinstance(error, OSError) else error
    raise UsageError(f"{name!r} cannot be {verb}: {why}; give another path", path=name) from None


def needed(module: str, what: str) -> Any:
    """Import a package that ``what`` needs. Raises ``Unsupported`` with the cure."""
    import importlib

    from pagemerge.errors import Unsupported

    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise Unsupported(f"{what} needs {package} ({error}): pip install {package}") from None
