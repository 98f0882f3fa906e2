"""ELF cores, built byte by byte."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from pagemerge._core import ZERO
from pagemerge.errors import UsageError
from pagemerge.find.images import open_image
from pagemerge.model import PAGE_SIZE
from tests.support.images import SEED, ZEROS, Segment, assert_holds, elf, made, page

NOTE = Segment(b"CORE" * 20, kind=4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("gap", [0, 5, PAGE_SIZE])
def test_segments_at_any_offset(tmp_path: Path, order: str, many: bool, gap: int) -> None:
    pages = [page(number) for number in range(600)]
    first, second = b"".join(pages[:350]), b"".join(pages[350:])
    segments = [NOTE, Segment(first, paddr=0), Segment(second, paddr=0x1000000)]
    source = open_image(made(tmp_path, elf(segments, order, many=many, gap=gap)))
    assert_holds(source, pages)
    assert source.kind == "ELF dump of physical memory"
    assert not source.note


def test_more_segments_than_the_header_can_count(tmp_path: Path) -> None:
    number = 70_000
    data = elf([Segment(b"", filesz=0)] * number, many=True)
    table = np.frombuffer(data, "<u8", offset=64, count=7 * number).reshape(-1, 7).copy()
    table[:, 1] = len(data) + np.arange(number) * 8  # p_offset
    table[:, 3] = np.arange(number) * PAGE_SIZE  # p_paddr
    table[:, 4:6] = 8  # p_filesz, p_memsz
    data = data[:64] + table.tobytes() + data[64 + table.nbytes :]
    data += np.arange(number, dtype="<u8").tobytes()
    expected = [struct.pack("<Q", it).ljust(PAGE_SIZE, b"\0") for it in range(number)]
    source = open_image(made(tmp_path, data))
    assert source.total == number
    digests = np.concatenate([it.digests.copy() for it in source.read(SEED, 2)])
    assert len(np.unique(digests)) == number
    assert digests[0] == ZERO
    some = np.array([1, 40_000, number - 1])
    assert [it.tobytes() for it in source.contents(some)] == [expected[it] for it in some]


def test_memory_that_a_guest_dump_does_not_store_is_zero(tmp_path: Path) -> None:
    pages = [page(1), page(2)]
    segments = [
        Segment(pages[0], paddr=0, size=3 * PAGE_SIZE),
        Segment(b"", paddr=0x100000, size=5 * PAGE_SIZE),
        Segment(pages[1][:100], paddr=0x200000, size=PAGE_SIZE + 1),
    ]
    source = open_image(made(tmp_path, elf(segments)))
    part = pages[1][:100].ljust(PAGE_SIZE, b"\0")
    assert_holds(source, [pages[0], part, *[ZEROS] * 8])
    assert source.hole_pages == 8


def test_memory_that_the_core_of_a_process_left_out_does_not_count(tmp_path: Path) -> None:
    """It is mostly the text of libraries, which is not zero."""
    segments = [
        Segment(b"", vaddr=0x400000, size=1000 * PAGE_SIZE),
        Segment(page(1), vaddr=0x7F0000000000, size=50 * PAGE_SIZE),
    ]
    source = open_image(made(tmp_path, elf(segments)))
    assert_holds(source, [page(1)])
    assert source.kind == "core of a process"
    assert f"{1049 * PAGE_SIZE} bytes of the process are not in the core" in source.note


def test_a_page_that_is_mapped_twice_counts_once(tmp_path: Path) -> None:
    """As in dumps with virtual addresses (dump-guest-memory -p)."""
    pages = [page(number) for number in range(6)]
    at = 64 + 3 * 56
    segments = [
        Segment(b"".join(pages), vaddr=0x10000, paddr=0x10000, offset=at),
        Segment(b"", vaddr=0x90000, paddr=0x11000, offset=at + PAGE_SIZE, filesz=2 * PAGE_SIZE),
        Segment(page(6), vaddr=0xA0000, paddr=0x15000, offset=at + 5 * PAGE_SIZE, filesz=8192),
    ]
    source = open_image(made(tmp_path, elf(segments)))
    assert_holds(source, [*pages, page(6)])
    assert f"{3 * PAGE_SIZE} bytes are mapped more than once" in source.note


def test_a_core_that_is_cut_short_has_the_pages_before_and_says_so(tmp_path: Path) -> None:
    pages = [page(number) for number in range(8)]
    segments = [
        Segment(b"".join(pages[:4]), paddr=0),
        Segment(b"".join(pages[4:]), paddr=0x10000, size=6 * PAGE_SIZE),
    ]
    data = elf(segments)
    source = open_image(made(tmp_path, data[: -2 * PAGE_SIZE - 10]))
    assert_holds(source, [*pages[:5], ZEROS, ZEROS])
    assert f"cut short: {2 * PAGE_SIZE + 10} bytes of memory are missing" in source.note
    with pytest.raises(UsageError, match=r"do not fit into \d+ bytes"):
        open_image(made(tmp_path, data[:100]))
    with pytest.raises(UsageError, match="ends inside the ELF header"):
        open_image(made(tmp_path, data[:40]))


def test_holes_of_a_core_are_zeros_that_are_not_read(tmp_path: Path) -> None:
    path = made(tmp_path, elf([Segment(b"", filesz=1 << 30, vaddr=4096)]))
    with path.open("r+b") as file:
        file.seek(120 + 300 * PAGE_SIZE)
        file.write(page(5))
    os.truncate(path, (1 << 30) + 120)
    source = open_image(path)
    (first, *others) = ((it.digests.copy(), it.bytes_read) for it in source.read(SEED, 1))
    assert np.flatnonzero(first[0] != ZERO).tolist() == [300]
    assert all((it == ZERO).all() for it, _ in others)
    assert first[1] + sum(size for _, size in others) < 64 * PAGE_SIZE


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (elf([Segment(page(1))], kind=3), "is an ELF file of type 3, not a core"),
        (b"\x7fELF\x01" + bytes(200), "is a 32-bit ELF file"),
        (b"\x7fELF\x02\x03" + bytes(200), "byte order 3 is not known"),
        (elf([NOTE]), "is an ELF core without memory"),
        (elf([Segment(page(1), paddr=4096, size=1 << 60)]), "claims to hold 1,024 PiB of memory"),
        (elf([Segment(page(1), paddr=4096, size=(1 << 64) - 1)]), "is impossible"),
        (elf([Segment(page(1), offset=1 << 63)]), "holds no whole page of memory"),
        (elf([Segment(page(1))]).replace(b"\x38\0\x01\0", b"\x20\0\x01\0"), "headers of 32 bytes"),
    ],
)
def test_what_is_no_core_or_damaged(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_image(made(tmp_path, data))
    assert words in str(caught.value)
