"""Somebody who speaks to a hub by hand, and need not mean well."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from pagemerge.hub import wire

PATIENCE = 12.0
SEALED = 0x1 | 0x2 | 0x4 | 0x8
"""F_SEAL_SEAL, SHRINK, GROW and WRITE: what makes a memory file a slab."""
F_ADD_SEALS = 1033


def plan(runs: Sequence[tuple[int, int, int, int]]) -> bytes:
    """The body of a ``MERGE`` frame; a run is (address, slab, slot, pages)."""
    return np.array(runs, wire.RUN).tobytes()


class Stranger:
    """A raw connection to the hub at a path, or to the agent at a socket, as a context."""

    def __init__(self, peer: Path | socket.socket) -> None:
        if isinstance(peer, socket.socket):
            self.socket = peer
        else:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.connect(str(peer))  # waits while many others do
        self.socket.settimeout(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(
        self, kind: int, sequence: int = 0, body: bytes = b"", descriptors: Iterable[int] = ()
    ) -> None:
        """Send a frame, with as many descriptors as you like."""
        data = wire.HEADER.pack(len(body), kind, sequence) + body
        socket.send_fds(self.socket, [data], list(descriptors))

    def hello(self, barrier: int = 1, domain: bytes = b"") -> None:
        """Become a client, and read the welcome."""
        text = domain + b"\0a stranger"
        self.send(wire.Kind.HELLO, 0, wire.HELLO.pack(wire.VERSION, barrier) + text)
        assert self.frame()[0] == wire.Kind.WELCOME

    def frame(self) -> tuple[int, int, bytes]:
        """The next frame (kind, sequence, body); descriptors are closed."""
        length, kind, sequence = wire.HEADER.unpack(self._exactly(wire.HEADER.size))
        return kind, sequence, self._exactly(length)

    def until(self, kind: int) -> tuple[int, bytes]:
        """Pass over frames until one of ``kind`` comes: its sequence number and body."""
        while True:
            found, sequence, body = self.frame()
            if found == kind:
                return sequence, body

    def regions(self, *regions: tuple[int, int, int], huge: int = 0) -> None:
        """Answer the next question for regions: (id, start, pages) each; ``huge`` of all."""
        sequence, _ = self.until(wire.Kind.LIST)
        body = b"".join(struct.pack("=5Q", *region, huge, 0) for region in regions)
        self.send(wire.Kind.REGIONS, sequence, body)

    def pass_over(self) -> None:
        """Read what has come by now, and forget it."""
        arrived = select.poll()
        arrived.register(self.socket, select.POLLIN)
        while arrived.poll(0) and self.socket.recv(1 << 20):
            pass

    def is_dismissed(self) -> bool:
        """Has the hub hung up? Reads whatever it still says."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
        return True

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part, descriptors, _, _ = socket.recv_fds(self.socket, size - len(data), 16)
            for descriptor in descriptors:
                os.close(descriptor)
            if not part:
                raise ConnectionResetError("the hub hung up")
            data += part
        return data
