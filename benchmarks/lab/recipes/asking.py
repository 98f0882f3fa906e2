"""A client of HTTP that keeps servers busy, times their answers, and compares them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np

from pagemerge.errors import PagemergeError

from .base import Round

TIMEOUT = 60.0


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that no program has now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def ask(port: int, number: int) -> bytes:
    """The body of the answer to ``GET /number``. Raises ``OSError``."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.sendall(b"GET /%d HTTP/1.0\r\nHost: localhost\r\n\r\n" % number)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise ConnectionError(f"port {port}, GET /{number}: {head[:80]!r}")
    return body


def until_answering(port: int, ended: threading.Event, patience: float) -> None:
    """Wait for a server. Raises ``PagemergeError`` if it ``ended``, or does not answer in time."""
    deadline = time.monotonic() + patience
    while True:
        try:
            ask(port, 0)
            return
        except OSError as error:
            if ended.is_set() or time.monotonic() > deadline:
                raise PagemergeError(f"the server at port {port} does not answer") from error
        time.sleep(0.1)


def busy(
    ports: Sequence[int], expected: Mapping[int, bytes], clients: int, seconds: float
) -> Round:
    """Ask all servers in turn, ``clients`` of them at a time, and compare what they answer."""
    times: list[list[float]] = [[] for _ in range(clients)]
    wrong = [0] * clients
    numbers = sorted(expected)
    began = time.perf_counter()

    def one(client: int) -> None:
        turn = client
        while (asked := time.perf_counter()) < began + seconds:
            number = numbers[turn * 31 % len(numbers)]
            try:
                wrong[client] += ask(ports[turn % len(ports)], number) != expected[number]
            except OSError:
                wrong[client] += 1
            times[client].append(time.perf_counter() - asked)
            turn += 1

    threads = [threading.Thread(target=one, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - began
    spent = np.concatenate([np.array(it) for it in times])
    return Round(len(spent), taken, float(np.percentile(spent, 99)) * 1e3, sum(wrong))
