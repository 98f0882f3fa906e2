"""Programs of memory calls say the same bare and merged: a corpus, what was kept, and by chance."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.differential import report
from tests.differential.__main__ import CONFIG, PAGEMERGE
from tests.differential.campaign import Campaign, Result, drawn
from tests.differential.compare import compare
from tests.differential.draw import draw
from tests.differential.pair import HERE, Said
from tests.differential.program import Program, calls, encode, load, parse
from tests.differential.shrink import shrink
from tests.support.hubs import Hub

CALLS = 4000
"""By chance, of each barrier; more: ``make differential``."""
MANY = 6
"""Programs that differ after which no more are tried."""
SHRINKING = 20.0
"""Seconds that what differs may take to be made small."""
WRITTEN = sorted([*HERE.glob("corpus/*.txt"), *HERE.glob("kept/*.txt")])


@pytest.fixture(params=["move", "write-protect"])
def campaign(
    request: pytest.FixtureRequest, hub_socket: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Campaign]:
    """Pairs of processes on a hub that merges as fast as it can."""
    folder = tmp_path_factory.getbasetemp()
    with Hub(hub_socket, CONFIG) as hub:
        made = Campaign(hub.socket, folder, request.param, PAGEMERGE, 6, print)
        yield made
        made.close()


def carried_out(campaign: Campaign, programs: Iterator[tuple[str, Program]], most: int) -> Result:
    """What came of them, with all that differs made small."""
    result = campaign.run(
        programs, lambda so_far: so_far.counts["calls"] >= most or so_far.counts["failing"] >= MANY
    )
    campaign.examine(time.monotonic() + SHRINKING)
    return result


@pytest.mark.requires("cc", "uffd")
def test_written_programs_say_the_same(campaign: Campaign) -> None:
    """Each kind of call on merged memory, and whatever has differed once."""
    result = carried_out(campaign, ((it.name, load(it)) for it in WRITTEN), 10**9)
    assert result.counts["programs"] == len(WRITTEN)
    assert not result.faults, "\n".join(result.faults)


@pytest.mark.requires("cc", "uffd")
def test_programs_that_mark_nothing_say_the_same(
    hub_socket: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Under ``run --all``, with all that they map merged."""
    folder = tmp_path_factory.getbasetemp()
    with Hub(hub_socket, CONFIG) as hub:
        campaign = Campaign(hub.socket, folder, "auto", PAGEMERGE, 6, print, everything=True)
        try:
            result = carried_out(campaign, drawn(3), CALLS // 2)
        finally:
            campaign.close()
    assert not result.faults, "\n".join(result.faults)


@pytest.mark.requires("cc", "uffd")
def test_random_programs_say_the_same(campaign: Campaign) -> None:
    """The same programs in each run, beside merging that takes its own time."""
    result = carried_out(campaign, drawn(seed=11), CALLS)
    assert not result.faults, "\n".join(result.faults)


def test_a_difference_is_told_by_kind_and_call() -> None:
    program = parse("mmap p0 n2 rw PRIVATE|ANON|FIXED -1 0\nmadvise p0 n1 DONTNEED\nlook")

    def said(madvise: str, look: str, flags: str = "0-2:rdwr") -> Said:
        return Said(
            ["0 mmap p0", f"1 madvise {madvise}", f"2 look  {look}", f"last flags  {flags}"]
        )

    bare = said("0", "0:rw-p:0*1 1:rw-p:=61*1")
    assert compare(program, bare, said("0", "0:rw-p:0*1 1:rw-p:=61*1")) is None
    for merged, kind, cause in (
        (said("errno 22", "0:rw-p:0*1 1:rw-p:=61*1"), "result", "madvise DONTNEED, errno 22 for 0"),
        (said("0", "0:rw-p:=61*2"), "bytes", "madvise DONTNEED, bytes for zeros"),
        (said("0", "0:r--p:0*1 1:rw-p:=61*1"), "layout", "madvise DONTNEED, r--p for rw-p"),
        (said("0", "0:rw-p:0*1 1:rw-p:=61*1", "0-2:rdwrlo"), "flags", "+lo"),
    ):
        found = compare(program, bare, merged)
        assert found is not None
        assert (found.kind, found.cause) == (kind, cause)
    stopped = compare(program, bare, Said(["0 mmap p0"], "hung in futex_do_wait"))
    assert stopped is not None
    assert stopped.rough == "hung: madvise DONTNEED"


def test_a_lost_write_of_a_thread_is_told_though_both_runs_say_it() -> None:
    lost = Said(["racer lost 3 page 1: wrote 7, found 0"])
    assert compare((), Said(["racer lost 0"]), Said(["racer lost 0"])) is None
    found = compare((), Said(["racer lost 0"]), lost)
    assert found is not None
    assert found.kind == "lost"


def test_a_program_shrinks_to_the_steps_and_pages_that_matter() -> None:
    program = parse("\n".join(["look", "munmap p40 n3", "fork", ">look", ">mlock p7 n9+1"] * 4))

    def fails(tried: Program) -> bool:
        return any(line.startswith("munmap") for line in tried) and ">mlock p" in "".join(tried)

    assert shrink(program, fails) == ("munmap p0 n1", "fork", ">mlock p0 n1")


def test_a_run_in_which_nothing_is_merged_fails(tmp_path: Path) -> None:
    result = Result()
    result.counts.update(programs=3, calls=30)
    assert result.faults
    result.counts["page_merges"] = 1
    assert not result.faults
    page = tmp_path / "reliability.md"
    page.write_text("# Reliability\n\nThe soak.\n\n## Another\n\nText.\n")
    for _ in range(2):  # the second replaces the first
        report.write(page, 1, {"move": result}, 30)
    text = page.read_text()
    assert text.count(report.HEADING) == 1
    assert "The soak." in text
    assert "## Another" in text


def test_a_program_is_its_seed_and_numbers_calls_only() -> None:
    assert draw(3, 5) == draw(3, 5)
    assert draw(3, 5) != draw(4, 5)
    program = parse(
        "settle\nmadvise p1 n1 GUARD_INSTALL # why\nmmap p0 n1 rw PRIVATE|ANON -1 0\nlook"
    )
    assert calls(program) == 2
    assert encode(program).splitlines()[1:3] == [b"madvise p1 n1 102", b"mmap p0 n1 3 34 -1 0"]
