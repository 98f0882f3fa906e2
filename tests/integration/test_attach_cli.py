"""``pagemerge attach`` and ``detach``: what they say, refuse, and leave alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.find.eligible import eligible
from pagemerge.hub.preload import LIBRARY
from pagemerge.ksmd.attach import attach
from pagemerge.linux.ksm import ksm_bytes, process_ksm
from pagemerge.linux.maps import mappings
from tests.conftest import Spawn
from tests.support import ksm
from tests.support.attaching import marked, merge_any
from tests.support.commands import NOBODY

pytestmark = pytest.mark.requires("kernel")
PAGES = 2000


def pagemerge(*words: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pagemerge", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def figures(*words: object, key: str = "processes") -> Any:
    done = pagemerge(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[key]


@pytest.fixture
def child(victim: Spawn) -> Child:
    return victim("pages", "seed", "1", "pages", "0", "0", str(PAGES))


def test_attach_and_detach_by_pid(child: Child) -> None:
    # Whoever else this host merges just now is none of this test's business.
    (row,) = figures("attach", "--across-users", child.pid)
    assert row["how"] == "prctl"
    assert not row["already"] and not row["error"]
    assert 0 < row["held_seconds"] < 60
    assert row["eligible_bytes"] >= PAGES * 4096
    assert merge_any(child.pid)
    said = pagemerge("attach", "--across-users", "--dry-run", child.pid)
    assert "is so already" in said.stdout
    said = pagemerge("attach", "--across-users", child.pid)
    assert said.stdout.startswith("ksmd may now merge the memory of 1 process.\n")
    assert "was so already" in said.stdout
    (row,) = figures("detach", child.pid)
    assert row["how"] == "prctl" and not row["already"]
    assert not merge_any(child.pid)
    said = pagemerge("detach", child.pid)
    assert said.returncode == 0
    assert "was so already" in said.stdout


@pytest.mark.requires("root")
def test_a_ksmd_that_looks_at_nothing_is_said_to(child: Child) -> None:
    with ksm.borrowed() as kernel:
        kernel.start(pages_to_scan=0)
        done = pagemerge("attach", "--across-users", child.pid)
        assert "looks at no page (pages_to_scan=0), so nothing is merged until" in done.stdout
        assert figures("attach", "--across-users", child.pid, key="ksmd_runs") is False
        kernel.start(pages_to_scan=100)
        assert figures("attach", "--across-users", child.pid, key="ksmd_runs") is True
        pagemerge("detach", child.pid)


def test_a_dry_run_changes_nothing(child: Child) -> None:
    said = pagemerge("attach", "--across-users", "--dry-run", child.pid)
    assert said.returncode == 0
    assert "could then merge the memory of 1 process." in said.stdout
    assert not merge_any(child.pid)


def test_users_are_merged_together_only_where_that_is_said(child: Child, victim: Spawn) -> None:
    other = victim("pages", "user", str(NOBODY), "pages", "0", "0", "10")
    said = pagemerge("attach", child.pid, other.pid)
    assert said.returncode == 2
    assert "--across-users" in said.stderr and f"uid {NOBODY}" in said.stderr
    assert not merge_any(child.pid) and not merge_any(other.pid)
    rows = figures("attach", "--across-users", child.pid, other.pid)
    assert [row["error"] for row in rows] == [None, None]
    assert merge_any(child.pid) and merge_any(other.pid)
    third = victim("pages", "user", str(NOBODY - 1), "pages", "0", "0", "10")
    said = pagemerge("attach", third.pid)
    assert said.returncode == 2, "kernel KSM has two other users already"
    assert f"uid {NOBODY} (process {other.pid}" in said.stderr
    assert not merge_any(third.pid)


AS_NOBODY = """
import os, sys
from pagemerge import cli
# All is imported that is needed: nobody may not read where Python is.
cli.main([sys.argv[1], "--dry-run", sys.argv[2]])
os.setresuid(65534, 65534, 65534)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.requires("root")
@pytest.mark.parametrize("verb", ["attach", "detach"])
def test_an_ordinary_user_is_told_what_is_missing(verb: str, child: Child) -> None:
    argv = [sys.executable, "-c", AS_NOBODY, verb, str(child.pid)]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 77, said.stderr
    assert "needs root" in said.stderr
    assert "--engine user" not in said.stderr, "which reaches no program that runs already"
    assert not merge_any(child.pid)


def test_what_the_user_engine_merges_is_left_to_it(child: Child) -> None:
    with subprocess.Popen(["sleep", "60"], env={"LD_PRELOAD": str(LIBRARY)}) as other:
        try:
            deadline = time.monotonic() + 10
            while LIBRARY.name not in Path(f"/proc/{other.pid}/maps").read_text():
                assert time.monotonic() < deadline
            said = pagemerge("attach", "--across-users", child.pid, other.pid)
            assert said.returncode == 1, "one of the two was refused"
            assert "user engine" in said.stdout
            assert merge_any(child.pid) and not merge_any(other.pid)
        finally:
            other.kill()


