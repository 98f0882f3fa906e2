"""The survey against brute force over the bytes of real processes, and against kernel KSM."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple
from functools import reduce
from itertools import groupby
from operator import add
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pagemerge.demo.dialog import end
from pagemerge.estimate.trust import Price, price
from pagemerge.find import process
from pagemerge.find.look import look
from pagemerge.find.sources import locate, locate_for_ksmd
from pagemerge.find.survey import summed_up, survey
from pagemerge.find.tally import Totals
from pagemerge.ksmd.attach import attach
from pagemerge.linux.process import PROC, stat, threads
from pagemerge.model import PAGE_SIZE
from tests.support import ksm, truth
from tests.support.building import compile_victim
from tests.support.commands import NOBODY

pytestmark = [pytest.mark.requires("root"), pytest.mark.requires("cc")]

PATIENCE = 60.0
USERS = (0, NOBODY, NOBODY - 1)
Layout = list[str]
"""The words of one process, see ``victims/layout.c``; the first is its user."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layout")
    (folder / "file").write_bytes(b"".join(bytes([it]) * PAGE_SIZE for it in range(256)) * 4)
    return compile_victim("layout.c", folder / "layout")


@contextmanager
def laid_out(
    program: Path, layouts: Sequence[Layout], *, mergeable: bool = False
) -> Iterator[list[int]]:
    """Processes with these layouts and what they have forked, all of them stopped.

    ``mergeable``: kernel KSM may merge them.
    """
    with ExitStack() as stack:
        found = []
        for words in layouts:
            env = {"LAYOUT_FILE": str(program.parent / "file")}
            victim = subprocess.Popen([program, *words], stdin=-1, stdout=-1, env=env)
            stack.callback(end, victim)
            stack.callback(victim.kill)
            assert victim.stdout and victim.stdin
            stack.callback(victim.stdout.close)
            stack.callback(victim.stdin.close)
            found += [int(pid) for pid in victim.stdout.readline().split()]
            assert found, "it has failed: see its standard error"
        for pid in found:
            if mergeable:
                attach(pid, "layout", list, "prctl")
            os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while not all(map(stands, found)):
            assert time.monotonic() < deadline, "they do not stop"
            os.sched_yield()
        yield found


def stands(pid: int) -> bool:
    tasks = PROC / str(pid) / "task"
    return all(stat(thread, tasks).state == "T" for thread in threads(pid))


def check(pids: Sequence[int], domains: Sequence[Sequence[int]], together: bool) -> Totals:
    """The survey says what the bytes say, domain by domain and process by process."""
    found = process.named(map(str, pids))
    assert [it.pid for it in found] == list(pids)
    told = survey(found, 2, together=together)
    if together:
        assert survey(found, 2, together=True, locate=locate_for_ksmd).totals == told.totals
    assert not [row.error for row in told.rows if row.error]
    rows = {row.pid: row for row in told.rows}
    pages = [[page for pid in domain for page in truth.pages_of(pid)] for domain in domains]
    assert told.totals == reduce(add, map(truth.totals, pages))
    for domain, its in zip(domains, pages, strict=True):
        for pid in domain:
            wanted, row = truth.row(pid, its), rows[pid]
            assert astuple(wanted)[:4] == (
                *(row.pages, row.zero_pages, row.duplicate_pages, row.shared_pages),
            )
            assert row.saveable_bytes == pytest.approx(float(wanted.saveable) * PAGE_SIZE, abs=1)
    return told.totals


def by_user(pids: Sequence[int]) -> list[list[int]]:
    """The pids of each user, in the order given."""
    users = {it.pid: it.uid for it in process.named(map(str, pids))}
    ordered = sorted(pids, key=users.__getitem__)
    return [list(some) for _, some in groupby(ordered, users.__getitem__)]


