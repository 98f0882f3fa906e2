"""The governor on this host's own ksmd: it runs it for what is there, and leaves all as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import msgspec
import numpy as np
import pytest

from pagemerge.demo.dialog import Child, end
from pagemerge.ksmd.attach import attach
from pagemerge.ksmd.borrowing import NOTE, Note
from pagemerge.ksmd.governor import Ended, Step, endings, promise
from pagemerge.ksmd.merged import sharing_pages
from pagemerge.linux.knobs import Knobs
from pagemerge.linux.ksm import Ksm, is_mergeable, locked, process_ksm
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn
from tests.support import ksm as lab
from tests.support.commands import NOBODY, PAGEMERGE
from tests.support.frames import frames_at
from tests.support.hubs import ALONE
from tests.support.terminals import terminal

SHARED = 8192
"""Pages that victims have in common: 32 MiB."""
PATIENCE = 60.0

pytestmark = pytest.mark.requires("kernel")


@pytest.fixture
def ksm() -> Iterator[Ksm]:
    """Kernel KSM for this test alone; put back as it was."""
    with lab.borrowed():
        NOTE.unlink(missing_ok=True)
        yield Ksm()
        NOTE.unlink(missing_ok=True)


class Daemon:
    """A governor that runs, its log and its trace."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder = process, folder

    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text()

    def steps(self) -> list[Step]:
        """What it has decided so far."""
        lines = (self.folder / "trace").read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Step) for line in lines]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until it is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"it has ended: {self.log()}"
            assert time.monotonic() < deadline, f"it did not {what}: {self.log()}"
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Have it end; returns its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def governed(folder: Path, *arguments: str) -> Iterator[Daemon]:
    """``pagemerge daemon --engine kernel``; it has looked at ksmd once."""
    trace = folder / "trace"
    trace.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "pagemerge", "daemon", "--engine", "kernel", "--verbose"]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [*argv, "--trace", str(trace), *arguments], stdout=log, stderr=log, process_group=0
        )
    daemon = Daemon(process, folder)
    try:
        daemon.until(lambda: trace.exists() and bool(trace.read_bytes()), "begin")
        yield daemon
    finally:
        end(process)


def shared_frames(victims: list[Child], first: int = 0, end: int = SHARED) -> float:
    """Share of their common pages that lie in one frame for all of them (proc(5), pagemap)."""
    places = [one.ask("where")["address"] + first * PAGE_SIZE for one in victims]
    pids = [one.pid for one in victims]
    found = np.array(
        [frames_at(pid, place, end - first) for pid, place in zip(pids, places, strict=True)]
    )
    return float(np.mean((found[0] != 0) & (found == found[0]).all(axis=0)))


