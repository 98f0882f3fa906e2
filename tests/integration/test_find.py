"""Finding equal pages in real processes. The oracle is the kernel: page tables, frames, RSS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagemerge import _core
from pagemerge.errors import AccessDenied, NoSuchProcess, UsageError
from pagemerge.find import eligible, process, sources, survey
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn, missing
from tests.support import ksm
from tests.support.commands import NOBODY
from tests.support.hubs import Hub

VICTIM = Path(__file__).parent.parent / "victims" / "pages.py"
MIB = 1 << 20

COUNTS = [
    *("pages", "zero_pages", "duplicate_pages_within", "duplicate_pages_across"),
    "saveable_bytes",
]

Start = Callable[..., dict[str, int]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts victims (see ``victims/pages.py``), returns what they report when ready."""
    with ExitStack() as stack:

        def start(*words: object, user: int | None = None) -> dict[str, int]:
            command = [sys.executable, str(VICTIM), *map(str, words)]
            if user is not None:
                command[2:2] = ["user", str(user)]
            victim = subprocess.Popen(command, stdin=-1, stdout=-1)
            stack.enter_context(victim)
            stack.callback(victim.kill)
            assert victim.stdout
            report: dict[str, int] = json.loads(victim.stdout.readline())
            return report

        yield start


def entries(pid: int, address: int, pages: int) -> Any:
    """Raw pagemap entries."""
    out = np.zeros(pages, np.uint64)
    _core.pagemap(pid, np.array([address], np.uint64), np.array([pages], np.uint64), out)
    return out


