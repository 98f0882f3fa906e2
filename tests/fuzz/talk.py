"""Conversations with a hub: random, structured and mutated frames, and descriptors.

The same seed says the same, as far as a hub's timing lets it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import select
import socket
import struct
import time
from pathlib import Path

from pagemerge.hub import wire
from pagemerge.model import PAGE_SIZE

PATIENCE = 0.2
"""Seconds for the hub to read: who says much has to wait, and then hangs up."""
MOST_OPEN = 40
"""Conversations at a time."""
PAGES = 64
"""Real memory of this process that speakers let the hub read."""
NUMBERS = [0, 1, 2, 7, 255, 4095, 4096, 2**16, 2**31, 2**32 - 1, 2**56, 2**63, 2**64 - 1]
Kind = wire.Kind


class Speaker:
    """One conversation: it listens only as far as it has use for what it hears."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))
        self.socket.settimeout(PATIENCE)
        self.heard: list[tuple[int, int, int]] = []
        """Frames that an answer may belong to: kind, sequence number, length."""
        self._received = b""
        self._arrived = select.poll()
        self._arrived.register(self.socket, select.POLLIN)

    def say(self, data: bytes, descriptors: list[int]) -> bool:
        """False if nobody listens any more."""
        try:
            if descriptors:
                socket.send_fds(self.socket, [data], descriptors)
            else:
                self.socket.sendall(data)
        except OSError:
            return False
        return True

    def listen(self) -> None:
        while self._arrived.poll(0):
            try:
                data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, 16)
            except OSError:
                return
            if not data:
                return
            for descriptor in descriptors:
                os.close(descriptor)
            self._received += data
        while len(self._received) >= wire.HEADER.size:
            length, kind, sequence = wire.HEADER.unpack_from(self._received)
            if len(self._received) < wire.HEADER.size + length:
                break
            self._received = self._received[wire.HEADER.size + length :]
            self.heard = [*self.heard[-8:], (kind, sequence, length)]


