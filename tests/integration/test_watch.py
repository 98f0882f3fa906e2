"""The daemon shows what it does: its API, its history and its metrics, beside engines that die."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge.errors import NoSuchProcess, PagemergeError
from pagemerge.linux import process
from pagemerge.linux.ksm import Ksm
from pagemerge.watch.ask import Service as Api
from pagemerge.watch.history import History
from pagemerge.watch.top.source import Live
from tests.conftest import Spawn
from tests.support.commands import command
from tests.support.hubs import FAST, PATIENCE
from tests.support.services import BOTH, Service, odd_knobs

SHARED = 4096
KILLS = 5

pytestmark = pytest.mark.requires("kernel", "root")


@pytest.fixture(autouse=True)
def knobs() -> Iterator[None]:
    """The knobs of ksmd are put back when the test has ended."""
    with odd_knobs():
        yield


def recorded(service: Service) -> list[float]:
    """The times of the moments in the history."""
    with History(service.history, read_only=True) as history:
        return [when for when, _ in history.series()]


def test_both_engines_are_shown_paused_and_remembered(
    hub_socket: Path, victim: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGEMERGE_SOCKET", str(hub_socket))
    with Service(hub_socket, BOTH) as service:
        monkeypatch.setenv("PAGEMERGE_HISTORY", str(service.history))
        for member in (victim("member", env=service.env) for _ in "ab"):
            member.ask("copy", pages=1024, seed=1)
        sharers = [victim("sharer", "merge") for _ in "ab"]
        for sharer in sharers:
            sharer.ask("fill", seed=2, shared=SHARED, own=0)
        service.until(lambda: Ksm().counters().pages_sharing, "merge by ksmd")
        with Api() as api:
            moment = api.status()
            engines = {row.pid: row.engine for row in moment.rows}
            assert engines[member.pid] == "user"
            assert {engines[it.pid] for it in sharers} == {"kernel"}
            assert moment.user and moment.user.pages_sharing == 1024
            assert moment.kernel and moment.kernel.governor_pid == service.engine("governor")

            def has_started() -> bool:
                return any(it.knobs.get("run") == 1 for it in api.decisions())

            service.until(has_started, "tell that it has started ksmd")

            assert api.call("Pause") == {"changed": True}
            assert Ksm().knobs().run == 0
            assert api.call("Pause") == {"changed": False}
            victim("sharer", "merge").ask("fill", seed=2, shared=SHARED, own=0)
            for _ in range(40):
                time.sleep(0.05)
                assert Ksm().knobs().run == 0, "there is work, and it is paused"
            assert api.call("Resume") == {"changed": True}
            assert api.call("Resume") == {"changed": False}
            service.until(lambda: Ksm().knobs().run == 1, "have ksmd run")
            assert "somebody has paused merging" in [it.reason for it in api.decisions()]

        with Live() as source:
            first, second = source(), source()
            assert first.decisions and not second.decisions, "each decision is told once"
            assert source.past(), "a moment was recorded at the start"
        shown = command("top", "--once", "--every", "0.2")
        assert str(member.pid) in shown.stdout
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
    assert recorded(service)
    done = command("history", "--file", str(service.history), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["moments"]
    assert not hub_socket.with_name("api.sock").exists()


def test_a_watch_that_is_killed_disturbs_no_engine(hub_socket: Path, victim: Spawn) -> None:
    """At random moments, while it is asked: the history stays whole, and the API comes back."""
    chance = random.Random(4)
    with Service(hub_socket, BOTH) as service:
        member = victim("member", env=service.env)
        member.ask("copy", pages=1024, seed=1)
        hub, governor = service.engine("hub"), service.engine("governor")
        place = hub_socket.with_name("api.sock")

        def answers() -> bool:
            try:
                with Api(place, timeout=PATIENCE) as api:
                    return bool(api.status().rows)
            except PagemergeError:
                return False

        for _ in range(KILLS):
            service.until(answers, "answer")
            time.sleep(chance.uniform(0.5, 0.8))  # it starts again at once
            service.kill("watch")
        service.until(answers, "answer")
        assert (service.engine("hub"), service.engine("governor")) == (hub, governor)
        assert member.ask("check") == {"wrong": 0}
        assert len(recorded(service)) > KILLS


@pytest.mark.parametrize("engine", ["user", "kernel"])
def test_one_engine_is_watched_too(hub_socket: Path, engine: str) -> None:
    pytest.importorskip("prometheus_client")
    metrics = hub_socket.with_name("metrics")
    text = f'[service]\nengines = ["{engine}"]\nmetrics = "{metrics}"\n{FAST}'
    with Service(hub_socket, text) as service, Api(hub_socket.with_name("api.sock")) as api:
        moment = api.status()
        assert (moment.user is not None) == (engine == "user")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE)
            peer.connect(str(metrics))
            peer.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            answer = b""
            while part := peer.recv(1 << 16):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"\npagemerge_saved_bytes" in answer
        assert any(b"the watch records in" in it for it in service.told)
    assert not metrics.exists()


def test_what_is_not_wanted_does_not_run(hub_socket: Path) -> None:
    off = '[service]\nengines = ["user", "kernel"]\napi = false\nhistory = false\n'
    with Service(hub_socket, off) as service:
        assert not service.engine("watch")
        assert not hub_socket.with_name("api.sock").exists()
        assert not service.history.exists()


def test_a_history_that_cannot_be_written_stops_nothing(hub_socket: Path) -> None:
    with Service(hub_socket, BOTH) as service:
        pass
    service.history.write_text("no database, but a file that somebody needs")
    with Service(hub_socket, BOTH) as again:
        assert "no history is recorded" in again.log()
        with Api(hub_socket.with_name("api.sock")) as api:
            assert api.status().user
    assert service.history.read_text().startswith("no database")


def test_metrics_at_a_place_for_everybody_are_refused(hub_socket: Path) -> None:
    file = Path(f"{hub_socket}.toml")
    file.write_text('[service]\nmetrics = "0.0.0.0:9838"\n')
    done = command("daemon", "--config", str(file), "--socket", str(hub_socket))
    assert done.returncode == 2
    assert f"{file}:1: service: metrics:" in done.stderr
    assert "is no loopback address" in done.stderr


def test_a_scan_ends_with_the_watch(hub_socket: Path) -> None:
    with Service(hub_socket, BOTH) as service, Api(hub_socket.with_name("api.sock")) as api:
        asked = api.stream("Scan", processes=[str(service.process.pid)], watch_seconds=600.0)
        next(asked)
        watch, scanners = service.engine("watch"), []
        for pid in process.pids():
            with contextlib.suppress(NoSuchProcess):  # it has ended meanwhile
                found = process.stat(pid)
                if found.parent == watch and found.name.startswith("python"):
                    scanners.append(pid)
        (scanner,) = scanners
        handle = os.pidfd_open(scanner)
        service.kill("watch")
        assert select.select([handle], [], [], PATIENCE)[0], "it goes on without its service"
        os.close(handle)


def test_a_port_that_is_taken_stops_nothing_else(hub_socket: Path) -> None:
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f'[service]\nmetrics = "127.0.0.1:{port}"\n{FAST}'
        with Service(hub_socket, text) as service, Api(hub_socket.with_name("api.sock")) as api:
            assert "no metrics are served: cannot listen at 127.0.0.1" in service.log()
            assert api.status().user
            assert recorded(service)
