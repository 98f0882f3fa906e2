"""Knobs come back as they were, wherever a governor was killed between two writes."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pagemerge.errors import PagemergeError
from pagemerge.ksmd.borrowing import Note, borrowed, put_back
from pagemerge.linux.knobs import Knobs
from pagemerge.linux.ksm import Ksm

FOUND = {"run": "1", "pages_to_scan": "100", "sleep_millisecs": "20", "smart_scan": "1"}


@pytest.fixture
def ksm(tmp_path: Path) -> Ksm:
    """A folder in place of the kernel's: it takes every write."""
    root = tmp_path / "ksm"
    root.mkdir()
    for name, value in FOUND.items():
        (root / name).write_text(value)
    return Ksm(root)


def killed(ksm: Ksm, note: Path, *writes: dict[str, int | str], before_last: bool) -> None:
    """A process that borrows the knobs, writes them, and is killed before or after the last."""
    pid = os.fork()
    if pid == 0:
        with borrowed(ksm, note) as loan:
            for number, changes in enumerate(writes, 1):
                loan.announce(changes)
                if number == len(writes) and before_last:
                    os._exit(0)
                ksm.write(**changes)
            os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("before_last", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_after_a_kill_at_any_write(
    ksm: Ksm, tmp_path: Path, number: int, before_last: bool
) -> None:
    writes: list[dict[str, int | str]] = [
        {"run": 0},
        {"run": 1, "pages_to_scan": 5000, "sleep_millisecs": 0},
        {"sleep_millisecs": 7},
    ]
    before, note = ksm.knobs(), tmp_path / "note"
    killed(ksm, note, *writes[:number], before_last=before_last)
    put_back(ksm, note)
    assert ksm.knobs() == before
    assert not note.exists()


def test_one_killed_after_another(ksm: Ksm, tmp_path: Path) -> None:
    before, note = ksm.knobs(), tmp_path / "note"
    killed(ksm, note, {"run": 0, "sleep_millisecs": 5}, before_last=False)
    killed(ksm, note, {"pages_to_scan": 5000}, before_last=False)
    with borrowed(ksm, note) as loan:
        loan.announce({"sleep_millisecs": 9})
        ksm.write(sleep_millisecs=9)
    assert ksm.knobs() == before
    assert not note.exists()


def test_what_the_administrator_has_changed_since_stays(ksm: Ksm, tmp_path: Path) -> None:
    note = tmp_path / "note"
    killed(ksm, note, {"run": 0, "pages_to_scan": 5000}, before_last=False)
    ksm.write(pages_to_scan=123)
    put_back(ksm, note)
    assert (ksm.knobs().pages_to_scan, ksm.knobs().run) == (123, 1)


@contextmanager
def full() -> Iterator[None]:
    """No file can be written, as on a full disk: it is made, and stays empty."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_changes_nothing(ksm: Ksm, tmp_path: Path) -> None:
    before, note = ksm.knobs(), tmp_path / "run" / "knobs.json"
    with full(), pytest.raises(PagemergeError, match=f"cannot note .* in {note}: File too large"):
        borrowed(ksm, note).__enter__()
    assert not list(note.parent.iterdir())
    with borrowed(ksm, note) as loan:
        loan.announce({"run": 0})
        ksm.write(run=0)
        noted = note.read_bytes()
        with full(), pytest.raises(PagemergeError, match="must have room"):
            loan.announce({"sleep_millisecs": 9})
        assert [it.read_bytes() for it in note.parent.iterdir()] == [noted]
        loan.announce({"run": 1})
        assert "sleep_millisecs" not in msgspec.json.decode(note.read_bytes())["written"]
    assert ksm.knobs() == before


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"\xff", b'{"run": 1}'])
def test_a_note_that_cannot_be_read_changes_nothing(ksm: Ksm, tmp_path: Path, text: bytes) -> None:
    before, note = ksm.knobs(), tmp_path / "note"
    note.write_bytes(text)
    assert not put_back(ksm, note)
    with borrowed(ksm, note):
        pass
    assert ksm.knobs() == before


def test_a_knob_that_there_is_not_is_ignored() -> None:
    note = msgspec.json.decode(b'{"before": {"run": 1}, "written": {"run": [0]}}', type=Note)
    assert note.restored(Knobs(run=0, sleep_millisecs=3)) == Knobs(run=1, sleep_millisecs=3)
    assert note.restored(Knobs(run=2)) == Knobs(run=2)
