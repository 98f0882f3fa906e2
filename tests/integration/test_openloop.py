"""The load generator of benchmarks/neighbours.py counts the time that requests wait to be sent."""

from __future__ import annotations

import os
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.lab import openloop

from pagemerge.demo.dialog import Child

STILL = 0.5
RATE = 200.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, threading.Event]]:
    """Answers each line, and stands still once for ``STILL`` seconds when it is told to."""
    stand, turn = threading.Event(), threading.Lock()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline():
                with turn:
                    if stand.is_set():
                        stand.clear()
                        time.sleep(STILL)
                self.wfile.write(b"answer\r\n")

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    path = str(tmp_path / "socket")
    with Server(path, Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield path, stand
        finally:
            listening.shutdown()
            thread.join()


def test_a_service_that_stands_still_is_seen_by_all_who_would_have_come(
    server: tuple[str, threading.Event],
) -> None:
    path, stand = server
    with Child([sys.executable, openloop.__file__, str(os.getpid())]) as client:
        asked = client.ask("connect", address=path, request="hello\n", connections=4)
        assert asked["answer_bytes"] == len("answer\r\n")
        client.question("run", seconds=2.0, rate=RATE)
        time.sleep(0.5)
        stand.set()
        told = client.answer()
    assert told["missing"] == 0
    assert len(told["planned"]) == pytest.approx(2.0 * RATE, abs=2)
    # A client that waits for its 4 connections would have seen 4 late answers.
    late = sum(it > STILL / 2 * 1e6 for it in told["microseconds"])
    assert late > 0.8 * STILL / 2 * RATE