contents = st.integers(0, 3)
pages = st.one_of(
    contents.map("p{}".format),
    contents.map("p{}".format),
    st.sampled_from(["u", "h", "r", "g", "F"]),
    contents.map("n{}".format),
    contents.map("s{}".format),
    contents.map("f{}".format),
    st.tuples(st.integers(0, 7), contents).map(lambda it: f"w{it[0]}={it[1]}"),
)
layouts = st.builds(
    lambda user, words: [str(user), *without_wrong_writes(words)],
    st.sampled_from(USERS),
    st.lists(pages, max_size=24).filter(lambda words: words.count("F") <= 2),
)


def without_wrong_writes(words: Sequence[str]) -> list[str]:
    """Leave out each "w" to a page that another word closes, or that "r" finds to be zeros: it
    would end the victim."""
    laid = [word for word in words if word[0] in "puhrn"]
    barred = {f"w{page}" for page, word in enumerate(laid) if word[0] in "rn"}
    return [word for word in words if word.partition("=")[0] not in barred]


ROUND = ["0", "p1", "p1", "p0", "u", "h", "r", "F", "w0=2", "w2=3", "p1", "F", "w3=0"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(layouts, min_size=1, max_size=4))
@example([ROUND, ROUND])
@example([[str(user), *ROUND[1:]] for user in USERS])
def test_the_survey_is_what_the_bytes_say(program: Path, drawn: list[Layout]) -> None:
    with laid_out(program, drawn) as pids:
        apart = check(pids, by_user(pids), together=False)
        whole = check(pids, [pids], together=True)
        found = look([locate(one) for one in process.named(map(str, pids))], 2)
        told = price(found, summed_up(found).totals)
        assert told == Price(
            len(by_user(pids)),
            apart.saveable_pages,
            whole.saveable_pages,
            whole.saveable_zero_pages,
        )


@pytest.fixture
def kernel() -> Iterator[ksm.Ksm]:
    """Kernel KSM for this test alone; put back as it was."""
    with ksm.borrowed() as borrowed:
        yield borrowed


MANY, MOST = 600, 256
"""More copies than a stable page of KSM takes mappings, and how many it takes."""


@pytest.mark.requires("kernel")
def test_ksmd_frees_what_the_survey_says(program: Path, kernel: ksm.Ksm) -> None:
    """To the frame, but for those that stay because a stable page has at most so many mappings."""
    kernel.write("max_page_sharing", MOST)
    fork, copies = ["p1", "p2", "p0", "u", "F", "w0=3", "F"], ["p9", "p0"] * (MANY // 2)
    layouts = [["0", *fork, *copies], [str(NOBODY), *fork, *copies], ROUND]
    with laid_out(program, layouts, mergeable=True) as pids:
        told = check(pids, [pids], together=True)
        before = [page for pid in pids for page in truth.pages_of(pid)]
        merge_all(kernel)
        after = [page for pid in pids for page in truth.pages_of(pid)]
        contents = Counter(page.content for page in before if page.content != truth.ZEROS)
        stay = sum(-(-copies // MOST) - 1 for copies in contents.values())
        assert frames(before) - frames(after) == told.saveable_pages - stay
        assert stay >= 2
        left = check(pids, [pids], together=True)
        assert left.saveable_pages == stay


def frames(pages: Sequence[truth.Page]) -> int:
    return len({page.frame for page in pages})


def merge_all(kernel: ksm.Ksm) -> None:
    """Until two full scans bring nothing more."""
    deadline, gained, since = time.monotonic() + PATIENCE, -1, kernel.full_scans
    kernel.start(**ksm.FLAT_OUT, use_zero_pages=1, smart_scan=0)
    while kernel.full_scans < since + 4:
        assert time.monotonic() < deadline, "ksmd does not come to its end"
        scans, now = kernel.full_scans, kernel.counters()
        if (saved := (now.pages_sharing or 0) + (now.ksm_zero_pages or 0)) != gained:
            gained, since = saved, scans
        time.sleep(0.01)
    kernel.write("run", ksm.STOP)
