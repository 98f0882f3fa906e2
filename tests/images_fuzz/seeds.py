"""Small images that are right, one of each form: what the fuzzer damages."""

from __future__ import annotations

import struct

from pagemerge.model import PAGE_SIZE
from tests.support.images import Qemu, Segment, elf, lime, mapped, page, text, virsh

RAM = b"pc.ram"


def seeds() -> dict[str, bytes]:
    """Name of the form -> an image."""
    return {
        "raw": page(1) + bytes(PAGE_SIZE) + page(2),
        "elf guest": elf(_segments(0), gap=3),
        "elf process": elf(_segments(0x7F0000000000)),
        "elf big endian": elf(_segments(0), ">"),
        "elf many": elf(_segments(0), many=True),
        "lime": lime([(0x1000, page(1)), (0x2800, page(2)[:900]), (0x10000, page(1) + page(3))]),
        "qemu": _stream(),
        "qemu 16 KiB": _stream(bits=14),
        "qemu rows": _rows(),
        "qemu mapped": mapped([page(1), None, page(2)], 2, align=512),
        "virsh": virsh(_stream()),
    }


def _segments(vaddr: int) -> list[Segment]:
    return [
        Segment(b"NOTE" * 9, kind=4),
        Segment(page(1) + page(2), vaddr=vaddr, paddr=0, size=3 * PAGE_SIZE),
        Segment(page(3)[:700], vaddr=vaddr and vaddr + 0x10800, paddr=0 if vaddr else 0x10800),
        Segment(b"", vaddr=vaddr and vaddr + 0x20000, paddr=0 if vaddr else 0x20000, size=9999),
    ]


def _stream(bits: int = 0) -> bytes:
    size = 1 << (bits or 12)
    stream = Qemu(
        [(RAM, 4 * size), (b"pc.bios", size)],
        bits=bits,
        capabilities=[b"x-ignore-shared"] if bits else [],
        uuid=not bits,
    )
    stream.data += struct.pack(">BHH4s", 8, 2, 4, b"ping")
    stream.start()
    for turn in range(2):
        stream.part()
        stream.page(0, page(turn, size), RAM)
        stream.zero(size)
        stream.zero(2 * size, byte=turn)
        stream.page(0, page(5, size), b"pc.bios")
        stream.end_part()
    return stream.finish()


def _rows() -> bytes:
    """So many records of one kind that they are read in rows."""
    stream = Qemu([(RAM, 300 * PAGE_SIZE)])
    stream.start()
    stream.part()
    for number in range(260):
        stream.zero(number * PAGE_SIZE, None if number else RAM)
    stream.page(260 * PAGE_SIZE, page(1), RAM)
    stream.end_part()
    return stream.finish()


TOKENS = (
    b"\x7fELF",
    b"EMiL\x01\0\0\0",
    b"QEVM\0\0\0\x03",
    b"LibvirtQemudSave",
    b"KDUMP   ",
    text(b"configuration/target-page-bits"),
    text(b"configuration/capabilities"),
    text(b"ram"),
    b"\0" * 8,
    b"\xff" * 8,
    b"\x7f" + b"\xff" * 7,
    struct.pack("<Q", 1 << 60),
    struct.pack(">Q", 1 << 60),
    struct.pack("<Q", 1 << 40),
    struct.pack(">Q", 1 << 40 | 4),
    struct.pack(">Q", 0x22),
    struct.pack(">Q", 0x28),
    struct.pack(">Q", 0x10),
    struct.pack(">Q", 0x44),
    b"\xff\xff",
)
"""Bytes that mean something in one of the formats."""
