"""The log of a hub and of the governor: a line a record, whoever chose the text in it."""

from __future__ import annotations

import logging
import sys

from pagemerge.linux.text import plain

FORMAT = "%(asctime)s %(message)s"

INSIDE = "    "
"""In front of each line of a traceback, which may hold text from outside as well: only a record
begins at the left."""


class Lines(logging.Formatter):
    """Makes one plain line of each record; a traceback keeps its lines, indented."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it if there is one."""
        record.exc_text = None  # as another formatter may have left it there
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of the record itself."""
        return plain(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        """The traceback."""
        return indented(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:
        """Where a record was made, if it tells."""
        return indented(stack_info)


def indented(text: str) -> str:
    """Each line of a traceback, plain."""
    return "\n".join(INSIDE + plain(line) for line in text.split("\n"))


def to_stderr(level: int) -> None:
    """Have everything that is logged from ``level`` on written to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=level, handlers=[handler])
