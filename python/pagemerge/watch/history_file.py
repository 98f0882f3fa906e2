"""Opens the file of the history, and refuses a file that is not one without changing it.

The file is an SQLite database with a write-ahead log: after a SIGKILL at any moment, SQLite reads
the transactions that were complete and nothing else (https://www.sqlite.org/wal.html).

Only SQLite opens the file here, because POSIX locks belong to the process: if we opened and closed
the file ourselves, SQLite would lose its locks (https://www.sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from pagemerge.errors import AccessDenied, PagemergeError, UsageError
from pagemerge.hub import reach

APPLICATION = 0x706D_6869
"""Marks our files in the header of SQLite (application_id)."""

VERSION = 1
"""Of the tables, and of the fields of ``model.Moment`` (user_version)."""

SCHEMA = """
CREATE TABLE moments (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    saved_bytes INTEGER NOT NULL,
    detail BLOB NOT NULL
);
CREATE INDEX moments_by_time ON moments (time, saved_bytes);
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    topic TEXT NOT NULL,
    reason TEXT NOT NULL,
    knobs TEXT NOT NULL
);
CREATE INDEX decisions_by_time ON decisions (time);
CREATE TABLE totals (topic TEXT PRIMARY KEY, decisions INTEGER NOT NULL) WITHOUT ROWID
"""
"""``moments.time``: Unix time in seconds. ``detail``: the moment as JSON, packed with zlib.
``totals``: all decisions since the file was made, also those that were deleted."""

PATIENCE = 1.0
"""Seconds to wait for another program that has locked the file."""

LOG_PAGES = 256
"""Pages in the write-ahead log from which on SQLite copies it to the file."""


def default_path() -> Path:
    """Return where the daemon of this user records: PAGEMERGE_HISTORY, else in
    ``reach.state_directory``."""
    named = os.environ.get("PAGEMERGE_HISTORY")
    return Path(named) if named else reach.state_directory() / "history.sqlite"


def open_to_write(path: Path) -> tuple[sqlite3.Connection, int]:
    """Open the history at ``path``, or make one; return it with the descriptor of its lock.

    Raises ``UsageError`` if another program made the file, ``AccessDenied``, and ``PagemergeError``
    if the file is damaged or another process writes to it. An existing file stays as it is then.
    """
    _must_be_file(path)
    lock = _lock(path)
    try:
        with explained(path):
            if not path.exists():
                _make(path)
            _checked(path, "ro").close()  # may be a file of another program, so nothing is written
            return _prepared(_connect(path, "rw"), path), lock
    except BaseException:
        os.close(lock)
        raise


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open the history at ``path``; nothing is changed. Raises as ``open_to_write``, and
    ``UsageError`` if there is none."""
    _must_be_file(path)
    if not path.exists():
        told = f"there is no history at {path}: `pagemerge daemon` records one while it runs"
        raise UsageError(told, path=str(path))
    if not os.access(path, os.R_OK):
        raise _refused(PermissionError(), path)
    with explained(path):
        try:
            opened = _checked(path, "ro")
        except sqlite3.OperationalError:
            # Without a log, the file is whole. If its folder cannot be written, SQLite needs to be
            # told that no writer will come.
            if Path(f"{path}-wal").exists():
                raise
            opened = _checked(path, "ro&immutable=1")
        opened.execute("PRAGMA query_only = ON")
    return opened


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of SQLite about ``path`` into ours."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extended part
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise damaged(path, str(error)) from None
        told = {
            sqlite3.SQLITE_FULL: ": make room on its disk",
            sqlite3.SQLITE_IOERR: ": is its disk full, or broken?",
            sqlite3.SQLITE_BUSY: ": another program keeps it locked; end that program",
            sqlite3.SQLITE_CANTOPEN: ": its folder must be readable, and writable while a log is",
            sqlite3.SQLITE_READONLY: ": name a file that you may write",
        }.get(code, "")
        raise PagemergeError(f"cannot use {path}: {error}{told}", path=str(path)) from None


