"""Memory images, byte by byte, as their formats say; and what a source must tell of them."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pagemerge import _core
from pagemerge._core import ABSENT
from pagemerge.find.images import ImageSource
from pagemerge.model import PAGE_SIZE

ZEROS = bytes(PAGE_SIZE)
SEED = 0x5EED


def page(number: int, size: int = PAGE_SIZE) -> bytes:
    """A page of random bytes; the same number gives the same page."""
    return random.Random(number).randbytes(size)


def assert_holds(source: ImageSource, expected: Sequence[bytes | None]) -> None:
    """The source has exactly these pages, in this order; None for one that it does not know."""
    assert source.total == len(expected)
    wanted = np.frombuffer(b"".join(it or ZEROS for it in expected), np.uint8)
    digests = np.empty(len(expected), np.uint64)
    _core.digest(wanted, SEED, digests)
    digests[[it is None for it in expected]] = ABSENT
    for threads in (1, 2):
        found = [(it.digests.copy(), it.frames.copy()) for it in source.read(SEED, threads)]
        assert np.concatenate([it for it, _ in found]).tolist() == digests.tolist()
        assert not np.concatenate([it for _, it in found]).any()
        assert source.unreadable == 0
    everything = np.arange(source.total, dtype=np.int64)
    assert source.contents(everything).tobytes() == wanted.tobytes()
    some = everything[1::2]
    assert source.contents(some).tobytes() == wanted.reshape(-1, PAGE_SIZE)[some].tobytes()
    assert not source.error


class Segment:
    """A program header of type PT_LOAD, and what it stores."""

    def __init__(
        self,
        data: bytes,
        *,
        size: int | None = None,
        vaddr: int = 0,
        paddr: int = 0,
        offset: int | None = None,
        filesz: int | None = None,
        kind: int = 1,
    ) -> None:
        self.data, self.kind = data, kind
        self.filesz = len(data) if filesz is None else filesz
        self.size = self.filesz if size is None else size
        self.vaddr, self.paddr, self.offset = vaddr, paddr, offset


def elf(
    segments: Sequence[Segment],
    order: str = "<",
    *,
    kind: int = 4,
    many: bool = False,
    gap: int = 0,
) -> bytes:
    """An ELF file of 64 bits. ``many``: the number of headers is in section header 0 (PN_XNUM).
    ``gap``: bytes between what the segments store."""
    count = len(segments)
    sections = 64 + 56 * count if many else 0
    head = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01" + bytes(9)
    head += struct.pack(order + "HHIQQQI", kind, 62, 1, 0, 64, sections, 0)
    head += struct.pack(order + "HHHHHH", 64, 56, 0xFFFF if many else count, 64, int(many), 0)
    at = 64 + 56 * count + (64 if many else 0)
    table, data = bytearray(), bytearray()
    for it in segments:
        data += bytes(gap)
        offset = at + len(data) if it.offset is None else it.offset
        fields = (offset, it.vaddr, it.paddr, it.filesz, it.size, PAGE_SIZE)
        table += struct.pack(order + "IIQQQQQQ", it.kind, 7, *fields)
        data += it.data
    extra = bytes(44) + struct.pack(order + "I", count) + bytes(16) if many else b""
    return head + bytes(table) + extra + bytes(data)


def lime(ranges: Sequence[tuple[int, bytes]], version: int = 1) -> bytes:
    """A LiME dump of (address, memory)."""
    return b"".join(
        struct.pack("<IIQQ8x", 0x4C694D45, version, at, at + len(data) - 1) + data
        for at, data in ranges
    )


class Qemu:
    """A stream of QEMU; each method appends to it."""

    ID = 2
    ZERO, PAGE, EOS, CONTINUE = 0x02, 0x08, 0x10, 0x20

    def __init__(
        self,
        blocks: Sequence[tuple[bytes, int]] = ((b"pc.ram", 16 * PAGE_SIZE),),
        *,
        bits: int = 0,
        capabilities: Sequence[bytes] = (),
        uuid: bool = False,
    ) -> None:
        self.blocks = blocks
        self.data = bytearray(b"QEVM" + struct.pack(">IBI", 3, 7, 7) + b"microvm")
        if bits:
            self._subsection(b"target-page-bits", struct.pack(">I", bits))
        if capabilities:
            names = b"".join(text(it) for it in capabilities)
            self._subsection(b"capabilities", struct.pack(">I", len(capabilities)) + names)
        if uuid:
            self._subsection(b"uuid", bytes(range(16)))
        self.ignore_shared = b"x-ignore-shared" in capabilities

    def _subsection(self, name: bytes, body: bytes) -> None:
        self.data += b"\x05" + text(b"configuration/" + name) + struct.pack(">I", 1) + body

    def start(self, name: bytes = b"ram", version: int = 4) -> None:
        """A section begins, with the list of blocks, and its first part ends."""
        self.data += struct.pack(">BI", 1, self.ID) + text(name) + struct.pack(">II", 0, version)
        self.data += struct.pack(">Q", sum(size for _, size in self.blocks) | 4)
        for block, size in self.blocks:
            self.data += text(block) + struct.pack(">Q", size)
            if self.ignore_shared:
                self.data += struct.pack(">Q", 0x1000)
        self.end_part()

    def part(self, last: bool = False) -> None:
        """One more part begins."""
        self.data += struct.pack(">BI", 3 if last else 2, self.ID)

    def end_part(self) -> None:
        """This part ends."""
        self.data += struct.pack(">QBI", self.EOS, 0x7E, self.ID)

    def page(self, address: int, data: bytes, block: bytes | None = None) -> None:
        """One page; ``block`` if it is not that of the page before."""
        self._head(address, self.PAGE, block)
        self.data += data

    def zero(self, address: int, block: bytes | None = None, byte: int = 0) -> None:
        """One page of which all bytes are ``byte``."""
        self._head(address, self.ZERO, block)
        self.data += bytes([byte])

    def _head(self, address: int, flags: int, block: bytes | None) -> None:
        flags |= self.CONTINUE if block is None else 0
        self.data += struct.pack(">Q", address | flags)
        self.data += b"" if block is None else text(block)

    def finish(self, description: bytes = b'{"devices": []}') -> bytes:
        """The last part, a device, the end, and the description; returns the whole stream."""
        self.part(last=True)
        self.end_part()
        self.data += struct.pack(">BI", 4, 9) + text(b"timer") + struct.pack(">II", 0, 2)
        self.data += bytes(24) + struct.pack(">BI", 0x7E, 9) + b"\0"
        return bytes(self.data) + struct.pack(">BI", 6, len(description)) + description


def text(value: bytes) -> bytes:
    """A text with its length before it."""
    return bytes([len(value)]) + value


def mapped(pages: Sequence[bytes | None], blocks: int = 1, align: int = 1 << 20) -> bytes:
    """A stream with mapped-ram: ``blocks`` blocks with the same pages; None is not in the file."""
    size = len(pages) * PAGE_SIZE
    made = Qemu(capabilities=[b"mapped-ram"])
    made.data += struct.pack(">BI", 1, made.ID) + text(b"ram") + struct.pack(">II", 0, 4)
    made.data += struct.pack(">Q", size * blocks | 4)
    bits = np.packbits([it is not None for it in pages], bitorder="little").tobytes()
    bits += bytes(-len(bits) % 8)
    for number in range(blocks):
        made.data += text(b"block%d" % number) + struct.pack(">Q", size)
        bitmap = len(made.data) + 28
        first = -(-(bitmap + len(bits)) // align) * align
        made.data += struct.pack(">IQQQ", 1, PAGE_SIZE, bitmap, first) + bits
        made.data += bytes(first - len(made.data))
        # What the bitmap leaves out may hold an older copy.
        made.data += b"".join(page(99) if it is None else it for it in pages)
    made.end_part()
    return made.finish()


def virsh(stream: bytes, *, version: int = 2, packed: int = 0, order: str = "<") -> bytes:
    """A file of ``virsh save``."""
    xml = b"<domain/>\0".ljust(512, b"\0")
    numbers = struct.pack(order + "5I", version, len(xml), 1, packed, 0) + bytes(56)
    return b"LibvirtQemudSave" + numbers + xml + stream


def made(folder: Path, data: bytes, name: str = "image") -> Path:
    """``data`` as a file."""
    path = folder / name
    path.write_bytes(data)
    return path