def scan(*words: object, user: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command; as another user, in a fork that has everything imported already."""
    command = [sys.executable, "-m", "pagemerge", "scan", *map(str, words)]
    if user is not None:
        script = (
            "import json, locale, logging, os, select, shutil, sys, textwrap, traceback\n"
            "import pagemerge.cli.scan, pagemerge.estimate.answer, pagemerge.cli.show.answer\n"
            "import rich.console, rich.table\n"
            f"os.setgroups([]); os.setgid({user}); os.setuid({user})\n"
            "from pagemerge.cli import main\n"
            "sys.exit(main(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", script, "scan", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def scan_json(*words: object, user: int | None = None) -> Any:
    done = scan("--json", *words, user=user)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("threads", [1, 4])
def test_every_page_of_a_region_gets_the_right_digest(start: Start, threads: int) -> None:
    victim = start("pages", 100, 50, 2000)
    out = np.full(2150, 99, np.uint64)
    read, unreadable = _core.look(victim["pid"], victim["pages"], 2150, 5, out, threads)
    assert (read, unreadable) == (2150 * PAGE_SIZE, 0)
    counts = Counter(out.tolist())
    assert counts.pop(_core.ZERO) == 100
    assert sorted(counts.values()) == [1] * 2000 + [50]

    data = np.zeros(2150 * PAGE_SIZE, np.uint8)
    run = np.array([victim["pages"]], np.uint64), np.array([2150], np.uint64)
    assert _core.read_pages(victim["pid"], *run, data) == (read, 0)
    again = np.zeros_like(out)
    _core.digest(data, 5, again)
    assert np.array_equal(out, again)


def test_holes_are_not_touched(start: Start) -> None:
    size = 1 << 40
    pid, address = (victim := start("hole", size))["pid"], victim["hole"]

    def tables() -> list[str]:
        lines = Path(f"/proc/{pid}/status").read_text().split("\n")
        return [line for line in lines if line.startswith(("VmRSS", "VmPTE", "RssAnon"))]

    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        os.sched_yield()  # It may still be on its way from the ready line to its standard input.
    before = tables()
    starts, pages = _core.present_runs(pid, address, address + size)
    assert np.frombuffer(starts, np.uint64).tolist() == [address + size - PAGE_SIZE]
    assert np.frombuffer(pages, np.uint64).tolist() == [1]
    tail = np.full(MIB, 99, np.uint64)
    read, _ = _core.look(pid, address + size - MIB * PAGE_SIZE, MIB, 5, tail, 2)
    assert read == PAGE_SIZE
    assert np.count_nonzero(tail) == 1
    assert tail[-1] > _core.ZERO
    result = scan_json(pid)
    assert result["bytes_read"] < 256 * MIB
    assert tables() == before


def test_two_processes_with_equal_pages(start: Start) -> None:
    alone = scan_json(*(start("seed", seed)["pid"] for seed in (1, 2)))["totals"]
    both = [start("seed", 3, "pages", 100, 50, 2000)["pid"] for _ in range(2)]
    result = scan_json(*both)
    totals = Counter(result["totals"])
    totals.subtract({name: alone[name] for name in COUNTS})
    # Interpreters differ by up to 170 pages from run to run.
    about = 300
    assert totals["pages"] == pytest.approx(2 * 2150, abs=about)
    assert totals["zero_pages"] == pytest.approx(2 * 100, abs=about)
    assert totals["duplicate_pages_within"] == pytest.approx(2 * 49, abs=about)
    assert totals["duplicate_pages_across"] == pytest.approx(2000 + 1, abs=about)
    saved = totals["saveable_bytes"] / PAGE_SIZE
    assert saved == pytest.approx(200 + 98 + 2001, abs=about)
    assert {row["pid"] for row in result["processes"]} == set(both)
    for row in result["processes"]:
        assert row["error"] is None
        assert row["uid"] == os.geteuid()
        assert row["duplicate_pages"] >= 2050
        assert row["saveable_bytes"] / PAGE_SIZE >= 100 + 49 + 1000
    assert result["bytes_per_second"] > 0
    assert result["seconds"] > 0


def test_looking_leaves_shared_pages_shared(start: Start) -> None:
    """process_vm_readv alone would give the parent its own copy of each: see remote.rs."""
    victim = start("pages", 10, 10, 500, "fork")
    family = victim["pid"], victim["child"]
    before = [entries(pid, victim["pages"], 520) for pid in family]
    assert not np.any(before[0] & np.uint64(1 << 56)), "not exclusive"
    found = scan_json(*family)
    totals = found["totals"]
    assert all(row["shared_pages"] >= 520 for row in found["processes"])
    assert totals["already_shared_pages"] >= 520
    assert totals["saveable_bytes"] / PAGE_SIZE < totals["pages"] - 520
    out = np.zeros(520, np.uint64)
    assert _core.look(family[1], victim["pages"], 520, 5, out, 2) == (520 * PAGE_SIZE, 0)
    assert Counter(out.tolist())[_core.ZERO] == 10
    data = np.zeros(520 * PAGE_SIZE, np.uint8)
    run = np.array([victim["pages"]], np.uint64), np.array([520], np.uint64)
    assert _core.read_pages(family[0], *run, data) == (520 * PAGE_SIZE, 0)
    for pid, was in zip(family, before, strict=True):
        assert np.array_equal(entries(pid, victim["pages"], 520), was)


@pytest.fixture
def kernel() -> Iterator[ksm.Ksm]:
    """The kernel's own merger, running fast; its knobs are put back afterwards."""
    with ksm.borrowed() as borrowed:
        borrowed.start(pages_to_scan=20_000, sleep_millisecs=0)
        yield borrowed


@pytest.mark.requires("kernel")
def test_looking_leaves_merged_pages_merged(start: Start, kernel: ksm.Ksm) -> None:
    victim = start("merge", "pages", 0, 500, 10)
    pid, address = victim["pid"], victim["pages"]
    deadline = time.monotonic() + 60
    frame = np.uint64((1 << 55) - 1)
    while len(np.unique(entries(pid, address, 500) & frame)) > 3:
        assert time.monotonic() < deadline, "ksmd has not merged the pages"
        os.sched_yield()
    kernel.write("run", ksm.STOP)
    before = entries(pid, address, 510)
    totals = scan_json(pid)["totals"]
    assert totals["already_shared_pages"] >= 490
    assert np.array_equal(entries(pid, address, 510), before)


@pytest.mark.requires("root")
def test_without_privilege_sharing_is_told_by_the_exclusive_bit(start: Start) -> None:
    victim = start("pages", 0, 10, 500, "fork", user=NOBODY)
    totals = scan_json(victim["pid"], victim["child"], user=NOBODY)["totals"]
    assert totals["already_shared_pages"] >= 510


def test_what_pagemerge_has_merged_is_told_and_not_counted_again(hub: Hub, victim: Spawn) -> None:
    """Whether its pages were touched since or not; what was written since is one's own again."""
    pages = 3000
    empty, *members = (victim("member", env=hub.env) for _ in range(3))
    for one in members:
        one.ask("fill", pages=pages, seed=7)
        one.ask("intern")
    before = scan_json(empty.pid)["totals"]
    assert (before["merged_pages"], before["merged_saved_bytes"]) == (0, 0)
    for _ in range(2):
        found = scan_json(*(one.pid for one in members))
        totals = found["totals"]
        assert totals["merged_pages"] == 2 * pages
        assert totals["merged_saved_bytes"] == pages * PAGE_SIZE
        assert [row["merged_pages"] for row in found["processes"]] == [pages, pages]
        assert totals["pages"] < 2 * before["pages"] + 1000
        assert members[0].ask("check") == {"wrong": 0}  # reads, and so touches, every page
    unique = "member.memory[:100] = np.random.default_rng().integers(2**60, size=(100, 512))"
    members[0].ask("call", code=unique)
    assert scan_json(members[0].pid)["totals"]["merged_pages"] == pages - 100
    told = scan(*(one.pid for one in members)).stdout
    assert "merged by pagemerge: 24.2 MB mapped, kept in 12.3 MB" in told
    assert told.startswith("Merging would save ") and " more of " in told.split("\n")[0]


def test_who_could_save_it(start: Start) -> None:
    """The heap, which malloc gives and takes, is not the user engine's."""
    totals = scan_json(start("pages", 4000, 0, 0)["pid"])["totals"]
    engines = totals["saveable_bytes_by_engine_at_most"]
    assert engines["kernel"] == totals["saveable_bytes"] > engines["user"] >= 4000 * PAGE_SIZE


def test_one_that_is_not_there_does_not_refuse_the_rest(start: Start) -> None:
    pid = start("pages", 10, 0, 0)["pid"]
    done = scan("999999999", pid, "no-such-name")
    assert (done.returncode, done.stderr) == (0, "")
    assert "in 1 process:" in done.stdout
    assert "no process has the pid 999999999" in done.stdout
    assert "no process is named 'no-such-name'" in done.stdout
    found = scan_json("999999999", pid)
    assert [row["pid"] for row in found["processes"]] == [pid]
    assert len(found["not_found"]) == 1


@pytest.mark.requires("root")
def test_refusals_are_summed_up(start: Start) -> None:
    others = [start("pages", 1, 1, 1)["pid"] for _ in range(3)]
    own = start("pages", 1, 1, 1, user=NOBODY)["pid"]
    done = scan(own, *others, user=NOBODY)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.split("\n")]
    assert ["-", "3", "processes", *"-----"] in rows
    assert "3 processes may not be looked at: run as root" in done.stdout
    assert not {str(pid) for pid in others} & set(done.stdout.split())