def test_it_merges_what_is_there_and_rests(ksm: Ksm, victim: Spawn, tmp_path: Path) -> None:
    before = ksm.knobs()
    with governed(tmp_path) as daemon:
        assert ksm.knobs().run == 0, "nothing is there yet"
        victims = [victim("sharer", "merge") for _ in "abc"]
        for one in victims:
            one.ask("fill", seed=1, shared=SHARED, own=SHARED // 4)
        daemon.until(lambda: shared_frames(victims) > 0.95, "merge it")
        # It has ksmd stand when it seems done, and looks then.
        daemon.until(lambda: "as promised" in daemon.log(), "say what it saved")
        assert ksm.knobs().run == 0
        assert shared_frames(victims) > 0.95, "what is merged stays so"
        for one in victims:
            assert one.ask("check") == {"right": True}

        for one in victims:  # the same again: other bytes, and equal ones
            one.ask("rewrite", seed=2, first=0, pages=SHARED)
        assert shared_frames(victims) < 0.05
        daemon.until(lambda: shared_frames(victims) > 0.95, "merge it again")
        daemon.until(lambda: ksm.knobs().run == 0, "have ksmd stand again")
        assert daemon.stop() == 0
    assert ksm.knobs() == before
    assert shared_frames(victims) > 0.95
    for one in victims:
        assert one.ask("check") == {"right": True}
    steps = daemon.steps()
    assert steps[-1].snapshot.spent_seconds - steps[0].snapshot.spent_seconds < 20


def test_unique_memory_is_not_scanned(ksm: Ksm, victim: Spawn, tmp_path: Path) -> None:
    """The finder sees in a moment what ksmd would need two scans for."""
    scanned = ksm.counters().pages_scanned
    with governed(tmp_path) as daemon:
        victims = [victim("sharer", "merge") for _ in "ab"]
        for one in victims:
            one.ask("fill", seed=1, shared=0, own=SHARED)
        both = 2 * SHARED * PAGE_SIZE
        daemon.until(
            lambda: any(
                step.snapshot.promised_bytes is not None and step.snapshot.resident_bytes > both
                for step in daemon.steps()
            ),
            "look at it",
        )
        assert daemon.stop() == 0
    for declined in ("no process has mergeable memory", "not worth it"):
        assert daemon.log().count(declined) == 1, "it says why it does nothing, and once"
    assert not [step for step in daemon.steps() if step.decision.knobs.run]
    assert ksm.counters().pages_scanned == scanned


@pytest.mark.requires("root")
def test_the_promise_counts_what_users_have_in_common(victim: Spawn) -> None:
    """Where several are marked, ksmd merges them together: that is what a scan would bring."""
    words = ("merge", "seed", "7", "pages", "0", "0", str(SHARED))
    pids = [victim("pages", *words).pid, victim("pages", "user", str(NOBODY), *words).pid]
    alone = sum(promise([pid]) for pid in pids)
    assert promise(pids) - alone > 0.99 * SHARED * PAGE_SIZE


def test_only_what_is_marked_is_promised(victim: Spawn) -> None:
    """As in QEMU, which marks its guest's memory and not its own."""
    both = [victim("sharer", "plain") for _ in "ab"]
    pids = [one.pid for one in both]
    for one in both:
        one.ask("fill", seed=1, shared=SHARED, own=0)
    assert promise(pids) == 0
    for one in both:
        start = one.ask("where")["address"]
        half = [(start, start + SHARED // 2 * PAGE_SIZE)]
        attach(one.pid, "sharer", half.copy, "madvise")
    assert promise(pids) == SHARED // 2 * PAGE_SIZE


def test_it_goes_on_while_static_duplicates_are_left(
    ksm: Ksm, victim: Spawn, tmp_path: Path
) -> None:
    """Memory that is merged, freed and merged again counts once, and the rest is merged, too."""
    with governed(tmp_path) as daemon:
        victims = [victim("sharer", "merge") for _ in "abc"]
        for one in victims:
            one.ask("fill", seed=1, shared=3 * SHARED, own=0)
        daemon.until(lambda: ksm.knobs().run == 1, "have ksmd run")
        seed, rewritten = 2, SHARED // 2
        while (ksm.counters().pages_sharing or 0) < 2 * SHARED:
            for one in victims:  # equal again, and soon other
                one.ask("rewrite", seed=seed, first=0, pages=rewritten)
            seed += 1
            assert daemon.process.poll() is None
        daemon.until(lambda: shared_frames(victims, rewritten, 3 * SHARED) > 0.95, "merge the rest")
        daemon.until(lambda: "merged now" in daemon.log().splitlines()[-1], "end")
        live = sharing_pages([one.pid for one in victims])
        told = [step.snapshot for step in daemon.steps() if step.snapshot.merged_bytes is not None]
        assert daemon.stop() == 0
    assert live is not None
    assert told[-1].merged_bytes == pytest.approx(live * PAGE_SIZE, rel=0.03)


def test_a_dry_run_writes_nothing(ksm: Ksm, victim: Spawn, tmp_path: Path) -> None:
    before = ksm.knobs()
    victims = [victim("sharer", "merge") for _ in "ab"]
    for one in victims:
        one.ask("fill", seed=1, shared=SHARED, own=0)
    with governed(tmp_path, "--dry-run") as daemon:
        daemon.until(lambda: "to save in about" in daemon.log(), "see what there is")
        assert ksm.knobs() == before
        assert daemon.stop() == 0
    assert ksm.knobs() == before


def test_the_next_one_puts_back_what_a_killed_one_found(
    ksm: Ksm, victim: Spawn, tmp_path: Path
) -> None:
    ksm.write(pages_to_scan=123, sleep_millisecs=45)
    before = ksm.knobs()
    victims = [victim("sharer", "merge") for _ in "ab"]
    for one in victims:
        one.ask("fill", seed=1, shared=SHARED, own=0)
    with governed(tmp_path) as daemon:
        daemon.until(lambda: ksm.knobs().run == 1, "have ksmd run")
        daemon.stop(signal.SIGKILL)
    assert ksm.knobs() != before
    assert msgspec.json.decode(NOTE.read_bytes(), type=Note).before == before
    with governed(tmp_path) as daemon:
        assert daemon.stop() == 0
    assert "was killed" in daemon.log()
    assert ksm.knobs() == before
    assert not NOTE.exists()


def test_a_closed_terminal_ends_it_and_the_knobs_come_back(ksm: Ksm, victim: Spawn) -> None:
    before = ksm.knobs()
    victims = [victim("sharer", "merge") for _ in "ab"]
    for one in victims:
        one.ask("fill", seed=1, shared=SHARED, own=0)
    with terminal([*PAGEMERGE, "daemon", "--engine", "kernel"]) as opened:
        deadline = time.monotonic() + PATIENCE
        while ksm.knobs().run != 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        opened.close()
        opened.process.wait(PATIENCE)
    assert ksm.knobs() == before
    assert not NOTE.exists()


def test_it_ends_by_itself_upon_every_signal_that_would_end_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        heard = endings()
        wanted = "HUP INT QUIT TERM USR1 USR2 VTALRM PROF XCPU IO PWR RTMIN RTMAX"
        assert {int(getattr(signal, f"SIG{name}")) for name in wanted.split()} <= heard
        assert not {signal.SIGKILL, signal.SIGSEGV, signal.SIGCHLD, signal.SIGTSTP} & heard
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert signal.SIGHUP not in endings(), "nohup means it"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_look_ends_when_it_is_told_to(victim: Spawn) -> None:
    one, ended = victim("sharer", "merge"), Event()
    ended.set()
    with pytest.raises(Ended):
        promise([one.pid], ended)


def test_a_note_that_has_been_overtaken_is_let_be(ksm: Ksm, tmp_path: Path) -> None:
    """An admin has set the pace since a governor was killed: that is how it is left."""
    NOTE.parent.mkdir(exist_ok=True)
    written = Note(Knobs(pages_to_scan=123), {"pages_to_scan": [5000]})
    NOTE.write_bytes(msgspec.json.encode(written))
    before = ksm.knobs()
    with governed(tmp_path) as daemon:
        assert daemon.stop() == 0
    assert ksm.knobs() == before
    assert not NOTE.exists()


def test_rules_opt_processes_in_and_out(ksm: Ksm, victim: Spawn, tmp_path: Path) -> None:
    """All of one, what is duplicated of another, nothing of a third; as they appear."""
    config = tmp_path / "pagemerge.toml"
    config.write_text(
        "[kernel]\nacross_users = true\n"
        '[[rule]]\ncommand = "*sharer.py plain whole"\nopt = "in"\n'
        '[[rule]]\ncommand = "*sharer.py plain part"\nopt = "in"\nselect = true\n'
        '[[rule]]\ncommand = "*sharer.py * out"\nopt = "out"\n' + ALONE
    )
    out = victim("sharer", "merge", "out")
    with governed(tmp_path, "--config", str(config)) as daemon:
        whole, part = victim("sharer", "plain", "whole"), victim("sharer", "plain", "part")
        for one in (whole, part, out):
            one.ask("fill", seed=1, shared=SHARED, own=SHARED)
        daemon.until(lambda: not is_mergeable(out.pid), "opt it out")
        daemon.until(lambda: process_ksm(whole.pid).merge_any is True, "opt it in")
        daemon.until(lambda: is_mergeable(part.pid), "mark a part of it")
        assert process_ksm(part.pid).merge_any is False
        daemon.until(lambda: shared_frames([whole, part]) > 0.95, "merge them")
        assert shared_frames([whole, out]) == 0
        assert daemon.stop() == 0
    for one in (whole, part, out):
        assert one.ask("check") == {"right": True}


def test_only_one_drives_ksmd(ksm: Ksm, tmp_path: Path) -> None:
    """Whoever holds the lock, unless it is who starts the governor."""
    with governed(tmp_path):
        # Not a child of ours, for whom we would hold the lock.
        command = f"{sys.executable} -m pagemerge daemon --engine kernel; exit $?"
        other = subprocess.run(
            ["/bin/sh", "-c", command], capture_output=True, text=True, check=False
        )
    assert other.returncode == 1
    assert f"process {os.getpid()} drives kernel KSM already" in other.stderr
    with pytest.raises(Exception, match="drives kernel KSM already"), locked(ksm.root):
        pass


@pytest.mark.parametrize("arguments", [["--until-idle"], ["--socket", "/tmp/hub"]])
def test_what_belongs_to_a_hub_is_refused(arguments: list[str]) -> None:
    argv = [sys.executable, "-m", "pagemerge", "daemon", "--engine", "kernel", *arguments]
    found = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert f"{arguments[0]} means nothing with --engine kernel" in found.stderr
