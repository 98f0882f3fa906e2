"""What a hostile process does beside talking: floods, claims, and silence at each step.

Each act opens its own connections, says what it has to say, and returns how many messages that was.
Those that keep a hub waiting return open connections, which their caller closes later.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import random
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pagemerge.hub import wire
from pagemerge.model import PAGE_SIZE

Kind = wire.Kind
GIVE_UP = 1.0
"""Seconds for which an act waits for the hub to read or to answer."""
PAGES = 4096
"""Real memory to have merged at once."""


def frame(kind: int, sequence: int = 0, body: bytes = b"") -> bytes:
    """A frame as it should be."""
    return wire.HEADER.pack(len(body), kind, sequence) + body


def hello(barrier: int = 1, domain: bytes = b"") -> bytes:
    """A greeting that is welcome."""
    text = domain + b"\0a stranger"
    return frame(Kind.HELLO, 0, wire.HELLO.pack(wire.VERSION, barrier) + text)


@dataclass
class Scene:
    """What the acts of one process share."""

    path: Path
    chance: random.Random
    descriptors: list[int]
    """Those of ``descriptors.forged``, and whatever else waits for ever."""
    held: list[socket.socket] = field(default_factory=list)
    """Connections that stay open for a while."""

    def __post_init__(self) -> None:
        self.memory = mmap.mmap(-1, PAGES * PAGE_SIZE, flags=mmap.MAP_PRIVATE)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        noreserve = getattr(mmap, "MAP_NORESERVE", 0x4000)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | noreserve
        self.desert = mmap.mmap(-1, 1 << 43, flags=flags)
        """Address space without memory, so that regions of any size may be claimed."""

    def connect(self) -> socket.socket:
        """A connection that gives up."""
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.settimeout(GIVE_UP)
        peer.connect(str(self.path))
        return peer

    def member(self, domain: bytes = b"") -> socket.socket:
        """A connection that has said hello."""
        peer = self.connect()
        peer.sendall(hello(self.chance.choice([0, 1, 1, 3]), domain))
        return peer

    def hold(self, peer: socket.socket) -> None:
        """Keep it open beyond the act; the oldest is let go of when they are many."""
        self.held.append(peer)
        if len(self.held) > 100:
            self.held.pop(0).close()

    def let_go(self) -> None:
        """Close what is held."""
        while self.held:
            self.held.pop().close()


def until(peer: socket.socket, kind: int) -> tuple[int, bytes]:
    """Read up to a frame of this kind: sequence number and body. ``OSError`` if none comes."""
    while True:
        length, found, sequence = wire.HEADER.unpack(_exactly(peer, wire.HEADER.size))
        body = _exactly(peer, length)
        if found == kind:
            return sequence, body


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part, descriptors, _, _ = socket.recv_fds(peer, size - len(data), 16)
        for descriptor in descriptors:
            socket.close(descriptor)
        if not part:
            raise ConnectionResetError("the hub hung up")
        data += part
    return data


def _pour(peer: socket.socket, data: bytes, times: int, descriptors: list[int]) -> int:
    """Send the same again and again, for at most a second; returns how often."""
    end, sent = time.monotonic() + 1.0, 0
    with contextlib.suppress(OSError):
        while sent < times and time.monotonic() < end:
            if descriptors:
                socket.send_fds(peer, [data], descriptors)
            else:
                peer.sendall(data)
            sent += 1
    return sent


def flood_of_frames(scene: Scene) -> int:
    """Notes, late reports and late answers, as fast as they go."""
    with scene.member() as peer:
        kind = scene.chance.choice([Kind.NOTE, Kind.MERGED, Kind.REGIONS])
        some = frame(kind, 1, b"\x1b[2J\xff\r" * scene.chance.choice([0, 3, 100])) * 500
        return 1 + 500 * _pour(peer, some, 20, [])


def flood_of_descriptors(scene: Scene) -> int:
    """More than are asked for, of every kind, until the hub hangs up; or slab after slab."""
    with scene.member() as peer:
        if scene.chance.random() < 0.5:
            many = scene.chance.choices(scene.descriptors, k=10)
            return 1 + _pour(peer, frame(Kind.NOTE), 300, many)
        sent = 1
        for descriptor in scene.descriptors[:3] * 30:
            sent += _pour(peer, frame(Kind.HANDBACK), 1, [descriptor])
        return sent


def flood_of_questions(scene: Scene) -> int:
    """Asks for the counters over many connections, and reads some answers or none."""
    peers = [scene.connect() for _ in range(20)]
    sent = sum(50 * _pour(peer, frame(Kind.STATUS) * 50, 4, []) for peer in peers)
    for peer in peers:
        if scene.chance.random() < 0.5:
            with contextlib.suppress(OSError):
                until(peer, Kind.COUNTERS)
        scene.hold(peer)
    return sent


def flood_of_requests(scene: Scene) -> int:
    """As much merging at once as one may ask for, over several connections."""
    for page in range(0, PAGES, 7):
        scene.memory[page * PAGE_SIZE : page * PAGE_SIZE + 8] = scene.chance.randbytes(8)
    sent = 0
    for _ in range(4):
        peer = scene.member(scene.chance.choice([b"", b"", b"apart"]))
        with contextlib.suppress(OSError):
            sequence, _ = until(peer, Kind.LIST)
            peer.sendall(frame(Kind.REGIONS, sequence, struct.pack("=4Q", 1, scene.base, PAGES, 1)))
            for number in range(4):
                ask = wire.INTERN.pack(scene.base, scene.base, PAGES, 1)
                peer.sendall(frame(Kind.INTERN, 2 * number + 1, ask))
                sent += 1
        scene.hold(peer)
        sent += 2
    return sent


def flood_of_connections(scene: Scene) -> int:
    """Hundreds, with halves of greetings, and some that are hung up at once."""
    sent = 0
    for number in range(200):
        peer = scene.connect()
        with contextlib.suppress(OSError):
            peer.sendall(hello()[: number % (len(hello()) + 1)])
        sent += 1
        if number % 3:
            scene.hold(peer)
        else:
            peer.close()
    return sent


def flood_of_names(scene: Scene) -> int:
    """A domain for each connection."""
    for _ in range(30):
        scene.hold(scene.member(b"d%d" % scene.chance.randrange(10**6)))
    return 30


def frames_without_end(scene: Scene) -> int:
    """The longest frame that may be announced, and never all of it; before and after hello."""
    for greeted in (False, True):
        most = 4 << 20 if greeted else 4096
        peer = scene.member() if greeted else scene.connect()
        with contextlib.suppress(OSError):
            if greeted:
                until(peer, Kind.WELCOME)
            peer.sendall(wire.HEADER.pack(most, Kind.REGIONS, 2) + bytes(most - 1))
        scene.hold(peer)
    with scene.member() as peer, contextlib.suppress(OSError):
        peer.sendall(wire.HEADER.pack(scene.chance.choice([most + 1, 2**32 - 1]), 2, 2))
    return 5


def claims(scene: Scene) -> int:
    """Regions that overlap, overflow, are no memory, are odd, too many, or larger than the host."""
    desert = ctypes.addressof(ctypes.c_char.from_buffer(scene.desert))
    single = [(n, desert + 2 * n * PAGE_SIZE, 1) for n in range(30_000)]
    regions = scene.chance.choice(
        [
            [(1, desert, (1 << 43) // PAGE_SIZE)],
            [(n, desert + n * (1 << 31), 1 << 18) for n in range(500)],
            single,
            [(1, 2**64 - PAGE_SIZE, 2)],
            [(1, 1 << 63, 1), (2, 4096, 2**52)],
            [(1, scene.base, 8), (2, scene.base + PAGE_SIZE, 8)],
            [(1, scene.base + 5, 8)],
            [(1, scene.base, 2**64 - 1)],
            [(1, 0, 1), (1, 1 << 20, 1)],
        ]
    )
    body = b"".join(
        struct.pack("=4Q", *region, scene.chance.choice([0, 1, 1, 2])) for region in regions
    )
    peer, sent = scene.member(), 1
    with contextlib.suppress(OSError):
        for _ in "ab":
            sequence, _ = until(peer, Kind.LIST)
            peer.sendall(frame(Kind.REGIONS, sequence, body))
            sent += 1
    scene.hold(peer)
    return sent


def silence(scene: Scene) -> int:
    """After connecting, in the greeting, behind it, at a question, or in an answer."""
    step = scene.chance.randrange(7)
    if step < 2:
        peer = scene.connect()
        peer.sendall(hello()[: 11 * step])
        scene.hold(peer)
        return 1
    peer, sent = scene.member(), 1
    with contextlib.suppress(OSError):
        if step > 2:
            sequence, _ = until(peer, Kind.LIST)
        if step > 3:
            scene.memory[: 64 * PAGE_SIZE] = b"the same in each page".ljust(PAGE_SIZE) * 64
            region = struct.pack("=4Q", 1, scene.base, 64, 0)
            for _ in "abc":
                peer.sendall(frame(Kind.REGIONS, sequence, region))
                sequence, _ = until(peer, Kind.LIST)
                sent += 1
        if step > 4:
            peer.sendall(frame(Kind.INTERN, 1, wire.INTERN.pack(scene.base, scene.base, 64, 1)))
            until(peer, Kind.MERGE)
            answer = frame(Kind.MERGED, 1, bytes(wire.MERGED.size + 8))
            peer.sendall(answer[: 30 if step == 5 else len(answer)])
            sent += 2
    scene.hold(peer)
    return sent


def forgeries(scene: Scene) -> int:
    """Each descriptor that there is, over a connection of its own, and one of them twice."""
    sent = 0
    for descriptor in scene.chance.sample(scene.descriptors, k=8):
        with scene.member() as peer:
            sent += 1 + _pour(peer, frame(Kind.HANDBACK), 2, [descriptor])
            with contextlib.suppress(OSError):
                until(peer, Kind.LIST)
    return sent


ACTS: tuple[Callable[[Scene], int], ...] = (
    flood_of_frames,
    flood_of_descriptors,
    flood_of_questions,
    flood_of_requests,
    flood_of_connections,
    flood_of_names,
    frames_without_end,
    claims,
    silence,
    forgeries,
)
