"""The kernel ends a hub after others, where it lets us have it so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pagemerge.linux import oom


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "self").mkdir()
    return tmp_path / "self" / "oom_score_adj"


@pytest.mark.parametrize(("before", "after"), [(300, -500), (0, -500), (-500, -500), (-900, -900)])
def test_the_adjustment_is_lowered_and_never_raised(file: Path, before: int, after: int) -> None:
    file.write_text(f"{before}\n")
    assert oom.last_to_end(proc=file.parents[1]) == after


def test_a_child_that_serves_one_caller_is_as_others(file: Path) -> None:
    for before, after in ((-500, 0), (0, 0), (300, 300)):
        file.write_text(f"{before}\n")
        oom.as_others(proc=file.parents[1])
        assert int(file.read_text()) == after


def test_without_the_file_nothing_happens(tmp_path: Path) -> None:
    assert oom.last_to_end(proc=tmp_path) is None
    oom.as_others(proc=tmp_path)


def test_a_real_process_gets_what_the_kernel_allows() -> None:
    code = """
from pathlib import Path
from pagemerge.linux import oom
file = Path("/proc/self/oom_score_adj")
before = int(file.read_text())
file.write_text(str(min(before + 300, 1000)))
print(before, oom.last_to_end(), file.read_text())
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    before, told, after = map(int, said.split())
    # Without CAP_SYS_RESOURCE: what a process with it wrote last, or 0 where that is allowed.
    assert told == after <= min(before + 300, 1000)
    assert after in {-500, 0} or before > 0
