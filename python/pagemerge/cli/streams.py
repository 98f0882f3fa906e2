"""The standard streams of a command: no print fails, and main learns what could not be written.

A verb's work does not depend on the reader of its output: a full disk, a closed descriptor or a
reader that has exited (``| head -1``) stops no verb halfway. ``settle`` reports lost output at the
end. A reader that exits does not change the exit status.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys

TYPE_CHECKING = False  # not from typing, for `pagemerge --help`: see pagemerge.cli
if TYPE_CHECKING:
    from typing import TextIO

    from _typeshed import ReadableBuffer


class Sink(io.FileIO):
    """A descriptor to write to. After a failed write it accepts all data and writes nothing."""

    lost: OSError | None = None
    """Why the first write failed."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write ``data``, or pretend to."""
        try:
            while self.lost is None:
                # It can be None, in spite of typeshed: another process may make the file
                # non-blocking.
                written: int | None = super().write(data)
                if written is not None:
                    return written
                select.select([], [self], [])
        except OSError as error:
            self.lost = error
        return memoryview(data).nbytes


_stdout: Sink | None = None


def guard() -> None:
    """Replace stdout and stderr by sinks; a character that the locale cannot write is escaped.

    This opens /dev/null for each standard descriptor that the caller has closed; otherwise the next
    file that is opened would get its number. A program that we execute finds it closed.
    """
    global _stdout
    for number, mode in enumerate((os.O_RDWR, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # Read-only for stdout: each write to it fails with EBADF, as it should.
            os.open(os.devnull, mode)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # If a stream has been replaced already, by a caller or by us, it stays as it is.
    if sys.stdout is sys.__stdout__:
        _stdout = Sink(1, "w", closefd=False)
        sys.stdout = _text(_stdout, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(Sink(2, "w", closefd=False), sys.stderr, by_line=True)


def settle(prog: str, status: int) -> int:
    """Flush stdout; returns ``status``, or 1 if ``status`` is 0 and output was lost.

    A reader that closes the pipe has read what it needs, so that is not a failure.
    """
    sys.stdout.flush()
    lost = _stdout.lost if _stdout else None
    if lost is None or lost.errno == errno.EPIPE:
        return status
    print(f"{prog}: cannot write to standard output: {lost.strerror}", file=sys.stderr)
    return status or 1


def abandoned() -> bool:
    """Has stdout lost any output? If so, a verb that runs until it is stopped should end."""
    return _stdout is not None and _stdout.lost is not None


def _text(sink: Sink, before: TextIO | None, *, by_line: bool = False) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(sink),
        encoding=before.encoding if before else "utf-8",
        errors="backslashreplace",
        line_buffering=by_line or sink.isatty(),
    )