class Talk:
    """All speakers, and one source of chance."""

    def __init__(self, path: Path, seed: int, descriptors: list[int]) -> None:
        """``descriptors``: to hand over; the first three are slabs as they should be."""
        self.path, self.random = path, random.Random(seed)
        self.speakers: list[Speaker] = []
        self.messages = self.connections = 0
        self.descriptors = descriptors
        self.memory = mmap.mmap(-1, PAGES * PAGE_SIZE, flags=mmap.MAP_PRIVATE)
        self.memory.write(b"the same in each page".ljust(PAGE_SIZE) * PAGES)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def run(self, messages: int, end: float) -> None:
        """Say so many, or as many as can be said until then (time.monotonic)."""
        most = self.messages + messages
        while self.messages < most and time.monotonic() < end:
            if len(self.speakers) < self.random.randint(1, MOST_OPEN):
                self.speakers.append(Speaker(self.path))
                self.connections += 1
                if self.random.random() < 0.9:
                    self._say(self.speakers[-1], self._frame(Kind.HELLO, 0, self._hello()), [])
            speaker = self.random.choice(self.speakers)
            speaker.listen()
            going = True
            for _ in range(self.random.choice([1, 3, 10, 40])):
                going = going and self._say(speaker, *self._message(speaker))
            if not going or self.random.random() < 0.02:
                speaker.socket.close()
                self.speakers.remove(speaker)

    def close(self) -> None:
        """Hang up."""
        for speaker in self.speakers:
            speaker.socket.close()
        self.speakers.clear()

    def _say(self, speaker: Speaker, data: bytes, descriptors: list[int]) -> bool:
        said = speaker.say(data, descriptors)
        self.messages += said
        return said

    def _message(self, speaker: Speaker) -> tuple[bytes, list[int]]:
        """Mostly what keeps a conversation going, else it would never get far."""
        chance = self.random
        what = chance.random()
        if what < 0.55:
            data = self._plausible(speaker)
        elif what < 0.75:
            data = self._frame(chance.choice([Kind.NOTE, Kind.STATUS]), self._number(), b"x" * 9)
        elif what < 0.985:
            late = chance.choice([Kind.MERGED, Kind.REGIONS])
            data = self._frame(late, self._number() | 1, self._body())
        elif what < 0.993:
            data = self._frame(chance.choice([*Kind, 0, 99]), self._number(), self._body())
        else:
            data = self._mutated(self._plausible(speaker))
        descriptors: list[int] = []
        kind = wire.HEADER.unpack_from(data)[1] if len(data) >= wire.HEADER.size else 0
        if kind == Kind.HANDBACK:
            # The good ones come first: others end the conversation.
            most = 3 if chance.random() < 0.9 else len(self.descriptors)
            descriptors = [self.descriptors[chance.randrange(most)]]
        elif chance.random() < 0.002:
            descriptors = chance.choices(self.descriptors, k=chance.choice([1, 5, 64, 200]))
        return data, descriptors

    def _plausible(self, speaker: Speaker) -> bytes:
        """What an agent could say now, with contents that no agent has."""
        chance = self.random
        if speaker.heard and chance.random() < 0.7:
            kind, sequence, length = speaker.heard.pop()
            if kind == Kind.LIST:
                return self._frame(Kind.REGIONS, sequence, self._regions())
            if kind == Kind.MERGE:
                pages = chance.choice([length // 24, PAGES, chance.randrange(99)])
                bits = chance.randbytes(-(-pages // 8))
                counts = [chance.choice([0, 1, self._number()]) for _ in range(6)]
                return self._frame(Kind.MERGED, sequence, struct.pack("=6Q", *counts) + bits)
        if chance.random() < 0.15:
            return self._frame(Kind.HANDBACK, 0, b"")
        if chance.random() < 0.2:
            source = self.base + chance.randrange(PAGES * PAGE_SIZE)
            target = self.base + chance.randrange(PAGES) * PAGE_SIZE
            if chance.random() < 0.3:
                source, target = self._number(), self._number() & ~4095
            ask = wire.INTERN.pack(source, target, chance.choice([1, 2, PAGES, 4096]), 1)
            return self._frame(Kind.INTERN, self._number() | 1, ask)
        return self._frame(Kind.NOTE, self._number(), chance.randbytes(chance.randrange(50)))

    def _regions(self) -> bytes:
        chance = self.random
        rows = [(1, self.base, PAGES)]
        if chance.random() < 0.3:
            rows = [(1, self.base, 7), (2, self.base + 7 * PAGE_SIZE, PAGES - 7)]
        if chance.random() < 0.05:
            rows.append((self._number(), self._number(), self._number()))
        huge = 2 if chance.random() < 0.02 else chance.choice([0, 1])
        return b"".join(struct.pack("=QQQQ", *row, huge) for row in rows)

    def _hello(self) -> bytes:
        chance = self.random
        version = wire.VERSION if chance.random() < 0.97 else self._number() % 2**32
        domain = chance.choice([b"", b"", b"a", b"b", b"%d" % chance.randrange(10**6)])
        if chance.random() < 0.05:
            domain = chance.randbytes(chance.randrange(100))
        barrier = chance.choice([0, 1, 1, 1, 2, 3, 3]) if chance.random() < 0.98 else 77
        return wire.HELLO.pack(version, barrier) + domain + b"\0" + chance.randbytes(20)

    def _body(self) -> bytes:
        chance = self.random
        if chance.random() < 0.5:
            return chance.randbytes(chance.choice([0, 1, 8, 24, 47, 48, 49, 500]))
        words = [self._number() for _ in range(chance.randrange(12))]
        return struct.pack(f"={len(words)}Q", *words)

    def _mutated(self, data: bytes) -> bytes:
        """Bits flipped, cut, repeated, or with another length."""
        chance, changed = self.random, bytearray(data)
        how = chance.randrange(4)
        if how == 0:
            for _ in range(chance.randint(1, 8)):
                changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        elif how == 1:
            del changed[chance.randrange(len(changed)) :]
        elif how == 2:
            changed = changed * 2
        else:
            changed[:4] = struct.pack("=I", chance.choice([0, 1, 2**26, 2**26 + 1, 2**32 - 1]))
        return bytes(changed)

    def _frame(self, kind: int, sequence: int, body: bytes) -> bytes:
        return wire.HEADER.pack(len(body), kind, sequence) + body

    def _number(self) -> int:
        chance = self.random
        if chance.random() < 0.5:
            return chance.choice(NUMBERS)
        return chance.randrange(2 ** chance.randint(1, 64))
