"""The figures of a moment, of real processes under both engines, and ``pagemerge status``."""

from __future__ import annotations

import json
import os
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.model import PAGE_SIZE
from pagemerge.watch.collect import KERNEL_DOMAIN, Collector
from pagemerge.watch.model import Moment, Row
from tests.conftest import Spawn
from tests.support import ksm as lab
from tests.support.bystanders import merged
from tests.support.commands import NOBODY, PAGEMERGE
from tests.support.hubs import Hub

PAGES = 1024


def of(moment: Moment, child: Child) -> Row:
    """The row of a process."""
    (found,) = [row for row in moment.rows if row.pid == child.pid]
    return found


def test_clients_of_a_hub_have_rows(hub: Hub, victim: Spawn) -> None:
    both = [victim("member", env=hub.env) for _ in "ab"]
    for member in both:
        member.ask("copy", pages=PAGES, seed=1)
        hub.until(partial(merged, member), "merge it")
    collector = Collector(hub.socket)
    moment = collector.moment()
    assert collector.no_hub == "" and moment.user is not None
    assert moment.user.saved_bytes == PAGES * PAGE_SIZE
    assert moment.user.clients == 2
    for member in both:
        row = of(moment, member)
        assert (row.engine, row.merged_bytes) == ("user", PAGES * PAGE_SIZE)
        assert row.saved_bytes == PAGES * PAGE_SIZE // 2
        maps = Path(f"/proc/{member.pid}/maps").read_bytes().count(b"\n")
        assert row.mappings == pytest.approx(maps, abs=5)
        assert row.why == ""
    both[0].ask("write", first=0, pages=100, seed=9)
    hub.until(lambda: (of(collector.moment(), both[0]).separations or 0) >= 100, "see the writes")


@pytest.mark.requires("kernel")
@pytest.mark.requires("root")
def test_processes_that_ksmd_merges_have_rows(hub_socket: Path, victim: Spawn) -> None:
    with lab.borrowed() as kernel:
        both = [victim("sharer", "merge") for _ in "ab"]
        for one in both:
            one.ask("fill", seed=1, shared=PAGES, own=PAGES)
        collector = Collector()
        idle = of(collector.moment(), both[0])
        assert (idle.engine, idle.domain, idle.merged_bytes) == ("kernel", KERNEL_DOMAIN, 0)
        assert idle.why == "ksmd is stopped"
        kernel.start(**lab.FLAT_OUT, smart_scan=0)
        deadline = time.monotonic() + 60
        while of(moment := collector.moment(), both[0]).merged_bytes < PAGES * PAGE_SIZE:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert moment.kernel is not None
        assert moment.kernel.run == 1 and moment.kernel.governor_pid == os.getpid()
        # ksmd counts all processes; these two are the only ones that share these pages.
        part = of(moment, both[0]).saved_bytes + of(moment, both[1]).saved_bytes
        assert part == pytest.approx(PAGES * PAGE_SIZE, rel=0.1)
        assert moment.user is None and "no hub runs" in collector.no_hub
        said = subprocess.run([*PAGEMERGE, "status"], capture_output=True, text=True, check=True)
        assert "all of it by kernel KSM" in said.stdout
        assert f"driven by process {os.getpid()}" in said.stdout


def test_a_user_sees_its_own(hub: Hub, victim: Spawn) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    hub.socket.parent.chmod(0o711)
    mine = victim("member", env=hub.env)
    other = victim("member", str(NOBODY), env=hub.env)
    for member in (mine, other):
        member.ask("copy", pages=PAGES, seed=1)
    argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *PAGEMERGE]
    told = subprocess.run(
        [*argv, "status", "--json"],
        env={**os.environ, **hub.env},
        capture_output=True,
        text=True,
        check=False,
    )
    rows = {row["pid"]: row for row in json.loads(told.stdout)["rows"]}
    assert other.pid in rows and mine.pid not in rows, told.stderr


def test_it_looks_again_until_it_is_interrupted(hub: Hub) -> None:
    argv = [*PAGEMERGE, "status", "--watch", "0.2", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, **hub.env}) as running:
        assert running.stdout
        seen = b""
        while seen.count(b'"no_hub"') < 3:
            seen += os.read(running.stdout.fileno(), 1 << 16)
        running.send_signal(2)
    times, decoder, text = [], json.JSONDecoder(), seen.decode()
    for _ in range(2):
        one, end = decoder.raw_decode(text.lstrip())
        text = text.lstrip()[end:]
        times.append(one["time"])
    assert 0.2 <= times[1] - times[0] < 2