def test_shared_memory_is_told_apart(start: Start) -> None:
    row = scan_json(start("shared", 16 * MIB)["pid"])["processes"][0]
    assert row["ineligible_bytes_by_reason"][eligible.SHARED_MEMORY] == 16 * MIB
    assert row["pages"] * PAGE_SIZE < 16 * MIB


@pytest.mark.requires("root")
def test_huge_pages_are_told_apart(start: Start) -> None:
    knob = Path("/proc/sys/vm/nr_hugepages")
    before = int(knob.read_text())
    knob.write_text(str(before + 2))
    try:
        if int(knob.read_text()) < before + 2:
            pytest.skip("no 2 huge pages of memory in one piece")
        row = scan_json(start("hugetlb", 4 * MIB)["pid"])["processes"][0]
    finally:
        knob.write_text(str(before))
    assert row["ineligible_bytes_by_reason"][eligible.HUGETLB] == 4 * MIB


def test_a_process_that_exits_in_the_middle_is_a_row(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "STEP", 256)
    victims = [start("pages", 0, 0, 4000)["pid"] for _ in range(2)]
    found = process.named(map(str, victims))
    gone: list[int] = []

    def kill_at_once(_done: int, _total: int) -> None:
        if not gone:
            gone.append(victims[0])
            pidfd = os.pidfd_open(victims[0])
            os.kill(victims[0], 9)
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
            os.close(pidfd)

    result = survey.survey(found, 1, kill_at_once)
    assert [row.error for row in result.rows] == ["it has exited", ""]
    assert result.rows[0].pages == 0
    assert result.totals.pages == result.rows[1].pages > 4000


@pytest.mark.requires("root")
def test_someone_elses_process(start: Start) -> None:
    root, own = start("pages", 1, 1, 1)["pid"], start("pages", 1, 1, 1, user=NOBODY)["pid"]
    done = scan(root, user=NOBODY)
    assert done.returncode == 1
    assert f"process {root}" in done.stderr
    assert "belongs to uid 0: run as that user or as root" in done.stderr
    result = scan_json(own, root, user=NOBODY)
    assert {row["pid"]: bool(row["error"]) for row in result["processes"]} == {
        own: False,
        root: True,
    }


