"""The API of the service, called by varlink's own client, by ours, and by bare sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import varlink

from pagemerge.errors import NoSuchProcess, ServiceError, UsageError
from pagemerge.linux import process as linux
from pagemerge.service.api.calls import METHODS, OURS
from pagemerge.service.api.interface import description
from pagemerge.watch import ask
from pagemerge.watch.ask import Service
from pagemerge.watch.model import Decision
from tests.conftest import Spawn
from tests.support.api import Api, children, receive, recorded, send, until_last
from tests.support.commands import NOBODY, command


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where other users can reach a socket, whose path must be short."""
    with tempfile.TemporaryDirectory(prefix="pagemerge-test-") as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.fixture
def api(folder: Path) -> Iterator[Api]:
    with Api(folder / "api.sock", moment=recorded(), history=7) as running:
        yield running
        running.assert_sound()


@pytest.fixture
def theirs(api: Api) -> Iterator[Any]:
    """Our interface as varlink's own client offers it, which checks types on its side."""
    client = varlink.Client.new_with_address(f"unix:{api.path}")
    with client, client.open(OURS) as opened:
        yield opened


def test_it_says_what_it_is(api: Api) -> None:
    client = varlink.Client.new_with_address(f"unix:{api.path}")
    with client, client.open("org.varlink.service") as service:
        info = service.GetInfo()
        assert (info["vendor"], info["product"]) == ("pagemerge", "pagemerge")
        assert info["interfaces"] == list(METHODS)
        told = service.GetInterfaceDescription(OURS)["description"]
        assert told == description(OURS)
        with pytest.raises(varlink.InterfaceNotFound):
            service.GetInterfaceDescription("org.example.nothing")


def test_varlink_s_client_gets_every_figure(theirs: Any) -> None:
    moment = theirs.Status()["moment"]
    assert moment["host"]["total_bytes"] == 1 << 30
    assert moment["user"]["merges"] == 300
    assert "kernel" not in moment  # this client leaves out what is null
    assert [it["pid"] for it in moment["rows"]] == [10, 11, 12, 13]
    assert [it["pid"] for it in theirs.Clients("kernel")["rows"]] == [10, 12]
    assert [it["pid"] for it in theirs.Clients(engine="user")["rows"]] == [11, 13]
    assert [it["guest"] for it in theirs.Guests()["rows"]] == ["database", "web"]
    assert theirs.Decisions()["decisions"][0]["knobs"] == {"run": "1"}


def test_varlink_s_client_follows_streams(theirs: Any) -> None:
    told = list(theirs.Subscribe(interval_seconds=0.5, count=3, _more=True))
    assert [it["moment"]["user"]["merges"] for it in told] == [300] * 3
    assert [len(it["moment"]["decisions"]) for it in told] == [2, 2, 2]  # a new one at each reading
    past = list(theirs.History(most=4, _more=True))
    assert [len(it["moment"]["rows"]) for it in past] == [4] * 4


def test_varlink_s_client_gets_our_errors(theirs: Any) -> None:
    with pytest.raises(varlink.VarlinkError) as caught:
        theirs.Scan(processes=["999999999"])
    assert caught.value.error() == "org.pagemerge.NoSuchProcess"
    assert "no process has the pid 999999999" in caught.value.parameters()["message"]
    with pytest.raises(varlink.VarlinkError) as caught:
        theirs.Subscribe()
    assert caught.value.error() == "org.varlink.service.ExpectedMore"
    assert theirs.Guests()["rows"]  # the connection goes on


def test_our_client_gets_moments(api: Api) -> None:
    with Service(api.path) as service:
        moment = service.status()
        assert moment.rows[2:3] == recorded().rows[2:3]
        assert moment.user == recorded().user
        assert moment.decisions[0] == Decision(1.0, "begin", {"run": 1})
        assert service.decisions()[1].knobs == {"advisor_mode": "none"}
        assert len(list(service.history(60.0))) == 7
        assert [it.pid for it in service.rows("Clients", engine="user")] == [11, 13]
        assert len(list(service.subscribe(0.5, 2))) == 2
        assert service.status().user == moment.user
    for _ in service.__class__(api.path).subscribe(0.5):
        break  # a caller that stops early


def test_our_client_says_what_is_wrong(api: Api, folder: Path) -> None:
    with Service(api.path) as service:
        with pytest.raises(UsageError, match=r"0\.5"):
            list(service.subscribe(0.01))
        with pytest.raises(UsageError, match="unknown field `pid`"):
            service.call("Attach", pid=1)
        with pytest.raises(NoSuchProcess, match="no process is named"):
            service.call("Scan", 100, processes=["no such program"])
        with pytest.raises(UsageError, match="name processes by pid or name, or give --all"):
            service.call("Scan", 100)
    with pytest.raises(ServiceError, match=r"no service runs at .*nothing: start one"):
        Service(folder / "nothing")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "silent"))
        listener.listen()
        with Service(folder / "silent", timeout=0.3) as silent:
            with pytest.raises(ServiceError, match="gives no answer: it takes too long"):
                silent.status()
            with pytest.raises(ServiceError, match="the connection to it is closed already"):
                silent.status()
        listener.accept()[0].close()
        with Service(folder / "silent") as strange:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 400\r\n\0")
                with pytest.raises(ServiceError, match="is no pagemerge service"):
                    strange.status()


