"""The HTTP endpoint while figures take long to read, or cannot be read."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

import pytest

from pagemerge.errors import PagemergeError
from pagemerge.watch import endpoint
from pagemerge.watch.endpoint import Address, Endpoint


async def get(port: int) -> bytes:
    """Ask for the figures, and return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


def asked(text: Callable[[], bytes], times: int) -> list[bytes]:
    """Serve what ``text`` returns, and ask that often."""

    async def run() -> list[bytes]:
        async with Endpoint(text, "text/plain").serving(Address("127.0.0.1", 0)) as where:
            port = int(where.rpartition(":")[2].partition("/")[0])
            return [await get(port) for _ in range(times)]

    return asyncio.run(run())


def test_while_reading_takes_long_the_last_figures_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "PATIENCE", 0.5)
    monkeypatch.setattr(endpoint, "FRESH", 0.0)
    free, calls = threading.Event(), []

    def text() -> bytes:
        calls.append(1)
        if len(calls) > 1:
            assert free.wait(60)
        return b"a %d\n" % len(calls)

    try:
        one, two = asked(text, 2)
    finally:
        free.set()
    assert one.startswith(b"HTTP/1.1 200") and one.endswith(b"a 1\n")
    assert two == one
    assert len(calls) == 2  # one reading at a time


def test_an_error_is_told_and_the_next_answer_is_right(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(endpoint, "FRESH", 0.0)
    calls: list[int] = []

    def text() -> bytes:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("no \x1b[2J memory")
        return b"a 1\n"

    first, later = asked(text, 2)
    assert first.startswith(b"HTTP/1.1 500") and b"no \\x1b[2J memory\n" in first
    assert later.endswith(b"a 1\n")
    assert "cannot read the figures" in caplog.text


def test_a_place_that_is_taken_costs_nothing_however_often_it_is_tried() -> None:
    """The daemon tries again and again: no thread is left, and no figures are read for nothing."""
    read = []

    def text() -> bytes:
        read.append(1)
        return b""

    async def attempts(port: int) -> None:
        for _ in range(5):
            with pytest.raises(PagemergeError, match="cannot listen"):
                async with Endpoint(text, "text/plain").serving(Address("127.0.0.1", port)):
                    pass

    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        asyncio.run(attempts(taken.getsockname()[1]))
    assert (threading.active_count(), read) == (before, [])
