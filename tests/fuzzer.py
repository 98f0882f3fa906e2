"""Strangers who say anything to a hub: random, structured and mutated frames, and descriptors.

``python -m tests.fuzzer --messages 1000000`` (``make fuzz``) runs a hub with honest clients beside
them, and prints what it came to. The same seed says the same, as far as a hub's timing lets it.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import mmap
import os
import random
import resource
import select
import socket
import struct
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from pagemerge.demo.dialog import Child
from pagemerge.merge import wire
from pagemerge.model import PAGE_SIZE
from tests.bystanders import Bystanders
from tests.conftest import VICTIMS
from tests.hubs import Hub
from tests.stranger import F_ADD_SEALS, SEALED

PATIENCE = 30.0
MOST_OPEN = 40
"""Conversations at a time."""
PAGES = 64
"""Real memory of this process that strangers let the hub read."""
NUMBERS = [0, 1, 2, 7, 255, 4095, 4096, 2**16, 2**31, 2**32 - 1, 2**56, 2**63, 2**64 - 1]
Kind = wire.Kind


def forged() -> list[int]:
    """Descriptors that somebody might hand back: slabs as they should be, and all but."""

    def memory_file(pages: int, seals: int) -> int:
        descriptor = os.memfd_create("pagemerge-slab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, pages * PAGE_SIZE)
        fcntl.fcntl(descriptor, F_ADD_SEALS, seals)
        return descriptor

    f_seal_future_write = 0x10
    found = [memory_file(pages, SEALED) for pages in (1, 3, 4096)]
    found += [memory_file(1, seals) for seals in (0, SEALED & ~0x8 | f_seal_future_write, 0x6)]
    found += [memory_file(pages, SEALED) for pages in (0, 4097, 1 << 28)]
    odd = os.memfd_create("pagemerge-slab", os.MFD_ALLOW_SEALING)
    os.ftruncate(odd, 5000)
    fcntl.fcntl(odd, F_ADD_SEALS, SEALED)
    found += [odd, os.open("/proc/self/exe", os.O_RDONLY), os.open("/", os.O_PATH)]
    found += [os.open("/dev/zero", os.O_RDONLY), *os.pipe(), os.eventfd(0)]
    return [*found, socket.socket(socket.AF_UNIX).detach()]


class Stranger:
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
        except TimeoutError:
            raise AssertionError("the hub has stopped reading") from None
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


class Fuzzer:
    """All strangers, and one source of chance."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.random = path, random.Random(seed)
        self.strangers: list[Stranger] = []
        self.messages = self.connections = 0
        self.descriptors = forged()
        self.memory = mmap.mmap(-1, PAGES * PAGE_SIZE, flags=mmap.MAP_PRIVATE)
        self.memory.write(b"the same in each page".ljust(PAGE_SIZE) * PAGES)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def run(self, messages: int) -> None:
        """Say so many."""
        end = self.messages + messages
        while self.messages < end:
            if len(self.strangers) < self.random.randint(1, MOST_OPEN):
                self.strangers.append(Stranger(self.path))
                self.connections += 1
                if self.random.random() < 0.9:
                    self._say(self.strangers[-1], self._frame(Kind.HELLO, 0, self._hello()), [])
            stranger = self.random.choice(self.strangers)
            stranger.listen()
            going = True
            for _ in range(self.random.choice([1, 3, 10, 40])):
                going = going and self._say(stranger, *self._message(stranger))
            if not going or self.random.random() < 0.02:
                stranger.socket.close()
                self.strangers.remove(stranger)

    def close(self) -> None:
        """Hang up, and let go of everything."""
        for stranger in self.strangers:
            stranger.socket.close()
        self.strangers.clear()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()

    def _say(self, stranger: Stranger, data: bytes, descriptors: list[int]) -> bool:
        said = stranger.say(data, descriptors)
        self.messages += said
        return said

    def _message(self, stranger: Stranger) -> tuple[bytes, list[int]]:
        """Mostly what keeps a conversation going, else it would never get far."""
        chance = self.random
        what = chance.random()
        if what < 0.55:
            data = self._plausible(stranger)
        elif what < 0.75:
            data = self._frame(chance.choice([Kind.NOTE, Kind.STATUS]), self._number(), b"x" * 9)
        elif what < 0.985:
            late = chance.choice([Kind.MERGED, Kind.REGIONS])
            data = self._frame(late, self._number() | 1, self._body())
        elif what < 0.993:
            data = self._frame(chance.choice([*Kind, 0, 99]), self._number(), self._body())
        else:
            data = self._mutated(self._plausible(stranger))
        descriptors: list[int] = []
        kind = wire.HEADER.unpack_from(data)[1] if len(data) >= wire.HEADER.size else 0
        if kind == Kind.HANDBACK:
            # The good ones come first: others end the conversation.
            most = 3 if chance.random() < 0.9 else len(self.descriptors)
            descriptors = [self.descriptors[chance.randrange(most)]]
        elif chance.random() < 0.002:
            descriptors = chance.choices(self.descriptors, k=chance.choice([1, 5, 64, 200]))
        return data, descriptors

    def _plausible(self, stranger: Stranger) -> bytes:
        """What an agent could say now, with contents that no agent has."""
        chance = self.random
        if stranger.heard and chance.random() < 0.7:
            kind, sequence, length = stranger.heard.pop()
            if kind == Kind.LOOK:
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
        return b"".join(struct.pack("=QQQ", *row) for row in rows)

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


def open_files(pid: int) -> int:
    """How many descriptors a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: int) -> int:
    """Its memory, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_SIZE


def torment(hub: Hub, honest: Bystanders, messages: int, seed: int, rounds: int) -> Fuzzer:
    """Say so many messages, and see each round that honest clients go on; then that all is over."""
    files = open_files(hub.pid)
    fuzzer = Fuzzer(hub.socket, seed)
    memory = 0
    try:
        for _ in range(rounds):
            fuzzer.run(messages // rounds)
            honest.go_on()
            memory = memory or resident(hub.pid)  # what caches and threads take is there by now
    finally:
        fuzzer.close()
    hub.until(lambda: len(hub.status().clients) == len(honest.members), "see the strangers leave")
    honest.go_on()
    hub.until(lambda: open_files(hub.pid) <= files + 8, "close what strangers sent")
    assert resident(hub.pid) < memory + (32 << 20), "it remembers what strangers said"
    return fuzzer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    with tempfile.TemporaryDirectory(prefix="pagemerge-fuzz-") as folder, ExitStack() as running:
        hub = running.enter_context(Hub(Path(folder) / "hub"))

        def victim(name: str, *arguments: str, env: dict[str, str] | None = None) -> Child:
            argv = [sys.executable, str(VICTIMS / f"{name}.py"), *arguments]
            return running.enter_context(Child(argv, env={**os.environ, **(env or {})}))

        honest = Bystanders(hub, victim)
        honest.go_on()
        files, memory, began = open_files(hub.pid), resident(hub.pid), time.monotonic()
        rounds = max(args.messages // 50_000, 1)
        fuzzer = torment(hub, honest, args.messages, args.seed, rounds)
        took = time.monotonic() - began
        print(
            f"{fuzzer.messages:,} messages over {fuzzer.connections:,} connections in {took:.0f} s"
            f" ({fuzzer.messages / took:,.0f} a second); honest clients were looked at "
            f"{honest.seed} times and right; the hub's descriptors: {files} before, "
            f"{open_files(hub.pid)} after; its memory: {memory / 1e6:.0f} and "
            f"{resident(hub.pid) / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
