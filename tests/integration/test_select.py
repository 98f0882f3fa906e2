"""Where duplicates lie in real processes, and what is worth marking there."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import time
from collections.abc import Iterator, Sequence

import pytest

from pagemerge.cli.show import selection as words
from pagemerge.errors import PagemergeError
from pagemerge.find import evidence, process
from pagemerge.find.evidence import Evidence
from pagemerge.find.process import Process
from pagemerge.ksmd.model import HUGE_PRICE, Selection
from pagemerge.ksmd.selecting import select
from pagemerge.linux.maps import mappings
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn, missing
from tests.support import ksm

WHOLE = 600, 400, 2000
"""Zero, duplicate and unique pages of a victim: its memory begins with a third of duplicates."""


def found(*pids: int) -> list[Process]:
    return process.named(map(str, pids))


def victims(victim: Spawn, *seeds: int, more: Sequence[str] = ()) -> list[dict[str, int]]:
    counts = ("pages", *map(str, WHOLE))
    return [victim("pages", "seed", str(seed), *counts, *more).ready for seed in seeds]


def inside(evidence: Evidence, address: int, pages: int) -> list[tuple[int, int]]:
    """Stretches of a part of memory: page in it, and pages."""
    return [
        ((at - address) // PAGE_SIZE, count)
        for at, count in zip(evidence.address.tolist(), evidence.pages.tolist(), strict=True)
        if address <= at < address + pages * PAGE_SIZE
    ]


def marked(selection: Selection, address: int, pages: int) -> list[tuple[int, int]]:
    """Ranges inside a part of memory: first page and page behind."""
    return [
        ((start - address) // PAGE_SIZE, (end - address) // PAGE_SIZE)
        for start, end in zip(selection.start.tolist(), selection.end.tolist(), strict=True)
        if address <= start < address + pages * PAGE_SIZE
    ]


@pytest.mark.requires("root")
def test_huge_pages_with_few_duplicates_are_not_marked(victim: Spawn) -> None:
    """ksmd would split them. Of three blocks, 31 pages, 32, and all of them are in common."""
    programs = [victim("blocks") for _ in "ab"]
    common = [HUGE_PRICE - 1, HUGE_PRICE, 512]
    bases = [it.ask("fill", common=common, zeros=[0] * 3, advice="huge")["base"] for it in programs]
    if any(it.ask("huge")["anonymous"] < 3 for it in programs):
        missing("hugepages", "the kernel gave out no transparent huge pages")
    processes = found(*(it.pid for it in programs))
    for price, wanted in ((HUGE_PRICE, common[1:]), (0, common)):
        for one, base in zip(select(processes, huge_price=price), bases, strict=True):
            ranges = marked(one, base, 3 * 512)
            assert sum(end - start for start, end in ranges) == sum(wanted), price
            assert (ranges[0][0] == 0) == (price == 0)


def test_stretches_are_told_to_the_page(victim: Spawn) -> None:
    one, two = victims(victim, 1, 2)
    looks = evidence.gather(found(one["pid"], two["pid"]))
    for who, look in zip((one, two), looks, strict=True):
        assert look.pid == who["pid"]
        assert not look.error
        assert inside(look, who["pages"], sum(WHOLE)) == [(0, 1000)]
        assert look.mappings == len(mappings(who["pid"]))
    without = evidence.gather(found(one["pid"], two["pid"]), zero_pages=False)[0]
    assert inside(without, one["pages"], sum(WHOLE)) == [(600, 400)]
    assert without.looked[-1] == looks[0].looked[-1], "unique pages are looked at, too"


def test_what_is_chosen_lies_in_mappings_and_holds_the_duplicates(victim: Spawn) -> None:
    # Unique beside those of another seed, duplicates beside those of the same.
    same = victims(victim, 3, 3, 4)
    chosen = select(found(*(who["pid"] for who in same)))
    ends = [marked(one, who["pages"], sum(WHOLE)) for one, who in zip(chosen, same, strict=True)]
    assert ends[0][0][0] == ends[1][0][0] == 0
    assert ends[2][0] == (0, 1000)
    assert ends[0][-1][1] == ends[1][-1][1] == sum(WHOLE)
    for one in chosen:
        there = mappings(one.pid)
        for start, end in zip(one.start.tolist(), one.end.tolist(), strict=True):
            assert any(it.start <= start < end <= it.end for it in there)
        assert one.left_out == 0
        assert one.duplicates <= one.marked < one.looked


def test_those_beside_count_but_are_not_chosen_for(victim: Spawn) -> None:
    one, two = victims(victim, 5, 5)
    (alone,) = select(found(one["pid"]))
    assert marked(alone, one["pages"], sum(WHOLE)) == [(0, 1000)]
    (chosen,) = select(found(one["pid"]), found(two["pid"]))
    assert chosen.pid == one["pid"]
    assert marked(chosen, one["pages"], sum(WHOLE)) == [(0, sum(WHOLE))]
    assert chosen.gain == pytest.approx(alone.gain + 1000, abs=700)


@pytest.mark.requires("root")
def test_what_fork_shares_is_no_duplicate(victim: Spawn) -> None:
    (family,) = victims(victim, 6, more=("fork",))
    looks = evidence.gather(found(family["pid"], family["child"]))
    for look in looks:
        # Duplicates in themselves; by the fork all are there twice, but in one frame. Who may not
        # see numbers of frames takes equal pages that are shared for one.
        assert inside(look, family["pages"], sum(WHOLE)) == [(0, 1000)]


@pytest.fixture
def kernel() -> Iterator[ksm.Ksm]:
    with ksm.borrowed() as borrowed:
        yield borrowed


@pytest.mark.requires("kernel")
def test_what_ksmd_has_merged_stays_a_duplicate(kernel: ksm.Ksm, victim: Spawn) -> None:
    who = victim("pages", "seed", "7", "merge", "pages", "0", "500", "500")
    kernel.start(pages_to_scan=20_000, sleep_millisecs=0)
    scans, deadline = kernel.full_scans, time.monotonic() + 60
    while kernel.full_scans < scans + 3:
        assert time.monotonic() < deadline, "ksmd has not scanned all"
        os.sched_yield()
    kernel.write("run", ksm.STOP)
    (look,) = evidence.gather(found(who.pid))
    assert inside(look, who.ready["pages"], 1000) == [(0, 500)]


def test_one_that_has_gone_is_a_note(victim: Spawn) -> None:
    (one,) = victims(victim, 8)
    gone = Process(2**22 - 1, "gone", 0)
    with pytest.raises(PagemergeError):
        process.named([str(gone.pid)])
    chosen = select([gone, *found(one["pid"])])
    assert words.notes(chosen) == [f"{gone.pid} gone: it has exited"]
    assert words.sentence(chosen, done=False).startswith("Marking ")
    assert json.loads(json.dumps(words.figures(chosen)))[0]["error"] == "it has exited"
    assert words.processes(chosen, 200).row_count == 1


@pytest.mark.requires("kernel")
def test_a_mapping_that_was_split_does_not_grow_and_a_whole_one_does() -> None:
    """What ``whole`` is for; the kernel's word on it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mremap.restype = ctypes.c_void_p
    failed, may_move, size = ctypes.c_void_p(-1).value, 1, 64 * PAGE_SIZE

    def grown(first: int, pages: int) -> int | None:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_MERGEABLE, first * PAGE_SIZE, pages * PAGE_SIZE)
        address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
        now = libc.mremap(address, ctypes.c_size_t(size), ctypes.c_size_t(2 * size), may_move)
        if now == failed:
            return ctypes.get_errno()
        # Back to where Python believes it to be.
        fixed = may_move | 2
        libc.mremap(ctypes.c_void_p(now), ctypes.c_size_t(size), size, fixed, address)
        libc.munmap(ctypes.c_void_p(now + size), ctypes.c_size_t(size))
        return None

    assert grown(16, 16) == errno.EFAULT
    assert grown(0, 64) is None
