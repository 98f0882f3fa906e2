"""Giving way to others, and what the kernel says about waiting for a processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pagemerge.linux.scheduling import NICER, stalled_seconds

ROOT = Path(__file__).parents[3]

PROGRAM = """
import os, threading
from pagemerge import _core
from pagemerge.linux.scheduling import give_way
from tests.support.scheduling import slice_of

def told(done):
    threads = [int(it) for it in os.listdir("/proc/self/task")]
    nice = [os.getpriority(os.PRIO_PROCESS, it) for it in threads]
    slices = [slice_of(it) for it in threads]
    print(done, *(os.sched_getscheduler(it) for it in threads), *nice, *slices)

go = threading.Event()
threading.Thread(target=go.wait, daemon=True).start()
os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
told(None)
told(give_way())
told(give_way())
told(give_way(False))
"""


def test_all_threads_give_way_and_do_so_no_more() -> None:
    argv = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
    first, gives, again, last = (it.split() for it in done.stdout.splitlines())
    niceness, before = int(first[3]), int(first[5])  # the slice: 0 before Linux 6.12
    nicer, longer = min(niceness + NICER, 19), before + before // 8
    assert gives == ["True", *(str(it) for it in (os.SCHED_BATCH, nicer, longer) for _ in "ab")]
    assert again == gives
    if os.geteuid() == 0:  # else niceness stays
        assert last == [
            "True",
            *(str(it) for it in (os.SCHED_OTHER, niceness, before) for _ in "ab"),
        ]


def test_time_that_others_waited(tmp_path: Path) -> None:
    pressure = tmp_path / "pressure"
    pressure.mkdir()
    (pressure / "cpu").write_bytes(
        b"some avg10=87.08 avg60=76.38 avg300=62.10 total=7060251666\n"
        b"full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    )
    assert stalled_seconds(proc=tmp_path) == pytest.approx(7060.251666)


@pytest.mark.parametrize(
    "text", [b"", b"some total=-1\n", b"some total=1e9\n", b"some avg10=0 total=" + b"9" * 40]
)
def test_no_figure_where_the_kernel_tells_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "cpu").write_bytes(text)
    assert stalled_seconds(proc=tmp_path) is None
    assert stalled_seconds(proc=tmp_path / "nothing") is None
