"""The parts of the demo that need no engine: data, expectation, writer, judgement, telling."""

from __future__ import annotations

import mmap
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pagemerge.cli.show import demo as show
from pagemerge.demo import content, expect, worker
from pagemerge.demo.outcome import Accounts, Outcome
from pagemerge.demo.writer import Writer
from pagemerge.model import PAGE_SIZE

OUTCOME = Outcome(
    workers=4,
    page_size=PAGE_SIZE,
    engine="user",
    barrier="move",
    asked_barrier="auto",
    why="the workers have a full-mode userfaultfd",
    before=Accounts(600_000_000, 0, 8_000_000_000, None),
    after=Accounts(100_000_000, 130_000_000, 8_370_000_000, None),
    before_bytes=600_000_000,
    after_bytes=230_000_000,
    saved_bytes=370_000_000,
    expected_saved_bytes=380_000_000,
    loaded_bytes=128_000_000,
    private_bytes=16_000_000,
    hot_bytes=4_194_304,
    sources=["numpy", "the Python standard library"],
    merge_seconds=0.5,
    cpu_seconds=0.75,
    pages_shared=30_000,
    pages_sharing=90_000,
    zero_pages=100,
    writes=123_456,
    lost_writes=0,
    changed_pages=0,
    contents_verified=True,
    written_pages=64,
    separated_after_write=True,
)


def test_content_is_real_different_and_page_aligned() -> None:
    room = 2000 * PAGE_SIZE
    pieces, names = content.collect(room)
    assert names
    assert sum(piece.room for piece in pieces) == room
    inodes = {(found.st_dev, found.st_ino) for found in (Path(p.path).stat() for p in pieces)}
    assert len(inodes) == len(pieces)

    memory = np.zeros(room, np.uint8)
    content.load(pieces, memory)
    place = 0
    for piece in pieces:
        assert (
            memory[place : place + piece.size].tobytes()
            == Path(piece.path).read_bytes()[: piece.size]
        )
        place += piece.room


def test_expectation_leaves_out_what_changed_and_what_is_absent() -> None:
    first = np.array([0, 1, 1, 7, 7, 7, 8, 9, 9], np.uint64)
    second = np.array([0, 1, 2, 7, 7, 7, 8, 9, 10], np.uint64)
    # One zero page, and two of the three sevens; the other nine changed.
    assert expect.saved_bytes(first, second) == 3 * PAGE_SIZE


def test_the_writer_notices_a_lost_write() -> None:
    pages = np.zeros((8, PAGE_SIZE // 8), np.uint64)
    writer = Writer(pages)
    writer.start()
    try:
        assert writer.wait(2, patience=10)
        writes, lost = writer.check()
        assert writes >= 16
        assert lost == 0
        pages[3, 100] += np.uint64(1)  # as if an older page had been put back
        assert writer.wait(2, patience=10)
        assert writer.check()[1] >= 1
    finally:
        writer.stop()


def test_pages_of_a_slab_are_told_from_ones_own() -> None:
    """The oracle of the demo's last act, on memory made by hand."""
    descriptor = os.memfd_create("pagemerge-slab")
    os.write(descriptor, bytes(range(256)) * (4 * PAGE_SIZE // 256))
    memory = np.frombuffer(mmap.mmap(descriptor, 4 * PAGE_SIZE, flags=mmap.MAP_PRIVATE), np.uint8)
    os.close(descriptor)
    memory.sum()  # what was never read is not present
    assert worker.mapped_from_slab(memory).tolist() == [True, True, True, True]
    memory[2 * PAGE_SIZE] = 1
    assert worker.mapped_from_slab(memory).tolist() == [True, True, False, True]


def test_digests_are_of_pages() -> None:
    memory = np.zeros(3 * PAGE_SIZE, np.uint8)
    before = worker.digests(memory)
    memory[PAGE_SIZE + 5] = 1
    changed = (worker.digests(memory) != before).any(axis=1)
    assert changed.tolist() == [False, True, False]


def test_a_good_outcome_has_no_faults() -> None:
    assert OUTCOME.faults() == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"lost_writes": 3}, "3 writes were lost"),
        ({"changed_pages": 2}, "2 pages do not hold what was loaded"),
        ({"saved_bytes": 358_000_000}, "less than 95% of the 380000000"),
        ({"separated_after_write": False}, "did not give the writer a page of its own"),
        ({"asked_barrier": "park"}, "--barrier park was asked for, the workers ran under move"),
    ],
)
def test_faults_are_named(change: dict[str, object], fault: str) -> None:
    (found,) = replace(OUTCOME, **change).faults()  # type: ignore[arg-type]
    assert fault in found


def test_it_is_told_in_words() -> None:
    console = Console(width=300, force_terminal=False, highlight=False)
    with console.capture() as capture:
        show.told(OUTCOME, console)
    said = capture.get()
    assert said.startswith("Merging saved 370 MB of 600 MB (62%) in 4 processes.\n")
    assert "Each of 4 workers loaded 128 MB of real files (numpy, the Python" in said
    assert "held by UFFDIO_MOVE while it is compared.\nReason: the workers have a full-mode" in said
    assert ["600", "MB", "230", "MB", "370", "MB", "380", "MB"] in [
        line.split()[-8:] for line in said.splitlines()
    ]
    assert "30,000 stable pages in place of 120,000" in said
    assert "of 123,456 page writes meanwhile 0 were lost" in said
    assert "memory cgroup" not in said
