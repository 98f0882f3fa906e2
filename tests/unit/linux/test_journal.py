"""Records for the journal, read at the other end of a real socket."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from pagemerge.linux.journal import Journal, is_journal, prefixed


def test_fields_arrive_as_the_protocol_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(5)
        journal = Journal(path)
        journal.send({"MESSAGE": "one\ntwo", "PRIORITY": 4})
        text = b"one\ntwo"
        assert receiver.recv(4096) == (
            b"MESSAGE\n" + struct.pack("<Q", len(text)) + text + b"\nPRIORITY=4\n"
        )
        with pytest.raises(OSError, match="too long"):
            journal.send({"MESSAGE": "x" * (1 << 24)})
        journal.close()
    with pytest.raises(OSError):
        Journal(tmp_path / "nothing")


def test_each_line_has_its_priority() -> None:
    assert prefixed("one\ntwo", 3) == "<3>one\n<3>two"


def test_only_the_journal_itself_counts() -> None:
    """JOURNAL_STREAM is inherited by programs whose output goes elsewhere (systemd.exec(5))."""
    reading, writing = os.pipe()
    found = os.fstat(writing)
    stream = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
    assert is_journal(writing, stream)
    assert not is_journal(2, stream)
    assert not is_journal(writing, {})
    os.close(reading)
    os.close(writing)
    assert not is_journal(writing, stream)
