"""What callers cannot take from the API: slow ones, silent ones, and very many."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pagemerge.linux.accounts import anonymous_bytes
from pagemerge.linux.process import stat
from tests.support.api import AS_USER, Api, receive, recorded, row, send, until_last
from tests.support.commands import NOBODY

CLIENTS = 1000
BOUND = 10.0
"""Seconds in which a bystander must be answered on a busy host, whatever others do."""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pagemerge-test-") as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Room for all connections in this process and in the service, which inherits it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 4 * CLIENTS:
        pytest.skip(f"descriptors: the hard limit is {before[1]}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4 * CLIENTS, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def answered(api: Api) -> float:
    """Seconds until a bystander has its answer."""
    began = time.monotonic()
    (reply,) = api.ask("Status")
    assert reply["parameters"]["moment"]["rows"]
    took = time.monotonic() - began
    assert took < BOUND
    return took


def crowded(rows: int) -> Any:
    """A moment with many rows."""
    found = tuple(row(pid, os.geteuid()) for pid in range(1, rows + 1))
    return msgspec.structs.replace(recorded(), rows=found)


def is_closed(peer: socket.socket, patience: float = 30.0) -> bool:
    """Read until the service closes the connection."""
    peer.settimeout(patience)
    try:
        while peer.recv(1 << 20):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_a_thousand_clients_at_once_are_all_answered(folder: Path, many_descriptors: None) -> None:
    with Api(folder / "api.sock", moment=crowded(200)) as api:
        peers = [api.connect() for _ in range(CLIENTS)]
        began = time.monotonic()
        for peer in peers:
            send(peer, "Status")
        answers = {json.dumps(receive(peer)) for peer in peers}
        took = time.monotonic() - began
        assert all(len(json.loads(it)["parameters"]["moment"]["rows"]) == 200 for it in answers)
        spent = stat(api.process.pid).cpu_seconds
        for peer in peers:
            send(peer, "Subscribe", more=True, interval_seconds=1.0, count=3)
        bystander = [answered(api) for _ in range(5)]
        for peer in peers:
            for _ in range(3):
                assert receive(peer)["parameters"]["moment"]
        spent = stat(api.process.pid).cpu_seconds - spent
        print(f"{CLIENTS} clients: one reply each {took:.2f} s; a bystander ", end="")
        print(f"{statistics.median(bystander):.3f} s; 3 moments each: {spent:.2f} s of a core")
        for peer in peers:
            peer.close()
        api.assert_sound()


def test_a_slow_reader_is_closed_and_holds_nobody_up(folder: Path) -> None:
    moment = crowded(3000)
    size = len(msgspec.json.encode(moment))
    with Api(folder / "api.sock", moment=moment, limits={"STALL": 1.0}) as api:
        before = anonymous_bytes(api.process.pid)
        slow = [api.connect() for _ in range(20)]
        for peer in slow:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for _ in range(10):
                send(peer, "Status")
        for _ in range(10):
            answered(api)
        held = anonymous_bytes(api.process.pid) - before
        assert held < 20 * 2 * size + (64 << 20), f"{held:,} bytes for replies of {size:,}"
        time.sleep(1.2)
        assert all(is_closed(peer) for peer in slow)
        api.assert_sound()


def test_a_reader_that_is_only_slow_gets_all(folder: Path) -> None:
    with Api(folder / "api.sock", moment=crowded(3000), limits={"STALL": 5.0}) as api:
        with api.connect() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            send(peer, "Status")
            data = b""
            while not data.endswith(b"\0"):
                data += peer.recv(1 << 16)
                select.select([], [], [], 0.001)
            assert len(json.loads(data[:-1])["parameters"]["moment"]["rows"]) == 3000
        api.assert_sound()


def test_a_user_cannot_leave_much_unread(folder: Path) -> None:
    limits = {"STALL": 60.0, "MOST_UNREAD": 4 << 20}
    with Api(folder / "api.sock", moment=crowded(3000), limits=limits) as api:
        peers = [api.connect() for _ in range(20)]
        for peer in peers:
            send(peer, "Status")
        answered(api)
        assert sum(is_closed(peer, 0.5) for peer in peers) >= 10
        assert answered(api)
        assert anonymous_bytes(api.process.pid) < 256 << 20


def test_silent_and_half_calls_are_closed_in_time(folder: Path) -> None:
    limits = {"SILENCE": 1.0, "IDLE": 3.0}
    with Api(folder / "api.sock", moment=recorded(), limits=limits) as api:
        silent, half, drip, idle, busy = (api.connect() for _ in range(5))
        began = time.monotonic()
        half.sendall(b'{"method":"org.page')
        for peer in (idle, busy):
            send(peer, "Guests")
            receive(peer)
        send(busy, "Subscribe", more=True, interval_seconds=0.5, count=12)
        with pytest.raises(OSError):
            while time.monotonic() < began + 30:  # a byte now and then is no call
                drip.sendall(b" ")
                time.sleep(0.1)
        assert time.monotonic() - began < 10
        assert is_closed(silent) and is_closed(half)
        send(idle, "Guests")  # it may wait longer than a connection that never called
        assert receive(idle)["parameters"]["rows"]
        assert is_closed(idle)
        assert time.monotonic() - began > 3.0
        assert len(until_last(busy)) == 12  # a call that is answered is not silence
        api.assert_sound()


def test_a_call_that_is_too_long_ends_its_connection(folder: Path) -> None:
    with Api(folder / "api.sock", moment=recorded()) as api:
        with api.connect() as peer:
            peer.sendall(b'{"method":"' + b"x" * (1 << 17))
            reply = receive(peer)
            assert reply["error"] == "org.pagemerge.NotACall"
            assert "at most 65,536 bytes" in reply["parameters"]["message"]
            assert is_closed(peer)
        answered(api)
        api.assert_sound()


def test_a_long_call_is_refused_even_if_it_is_whole(folder: Path) -> None:
    with Api(folder / "api.sock", moment=recorded()) as api:
        peer = api.connect()
        peer.sendall(b'{"method":"org.pagemerge.Guests"}' + b" " * (1 << 16) + b"\0")
        assert receive(peer)["error"] == "org.pagemerge.NotACall"
        assert is_closed(peer)


def test_a_caller_that_has_gone_is_noticed_between_two_replies(folder: Path) -> None:
    with Api(folder / "api.sock", moment=recorded()) as api:
        with api.connect() as peer:
            send(peer, "Subscribe", more=True, interval_seconds=3600)
            receive(peer)
            before = connections(api)
        deadline = time.monotonic() + 20
        while connections(api) >= before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        api.assert_sound()


def connections(api: Api) -> int:
    """The descriptors that a service has open."""
    return len(list(Path(f"/proc/{api.process.pid}/fd").iterdir()))


def test_a_caller_that_asks_without_end_leaves_the_others_their_turn(folder: Path) -> None:
    with Api(folder / "api.sock", moment=crowded(200)) as api:
        flood = [api.connect() for _ in range(8)]
        for peer in flood:
            peer.setblocking(False)
        call = b'{"method":"org.varlink.service.GetInfo"}\0' * 200
        slowest, deadline = 0.0, time.monotonic() + 3.0
        while time.monotonic() < deadline:
            for peer in flood:
                with contextlib.suppress(BlockingIOError):
                    peer.send(call)
                with contextlib.suppress(BlockingIOError):
                    peer.recv(1 << 20)
            slowest = max(slowest, answered(api))
        print(f"beside a flood, the slowest answer took {slowest:.3f} s")
        api.assert_sound()


@pytest.mark.requires("root")
def test_a_user_gets_its_part_of_the_connections_and_root_the_rest(folder: Path) -> None:
    script = (
        "import os, socket, sys, json\n"
        f"os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY})\n"
        f"os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
        "kept, said = [], b''\n"
        "while not said and len(kept) < 200:\n"
        "    peer = socket.socket(socket.AF_UNIX)\n"
        "    peer.connect(sys.argv[1])\n"
        "    kept.append(peer)\n"
        "    peer.settimeout(60 if len(kept) > 16 else 0.2)\n"
        "    try: said = peer.recv(4096)\n"
        "    except TimeoutError: pass\n"
        "print(len(kept), said.decode(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with Api(folder / "api.sock", moment=recorded(), limits={"MOST_CONNECTIONS": 64}) as api:
        argv = [sys.executable, "-c", script, str(api.path)]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as theirs:
            assert theirs.stdout and theirs.stdin
            count, _, said = theirs.stdout.readline().partition(" ")
            assert int(count) == 17
            assert f"user {NOBODY} has 16 connections: close some" in said
            argv = [sys.executable, "-c", AS_USER, "4242", str(api.path), "{}", "1"]
            other = subprocess.run(argv, capture_output=True, check=True, timeout=60)
            assert b"no varlink call" in other.stdout  # served, that is
            answered(api)
            theirs.stdin.close()
        api.assert_sound()


def test_a_dead_client_does_not_stop_the_service(folder: Path) -> None:
    with Api(folder / "api.sock", moment=crowded(500)) as api:
        for _ in range(50):
            with api.connect() as peer:
                send(peer, "Subscribe", more=True, interval_seconds=0.5)
                send(peer, "Status")
        answered(api)
        deadline = time.monotonic() + 30
        while connections(api) > 20:
            assert time.monotonic() < deadline, "connections of dead clients stay open"
            time.sleep(0.05)
        api.assert_sound()


def test_a_user_has_one_call_of_history_at_a_time(folder: Path) -> None:
    """Its moments are held until the user has read them, so many calls would take much memory."""
    call = '{"method":"org.pagemerge.History","parameters":{"most":10000},"more":true}'
    slowly = AS_USER.replace("peer.recv(1 << 16)", "peer.recv(1)")

    def asked(code: str, uid: int, replies: int) -> list[str]:
        return [sys.executable, "-c", code, str(uid), str(api.path), call, str(replies)]

    with Api(folder / "api.sock", moment=crowded(200), history=2000) as api:
        with subprocess.Popen(asked(slowly, NOBODY, 9999), stdout=subprocess.PIPE) as slow:
            assert slow.stdout and slow.stdout.read(1)
            again = subprocess.run(asked(AS_USER, NOBODY, 1), capture_output=True, check=True)
            assert b"org.pagemerge.Busy" in again.stdout
            other = subprocess.run(asked(AS_USER, 31337, 1), capture_output=True, check=True)
            assert b'"continues":true' in other.stdout
            slow.kill()
        api.assert_sound()
