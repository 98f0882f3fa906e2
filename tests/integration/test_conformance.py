"""Kernel KSM does what its own self tests ask of it, driven through our interface.

What is covered is what tools/testing/selftests/mm/ksm_tests.c and ksm_functional_tests.c of Linux
cover. The oracles are page frame numbers, their flags, and the kernel's accounts.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagemerge.demo.dialog import Child
from pagemerge.linux.host import examine
from pagemerge.linux.ksm import Ksm, cow_ksm, process_ksm
from pagemerge.linux.prctl import why_not
from pagemerge.model import PAGE_SIZE
from tests.conftest import missing
from tests.support import ksm as lab
from tests.support.building import VICTIMS
from tests.support.commands import PAGEMERGE
from tests.support.frames import KSM, ZERO_PAGE, flags_of, frames_at

pytestmark = pytest.mark.requires("kernel", "root")

PAGES = 512
PATIENCE = 60.0
MADV_MERGEABLE, MADV_UNMERGEABLE = mmap.MADV_MERGEABLE, mmap.MADV_UNMERGEABLE
PROT_NONE, PROT_READ_WRITE = 0, 3
SET_MEMORY_MERGE, GET_MEMORY_MERGE = 67, 68


class Victim:
    """A process with a range of known contents; ``ask`` has it do something with it."""

    def __init__(self, before: list[str]) -> None:
        self.child = Child([*before, sys.executable, str(VICTIMS / "mergeable.py")])
        self.pid, self.base, self.pages = self.child.pid, 0, 0

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        return self.child.ask(do, **arguments)

    def fill(self, pages: int, kinds: int, **more: int) -> None:
        self.base, self.pages = self.ask("fill", pages=pages, kinds=kinds, **more)["base"], pages

    def mark(self, first: int = 0, pages: int = 0, advice: int = MADV_MERGEABLE) -> None:
        self.ask("advise", first=first, pages=pages or self.pages, advice=advice)

    def frames(self) -> Any:
        return frames_at(self.pid, self.base, self.pages)

    def present(self) -> Any:
        return (found := self.frames())[found != 0]

    def shares(self) -> bool:
        """Does one frame stand for two of its pages?"""
        return len(np.unique(self.present())) < len(self.present())

    def until(self, done: Callable[[], object]) -> None:
        """Wait for ksmd."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, f"{process_ksm(self.pid)} {Ksm().counters()}"
            with suppress(subprocess.TimeoutExpired):
                self.child.process.wait(0.02)  # a pause that ends at once if it does
            assert self.child.process.poll() is None, "the victim has ended"

    def until_merged(self, kinds: int) -> None:
        """Every page of ours maps one of so many frames."""
        self.until(lambda: len(np.unique(self.frames())) == kinds and self.frames().all())


Start = Callable[..., Victim]


@pytest.fixture
def ksm() -> Iterator[Ksm]:
    """Kernel KSM for this test alone, set to be quick; it does not run yet."""
    with lab.borrowed() as borrowed:
        if count := borrowed.before.pages_shared:
            pytest.skip(f"{count} pages of others are merged: counts and knobs are not ours alone")
        settings: dict[str, int | str] = {"sleep_millisecs": 0, "pages_to_scan": 2000}
        settings |= {"advisor_mode": "none", "smart_scan": 0, "use_zero_pages": 0}
        settings["max_page_sharing"] = 10 * PAGES
        known = borrowed.kernel.knobs()
        settings = {name: it for name, it in settings.items() if getattr(known, name) is not None}
        borrowed.kernel.write(**settings)
        yield borrowed.kernel


@pytest.fixture
def start(ksm: Ksm) -> Iterator[Start]:
    """Starts victims, which end before KSM is given back."""
    with ExitStack() as running:

        def begin(*before: str) -> Victim:
            victim = Victim(list(before))
            running.enter_context(victim.child)
            return victim

        yield begin


@pytest.fixture
def whole(start: Start) -> Callable[[], Victim]:
    """Starts victims under the kernel engine: all of their memory is mergeable."""
    if reason := why_not():
        missing("whole", reason)
    return lambda: start(*PAGEMERGE, "run", "--engine", "kernel", "--")


@pytest.fixture
def marked(start: Start) -> Callable[..., Victim]:
    """Starts victims with pages of so many kinds that they have marked."""

    def begin(kinds: int, pages: int = PAGES) -> Victim:
        one = start()
        one.fill(pages, kinds)
        one.mark()
        return one

    return begin


Marked = Callable[..., Victim]


