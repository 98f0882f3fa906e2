"""Where moments come from: this host, or a recorded file of JSON lines."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

import msgspec

from pagemerge.errors import PagemergeError, ServiceError, UsageError
from pagemerge.linux.text import plain
from pagemerge.watch.ask import Service
from pagemerge.watch.collect import Collector
from pagemerge.watch.history import History
from pagemerge.watch.history_file import default_path
from pagemerge.watch.model import Moment

Source = Callable[[], Moment]
"""Reads the next moment; raises ``Ended`` after the last one, and ``PagemergeError`` if this one
cannot be read and the next one perhaps can."""

PATIENCE = 5.0
"""Seconds that the service may take to answer."""

PAST = 3600.0
"""Seconds of the history that the charts begin with."""

LONGEST = 64 << 20
"""Most bytes of one line of a recording: two hundred thousand processes have room in it."""

LATEST = 32_503_680_000.0
"""The year 3000, in Unix time: a later time is a mistake, and Python cannot write them all."""

GREATEST = 1 << 63
"""A figure that is not less than this is no figure of a host."""


class Ended(PagemergeError):
    """There is no other moment."""


class Recording:
    """Moments from a file with one moment of JSON in each line; a fifo will do, too.

    A context, which closes the file at its end. Raises ``UsageError`` if the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._number = path, 0
        try:
            self._file: BinaryIO = io.BufferedReader(io.FileIO(path))
        except OSError as error:
            raise UsageError(
                f"cannot read the recording {path}: {error.strerror}", path=str(path)
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __call__(self) -> Moment:
        """Read the next moment. Raises ``Ended`` after the last line, and ``PagemergeError`` for a
        line that is not a moment; the next call goes on with the line after it."""
        self._number += 1
        try:
            line = self._file.readline(LONGEST)
        except OSError as error:
            raise self._error(error.strerror or "cannot be read") from None
        if not line:
            raise Ended("the recording has ended", path=str(self._path))
        if len(line) == LONGEST and not line.endswith(b"\n"):
            while (rest := self._file.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
            raise self._error(f"it has more than {LONGEST:,} bytes")
        try:
            return checked(msgspec.json.decode(line, type=Moment))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise self._error(str(error)) from None

    def __iter__(self) -> Iterator[Moment]:
        """Read all moments up to the end. Raises ``PagemergeError`` for a line that is none."""
        while True:
            try:
                yield self()
            except Ended:
                return

    def _error(self, why: str) -> PagemergeError:
        told = f"{self._path}, line {self._number} is not a moment: {why}"
        return PagemergeError(told, path=str(self._path))


def checked(moment: Moment) -> Moment:
    """Return the moment if all its figures can be shown. Raises ``ValueError``."""
    for part in (moment, moment.host, moment.user, moment.kernel, *moment.rows, *moment.decisions):
        if part is None:
            continue
        for name in part.__struct_fields__:
            value = getattr(part, name)
            if isinstance(value, int | float) and not -GREATEST < value < GREATEST:
                raise ValueError(f"{name} is out of range")
    for seconds in (moment.time, *(one.time for one in moment.decisions)):
        if not 0 <= seconds < LATEST:
            raise ValueError("time is not a Unix time in seconds")
    return moment


class Live:
    """Reads this host: asks the service that runs here, or looks itself where none runs.

    A context, which ends the connection.
    """

    def __init__(self) -> None:
        self._service: Service | None = None
        self._collector: Collector | None = None
        self._decided = 0.0
        """Time of the last decision that was returned."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __call__(self) -> Moment:
        """Read the figures of now. Raises ``ServiceError`` if the service stops to answer; the next
        call tries again."""
        if self._service is None and self._collector is None:
            try:
                self._service = Service(timeout=PATIENCE)
            except ServiceError:
                self._collector = Collector()
        if self._collector is not None:
            return checked(self._collector.moment())
        assert self._service
        try:
            moment = checked(self._service.status())
        except ServiceError:
            self._close()
            raise
        except (ValueError, KeyError, TypeError) as error:  # msgspec's errors are ValueErrors
            place = self._service.path
            self._close()
            told = f"the service at {place} tells figures that cannot be: {plain(str(error), 200)}"
            raise PagemergeError(told, path=str(place)) from None
        # Each answer has the last decisions.
        new = tuple(it for it in moment.decisions if it.time > self._decided)
        self._decided = max((it.time for it in moment.decisions), default=self._decided)
        return msgspec.structs.replace(moment, decisions=new)

    def _close(self) -> None:
        if self._service:
            self._service.close()
        self._service = None

    def past(self) -> list[Moment]:
        """Return what was recorded in the last hour, oldest first; nothing without a history."""
        try:
            with Service(timeout=PATIENCE) as service:
                return [checked(it) for it in service.history(PAST)]
        except (PagemergeError, ValueError, KeyError, TypeError):
            pass  # no service, or it keeps no history that we can show
        try:
            with History(default_path(), read_only=True) as history:
                return [checked(it) for it in history.read(time.time() - PAST)]
        except (PagemergeError, ValueError):
            return []
