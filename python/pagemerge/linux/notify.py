"""Talks to the program that supervises this one: readiness, watchdog, and sockets that it opened.

Sources: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3), systemd.service(5) of systemd 252.
The supervising program is systemd, or our own daemon, which speaks the same protocol to its
engines. Without one, all of this does nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

from pagemerge.linux.text import plain

FIRST = 3
"""The first descriptor that a supervising program passes (SD_LISTEN_FDS_START)."""

MOST_TOLD = 200
"""The most characters of a status line."""

PASSED = "fd:"
"""How the address of a socket begins that was passed to this process."""

PATIENCE = 1.0
"""Seconds that a message which must arrive may wait for room in the socket."""


@dataclass(slots=True)
class Notifier:
    """Sends states of this process to the socket that NOTIFY_SOCKET names."""

    address: str = ""
    """A path, an abstract name that begins with ``@``, or ``fd:`` and the number of a connected
    socket, which our own daemon passes; empty: messages go nowhere."""
    watchdog_seconds: float | None = None
    """The most seconds between two messages ``alive``; None: no program waits for them."""
    pause_seconds: float = 2.0
    """The least time between two status lines: a line that changes all the time costs more."""
    _told: str = field(default="", init=False)
    _told_at: float = field(default=float("-inf"), init=False)
    _beaten: float = field(default=float("-inf"), init=False)

    @property
    def beat_seconds(self) -> float | None:
        """Seconds between two messages ``alive``: half of what the watchdog allows."""
        return None if self.watchdog_seconds is None else self.watchdog_seconds / 2

    def ready(self, status: str = "") -> None:
        """Tell that the service has started, or has finished reloading."""
        self._send("READY=1", *self._status(status))

    def reloading(self) -> None:
        """Tell that the service begins to reload its configuration; ``ready`` tells the end."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """Tell that the service begins to end."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Tell the watchdog that the service works. Call it as often as you like: it sends no more
        than four messages in the time that the watchdog allows."""
        if self.watchdog_seconds is None:
            return
        now = time.monotonic()
        if now - self._beaten >= self.watchdog_seconds / 4:
            self._beaten = now
            self._send("WATCHDOG=1", patience=0.0)

    def status(self, text: str) -> None:
        """Tell in one line what the service does, unless that is what it told last, or it told
        another line a moment ago. Call it again and again."""
        if text != self._told and time.monotonic() - self._told_at >= self.pause_seconds:
            self._send(*self._status(text), patience=0.0)

    def _status(self, text: str) -> list[str]:
        self._told, self._told_at = text, time.monotonic()
        return [f"STATUS={plain(text, MOST_TOLD)}"] if text else []

    def _send(self, *assignments: str, patience: float = PATIENCE) -> None:
        """Send one datagram. The service goes on if the supervising program does not take it."""
        if not self.address or not assignments:
            return
        told = "\n".join(assignments).encode(errors="replace")
        if self.address.startswith(PASSED):
            _send_to(int(self.address.removeprefix(PASSED)), told, patience)
            return
        name = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.settimeout(patience)
            out.connect(name)
            out.send(told)


def _send_to(descriptor: int, told: bytes, patience: float) -> None:
    """Send to a socket that other processes have, too: its modes are not ours to change."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as out:
        poll = select.poll()
        poll.register(out, select.POLLOUT)
        poll.poll(patience * 1000)
        out.send(told, socket.MSG_DONTWAIT)


def notifier(environment: Mapping[str, str] = os.environ) -> Notifier:
    """Make the notifier that the environment of this process asks for."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) and not re.fullmatch(PASSED + "[0-9]{1,9}", address):
        address = ""
    microseconds = _number(environment.get("WATCHDOG_USEC"))
    meant = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
    watched = address and meant and microseconds
    return Notifier(address, microseconds / 1e6 if watched else None)


def passed(environment: MutableMapping[str, str] = os.environ) -> dict[str, int]:
    """Return the descriptors that the supervising program has passed: name -> descriptor.

    Unnamed ones are called ``unknown``, as systemd calls them; of several with one name the first
    counts. Removes the variables, so that programs that this process starts do not take the
    descriptors for theirs, and marks the descriptors to be closed by execve(2).
    """
    count = _number(environment.get("LISTEN_FDS"))
    meant = environment.get("LISTEN_PID") == str(os.getpid())
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        environment.pop(name, None)
    found: dict[str, int] = {}
    for at in range(count if meant else 0):
        number = FIRST + at
        try:
            os.set_inheritable(number, False)
        except OSError:
            break  # fewer were passed than announced
        name = names[at] if at < len(names) and names[at] else "unknown"
        found.setdefault(name, number)
    return found


def _number(text: str | None) -> int:
    """Read a count; 0 for anything else than a small number of digits."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 16 else 0