@pytest.fixture
def kernel() -> Iterator[ksm.Ksm]:
    with ksm.borrowed() as borrowed:
        yield borrowed


def test_what_is_attached_is_merged_and_what_is_detached_is_not(
    kernel: ksm.Ksm, victim: Spawn
) -> None:
    words = ("seed", "7", "pages", "0", "0", str(PAGES))
    one, other = victim("pages", *words), victim("pages", *words)
    rows = figures("attach", "--across-users", one.pid, other.pid)
    assert [row["merged_pages_before"] for row in rows] == [0, 0]
    kernel.start(**ksm.FLAT_OUT)
    deadline = time.monotonic() + 60
    while merging(one.pid) < PAGES or merging(other.pid) < PAGES:
        assert time.monotonic() < deadline, f"{merging(one.pid)} pages are merged"
        time.sleep(0.02)
    (row,) = figures("detach", "--dry-run", one.pid)
    assert row["merged_bytes"] >= PAGES * 4096
    said = pagemerge("detach", "--dry-run", one.pid)
    assert "of merged memory would be separated.\n" in said.stdout
    assert "MERGED" in said.stdout and "SEPARATED" not in said.stdout
    (row,) = figures("detach", one.pid)
    assert row["merged_pages_before"] >= PAGES
    # ksmd's own count follows when it comes by; smaps knows now.
    assert ksm_bytes(one.pid) == 0
    # In pieces, because it is much; each is a short stop.
    assert row["ranges"] > 0 and not row["refused_ranges"]
    assert (ksm_bytes(other.pid) or 0) >= PAGES * 4096, "the other keeps the stable pages"


def merging(pid: int) -> int:
    return int(Path(f"/proc/{pid}/ksm_merging_pages").read_text())


def test_only_what_is_seen_to_be_duplicated_is_marked(victim: Spawn) -> None:
    """Of two processes with a third in common; a dry run tells of it and marks nothing."""
    both = [victim("sharer", "plain") for _ in "ab"]
    for one in both:
        one.ask("fill", seed=1, shared=2048, own=4096)
    pids = [one.pid for one in both]
    said = pagemerge("attach", "--across-users", "--select", "--dry-run", *pids)
    assert said.returncode == 0
    assert "would save" in said.stdout
    assert not any(process_ksm(pid).mergeable for pid in pids)
    found = figures("attach", "--across-users", "--select", *pids, key="selection")
    assert all(2048 <= one["marked_pages"] < 4096 for one in found)
    for one in both:
        known = process_ksm(one.pid)
        assert known.merge_any is False
        assert known.mergeable is True
        at = one.ask("where")["address"]
        flags = vm_flags(one.pid)
        assert "mg" in flags[at]
        assert sum("mg" in words for words in flags.values()) < len(flags) / 2
        assert one.ask("check") == {"right": True}
    rows = figures("detach", *pids)
    assert not any(row["error"] for row in rows)
    assert not any(process_ksm(pid).mergeable for pid in pids)


def test_of_none_that_can_be_attached_nothing_is_promised() -> None:
    for more in ((), ("--select",)):
        said = pagemerge("attach", "--across-users", *more, 2)
        assert said.returncode == 1
        assert said.stdout.startswith("None of them can be attached.\n")
        assert "thread of the kernel" in said.stdout and "worth" not in said.stdout


def test_detach_says_if_there_is_nothing_to_undo(victim: Spawn) -> None:
    pid = victim("sharer", "plain").pid
    said = pagemerge("detach", "--dry-run", pid)
    assert said.returncode == 0
    assert f"{pid} python: is not mergeable: there is nothing to undo" in said.stdout


def vm_flags(pid: int) -> dict[int, list[str]]:
    """Start of each mapping -> its VmFlags in smaps."""
    found: dict[int, list[str]] = {}
    start = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line.startswith("VmFlags:"):
            found[start] = line.split()[1:]
        elif "-" in line.split()[0]:
            start = int(line.split("-")[0], 16)
    return found


def test_on_older_kernels_ranges_are_marked(child: Child) -> None:
    """As without PR_SET_MEMORY_MERGE; detach finds out what there is to undo."""
    ranges = tuple(eligible(child.pid, mappings(child.pid)))
    done = attach(child.pid, "victim", lambda: ranges, how="madvise")
    assert done.how == "madvise" and done.ranges == len(ranges)
    assert not merge_any(child.pid)
    assert len(marked(child.pid)) >= (done.ranges - done.refused_ranges) // 2 > 0
    (row,) = figures("detach", child.pid)
    assert row["how"] == "madvise" and not row["already"]
    assert not marked(child.pid)
