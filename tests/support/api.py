"""A service of the API of a test alone, and callers of it: other users, and bare sockets.

``python -m tests.support.api SOCKET`` is the service. It reads options in JSON from its standard
input: ``moment``, a recorded one to show (else the real figures); ``history``, the number of
recorded moments to keep; ``limits``, names of numbers in ``connection``, ``accounts`` or
``answers``, and other values for them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from pagemerge.demo.dialog import end
from pagemerge.errors import NoSuchProcess
from pagemerge.linux import process as linux
from pagemerge.service.api import accounts, answers, connection
from pagemerge.service.api.control import KernelControl
from pagemerge.service.api.server import serve
from pagemerge.watch.collect import Collector
from pagemerge.watch.model import Decision, Host, Moment, Row, UserEngine
from tests.support.commands import NOBODY

PATIENCE = 60.0

AS_USER = """
import json, os, socket, sys
uid, path, text, wanted = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(60)
peer.connect(path)
peer.sendall(text.encode() + b"\\0")
data = b""
while data.count(b"\\0") < wanted:
    part = peer.recv(1 << 16)
    if not part:
        break
    data += part
    sys.stdout.buffer.write(part)
    sys.stdout.flush()
"""


def row(pid: int, uid: int, **others: Any) -> Row:
    """A row with figures that can be told apart."""
    given = {
        "name": f"program{pid}",
        "user": f"user{uid}",
        "engine": "user",
        "domain": f"uid {uid}",
        "guest": "",
        "unit": "",
        "cgroup": "/",
        "memory_bytes": 1 << 20,
        "merged_bytes": 4096 * pid,
        "saved_bytes": 2048 * pid,
        "merges": pid,
        "separations": 0,
        "mappings": 30,
        "mappings_limit": 65530,
        "why": "",
    }
    return Row(pid=pid, uid=uid, **{**given, **others})


def recorded() -> Moment:
    """A moment with rows of root, of ``NOBODY`` and of user 4242, and two decisions."""
    rows = (
        row(10, 0, engine="kernel", guest="database"),
        row(11, NOBODY, name="\x1b[31mred\n"),
        row(12, NOBODY, guest="web", engine="kernel"),
        row(13, 4242, name="\udcff\udc1b"),
    )
    engine = UserEngine(
        1, 100.0, 1.5, 4, 1 << 20, 1 << 19, 1 << 20, 4096, 10, 256, 3, 100, 7, 5, 300, 2
    )
    decisions = (
        Decision(1.0, "begin", {"run": 1}),
        Decision(2.0, "rest", {"advisor_mode": "none"}),
    )
    return Moment(time.time(), Host(1 << 30, 1 << 29, 0.5), engine, None, rows, decisions)


class Api:
    """The service as a context; ``options`` are those of the program."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        if isinstance(moment := options.get("moment"), Moment):
            options["moment"] = msgspec.to_builtins(moment)
        self._options = json.dumps(options)
        self._peers: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile()
        argv = [sys.executable, "-m", "tests.support.api", str(self.path)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=self._log)
        assert self.process.stdin and self.process.stdout
        with self.process.stdin as options:
            options.write(self._options.encode())
        if self.process.stdout.readline() != b"ready\n":
            log = self.log()
            self.__exit__(None, None, None)
            raise AssertionError(f"the service does not start:\n{log}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for peer in self._peers:
            peer.close()
        self.process.terminate()
        end(self.process)
        if self.process.stdout:
            self.process.stdout.close()
        if kind is not None:
            print(self.log())
        self._log.close()

    def log(self) -> str:
        """What the service has said."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def assert_sound(self) -> None:
        """The service runs, and has met no fault of its own."""
        assert self.process.poll() is None, self.log()
        assert "Traceback" not in self.log() and "has failed" not in self.log(), self.log()
        assert "failed:" not in self.log(), self.log()

    def connect(self) -> socket.socket:
        """A bare connection, which is closed with the context at the latest."""
        peer = socket.socket(socket.AF_UNIX)
        self._peers.append(peer)
        peer.settimeout(PATIENCE)
        peer.connect(str(self.path))
        return peer

    def ask(self, method: str, more: bool = False, **parameters: Any) -> list[Any]:
        """All replies to one call, as they are on the wire."""
        with self.connect() as peer:
            send(peer, method, more=more, **parameters)
            return until_last(peer)

    def ask_as(self, uid: int, method: str, more: bool = False, **parameters: Any) -> Any:
        """The last reply to one call of another user."""
        named = method if "." in method else f"org.pagemerge.{method}"
        text = json.dumps({"method": named, "parameters": parameters, "more": more})
        argv = [sys.executable, "-c", AS_USER, str(uid), str(self.path), text, "1"]
        done = subprocess.run(argv, capture_output=True, check=True, timeout=PATIENCE)
        return json.loads(done.stdout.split(b"\0")[-2])


def send(peer: socket.socket, method: str, **more: Any) -> None:
    """Send a call; ``more`` and ``oneway`` are flags, all others parameters."""
    named = method if "." in method else f"org.pagemerge.{method}"
    flags = {name: more.pop(name) for name in ("more", "oneway") if name in more}
    peer.sendall(json.dumps({"method": named, "parameters": more, **flags}).encode() + b"\0")


def receive(peer: socket.socket) -> Any:
    """The next reply; None at the end."""
    data = b""
    while not data.endswith(b"\0"):
        part = peer.recv(1 << 18, socket.MSG_PEEK)
        if not part:
            assert not data, f"{len(data):,} bytes and no end: {data[:200]!r}"
            return None
        data += peer.recv(part.find(0) + 1 or len(part))
    return json.loads(data[:-1])


def until_last(peer: socket.socket) -> list[Any]:
    """All replies to the call that was sent."""
    found = [receive(peer)]
    while found[-1] and found[-1].get("continues"):
        found.append(receive(peer))
    return found


async def main(path: Path, options: dict[str, Any]) -> None:
    """Serve until SIGTERM."""
    for name, value in options.get("limits", {}).items():
        where = [it for it in (connection, accounts, answers) if hasattr(it, name)]
        assert where, name
        setattr(where[0], name, value)
    shown = options.get("moment")
    fixed = None if shown is None else msgspec.convert(shown, Moment)
    source = Collector(path.with_name("no-hub")).moment if fixed is None else lambda: fixed
    kept = [] if fixed is None else [fixed] * options.get("history", 0)
    history = (lambda _since, most: kept[-most:]) if "history" in options else None
    work = asyncio.ensure_future(
        serve(path, source, KernelControl(), history, lambda: print("ready", flush=True))
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        os._exit(0)


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.DEBUG)
    asyncio.run(main(Path(sys.argv[1]), json.load(sys.stdin)))


def children(parent: int) -> list[int]:
    """Its children, among processes that come and go."""
    found = []
    for pid in linux.pids():
        with suppress(NoSuchProcess):
            if linux.stat(pid).parent == parent:
                found.append(pid)
    return found
