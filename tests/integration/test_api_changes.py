"""Changes by the API, on real processes and the real kernel KSM."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagemerge.errors import NoSuchProcess, ServiceError, UsageError
from pagemerge.linux.ksm import ROOT, Ksm, ksm_bytes, locked, process_ksm
from pagemerge.watch.ask import Service
from tests.conftest import Spawn
from tests.support import ksm
from tests.support.api import Api, send
from tests.support.commands import NOBODY

pytestmark = pytest.mark.requires("kernel")
PAGES = 2000


@pytest.fixture
def api() -> Iterator[Api]:
    with (
        tempfile.TemporaryDirectory(prefix="pagemerge-test-") as made,
        Api(Path(made) / "api.sock") as running,
    ):
        yield running
        running.assert_sound()


def attach(service: Service, *pids: int, **options: Any) -> list[dict[str, Any]]:
    words = [str(pid) for pid in pids]
    found = service.call("Attach", 60, processes=words, across_users=True, **options)
    rows: list[dict[str, Any]] = found["processes"]
    return rows


def until(done: Any, what: str) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_process_is_attached_merged_shown_and_detached(api: Api, victim: Spawn) -> None:
    child = victim("mergeable")
    child.ask("fill", pages=PAGES, kinds=3)
    with ksm.borrowed() as kernel, Service(api.path) as service:
        (planned,) = attach(service, child.pid, dry_run=True)
        assert planned["outcome"] is None and planned["eligible_bytes"] >= PAGES * 4096
        assert not process_ksm(child.pid).mergeable

        (row,) = attach(service, child.pid)
        assert (row["pid"], row["error"], row["outcome"]["how"]) == (child.pid, None, "prctl")
        assert process_ksm(child.pid).mergeable
        (again,) = attach(service, child.pid, dry_run=True)
        assert again["remark"] == "is so already"
        kernel.start(**ksm.FLAT_OUT)
        until(lambda: (ksm_bytes(child.pid) or 0) >= PAGES * 4096 // 2, "nothing is merged")

        (shown,) = [it for it in service.rows("Clients") if it.pid == child.pid]
        assert (shown.engine, shown.uid) == ("kernel", os.getuid())
        assert shown.merged_bytes > 0
        assert (moment := service.status()).kernel and moment.kernel.run == 1

        words = [str(child.pid)]
        (planned,) = service.call("Detach", 60, processes=words, dry_run=True)["processes"]
        assert planned["merged_bytes"] >= PAGES * 4096 // 2
        (row,) = service.call("Detach", 60, processes=words)["processes"]
        assert row["outcome"]["separated_bytes"] >= PAGES * 4096 // 2
        assert not process_ksm(child.pid).mergeable
        assert ksm_bytes(child.pid) == 0
        until(
            lambda: child.pid not in {it.pid for it in service.rows("Clients")},
            "it is still shown",
        )
        assert child.ask("check") == {"wrong": 0}


def test_select_marks_ranges_that_hold_duplicates(api: Api, victim: Spawn) -> None:
    child = victim("mergeable")
    base = child.ask("fill", pages=PAGES, kinds=3)["base"]
    assert base
    with ksm.borrowed(), Service(api.path) as service:
        (row,) = attach(service, child.pid, select=True)
        assert row["outcome"]["how"] == "madvise" and row["outcome"]["ranges"] >= 1
        assert child.ask("check") == {"wrong": 0}


@pytest.mark.requires("root")
def test_users_are_kept_apart_unless_asked(api: Api, victim: Spawn) -> None:
    mine = victim("pages", "seed", "1", "pages", "0", "0", "100")
    theirs = subprocess.Popen(
        ["sleep", "600"], user=NOBODY, group=NOBODY, extra_groups=[], stdout=subprocess.DEVNULL
    )
    try:
        with Service(api.path) as service:
            words = [str(mine.pid), str(theirs.pid)]
            with pytest.raises(UsageError, match="kernel KSM is one trust domain"):
                service.call("Attach", processes=words)
            assert not process_ksm(mine.pid).mergeable
            assert not process_ksm(theirs.pid).mergeable
    finally:
        theirs.kill()
        theirs.wait()


def test_what_cannot_be_attached_is_an_error_of_its_row(api: Api) -> None:
    with Service(api.path) as service:
        (row,) = attach(service, os.getppid() if os.getppid() == 1 else 2)
        assert row["error"] and row["outcome"] is None
        with pytest.raises(NoSuchProcess):
            attach(service, 2**30)


def test_a_change_goes_on_when_its_caller_goes(api: Api, victim: Spawn) -> None:
    child = victim("pages", "seed", "1", "pages", "0", "0", str(PAGES))
    with ksm.borrowed(), api.connect() as peer:
        send(peer, "Attach", processes=[str(child.pid)], across_users=True)
        peer.close()
        until(lambda: process_ksm(child.pid).mergeable, "it was not attached")


def test_pause_and_resume_are_ksmd_s_knob(api: Api) -> None:
    run, kernel = ROOT / "run", Ksm()
    if driver := kernel.driver():
        pytest.skip(f"ksmd: process {driver} drives it")
    saved = kernel.knobs()
    try:
        kernel.write(run=1)
        before = kernel.knobs()
        with Service(api.path) as service:
            assert service.call("Pause") == {"changed": True}
            assert run.read_text().strip() == "0"
            assert service.call("Pause") == {"changed": False}
            assert service.call("Resume") == {"changed": True}
            assert run.read_text().strip() == "1"
            assert service.call("Resume") == {"changed": False}
        assert kernel.knobs() == before
    finally:
        kernel.put_back(saved)


def test_pause_refuses_while_another_program_drives_ksmd(api: Api) -> None:
    script = (
        "import sys\nfrom pagemerge.linux.ksm import ROOT, locked\n"
        "with locked(ROOT):\n    print('ready', flush=True)\n    sys.stdin.read()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as driver:
        assert driver.stdin and driver.stdout
        if driver.stdout.readline() != b"ready\n":
            pytest.skip("ksmd: another program of this host drives it already")
        before = (ROOT / "run").read_bytes()
        with (
            Service(api.path) as service,
            pytest.raises(ServiceError, match=f"process {driver.pid} drives ksmd, and would undo"),
        ):
            service.call("Pause")
        assert (ROOT / "run").read_bytes() == before
        driver.stdin.close()
    with locked(ROOT):
        pass
