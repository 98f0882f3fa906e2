"""Records moments in a file that stays small, and reads them back by time.

Moments of the last hour are kept as they come; of older ones, each minute keeps the two with the
lowest and the highest saving, and after a week each ten minutes do. Decisions are kept as long as
moments are.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from pagemerge.errors import PagemergeError
from pagemerge.linux.text import plain
from pagemerge.watch.history_file import damaged, explained, open_to_read, open_to_write
from pagemerge.watch.model import Decision, Moment, Row
from pagemerge.watch.topics import topic_of

log = logging.getLogger("pagemerge.watch")

MOST_ROWS = 20
"""Rows of a moment that are kept: those that save most."""
MOST_DECISIONS = 100
"""Decisions of a moment that are kept: the last ones."""
MOST_TEXT = 200
"""Characters that are kept of each text."""
MOST_DETAIL = 1 << 20
"""Bytes of a moment, unpacked."""
MOST_LOG = 16 << 20
"""Bytes of the write-ahead log from which on moments are left out: a program that keeps reading
keeps SQLite from emptying the log."""
AT_ONCE = 500
"""Moments that are read in one transaction: a writer can empty its log between two of them."""

_ROW_TEXTS = ("name", "user", "domain", "guest", "unit", "cgroup", "why")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a history keeps."""

    most_bytes: int = 64 << 20
    """Size of the file; its log comes to 16 MiB at most."""
    most_seconds: float = 30 * 86400
    """Age."""
    thinned: tuple[tuple[float, float], ...] = ((3600.0, 60.0), (7 * 86400.0, 600.0))
    """Age in seconds, and the seconds of which two moments are kept from that age on."""


