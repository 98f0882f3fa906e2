"""The sample against the full count on real processes: stopped ones, so that both see the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from pagemerge.estimate.sample import Estimate, estimate
from pagemerge.find import process, survey
from pagemerge.find.sources import locate
from pagemerge.find.tally import Totals
from tests.support.commands import NOBODY

VICTIM = Path(__file__).parent.parent / "victims" / "pages.py"
DRAWN, DRAWS = 600, 10

Start = Callable[..., list[int]]

# Zero pages, pages of one content, pages of each victim's own or of its seed: for each victim.
LAYOUTS = [
    *(
        f"seed 1 pages {zero} 0 2000|seed 1 pages 0 {same} 2000"
        for zero, same in ((0, 0), (900, 9))
    ),
    *(f"seed {own} pages 10 {own} 1500|seed 5 pages 0 0 1500" for own in (2, 5, 40, 700)),
    *(f"pages {zero} 0 10|pages {zero} 0 10" for zero in (100, 4000)),
    *(f"seed 3 pages 0 {same} 500" for same in (2, 20, 200, 2000)),
    *(
        f"seed 4 pages 0 3 {size}|seed 4 pages 5 0 1000|seed 9 pages 0 0 1000"
        for size in (50, 3000)
    ),
    *(f"seed 6 pages {zero} 40 1200 fork" for zero in (0, 30, 900)),
    "seed 7 pages 50 50 900 fork|seed 7 pages 50 50 900",
    "seed 8 pages 0 0 600 pages 0 0 600 fork|seed 8 pages 0 0 300|seed 8 pages 0 0 300",
    "pages 1 1 1",
]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts victims (see ``victims/pages.py``), and stops them and their children."""
    with ExitStack() as stack:

        def start(layout: str) -> list[int]:
            victims = []
            for words in layout.split("|"):
                command = [sys.executable, str(VICTIM), *words.split()]
                victims.append(subprocess.Popen(command, stdin=-1, stdout=-1))
                stack.enter_context(victims[-1])
                stack.callback(victims[-1].kill)
            found = []
            for victim in victims:
                assert victim.stdout
                told = json.loads(victim.stdout.readline())
                found += [told["pid"], *([told["child"]] if "child" in told else [])]
            deadline = time.monotonic() + 30
            for pid in found:
                os.kill(pid, signal.SIGSTOP)
                while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                    assert time.monotonic() < deadline, f"{pid} does not stop"
                    os.sched_yield()
            return found

        yield start


def full(pids: list[int]) -> Totals:
    return survey.survey(process.named(map(str, pids)), 1).totals


def sampled(pids: list[int], case: int, pages: int = DRAWN) -> Estimate:
    sources = [locate(it) for it in process.named(map(str, pids))]
    return estimate(sources, pages, 1, random=np.random.default_rng(case))


def test_the_interval_holds_the_truth_of_twenty_groups_of_processes(start: Start) -> None:
    """Each group is drawn several times, because one miss of twenty is no miracle."""
    held: dict[str, int] = {}
    for layout in LAYOUTS:
        pids = start(layout)
        truth = full(pids)
        found = [sampled(pids, case).total for case in range(DRAWS)]
        assert full(pids) == truth, "they are stopped"
        for one in found:
            assert (one.pages, one.zero_pages) == (truth.pages, truth.zero_pages)
            assert one.changed_pages == 0
            assert one.saveable.high_pages - one.saveable.low_pages < 0.12 * truth.pages
        saves = truth.saveable_pages
        held[layout] = sum(
            it.saveable.low_pages <= saves + 1e-6 and saves <= it.saveable.high_pages + 1e-6
            for it in found
        )
    assert len(held) == 20
    assert sum(held.values()) >= 0.93 * 20 * DRAWS, held


def test_all_pages_drawn_give_what_the_survey_gives(start: Start) -> None:
    for layout in ("seed 7 pages 50 50 900 fork|seed 7 pages 50 50 900", "seed 1 pages 9 5 700"):
        pids = start(layout)
        found = sampled(pids, 1, 10**6).total
        assert found.sampled_pages == found.pages
        assert found.saveable.pages == pytest.approx(full(pids).saveable_pages)


@pytest.mark.requires("root")
def test_without_privilege_as_the_survey(start: Start) -> None:
    """A process without privilege is not told the frames, only which pages are shared."""
    pids = start(f"user {NOBODY} seed 7 pages 50 50 900 fork")
    script = (
        "import os, sys, json\n"
        "import numpy.random\n"
        "from pagemerge.estimate.sample import estimate\n"
        "from pagemerge.find import process, survey\n"
        "from pagemerge.find.sources import locate\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "found = process.named(sys.argv[1:])\n"
        "totals = survey.survey(found, 1).totals\n"
        "one = estimate([locate(it) for it in found], 10**6, 1).total\n"
        "print(json.dumps([totals.already_shared_pages, totals.saveable_pages,\n"
        "    one.saveable.pages, one.changed_pages]))\n"
    )
    command = [sys.executable, "-c", script, *map(str, pids)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    shared, saved, estimated, changed = json.loads(told.stdout)
    assert shared >= 950
    assert estimated == pytest.approx(saved)
    assert changed == 0


def test_one_that_ends_counts_nowhere(start: Start) -> None:
    pids = list(chain(*(start("seed 1 pages 0 0 900") for _ in range(2))))
    sources = [locate(it) for it in process.named(map(str, pids))]
    pidfd = os.pidfd_open(pids[0])
    os.kill(pids[0], signal.SIGKILL)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    os.close(pidfd)
    found = estimate(sources, DRAWN, 1)
    assert [error for _, error in found.errors] == ["it has exited"]
    assert found.total.sources == 1
    assert found.total.pages == full(pids[1:]).pages
