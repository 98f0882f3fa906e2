"""The real files of kernel KSM: every knob is taken, refused by its rule, and put back."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields

import pytest

from pagemerge.errors import UsageError
from pagemerge.linux import ksm as kernel
from pagemerge.linux.knobs import Knobs, Value
from pagemerge.linux.ksm import Ksm
from tests.conftest import Spawn
from tests.support import ksm as lab
from tests.support.commands import NOBODY

pytestmark = pytest.mark.requires("kernel")


@pytest.fixture
def ksm() -> Iterator[Ksm]:
    """Kernel KSM, stopped, for this test alone; given back as it was."""
    with lab.borrowed() as borrowed:
        yield borrowed.kernel


def test_every_knob_is_taken_and_put_back(ksm: Ksm) -> None:
    found = ksm.knobs()
    held = {} if ksm.counters().pages_shared else {"max_page_sharing": 16, "merge_across_nodes": 1}
    wanted: dict[str, int | str] = {
        "advisor_mode": "none",
        "pages_to_scan": 1234,
        "sleep_millisecs": 7,
        "stable_node_chains_prune_millisecs": 1999,
        "use_zero_pages": 1,
        "smart_scan": 0,
        "advisor_max_cpu": 33,
        "advisor_min_pages_to_scan": 321,
        "advisor_max_pages_to_scan": 4321,
        "advisor_target_scan_time": 99,
        **held,
    }
    wanted = {name: it for name, it in wanted.items() if getattr(found, name) is not None}
    ksm.write(**wanted)
    assert {name: getattr(ksm.knobs(), name) for name in wanted} == wanted
    ksm.put_back(found)
    assert ksm.knobs() == found


def test_the_advisor_is_put_back_with_its_limits(ksm: Ksm) -> None:
    """Either mode sets pages_to_scan when it is entered: the order decides what comes of it."""
    if ksm.knobs().advisor_mode is None:
        pytest.skip("this kernel has no advisor (Linux 6.8)")
    ksm.write(advisor_mode="none", pages_to_scan=777)
    plain = ksm.knobs()
    ksm.write(advisor_mode="scan-time", advisor_min_pages_to_scan=600)
    assert ksm.knobs().pages_to_scan == 600
    advised = ksm.knobs()
    with pytest.raises(UsageError, match="advisor_mode=none"):
        ksm.write(pages_to_scan=9)
    ksm.put_back(plain)
    assert ksm.knobs() == plain
    ksm.put_back(advised)
    assert ksm.knobs() == advised


def test_rules_are_those_of_this_kernel(ksm: Ksm) -> None:
    """What is refused here by rule is what the kernel refuses, and changes nothing there."""
    before = ksm.knobs()
    wrong: dict[str, Value] = {
        "run": 3,
        "max_page_sharing": 1,
        "advisor_mode": "both",
        "sleep_millisecs": 2**32,
    }
    for name, value in wrong.items():
        if getattr(before, name) is None:
            continue
        with pytest.raises(UsageError):
            ksm.write(**{name: value})
        with pytest.raises(OSError):
            (ksm.root / name).write_text(str(value))
    assert ksm.knobs() == before


@pytest.mark.requires("root")
def test_an_ordinary_user_changes_nothing(ksm: Ksm) -> None:
    """Whatever it asks for: the reason and the cure, before anything is written."""
    before = ksm.knobs()
    code = BECOME_NOBODY.format(uid=NOBODY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, said = done.stdout.split(" ", 1)
    assert status == "77"
    assert "not writable: it needs root" in said and "--engine user" in said
    assert ksm.knobs() == before


BECOME_NOBODY = """
import os
from pagemerge.errors import Unsupported
from pagemerge.linux.ksm import Ksm
os.setgroups([]); os.setresgid(*[{uid}] * 3); os.setresuid(*[{uid}] * 3)
try:
    Ksm().write(sleep_millisecs=7, run=1)
except Unsupported as error:
    print(error.exit_status, error)
"""


def test_counters_are_all_known(ksm: Ksm) -> None:
    """No file of this kernel's is without a field, nor read as something else."""
    counters = {field.name.removesuffix("_bytes") for field in fields(type(ksm.counters()))}
    knobs = {field.name for field in fields(Knobs)}
    assert {file.name for file in ksm.root.iterdir()} <= counters | knobs
    assert all(isinstance(value, int) for value in [ksm.counters().pages_shared, ksm.knobs().run])


def test_ksmd_and_a_process_are_seen_at_work(ksm: Ksm, victim: Spawn) -> None:
    """One process with equal pages: the host's counters, its own, and smaps agree."""
    before = kernel.process_ksm(os.getpid())
    assert (before.merging_pages or 0, before.merge_any) in ((0, False), (0, None))
    spent, copies = ksm.ksmd_cpu_seconds(), kernel.cow_ksm()
    assert spent is not None, "ksmd is not to be seen"
    one = victim("member")
    one.ask("call", code=MERGEABLE)
    ksm.write(run=1, sleep_millisecs=0, pages_to_scan=1000)
    deadline = time.monotonic() + 60
    while (kernel.process_ksm(one.pid).merging_pages or 0) < PAGES:
        assert time.monotonic() < deadline, f"{kernel.process_ksm(one.pid)} {ksm.counters()}"
        os.sched_yield()
    ksm.write(run=0)
    found = kernel.process_ksm(one.pid)
    assert (found.merging_pages, found.mergeable) in ((PAGES, True), (PAGES, None))
    assert kernel.ksm_bytes(one.pid) in (PAGES * 4096, None)
    assert (ksm.counters().pages_sharing or 0) >= PAGES - PAGES // 200
    assert (ksm.ksmd_cpu_seconds() or 0) >= spent
    one.ask("call", code="member.memory[::4096] = 9")
    assert (kernel.process_ksm(one.pid).merging_pages or 0) <= PAGES
    assert copies is None or (kernel.cow_ksm() or 0) >= copies + PAGES


PAGES = 500
MERGEABLE = f"""
import mmap
import numpy as np
memory = mmap.mmap(-1, {PAGES} * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory.madvise(mmap.MADV_MERGEABLE)
member.memory = np.frombuffer(memory, np.uint8)
member.memory[:] = 7
"""
