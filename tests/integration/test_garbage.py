"""Clients that lie, flood, fall silent or make the hub wait: it stays up, and others go on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import resource
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagemerge.hub import wire
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn
from tests.support.bystanders import Bystanders
from tests.support.hubs import Hub
from tests.support.stranger import F_ADD_SEALS, SEALED, Stranger

PETABYTE = 1 << 50


@pytest.fixture
def bystanders(hub: Hub, victim: Spawn) -> Bystanders:
    found = Bystanders(hub, victim)
    found.go_on()
    return found


def memory_file(pages: int, seals: int = SEALED) -> int:
    """A memory file with those seals; the caller closes it."""
    descriptor = os.memfd_create("pagemerge-slab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, pages * PAGE_SIZE)
    fcntl.fcntl(descriptor, F_ADD_SEALS, seals)
    return descriptor


HELLO = wire.HEADER.pack(wire.HELLO.size, wire.Kind.HELLO, 0) + wire.HELLO.pack(wire.VERSION, 1)
GARBAGE = {
    "random bytes": random.Random(1).randbytes(100_000),
    "a huge length": wire.HEADER.pack(0xFFFF_FFFF, wire.Kind.HELLO, 0),
    "an unknown kind": HELLO + wire.HEADER.pack(0, 99, 0),
    "a hub's kind": HELLO + wire.HEADER.pack(0, wire.Kind.MERGE, 0),
    "another version": wire.HEADER.pack(8, wire.Kind.HELLO, 0) + wire.HELLO.pack(999, 1),
    "no such barrier": wire.HEADER.pack(8, wire.Kind.HELLO, 0) + wire.HELLO.pack(wire.VERSION, 77),
    "hello twice": HELLO + HELLO,
    "a short hello": wire.HEADER.pack(3, wire.Kind.HELLO, 0) + b"abc",
    "no hello": wire.HEADER.pack(wire.INTERN.size, wire.Kind.INTERN, 1)
    + wire.INTERN.pack(0, 0, 1, 0),
    "an intern of nothing": HELLO
    + wire.HEADER.pack(wire.INTERN.size, wire.Kind.INTERN, 1)
    + bytes(wire.INTERN.size),
    "an endless intern": HELLO
    + wire.HEADER.pack(wire.INTERN.size, wire.Kind.INTERN, 1)
    + wire.INTERN.pack(0, 0, 2**64 - 1, 0),
    "half an intern": HELLO + wire.HEADER.pack(8, wire.Kind.INTERN, 1) + bytes(8),
    "a slab without one": HELLO + wire.HEADER.pack(0, wire.Kind.HANDBACK, 0),
}


def test_garbage_ends_the_connection_and_nothing_else(hub: Hub, bystanders: Bystanders) -> None:
    for what, data in GARBAGE.items():
        with Stranger(hub.socket) as stranger:
            stranger.socket.sendall(data)
            assert stranger.is_dismissed(), f"{what}: the hub keeps listening"
            hub.assert_alive()
    bystanders.go_on()


REGIONS = {
    "petabytes": [(1, 1 << 30, PETABYTE // PAGE_SIZE)],
    "the end of the address space": [(1, 2**64 - PAGE_SIZE, 2)],
    "beyond the signed numbers": [(1, 2**63, 1)],
    "an odd address": [(1, 12345, 1)],
    "overlapping": [(1, 1 << 30, 8), (2, (1 << 30) + PAGE_SIZE, 8)],
    "one id twice": [(1, 1 << 31, 1), (2, 1 << 30, 1), (1, 1 << 20, 1)],
    "no pages": [(1, 1 << 30, 0)],
}


@pytest.mark.parametrize("what", REGIONS)
def test_regions_that_cannot_be(hub: Hub, bystanders: Bystanders, what: str) -> None:
    with Stranger(hub.socket) as stranger:
        stranger.hello()
        stranger.regions(*REGIONS[what])
        assert stranger.is_dismissed()
    bystanders.go_on()


def test_memory_that_is_only_claimed_costs_the_hub_nothing(
    hub: Hub, bystanders: Bystanders
) -> None:
    """Address space is free: a hub that kept records for all of it would run out of memory."""
    import mmap

    before = resident(hub.pid)
    noreserve = getattr(mmap, "MAP_NORESERVE", 0x4000)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | noreserve
    with mmap.mmap(-1, 1 << 44, flags=flags), Stranger(hub.socket) as stranger:
        stranger.hello()
        start = 1 << 40
        stranger.regions((1, start, (1 << 43) // PAGE_SIZE))
        bystanders.go_on()
        assert resident(hub.pid) < before + (64 << 20)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_SIZE


def test_reports_that_do_not_fit_their_plans(hub: Hub, bystanders: Bystanders) -> None:
    """Memory of this very process: the hub nominates, and is lied to about what came of it."""
    import mmap

    with mmap.mmap(-1, 8 * PAGE_SIZE, flags=mmap.MAP_PRIVATE) as memory:
        memory.write(b"the same in each page".ljust(PAGE_SIZE) * 8)
        base = address_of(memory)
        for length in (0, 40, 41, 100, 4096):
            with Stranger(hub.socket) as stranger:
                stranger.hello()
                stranger.regions((1, base, 8))
                sequence = 0
                while True:
                    kind, sequence, _ = stranger.frame()
                    if kind == wire.Kind.LIST:
                        body = struct.pack("=QQQQ", 1, base, 8, 0)
                        stranger.send(wire.Kind.REGIONS, sequence, body)
                    elif kind == wire.Kind.MERGE:
                        break
                stranger.send(wire.Kind.MERGED, sequence, b"\xff" * length)
                if length != 41:
                    assert stranger.is_dismissed(), length
                else:  # it fits: a lie, but only about itself; the hub may hang up, or not yet
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        stranger.send(wire.Kind.MERGED, 1 << 40, bytes(length))
    bystanders.go_on()


def address_of(memory: Any) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


@pytest.mark.parametrize("what", ["unsealed", "half sealed", "a file", "a pipe", "too big"])
def test_forged_slabs_are_refused(
    hub: Hub, bystanders: Bystanders, what: str, tmp_path: Path
) -> None:
    """A slab that somebody could change would be everybody's undoing."""
    (tmp_path / "file").write_bytes(bytes(PAGE_SIZE))
    forged = {
        "unsealed": lambda: memory_file(1, 0),
        "half sealed": lambda: memory_file(1, SEALED & ~0x8 | 0x10),
        "a file": lambda: os.open(tmp_path / "file", os.O_RDONLY),
        "a pipe": lambda: os.pipe()[0],
        "too big": lambda: memory_file(1 << 20),
    }[what]()
    with Stranger(hub.socket) as stranger:
        stranger.hello()
        stranger.send(wire.Kind.HANDBACK, 0, descriptors=[forged])
        assert stranger.is_dismissed()
    os.close(forged)
    bystanders.go_on()


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_a_flood_of_descriptors(hub: Hub, bystanders: Bystanders) -> None:
    before = open_files(hub.pid)
    slab = memory_file(1)
    with Stranger(hub.socket) as stranger:
        stranger.hello()
        with pytest.raises(OSError):
            for _ in range(10_000):
                stranger.send(wire.Kind.NOTE, 0, b"more", [slab] * 10)
    with Stranger(hub.socket) as stranger:
        stranger.hello()
        files = [memory_file(1) for _ in range(500)]
        for file in files:  # each a slab as it should be, and nobody's
            stranger.send(wire.Kind.HANDBACK, 0, descriptors=[file])
            os.close(file)
        bystanders.go_on()
    os.close(slab)
    hub.until(lambda: open_files(hub.pid) <= before + 8, "close what strangers sent")