class History:
    """The history at ``path``. One process writes it, and any number read it meanwhile.

    Use it in one thread at a time. All methods raise ``PagemergeError`` if the file cannot be used
    (``history_file``): a full disk, say; what was recorded before stays readable.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        bounds: Bounds | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Open it to write, and make it if it does not exist; or to read.

        ``clock``: a clock in seconds that never jumps. With it, a moment whose time lies far ahead,
        because somebody has set the clock of the host, makes no older moment too old. After the
        host was off for long, moments are kept for as much longer.
        """
        self.path, self._bounds, self._clock = path, bounds or Bounds(), clock
        self._began: tuple[float, float] | None = None
        """A Unix time that is right, and what ``clock`` said then."""
        self._log_path = Path(f"{path}-wal")
        self._lock = -1
        self._is_closed = False
        self.left_out = 0
        """Moments that were not recorded, because a reader held up the log."""
        if read_only:
            self._file = open_to_read(path)
        else:
            self._open()

    def _open(self) -> None:
        """Open the file to write."""
        self._tidied = float("-inf")
        self._thinned = [float("-inf")] * len(self._bounds.thinned)
        self._log: tuple[int, int] | None = None
        """The identity of SQLite's log, once something was recorded."""
        self._file, self._lock = open_to_write(self.path)
        try:
            self._identity = _identity(self.path)
            with explained(self.path):
                self._shrink()
        except BaseException:
            self._let_go()
            raise

    def add(self, moment: Moment) -> None:
        """Record a moment, with its decisions. It is in the file when this returns.

        If the file was deleted or replaced, this records in the file that is there now, or makes
        one.
        """
        if not self._is_closed and not self._is_there():
            if self._lock >= 0:
                self._leave()
            self._open()
        if self._log_is_full():
            self.left_out += 1
            return
        packed = zlib.compress(msgspec.json.encode(_to_keep(moment)), 6)
        with explained(self.path):
            now = self._now(moment.time)
            self._make_room(len(packed))
            self._file.execute("BEGIN IMMEDIATE")
            try:
                self._decide(moment.decisions)
                self._file.execute(
                    "INSERT INTO moments (time, saved_bytes, detail) VALUES (?, ?, ?)",
                    (moment.time, moment.saved_bytes, packed),
                )
                if not 0 <= now - self._tidied < 60:
                    self._tidy(now)
                self._file.execute("COMMIT")
            except BaseException:
                if self._file.in_transaction:  # an error may have ended it (SQLITE_FULL)
                    self._file.execute("ROLLBACK")
                raise
        self._log = self._log or _identity(self._log_path)

    def read(self, since: float = 0.0, until: float = 1e12) -> Iterator[Moment]:
        """Read the moments from ``since`` to ``until`` (Unix time in seconds), oldest first.

        Each has the decisions since the moment before, or since ``since``.
        """
        decisions = self.decisions(since, until)
        at, place = 0, (since, -1)
        while rows := self._moments(place, until):
            for number, seconds, detail in rows:
                moment = self._unpacked(detail)
                start = at
                while at < len(decisions) and decisions[at].time <= seconds:
                    at += 1
                place = seconds, number
                told = tuple(decisions[start:at])
                yield msgspec.structs.replace(moment, time=seconds, decisions=told)

    def series(self, since: float = 0.0, until: float = 1e12) -> list[tuple[float, int]]:
        """Return the time and the saved bytes of each moment, oldest first, without the rest."""
        query = "SELECT time, saved_bytes FROM moments WHERE time BETWEEN ? AND ? ORDER BY time, id"
        with explained(self.path):
            return [
                (self._number(seconds), int(self._number(saved)))
                for seconds, saved in self._file.execute(query, (since, until)).fetchall()
            ]

    def decisions(self, since: float = 0.0, until: float = 1e12) -> list[Decision]:
        """Return the governor's decisions from ``since`` to ``until``, oldest first."""
        query = "SELECT time, reason, knobs FROM decisions WHERE time BETWEEN ? AND ? "
        with explained(self.path):
            rows = self._file.execute(query + "ORDER BY time, id", (since, until)).fetchall()
        return [self._decision(*row) for row in rows]

    def totals(self) -> dict[str, int]:
        """Return how many decisions there were on each topic since the file was made."""
        with explained(self.path):
            rows = self._file.execute("SELECT topic, decisions FROM totals").fetchall()
        return {plain(str(topic), MOST_TEXT): int(self._number(count)) for topic, count in rows}

    def close(self) -> None:
        """Close the file; the next process may write."""
        self._is_closed = True
        self._let_go()

    def _let_go(self) -> None:
        self._file.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _is_there(self) -> bool:
        """Are the file, its log and its lock still where we have opened them?

        SQLite would go on writing to files that were deleted.
        """
        if self._lock < 0 or not os.fstat(self._lock).st_nlink:
            return False
        has_log = self._log is None or _identity(self._log_path) == self._log
        return has_log and _identity(self.path) == self._identity

    def _leave(self) -> None:
        """Close a file that was deleted, or whose log or lock was."""
        log.warning("%s was deleted or replaced: what is there now is used", self.path)
        is_there = _identity(self.path) == self._identity
        with contextlib.suppress(sqlite3.Error):  # what only the log has comes into the file
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._let_go()
        # SQLite would copy the log of a deleted file into the one that has the name now.
        if not is_there and self._log and _identity(self._log_path) == self._log:
            with contextlib.suppress(OSError):
                self._log_path.unlink()
                Path(f"{self.path}-shm").unlink()

    def _decide(self, decisions: Sequence[Decision]) -> None:
        """Record decisions."""
        told = [(it, topic_of(it.reason)) for it in decisions]
        for _, topic in told:
            self._file.execute(
                "INSERT INTO totals VALUES (?, 1) "
                "ON CONFLICT (topic) DO UPDATE SET decisions = decisions + 1",
                (topic,),
            )
        self._file.executemany(
            "INSERT INTO decisions (time, topic, reason, knobs) VALUES (?, ?, ?, ?)",
            [
                (it.time, topic, plain(it.reason, MOST_TEXT), _knobs(it.knobs))
                for it, topic in told[-MOST_DECISIONS:]
            ],
        )

    def _now(self, told: float) -> float:
        """Return the time to which ages are measured, for a moment that says ``told``."""
        if self._clock is None:
            return told
        if self._began is None:
            (latest,) = self._file.execute("SELECT max(time) FROM moments").fetchone()
            right = told if latest is None else min(told, self._number(latest))
            self._began = right, self._clock()
        right, began = self._began
        return min(told, right + self._clock() - began)

    def _tidy(self, now: float) -> None:
        """Thin out what has become old, and delete what is too old."""
        self._tidied = now
        for number, (age, every) in enumerate(self._bounds.thinned):
            start = self._thinned[number]
            end = (now - age) // every * every
            if end > start:
                self._file.execute(_THIN, {"start": start, "end": end, "every": every})
                self._thinned[number] = end
        oldest = now - self._bounds.most_seconds
        self._file.execute("DELETE FROM moments WHERE time < ?", (oldest,))
        self._file.execute("DELETE FROM decisions WHERE time < ?", (oldest,))

    def _make_room(self, more: int) -> None:
        """Delete the moments that were recorded first, until ``more`` bytes fit below the limit."""
        # A moment takes whole pages of its own, and of two indices; a decision less than a page.
        spare = more // self._pragma("page_size") + 32
        while self._used_pages() + spare > self._bounds.most_bytes // self._pragma("page_size"):
            (count,) = self._file.execute("SELECT count(*) FROM moments").fetchone()
            if not count:
                return
            self._file.execute(
                "DELETE FROM moments WHERE id IN (SELECT id FROM moments ORDER BY id LIMIT ?)",
                (count // 20 + 1,),
            )
            self._file.execute("DELETE FROM decisions WHERE time < (SELECT min(time) FROM moments)")

    def _shrink(self) -> None:
        """Return what the file has above its limit: the limit may be lower than before."""
        self._make_room(0)
        limit = self._bounds.most_bytes // self._pragma("page_size")
        if (above := self._pragma("page_count") - limit) > 0:
            # ``execute`` would take one step, which returns one page.
            self._file.executescript(f"PRAGMA incremental_vacuum({above})")

    def _used_pages(self) -> int:
        return self._pragma("page_count") - self._pragma("freelist_count")

    def _pragma(self, name: str) -> int:
        (value,) = self._file.execute(f"PRAGMA {name}").fetchone()
        return int(value)

    def _log_is_full(self) -> bool:
        try:
            if self._log_path.stat().st_size < MOST_LOG:
                return False
        except FileNotFoundError:
            return False
        with explained(self.path):
            self._file.execute("PRAGMA busy_timeout = 0")
            (is_busy, _, _) = self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._file.execute("PRAGMA busy_timeout = 1000")
        return bool(is_busy)

    def _moments(self, place: tuple[float, int], until: float) -> list[tuple[int, float, object]]:
        query = (
            "SELECT id, time, detail FROM moments WHERE (time, id) > (?, ?) AND time <= ? "
            "ORDER BY time, id LIMIT ?"
        )
        with explained(self.path):
            found = self._file.execute(query, (*place, until, AT_ONCE)).fetchall()
        return [(number, self._number(seconds), detail) for number, seconds, detail in found]

    def _unpacked(self, detail: object) -> Moment:
        try:
            if not isinstance(detail, bytes):
                raise ValueError("no detail")
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(detail, MOST_DETAIL)
            return msgspec.json.decode(data, type=Moment)
        except (ValueError, zlib.error) as error:  # msgspec's errors are ValueErrors
            raise damaged(self.path, plain(str(error), MOST_TEXT)) from None

    def _decision(self, seconds: object, reason: object, knobs: object) -> Decision:
        try:
            found = msgspec.json.decode(str(knobs), type=dict[str, int | str])
        except ValueError as error:
            raise damaged(self.path, plain(str(error), MOST_TEXT)) from None
        return Decision(self._number(seconds), plain(str(reason), MOST_TEXT), found)

    def _number(self, value: object) -> Any:
        """Return a number of a table: SQLite lets any type into any column."""
        if not isinstance(value, int | float):
            raise damaged(self.path, f"{type(value).__name__} instead of a number")
        return value


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from one that takes its place; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


_KEPT = """
    SELECT id FROM (
        SELECT id, {which}(saved_bytes) FROM moments WHERE time >= :start AND time < :end
        GROUP BY CAST(time / :every AS INTEGER)
    )
"""
# The columns beside a sole min() or max() are those of its row
# (https://www.sqlite.org/lang_select.html, "bare columns").
_THIN = (
    "DELETE FROM moments WHERE time >= :start AND time < :end AND id NOT IN "
    f"({_KEPT.format(which='min')} UNION {_KEPT.format(which='max')})"
)


def _to_keep(moment: Moment) -> Moment:
    """Return the part of a moment that is kept in ``detail``."""
    rows = sorted(moment.rows, key=lambda row: (-row.saved_bytes, -row.memory_bytes, row.pid))
    kept = sorted(rows[:MOST_ROWS], key=lambda row: row.pid)
    return msgspec.structs.replace(moment, rows=tuple(map(_bounded, kept)), decisions=())


def _bounded(row: Row) -> Row:
    """Return a row whose texts are short, and can be written as JSON."""
    texts = {name: plain(getattr(row, name), MOST_TEXT) for name in _ROW_TEXTS}
    return msgspec.structs.replace(row, **texts)


def _knobs(knobs: dict[str, int | str]) -> str:
    kept = {
        plain(name, MOST_TEXT): plain(value, MOST_TEXT) if isinstance(value, str) else value
        for name, value in sorted(knobs.items())[:MOST_ROWS]
    }
    return msgspec.json.encode(kept).decode()


def decided(path: Path) -> dict[str, int]:
    """Return how many decisions of each topic the history at ``path`` has; none if it cannot be
    read."""
    try:
        with History(path, read_only=True) as history:
            return history.totals()
    except PagemergeError:
        return {}
