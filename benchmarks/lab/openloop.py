"""A load generator that omits no waiting: each request has a planned time of sending.

A client that sends its next request when the last answer has come sends nothing while a server
stands still, so it measures one slow request where a real service has many. Here the time of a
request counts from the moment at which it was to be sent, whatever kept it from being sent.

A process of its own, one thread: it sends on whichever connection is free, and waits with the
resolution of select(2), without timer slack.
"""

from __future__ import annotations

import ctypes
import select
import socket
import sys
import time
from collections import deque

from pagemerge.demo.dialog import Answer, die_with_parent, serve

TIMER_SLACK = 29
"""PR_SET_TIMERSLACK of prctl(2): by default select(2) may return 50 us late."""
QUIET = 0.3
"""Seconds without another byte after which the first answer is complete."""
LATE = 10.0
"""Seconds that the last answers may take."""


class Client:
    """Each public method answers one question."""

    def connect(self, address: str | list[str | int], request: str, connections: int) -> Answer:
        """Connect to a Unix socket (a path) or a TCP port; every answer is as long as the first."""
        ctypes.CDLL(None).prctl(TIMER_SLACK, 1)
        self.request = request.encode()
        self.sockets = []
        for _ in range(connections):
            if isinstance(address, str):
                one = socket.socket(socket.AF_UNIX)
                one.connect(address)
            else:
                one = socket.create_connection((str(address[0]), int(address[1])))
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets.append(one)
        first = self.sockets[0]
        first.sendall(self.request)
        first.settimeout(QUIET)
        found = first.recv(1 << 16)
        try:
            while part := first.recv(1 << 16):
                found += part
        except TimeoutError:
            pass
        self.answer_bytes = len(found)
        for one in self.sockets:
            one.setblocking(False)
        return {"answer_bytes": self.answer_bytes}

    def run(self, seconds: float, rate: float) -> Answer:
        """Send ``rate`` requests a second for ``seconds``, at planned times.

        With ``rate`` 0, each connection sends as soon as it has its answer: for throughput only.
        Returns when each request was to be sent (seconds on the monotonic clock) and how many
        microseconds later its answer had come, and how many answers never came.
        """
        clock, free = time.monotonic, deque(self.sockets)
        begun = clock() + 0.01
        end = begun + seconds
        planned, took = [], []
        waiting: dict[socket.socket, float] = {}
        got = dict.fromkeys(self.sockets, 0)
        number = 0
        while True:
            now = clock()
            while free and (due := begun + number / rate if rate else now) <= min(now, end):
                one = free.popleft()
                waiting[one] = due
                one.sendall(self.request)
                number += 1
            over = now > end and (not rate or begun + number / rate > end)
            if (over and not waiting) or now > end + LATE:
                break
            pause = 0.05 if over or not free else max(begun + number / rate - clock(), 0.0)
            ready, _, _ = select.select(list(waiting), [], [], pause)
            for one in ready:
                got[one] += len(one.recv(1 << 16))
                if got[one] >= self.answer_bytes:
                    got[one] -= self.answer_bytes
                    due = waiting.pop(one)
                    planned.append(round(due, 6))
                    took.append(round((clock() - due) * 1e6))
                    free.append(one)
        return {"planned": planned, "microseconds": took, "missing": len(waiting)}


def main() -> None:
    """Answer until the pipe is closed."""
    die_with_parent(int(sys.argv[1]))
    client = Client()
    serve({"connect": client.connect, "run": client.run})


if __name__ == "__main__":
    main()
