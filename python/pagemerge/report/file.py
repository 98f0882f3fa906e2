"""Writes a file at once: it is there whole, or as it was before.

The report holds names and bytes of other users' processes, so only the caller may read a new one;
a file of the caller's that is replaced keeps its permissions. Links and devices are refused: a
rename would put the report in the place of ``/dev/null`` or ``/dev/stdout`` itself.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

from pagemerge.errors import AccessDenied, PagemergeError, UsageError

PREFIX = ".pagemerge-report-"
"""Of the file that is written before it gets its name."""


def check(path: Path) -> None:
    """Raise an error if it is plain now that ``path`` cannot be written.

    Raises ``UsageError``, ``AccessDenied`` or ``PagemergeError``.
    """
    _mode(path)
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {folder}", path=str(path))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refused(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), path)


def put(path: Path, data: bytes) -> None:
    """Write ``data`` to a file beside ``path``, sync it, and rename it to ``path`` (rename(2)).

    Raises ``UsageError`` if ``path`` is no regular file, and ``AccessDenied`` or
    ``PagemergeError`` if it cannot be written; nothing is left behind then.
    """
    mode = _mode(path)
    try:
        file, name = tempfile.mkstemp(dir=path.parent, prefix=PREFIX)
    except OSError as error:
        raise _refused(error, path) from None
    made = Path(name)
    try:
        with os.fdopen(file, "wb") as out:
            out.write(data)
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        made.replace(path)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise _refused(error, path) from None
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def _mode(path: Path) -> int:
    """Return the permissions that the file gets."""
    try:
        about = path.lstat()
    except FileNotFoundError:
        return 0o600
    except OSError as error:
        raise _refused(error, path) from None
    found = about.st_mode
    if stat.S_ISREG(found) and about.st_uid == os.geteuid():
        return stat.S_IMODE(found) & 0o755  # nobody else may write to what the caller opens
    if stat.S_ISREG(found):
        # Its owner could read the report, and write to it, by the permissions of the file.
        raise UsageError(
            f"cannot write {path}: it belongs to uid {about.st_uid}: name a file of yours, or a "
            "new one",
            path=str(path),
        )
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symbolic link"}
    kind = kinds.get(stat.S_IFMT(found), "a device, a pipe or a socket")
    raise UsageError(f"cannot write {path}: it is {kind}: name a regular file", path=str(path))


def _refused(error: OSError, path: Path) -> PagemergeError:
    told = f"cannot write {path}: {error.strerror}"
    if isinstance(error, PermissionError):
        return AccessDenied(f"{told}: name a file in a folder of yours", path=str(path))
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{told}: make the folder {path.parent} first", path=str(path))
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        told += ": name a file on a disk with 300 kB left"
    return PagemergeError(told, path=str(path))
