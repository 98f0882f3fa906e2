"""Writes to systemd's journal with fields, or marks lines of standard error with a priority.

Sources: systemd.exec(5) (JOURNAL_STREAM), sd-daemon(3) (the prefixes), and systemd's "Native
Journal Protocol". If standard error is not the journal, this module does nothing.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

JOURNAL = Path("/run/systemd/journal/socket")
"""Where journald takes records with fields."""


def is_journal(descriptor: int = 2, environment: Mapping[str, str] = os.environ) -> bool:
    """True if what is written to ``descriptor`` goes to the journal."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def prefixed(text: str, priority: int) -> str:
    """Mark each line of ``text`` with a priority (0 to 7, syslog(3)), as sd-daemon(3) says."""
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


class Journal:
    """A connection to journald that sends one datagram for each record."""

    def __init__(self, path: Path = JOURNAL) -> None:
        """Connect. Raises ``OSError`` if journald does not listen at ``path``."""
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_UNIX, kind)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def send(self, fields: Mapping[str, str | int]) -> None:
        """Send one record: field (upper case, no ``_`` in front) -> value. Raises ``OSError``, for
        example if the record is larger than a datagram may be."""
        self._socket.send(b"".join(_field(name, str(it)) for name, it in fields.items()))

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def _field(name: str, value: str) -> bytes:
    """Write a field; a value of several lines is written with its length."""
    data = value.encode(errors="replace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)
