"""The log of a hub and of the governor: one line for each record, also if it quotes other text."""

from __future__ import annotations

import logging
import sys

from pagemerge.linux.text import plain

FORMAT = "%(asctime)s %(message)s"

INSIDE = "    "
"""Prefix of each line of a traceback, which may contain text from outside: only a record starts in
the first column."""


class Lines(logging.Formatter):
    """Formats each record as one plain line; a traceback keeps its lines, indented."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """Format one line, and the traceback below it if there is one."""
        record.exc_text = None  # another formatter may have cached its own text there
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Format the line of the record itself."""
        return plain(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        """Format the traceback, indented."""
        return indented(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:
        """Format the stack of the code that made a record, indented."""
        return indented(stack_info)


def indented(text: str) -> str:
    """Indent each line of a traceback, and make it plain."""
    return "\n".join(INSIDE + plain(line) for line in text.split("\n"))


def to_stderr(level: int) -> None:
    """Write all log records of ``level`` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=level, handlers=[handler])
