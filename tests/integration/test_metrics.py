"""``pagemerge metrics``: printed, in a file, and served to clients of any kind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from pagemerge.demo.dialog import end
from pagemerge.model import PAGE_SIZE
from pagemerge.watch.endpoint import MOST_CONNECTIONS, PATIENCE
from tests.conftest import Spawn
from tests.support.bystanders import merged
from tests.support.commands import PAGEMERGE, command
from tests.support.hubs import Hub
from tests.unit.watch.test_metrics import values

PAGES = 1024
# The figures of a host are read slowly while a process of it is slow to end.
pytestmark = pytest.mark.timeout(400)


@contextmanager
def served(address: str, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """``pagemerge metrics --listen``; yields the process, and where it says that it listens."""
    argv = [*PAGEMERGE, "metrics", "--listen", address]
    running = subprocess.Popen(argv, stderr=subprocess.PIPE, env={**os.environ, **env})
    try:
        assert running.stderr
        told = running.stderr.readline().decode()
        found = re.fullmatch(r"pagemerge metrics: serves (\S+)\n", told)
        assert found, told + running.stderr.read().decode()
        yield running, found[1]
    finally:
        running.terminate()
        end(running)
        if running.stderr:
            running.stderr.close()


def fetched(url: str, timeout: float = 40.0) -> str:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())


def talk(place: tuple[str, int] | str, request: bytes) -> bytes:
    """Send bytes, and read until the other side closes."""
    family = socket.AF_UNIX if isinstance(place, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as peer:
        peer.settimeout(40)
        peer.connect(place)
        peer.sendall(request)
        data = b""
        while piece := peer.recv(1 << 16):
            data += piece
        return data


def place_of(url: str) -> tuple[str, int]:
    found = re.fullmatch(r"http://([\d.]+):(\d+)/metrics", url)
    assert found
    return found[1], int(found[2])


def test_it_is_printed(hub: Hub, victim: Spawn) -> None:
    both = [victim("member", env=hub.env) for _ in "ab"]
    for member in both:
        member.ask("copy", pages=PAGES, seed=1)
        hub.until(partial(merged, member), "merge it")
    done = command("metrics", PAGEMERGE_SOCKET=str(hub.socket))
    assert (done.returncode, done.stderr) == (0, "")
    found = values(done.stdout.encode())
    assert found["engine_up{engine=user}"] == 1
    assert found["saved_bytes{engine=user}"] == PAGES * PAGE_SIZE


def test_only_its_path_and_method_are_served(hub_socket: Path) -> None:
    with served("127.0.0.1:0") as (running, url):
        assert "pagemerge_engine_up" in fetched(url)
        here = place_of(url)
        assert b"pagemerge_engine_up" in talk(here, b"GET /metrics?a=b HTTP/1.0\r\n\r\n")
        for request, status in {
            b"GET / HTTP/1.1\r\n\r\n": b"404",
            b"GET /metrics/.. HTTP/1.1\r\n\r\n": b"404",
            b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello": b"405",
            b"HEAD /metrics HTTP/1.1\r\n\r\n": b"405",
            b"\x16\x03\x01\r\n\r\n": b"400",
            b"GET /metrics\r\n\r\n": b"400",
        }.items():
            assert talk(here, request).startswith(b"HTTP/1.1 " + status), request
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 0


def test_slow_clients_block_no_other(hub_socket: Path) -> None:
    with served("127.0.0.1:0") as (running, url), ExitStack() as stack:
        here = place_of(url)
        fetched(url)
        slow = []
        for number in range(3 * MOST_CONNECTIONS):
            peer = stack.enter_context(socket.create_connection(here, timeout=40))
            if number % 2:
                peer.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            slow.append(peer)
            if number % 16 == 0:
                assert "pagemerge_engine_up" in fetched(url)
        assert "pagemerge_engine_up" in fetched(url)
        assert len(os.listdir(f"/proc/{running.pid}/fd")) < MOST_CONNECTIONS + 40  # noqa: PTH208
        start = time.monotonic()
        for peer in slow:  # each of them is closed
            closed(peer)
        assert time.monotonic() - start < PATIENCE + 20
        assert "pagemerge_engine_up" in fetched(url)


def closed(peer: socket.socket) -> None:
    """Wait until the other side closes."""
    try:
        assert peer.recv(1) == b""
    except ConnectionResetError:
        return


def test_a_long_request_is_closed(hub_socket: Path) -> None:
    with served("127.0.0.1:0") as (_, url):
        peer = socket.create_connection(place_of(url), timeout=40)
        with peer, pytest.raises(OSError):
            for _ in range(10_000):
                peer.sendall(b"x" * 1000)
        assert "pagemerge_engine_up" in fetched(url)


def test_many_ask_at_once(hub_socket: Path) -> None:
    with served("127.0.0.1:0") as (_, url):
        found: list[str] = []
        threads = [threading.Thread(target=lambda: found.append(fetched(url))) for _ in range(40)]
        for it in threads:
            it.start()
        for it in threads:
            it.join()
        assert len(found) == 40
        read_at = {
            re.findall(r"^pagemerge_moment_timestamp_seconds (.*)", it, re.M)[0] for it in found
        }
        assert len(read_at) < 10


def test_a_socket_is_served_and_cleared(hub_socket: Path) -> None:
    path = hub_socket.with_name("metrics")
    with served(str(path)) as (running, where):
        assert where == str(path)
        assert b"pagemerge_engine_up" in talk(where, b"GET /metrics HTTP/1.1\r\n\r\n")
        assert path.stat().st_mode & 0o777 == 0o660
        refused = command("metrics", "--listen", str(path))
        assert refused.returncode == 2 and "another program listens at" in refused.stderr
        running.kill()
        running.wait()
    assert path.exists()
    with served(str(path)) as (_, where):
        assert b"pagemerge_engine_up" in talk(where, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert not path.exists()
    path.write_text("mine")
    refused = command("metrics", "--listen", str(path))
    assert refused.returncode == 2 and "exists and is no socket" in refused.stderr
    assert path.read_text() == "mine"


def test_a_file_is_written_again_and_again(hub_socket: Path, tmp_path: Path) -> None:
    path = tmp_path / "pagemerge.prom"
    done = command("metrics", "--textfile", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "pagemerge_engine_up" in path.read_text()
    argv = [*PAGEMERGE, "metrics", "--textfile", str(path), "--every", "0.2"]
    with subprocess.Popen(argv) as running:
        deadline, seen = time.monotonic() + 30, set[int]()
        while len(seen) < 4:
            assert time.monotonic() < deadline
            found = path.read_text()
            assert found.endswith("\n") and "pagemerge_moment_timestamp_seconds" in found
            seen.add(path.stat().st_ino)
            time.sleep(0.02)
        running.terminate()
        assert running.wait(10) == 0
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--listen", "0.0.0.0:9838"], 2, "no loopback address"),
        (["--every", "5"], 2, "name that file"),
        (["--textfile", "a.txt"], 2, "end in .prom"),
        (["--textfile", "a.prom", "--every", "0"], 2, "0.1 to 3,600"),
    ],
)
def test_wrong_usage_is_told(words: list[str], status: int, told: str) -> None:
    done = command("metrics", *words)
    assert done.returncode == status and told in done.stderr


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("metrics", "--listen", str(taken.getsockname()[1]))
    assert done.returncode == 1 and "name another port" in done.stderr


def test_without_the_library_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError")
    done = subprocess.run(
        [sys.executable, "-m", "pagemerge", "metrics"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 77 and "pip install 'pagemerge[metrics]'" in done.stderr
