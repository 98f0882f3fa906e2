"""Writes metrics to a file that node_exporter reads (its collector ``textfile``).

node_exporter reads every ``*.prom`` of its folder whenever it is asked, so the file gets its name
when it is complete: https://github.com/prometheus/node_exporter#textfile-collector.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from pagemerge.errors import AccessDenied, PagemergeError, UsageError

PREFIX = ".pagemerge-metrics-"
"""Of the file before it has its name; it does not end in ``.prom``."""


def check(path: Path) -> None:
    """Raise ``UsageError`` if node_exporter would not read ``path``, or if it is no regular file: a
    rename would replace a link or a device."""
    if path.suffix != ".prom":
        told = f"{path}: node_exporter reads files whose names end in .prom: name one"
        raise UsageError(told, path=str(path))
    if not path.parent.is_dir():
        told = f"cannot write {path}: there is no folder {path.parent}: make it, or name another"
        raise UsageError(told, path=str(path))
    try:
        is_file = stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refused(error, path) from None
    if not is_file:
        raise UsageError(f"cannot write {path}: it is no regular file: name one", path=str(path))


def put(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` at once. Every user may read it, because node_exporter runs as
    another user.

    Raises ``UsageError`` as ``check``, and ``AccessDenied`` or ``PagemergeError`` if it cannot be
    written; the file is as before then.
    """
    check(path)
    made = None
    try:
        file, made = tempfile.mkstemp(dir=path.parent, prefix=PREFIX)
        with os.fdopen(file, "wb") as out:
            out.write(data)
            out.flush()
            os.fchmod(out.fileno(), 0o644)
        Path(made).replace(path)
    except BaseException as error:
        if made is not None:
            Path(made).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _refused(error, path) from None
        raise


def _refused(error: OSError, path: Path) -> PagemergeError:
    told = f"cannot write {path}: {error.strerror}"
    if isinstance(error, PermissionError):
        return AccessDenied(f"{told}: run as the owner of {path.parent}", path=str(path))
    return PagemergeError(told, path=str(path))