def test_where_a_service_listens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        assert ask.places() == [Path("/run/pagemerge/api.sock")]
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid or 1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    own = Path(f"/tmp/pagemerge-{os.geteuid()}/api.sock")
    assert ask.places() == [own, Path("/run/pagemerge/api.sock")]
    monkeypatch.setenv("PAGEMERGE_SOCKET", "/a/hub")
    assert ask.places() == [Path("/a/api.sock")]


def test_calls_are_answered_in_order_and_oneway_calls_not_at_all(api: Api) -> None:
    with api.connect() as peer:
        for _ in range(40):  # more than may wait
            send(peer, "Guests", oneway=True)
            send(peer, "org.varlink.service.GetInfo")
            send(peer, "Clients")
            send(peer, "Nothing", oneway=True)
        for _ in range(40):
            assert "vendor" in receive(peer)["parameters"]
            assert "rows" in receive(peer)["parameters"]


def test_a_caller_that_has_said_all_still_gets_its_replies(api: Api) -> None:
    with api.connect() as peer:
        send(peer, "Subscribe", more=True, interval_seconds=0.5, count=2)
        send(peer, "Guests")
        peer.shutdown(socket.SHUT_WR)
        assert len(until_last(peer)) == 2
        assert receive(peer)["parameters"]["rows"]
        assert receive(peer) is None


def test_no_history_is_an_error_that_says_so(folder: Path) -> None:
    with Api(folder / "other.sock", moment=recorded()) as api:
        (reply,) = api.ask("History", more=True)
        assert reply["error"] == "org.pagemerge.NoHistory"
        assert "keeps no history" in reply["parameters"]["message"]


def test_an_empty_history_is_one_reply(folder: Path) -> None:
    with Api(folder / "other.sock", moment=recorded(), history=0) as api:
        assert api.ask("History", more=True) == [{"parameters": {"moment": None}}]


def test_a_second_service_refuses_and_the_next_one_takes_the_place(folder: Path) -> None:
    path = folder / "own" / "api.sock"
    with Api(path, moment=recorded()) as api:
        assert path.parent.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
        assert path.stat().st_mode & 0o777 == (0o666 if os.geteuid() == 0 else 0o600)
        argv = [sys.executable, "-m", "tests.support.api", str(path)]
        second = subprocess.run(
            argv, input="{}", capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 1
        assert f"a service is running at {path} already" in second.stderr
        assert api.ask("Guests")
    assert not path.exists()
    with Api(path, moment=recorded()) as api:
        api.process.send_signal(signal.SIGKILL)
        api.process.wait()
    assert path.exists()
    with Api(path, moment=recorded()) as api:
        assert api.ask("Guests")


def test_a_scan_tells_its_progress_and_what_scan_says(victim: Spawn, folder: Path) -> None:
    child = victim("pages", "seed", "1", "pages", "0", "0", "3000")
    with Api(folder / "api.sock") as api:
        replies = api.ask("Scan", more=True, processes=[str(child.pid)], what=True)
        (last,) = api.ask("Scan", processes=[str(child.pid)], what=True)
    assert all(it["parameters"]["result"] is None for it in replies[:-1])
    result = replies[-1]["parameters"]["result"]
    printed = json.loads(command("scan", "--json", "--what", str(child.pid)).stdout)
    for varying in ("seconds", "bytes_per_second"):
        del result[varying], printed[varying], last["parameters"]["result"][varying]
    assert result == last["parameters"]["result"] == printed
    assert printed["totals"]["pages"] >= 3000


def test_a_scan_ends_with_its_caller(folder: Path) -> None:
    with Api(folder / "api.sock", moment=recorded()) as api:
        with api.connect() as peer:
            send(peer, "Scan", more=True, all=True, watch_seconds=600)
            assert receive(peer)["continues"]
            assert _scanners(api)
            assert api.ask("Guests")  # the loop is free
        deadline = time.monotonic() + 30
        while _scanners(api):
            assert time.monotonic() < deadline, api.log()
            time.sleep(0.05)
        api.assert_sound()


def test_no_more_than_two_scans_run(folder: Path) -> None:
    with Api(folder / "api.sock", moment=recorded()) as api:
        peers = [api.connect() for _ in range(2)]
        for peer in peers:
            send(peer, "Scan", more=True, all=True, watch_seconds=600)
            receive(peer)
        (refused,) = api.ask("Scan", all=True)
        assert refused["error"] == "org.pagemerge.Busy"
        assert "2 scans go on already" in refused["parameters"]["message"]
        for peer in peers:
            peer.close()


def _scanners(api: Api) -> list[int]:
    """The processes that scan for a service."""
    found = []
    for pid in children(api.process.pid):
        with suppress(NoSuchProcess):
            if any("cli.scanner" in word for word in linux.arguments(pid)):
                found.append(pid)
    return found


def test_a_service_of_another_user_in_our_place_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Who comes first may make the directory in /tmp that we would use."""
    if os.geteuid() != 0:
        pytest.skip("root only: it becomes another user")
    folder.chmod(0o777)
    code = (
        "import os, socket, sys\n"
        f"os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
        "peer = socket.socket(socket.AF_UNIX); peer.bind(sys.argv[1]); peer.listen()\n"
        "print(flush=True); sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", code, str(folder / "api.sock")]
    monkeypatch.setenv("PAGEMERGE_SOCKET", str(folder / "hub"))
    with subprocess.Popen(argv, stdin=-1, stdout=-1) as other:
        assert other.stdin and other.stdout and other.stdout.readline()
        with pytest.raises(ServiceError, match="no service runs at"):
            Service()
        other.stdin.close()