def test_hundreds_of_connections(hub: Hub, bystanders: Bystanders, victim: Spawn) -> None:
    """Silent ones, and halves of frames; those that come later are served as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    strangers: list[Stranger] = []
    try:
        strangers += [Stranger(hub.socket) for _ in range(min(1500, hard - 200))]
        for number, stranger in enumerate(strangers):
            with contextlib.suppress(BrokenPipeError):  # the oldest are closed in the end
                stranger.socket.sendall(HELLO[: number % len(HELLO)])
        bystanders.go_on()
        Bystanders(hub, victim).go_on()
    finally:
        for stranger in strangers:
            stranger.socket.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    bystanders.go_on()


FRAMES = st.tuples(
    st.sampled_from([*wire.Kind, 0, 99]),
    st.one_of(st.integers(0, 8), st.integers(0, 2**64 - 1)),
    st.one_of(
        st.binary(max_size=120),
        st.lists(st.integers(0, 2**64 - 1), max_size=9).map(
            lambda words: struct.pack(f"={len(words)}Q", *words)
        ),
    ),
    st.booleans(),
)


def test_any_sequence_of_frames(hub: Hub, bystanders: Bystanders) -> None:
    """Whatever well-formed frames come in whatever order, with slabs or without."""
    slab = memory_file(3)

    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.lists(FRAMES, max_size=12))
    def send(frames: list[tuple[int, int, bytes, bool]]) -> None:
        with Stranger(hub.socket) as stranger:
            stranger.hello()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for kind, sequence, body, carries in frames:
                    stranger.send(kind, sequence, body, [slab] if carries else [])
        hub.assert_alive()

    send()
    os.close(slab)
    bystanders.go_on()