@pytest.mark.parametrize("sharing", [2, 8, 256])
def test_a_frame_is_shared_so_many_times(ksm: Ksm, marked: Marked, sharing: int) -> None:
    """Across two processes; the counters say the same as the frames."""
    ksm.write(max_page_sharing=sharing)
    pair = [marked(1, pages=256) for _ in "ab"]
    ksm.write(run=1)
    stable = 512 // sharing

    def frames() -> Any:
        return np.concatenate([one.frames() for one in pair])

    pair[0].until(lambda: len(np.unique(frames())) == stable)
    ksm.write(run=0)
    names, times = np.unique(frames(), return_counts=True)
    assert times.tolist() == [sharing] * stable
    assert all(flags_of(int(frame)) & KSM for frame in names)
    counters = ksm.counters()
    assert (counters.pages_shared, counters.pages_sharing) == (stable, 512 - stable)
    assert (counters.stable_node_chains, counters.stable_node_dups) == (1, stable)
    assert [process_ksm(one.pid).merging_pages for one in pair] == [256, 256]
    assert [one.ask("check") for one in pair] == [{"wrong": 0}] * 2


def test_a_whole_program_is_merged(ksm: Ksm, whole: Callable[[], Victim]) -> None:
    """Nothing in it is marked; what it writes is its own again."""
    one = whole()
    one.fill(PAGES, kinds=4)
    assert not one.shares()
    ksm.write(run=1)
    one.until_merged(4)
    ksm.write(run=0)
    found = process_ksm(one.pid)
    assert found.merge_any in (True, None)
    assert (found.merging_pages or 0) >= PAGES
    copies = cow_ksm()
    one.ask("write", first=0, pages=10)
    assert len(np.unique(one.frames())) == 14
    assert not any(flags_of(int(frame)) & KSM for frame in one.frames()[:10])
    assert copies is None or (cow_ksm() or 0) >= copies + 10
    assert one.ask("check") == {"wrong": 0}


def test_the_switch_goes_round(whole: Callable[[], Victim], start: Start) -> None:
    """Set, asked, unset, asked; by us before the program, or by it."""
    one = whole()
    assert one.ask("prctl", option=GET_MEMORY_MERGE, value=0) == {"result": 1}
    for value in (0, 1, 0):
        one.ask("prctl", option=SET_MEMORY_MERGE, value=value)
        assert one.ask("prctl", option=GET_MEMORY_MERGE, value=0) == {"result": value}
        assert process_ksm(one.pid).merge_any in (bool(value), None)
    assert start().ask("prctl", option=GET_MEMORY_MERGE, value=0) == {"result": 0}


def test_switched_off_it_is_unmerged(ksm: Ksm, whole: Callable[[], Victim]) -> None:
    one = whole()
    one.fill(PAGES, kinds=1)
    ksm.write(run=1)
    one.until_merged(1)
    one.ask("prctl", option=SET_MEMORY_MERGE, value=0)
    assert not one.shares()
    # At once for the memory; for the accounts, when ksmd comes by.
    one.until(lambda: process_ksm(one.pid).merging_pages == 0)
    assert one.ask("check") == {"wrong": 0}


def test_it_holds_over_exec_and_fork(ksm: Ksm, start: Start) -> None:
    """A shell that becomes the program; its child's memory is merged as well."""
    if reason := why_not():
        missing("whole", reason)
    shell = ["sh", "-c", 'exec env "$@"', "sh"]
    one = start(*PAGEMERGE, "run", "--engine", "kernel", "--", *shell)
    one.fill(PAGES, kinds=1)
    ksm.write(run=1)
    one.until_merged(1)
    ksm.write(run=0)
    born = one.ask("fork", pages=PAGES, kinds=2)
    found = process_ksm(born["child"])
    assert (found.merging_pages, found.merge_any) in ((0, True), (0, None)), "not inherited"

    def merged() -> bool:
        return len(np.unique(frames_at(born["child"], born["base"], PAGES))) == 2

    assert not merged()
    ksm.write(run=1)
    one.until(merged)
    assert one.ask("check") == {"wrong": 0}


def test_a_child_of_marked_memory_has_no_account_of_it(ksm: Ksm, marked: Marked) -> None:
    one = marked(1)
    ksm.write(run=1)
    one.until_merged(1)
    ksm.write(run=0)
    child = one.ask("fork", pages=1, kinds=1)["child"]
    assert process_ksm(one.pid).merging_pages == PAGES
    assert process_ksm(child).merging_pages == 0
    assert np.array_equal(frames_at(child, one.base, PAGES), one.frames()), "yet it maps them"


def test_marks_taken_back_unmerge(ksm: Ksm, marked: Marked) -> None:
    one = marked(1)
    ksm.write(run=1)
    one.until_merged(1)
    one.mark(advice=MADV_UNMERGEABLE)
    assert not one.shares()
    one.until(lambda: process_ksm(one.pid).merging_pages == 0)
    assert one.ask("check") == {"wrong": 0}