@pytest.mark.requires("root")
def test_users_do_not_share(start: Start) -> None:
    words = "seed", 3, "pages", 0, 0, 3000
    victims = [start(*words)["pid"], start(*words, user=NOBODY)["pid"]]
    totals = scan_json(*victims)["totals"]
    assert totals["pages"] > 6000
    assert totals["duplicate_pages_across"] == 0
    assert totals["saveable_bytes"] / PAGE_SIZE < 3000


def test_the_core_names_the_process() -> None:
    one = np.array([PAGE_SIZE], np.uint64), np.array([1], np.uint64)
    out = np.zeros(1, np.uint64)
    with pytest.raises(NoSuchProcess) as caught:
        _core.look(2**31 - 1, PAGE_SIZE, 1, 0, out)
    assert caught.value.pid == 2**31 - 1
    with pytest.raises(UsageError):
        _core.pagemap(os.getpid(), *one, np.zeros(2, np.uint64))
    with pytest.raises(UsageError):
        _core.look(os.getpid(), PAGE_SIZE + 1, 1, 0, out)
    assert issubclass(AccessDenied, PermissionError)


def test_words_and_table(start: Start) -> None:
    pid = start("pages", 5000, 0, 0)["pid"]
    done = scan(pid)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Merging would save 2")
    assert "in 1 process:" in done.stdout
    assert str(pid) in done.stdout
    assert "\x1b" not in done.stdout, "no colour in a pipe"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ([], 2, "--all"),
        (["1", "--all"], 2, "either"),
        (["999999999"], 1, "no process has the pid 999999999"),
        (["no-such-name"], 1, "ps -e"),
        (["--threads", "0", "1"], 2, "from 1 to 4096"),
        (["--top", "0", "1"], 2, "from 1 to "),
        (["--fit", "1", "--reserve", "900000000T", "1"], 2, "so nothing would fit"),
    ],
)
def test_wrong_words(words: list[str], status: int, text: str) -> None:
    done = scan(*words)
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lay down")
@pytest.mark.parametrize(
    ("dropped", "lacks"),
    [
        ("-sys_ptrace", "CAP_SYS_PTRACE is missing"),
        ("-dac_override,-dac_read_search", "CAP_DAC_READ_SEARCH is missing"),
        (
            "-sys_ptrace,-dac_override,-dac_read_search",
            "CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE are",
        ),
    ],
)
def test_root_is_told_which_capability_it_lacks(dropped: str, lacks: str, start: Start) -> None:
    pid = start("pages", 1, 1, 1, user=NOBODY)["pid"]
    argv = ["setpriv", f"--bounding-set={dropped}", sys.executable, "-m", "pagemerge"]
    done = subprocess.run([*argv, "scan", str(pid)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert lacks in done.stderr


def test_all_of_them(start: Start) -> None:
    pid = start("pages", 1, 1, 1)["pid"]
    result = scan_json("--all", "--sort", "pid")
    pids = [row["pid"] for row in result["processes"]]
    assert pid in pids
    assert pids == sorted(pids)
    assert not any(row["error"] == sources.MEMORYLESS for row in result["processes"])


def test_a_container_is_a_domain_of_its_own(start: Start) -> None:
    """As for the hub: equal pages in another PID namespace are no duplicates."""
    plain = [start("seed", 5, "pages", 0, 50, 2000)["pid"] for _ in range(2)]
    with ExitStack() as stack:
        command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, str(VICTIM)]
        inside = subprocess.Popen(
            [*command, "seed", "5", "pages", "0", "50", "2000"], stdin=-1, stdout=-1
        )
        stack.enter_context(inside)
        stack.callback(inside.kill)
        assert inside.stdout
        if not inside.stdout.readline():
            missing("namespaces", "no PID namespace of its own can be made here")
        (contained,) = Path(f"/proc/{inside.pid}/task/{inside.pid}/children").read_text().split()
        together = scan_json(*plain)
        apart = scan_json(plain[0], contained)
        stack.callback(os.kill, int(contained), 9)
    assert together["totals"]["duplicate_pages_across"] >= 2000
    assert apart["totals"]["duplicate_pages_across"] == 0
    domains = {row["domain"] for row in apart["processes"]}
    assert len(domains) == 2 and any("pid namespace" in it for it in domains)