def damaged(path: Path, what: str) -> PagemergeError:
    """Return the error for a file whose content is not as we write it."""
    told = f"{path} is damaged, or no history ({what}): move it away, and a new one will be made"
    return PagemergeError(told, path=str(path))


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    name = f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"
    opened = sqlite3.connect(
        name, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )
    # A file from another user could have views and triggers that call functions.
    opened.execute("PRAGMA trusted_schema = OFF")
    opened.execute("PRAGMA cell_size_check = ON")
    return opened


def _checked(path: Path, mode: str) -> sqlite3.Connection:
    """Open a history; raises ``UsageError`` for a file of another program."""
    opened = _connect(path, mode)
    try:
        # The schema comes first: SQLite answers the others from memory, whatever the file is.
        tables = {name for (name,) in opened.execute("SELECT name FROM sqlite_master")}
        (made_by,) = opened.execute("PRAGMA application_id").fetchone()
        (version,) = opened.execute("PRAGMA user_version").fetchone()
        if tables and made_by != APPLICATION:
            told = f"{path} is a database of another program: name another file"
            raise UsageError(told, path=str(path))
        if not {"moments", "decisions", "totals"} <= tables:
            raise damaged(path, "tables are missing")
        if version != VERSION:
            told = f"{path} has version {version} of a history, and this pagemerge knows {VERSION}"
            cure = "use the pagemerge that wrote it, or move it away"
            raise UsageError(f"{told}: {cure}", path=str(path))
    except BaseException:
        opened.close()
        raise
    return opened


def _make(path: Path) -> None:
    """Make a history without moments. It gets its name when it is complete, because SQLite has no
    write-ahead log yet to protect this, and a reader could not undo what is half done."""
    made = path.with_name(f"{path.name}.new")
    try:
        for rest in ("-journal", "-wal", "-shm"):
            Path(f"{made}{rest}").unlink(missing_ok=True)  # of a process that was killed here
            # Of a file that was deleted: SQLite would copy them into the new one.
            Path(f"{path}{rest}").unlink(missing_ok=True)
        made.unlink(missing_ok=True)
        # Only its owner may read it: it has the names of processes of all users.
        os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(_connect(made, "rw")) as opened:
            opened.execute("PRAGMA auto_vacuum = INCREMENTAL")
            (mode,) = opened.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                told = f"{path}: its file system has no shared memory: name a file on a local disk"
                raise PagemergeError(told, path=str(path))
            opened.executescript(
                f"BEGIN; {SCHEMA}; PRAGMA application_id = {APPLICATION};"
                f"PRAGMA user_version = {VERSION}; COMMIT"
            )
        made.rename(path)
    except OSError as error:
        raise _refused(error, path) from None


def _prepared(opened: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """Set SQLite's modes for writing, and make sure that the file is whole."""
    try:
        opened.execute("PRAGMA synchronous = NORMAL")
        opened.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
        opened.execute("PRAGMA journal_size_limit = 4194304")
        (found,) = opened.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise damaged(path, found)
    except BaseException:
        opened.close()
        raise
    return opened


def _lock(path: Path) -> int:
    """Make sure that no other process writes. The lock is a file of its own, which stays."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(f"{path}.lock", flags, 0o600)
    except OSError as error:
        raise _refused(error, path) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            told = f"another process records in {path}: end it, or name another file"
            raise PagemergeError(told, path=str(path)) from None
        raise _refused(error, path) from None
    return lock


def _must_be_file(path: Path) -> None:
    """Raise ``UsageError`` for a folder or a device: opening a pipe would wait for ever."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refused(error, path) from None
    if not is_file:
        raise UsageError(f"{path} is no regular file: name a file", path=str(path))


def _refused(error: OSError, path: Path) -> PagemergeError:
    if isinstance(error, PermissionError):
        told = f"the history at {path} belongs to another user: run as that user, or name a file"
        return AccessDenied(told, path=str(path))
    return PagemergeError(f"cannot use {path}: {error.strerror}", path=str(path))
