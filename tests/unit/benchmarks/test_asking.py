"""The client of the benchmarks counts what a server answers, and what is wrong in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from benchmarks.lab.recipes.asking import ask, busy, free_ports, until_answering

from pagemerge.errors import PagemergeError

RIGHT = {number: b"%d" % (number * 2) for number in range(10)}


class Doubling(BaseHTTPRequestHandler):
    """Answers with twice the number, but knows neither 7 (wrong) nor 8 (an error)."""

    def do_GET(self) -> None:
        number = int(self.path[1:])
        self.send_response(500 if number == 8 else 200)
        self.end_headers()
        self.wfile.write(b"0" if number == 7 else b"%d" % (number * 2))

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Doubling) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server.server_port
        server.shutdown()


def test_an_answer_is_the_body(port: int) -> None:
    assert ask(port, 3) == b"6"
    with pytest.raises(ConnectionError, match="GET /8"):
        ask(port, 8)


@pytest.mark.parametrize(("without", "some"), [({7, 8}, False), ({8}, True), ({7}, True)])
def test_what_is_wrong_is_counted(port: int, without: set[int], some: bool) -> None:
    expected = {number: it for number, it in RIGHT.items() if number not in without}
    done = busy([port], expected, 2, 0.2)
    assert done.requests > len(expected) and done.rate > 0 and done.p99_ms > 0
    assert (done.wrong > 0) == some
    assert done.wrong < done.requests


def test_a_server_that_has_ended_is_not_waited_for() -> None:
    ended = threading.Event()
    ended.set()
    with pytest.raises(PagemergeError, match="does not answer"):
        until_answering(free_ports(1)[0], ended, 60.0)


def test_free_ports_differ() -> None:
    assert len(set(free_ports(5))) == 5
