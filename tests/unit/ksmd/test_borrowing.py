"""Knobs come back as they were, wherever a governor was killed between two writes."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

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