def test_all_merging_is_undone_by_run_2(ksm: Ksm, marked: Marked) -> None:
    """And done again by run=1: the marks stay."""
    one = marked(3)
    for _ in range(2):
        ksm.write(run=1)
        one.until_merged(3)
        ksm.write(run=2)
        assert not one.shares()
        assert (ksm.counters().pages_shared, ksm.knobs().run) == (0, 2)
    assert one.ask("check") == {"wrong": 0}


def test_what_was_discarded_is_not_brought_back(ksm: Ksm, marked: Marked) -> None:
    """Holes among merged pages, and then all of it unmerged."""
    one = marked(1)
    ksm.write(run=1)
    one.until_merged(1)
    ksm.write(run=0)
    half = PAGES // 2
    one.mark(pages=half, advice=mmap.MADV_DONTNEED)
    assert not one.frames()[:half].any()
    one.mark(advice=MADV_UNMERGEABLE)
    assert not one.frames()[:half].any(), "a hole was filled"
    assert not one.shares()
    assert one.ask("check") == {"wrong": 0}


def test_zero_pages(ksm: Ksm, marked: Marked) -> None:
    """They map the kernel's own, are counted apart, and are their owner's again like others."""
    if ksm.knobs().use_zero_pages is None or process_ksm(os.getpid()).zero_pages is None:
        pytest.skip("this kernel does not account for zero pages (Linux 6.6)")
    ksm.write(use_zero_pages=1)
    one = marked(0)
    ksm.write(run=1)
    one.until(lambda: process_ksm(one.pid).zero_pages == PAGES)
    ksm.write(run=0)
    (frame,) = np.unique(one.frames())
    assert flags_of(int(frame)) & (ZERO_PAGE | KSM) == ZERO_PAGE
    counters = ksm.counters()
    assert counters.ksm_zero_pages == PAGES
    assert counters.pages_sharing == 0, "zero pages are no stable pages"
    assert 0 < (counters.general_profit_bytes or 0) <= PAGES * PAGE_SIZE

    half = PAGES // 2
    one.mark(pages=half, advice=MADV_UNMERGEABLE)
    assert process_ksm(one.pid).zero_pages == half
    one.ask("write", first=half, pages=half)
    assert process_ksm(one.pid).zero_pages == 0
    assert not one.shares()
    assert one.ask("check") == {"wrong": 0}


def test_zero_pages_are_ordinary_without_the_knob(ksm: Ksm, marked: Marked) -> None:
    one = marked(0, pages=128)
    ksm.write(run=1)
    one.until_merged(1)
    assert flags_of(int(one.frames()[0])) & (ZERO_PAGE | KSM) == KSM
    assert process_ksm(one.pid).zero_pages in (0, None)


def test_memory_that_nobody_may_touch(ksm: Ksm, start: Start) -> None:
    """PROT_NONE: merged like other memory, written by a debugger, and unmerged."""
    one = start()
    one.fill(PAGES, kinds=1)
    one.ask("protect", access=PROT_NONE)
    one.mark()
    ksm.write(run=1)
    one.until_merged(1)
    ksm.write(run=0)
    half = PAGES // 2
    with Path(f"/proc/{one.pid}/mem").open("r+b", buffering=0) as memory:
        for page in range(half):
            memory.seek(one.base + page * PAGE_SIZE)
            memory.write(page.to_bytes(4, "little"))
    one.mark(first=half, pages=half, advice=MADV_UNMERGEABLE)
    assert not one.shares()
    one.ask("protect", access=PROT_READ_WRITE)
    assert one.ask("check") == {"wrong": 0}


@pytest.mark.requires("uffd")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the victim knows x86_64's numbers")
def test_memory_that_a_userfaultfd_protects(ksm: Ksm, marked: Marked) -> None:
    """It is unmerged all the same, without anybody who answers faults."""
    one = marked(1)
    ksm.write(run=1)
    one.until_merged(1)
    ksm.write(run=0)
    one.ask("watch")
    one.mark(advice=MADV_UNMERGEABLE)
    assert not one.shares()
    one.ask("unwatch")
    assert one.ask("check") == {"wrong": 0}


@pytest.mark.parametrize("across", [0, 1])
def test_memory_nodes_are_kept_apart_or_not(ksm: Ksm, start: Start, across: int) -> None:
    if ksm.knobs().merge_across_nodes is None or (examine().numa_nodes or 1) < 2:
        pytest.skip("this host has one memory node only")
    ksm.write(merge_across_nodes=across)
    pair = [start(), start()]
    for node, one in enumerate(pair):
        one.fill(PAGES, kinds=1, node=node)
        one.mark()
    ksm.write(run=1)
    for one in pair:
        one.until_merged(1)
    ksm.write(run=0)
    assert (pair[0].frames()[0] == pair[1].frames()[0]) == bool(across)
