"""The log of the daemon and its engines: one line for each record, also if it quotes other text.

On a terminal or in a file, each line begins with the time. In systemd's journal, each record has
its priority and fields of its own (``linux.journal``).
"""

from __future__ import annotations

import logging
import sys

from pagemerge.linux.journal import Journal, is_journal, prefixed
from pagemerge.linux.text import plain

FORMAT = "%(asctime)s %(message)s"

PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Least level of a record, and its priority (syslog(3))."""

INSIDE = "    "
"""Prefix of each line of a traceback, which may contain text from outside: only a record starts in
the first column."""


class Lines(logging.Formatter):
    """Formats each record as one plain line; a traceback keeps its lines, indented."""

    def __init__(self, form: str = FORMAT) -> None:
        super().__init__(form)

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


class JournalHandler(logging.Handler):
    """Sends records to the journal with fields: PRIORITY, CODE_FILE, CODE_LINE, CODE_FUNC, and
    PART (hub, governor, service). If journald does not take a record, the handler writes
    marked lines to standard error, which is the journal, too."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(Lines("%(message)s"))
        try:
            self._journal: Journal | None = Journal()
        except OSError:
            self._journal = None

    def fileno(self) -> int:
        """Return the descriptor of the connection to journald; 2 without one."""
        return 2 if self._journal is None else self._journal.fileno()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        text, priority = self.format(record), priority_of(record.levelno)
        fields: dict[str, str | int] = {
            "MESSAGE": text,
            "PRIORITY": priority,
            "SYSLOG_IDENTIFIER": "pagemerge",
            "PART": record.name.rpartition(".")[2],
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName or "",
        }
        try:
            if self._journal is not None:
                self._journal.send(fields)
                return
        except OSError:
            pass
        print(prefixed(text, priority), file=sys.stderr)


def priority_of(level: int) -> int:
    """Return the priority of a level of the module ``logging`` (syslog(3): 0 to 7)."""
    return next((priority for least, priority in PRIORITIES if level >= least), 7)


def to_stderr(level: int) -> None:
    """Write all log records of ``level`` and above to standard error, or to the journal if standard
    error is the journal."""
    if is_journal():
        logging.basicConfig(level=level, handlers=[JournalHandler()])
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=level, handlers=[handler])
