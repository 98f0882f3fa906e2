"""Streams of QEMU, built record by record."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from pagemerge.errors import UsageError
from pagemerge.find.images import open_image
from pagemerge.find.sources import STEP
from pagemerge.model import PAGE_SIZE
from tests.support.images import (
    SEED,
    ZEROS,
    Qemu,
    assert_holds,
    made,
    mapped,
    page,
    text,
    virsh,
)

RAM = b"pc.ram"


def block(pages: int) -> tuple[bytes, int]:
    return RAM, pages * PAGE_SIZE


def test_pages_zeros_and_several_blocks(tmp_path: Path) -> None:
    stream = Qemu([block(3), (b"pc.bios", PAGE_SIZE), (b"vga.vram", 2 * PAGE_SIZE)], uuid=True)
    stream.start()
    stream.part()
    stream.page(PAGE_SIZE, page(1), RAM)
    stream.zero(0)
    stream.zero(0, b"vga.vram", byte=7)
    stream.page(PAGE_SIZE, page(2))
    stream.page(0, page(3), b"pc.bios")
    stream.page(2 * PAGE_SIZE, page(1), RAM)
    stream.end_part()
    source = open_image(made(tmp_path, stream.finish()))
    assert_holds(source, [ZEROS, page(1), page(1), page(3), b"\7" * PAGE_SIZE, page(2)])
    assert source.kind == "QEMU stream"
    assert not source.note


def test_the_last_copy_of_a_page_counts(tmp_path: Path) -> None:
    """Of a guest that wrote while it was saved; long rows and single records."""
    total = 3000
    stream = Qemu([block(total)])
    expected: list[bytes | None] = [page(it) if it % 1000 < 600 else ZEROS for it in range(total)]
    stream.start()
    stream.part()
    for number, data in enumerate(expected):
        if data == ZEROS:
            stream.zero(number * PAGE_SIZE, None if number else RAM)
        else:
            stream.page(number * PAGE_SIZE, data or b"", None if number else RAM)
    stream.end_part()
    for turn in range(3):
        stream.part()
        changed = list(range(turn * 31, total, 211 + turn)) + list(range(700, 800))
        for at, number in enumerate(reversed(changed)):
            name = RAM if at == 0 else None
            if number % 7 == turn:
                stream.zero(number * PAGE_SIZE, name)
                expected[number] = ZEROS
            else:
                expected[number] = page(100_000 * (turn + 1) + number)
                stream.page(number * PAGE_SIZE, expected[number] or b"", name)
        stream.end_part()
    source = open_image(made(tmp_path, stream.finish()))
    assert_holds(source, expected)


def test_a_row_that_ends_with_the_buffer(tmp_path: Path) -> None:
    """At each record around the one from which on rows are looked for."""
    for number in range(28, 40):
        stream = Qemu([block(100)])
        stream.start()
        stream.part()
        for at in range(number):
            stream.zero(at * PAGE_SIZE, None if at else RAM)
        for more in (b"", bytes(3)):
            source = open_image(made(tmp_path, bytes(stream.data) + more))
            assert source.note.endswith(f"cut short: {100 - number} of 100 pages are missing")


def test_pages_of_16_kib_are_four_pages(tmp_path: Path) -> None:
    stream = Qemu([block(400)], bits=14)
    stream.start()
    stream.part()
    stream.page(4 * PAGE_SIZE, page(1, 4 * PAGE_SIZE), RAM)
    stream.zero(0, byte=3)
    for number in range(2, 100):
        stream.page(number * 4 * PAGE_SIZE, page(number, 4 * PAGE_SIZE))
    stream.end_part()
    source = open_image(made(tmp_path, stream.finish()))
    sent = b"\3" * 4 * PAGE_SIZE + b"".join(page(it, 4 * PAGE_SIZE) for it in range(1, 100))
    assert_holds(source, [sent[at : at + PAGE_SIZE] for at in range(0, len(sent), PAGE_SIZE)])


def test_a_stream_that_is_cut_short_lacks_pages_and_says_so(tmp_path: Path) -> None:
    stream = Qemu([block(5)])
    stream.start()
    stream.part()
    stream.page(0, page(1), RAM)
    stream.zero(PAGE_SIZE)
    stream.page(2 * PAGE_SIZE, page(2))
    whole = bytes(stream.data)
    for cut in (1, 100, PAGE_SIZE):
        source = open_image(made(tmp_path, whole[:-cut]))
        assert_holds(source, [page(1), ZEROS, None, None, None])
        assert source.note == "the file is cut short: 3 of 5 pages are missing"
    source = open_image(made(tmp_path, whole))
    assert_holds(source, [page(1), ZEROS, page(2), None, None])
    source = open_image(made(tmp_path, whole + b"\0"))
    assert "2 of 5 pages are missing" in source.note
    stream.end_part()
    source = open_image(made(tmp_path, stream.finish()))
    assert_holds(source, [page(1), ZEROS, page(2), ZEROS, ZEROS])
    assert source.note == "2 of 5 pages were not sent (counted as zero)"
    for cut, words in ((4, "before any page"), (7, "before any page"), (60, "of its 5 pages")):
        with pytest.raises(UsageError, match=rf"holds no .* {words}"):
            open_image(made(tmp_path, whole[:cut]))


def test_shared_memory_that_was_left_out_is_not_zero(tmp_path: Path) -> None:
    stream = Qemu([block(2), (b"shared", PAGE_SIZE)], capabilities=[b"x-ignore-shared"])
    stream.start()
    stream.part()
    stream.page(0, page(1), RAM)
    stream.zero(PAGE_SIZE)
    stream.end_part()
    source = open_image(made(tmp_path, stream.finish()))
    assert_holds(source, [page(1), ZEROS, None])
    assert source.note == "1 of 3 pages were not sent (shared memory that was left out)"


def test_a_device_in_front_of_the_memory_and_commands(tmp_path: Path) -> None:
    stream = Qemu([block(1)])
    stream.data += struct.pack(">BHH4s", 8, 2, 4, b"ping")
    stream.start()
    stream.part()
    stream.page(0, page(1), RAM)
    stream.end_part()
    assert_holds(open_image(made(tmp_path, stream.finish())), [page(1)])
    data = bytes(stream.data)
    head = data[: stream.data.index(b"\x01\0\0\0\x02\x03ram")]
    dirty = struct.pack(">BI", 1, 1) + text(b"dirty-\nbitmap") + struct.pack(">II", 0, 1)
    with pytest.raises(UsageError, match=r"section 'dirty-\\\\nbitmap' cannot be skipped"):
        open_image(made(tmp_path, head + dirty + data[len(head) :]))
    early = len(head) + data[len(head) :].index(b"\x02\0\0\0\x02\0\0\0\0\0\0\0\x08")
    source = open_image(made(tmp_path, data + dirty))
    assert_holds(source, [page(1)])
    with pytest.raises(UsageError, match=r"holds no page of its 1 pages.*cannot be skipped"):
        open_image(made(tmp_path, data[:early] + dirty))


@pytest.mark.parametrize(
    ("flags", "what", "capability"),
    [
        (0x40, "XBZRLE", "xbzrle"),
        (0x60, "XBZRLE", "xbzrle"),
        (0x80, "RDMA", "rdma-pin-all"),
        (0x100, "compressed pages", "compress"),
        (0x120, "compressed pages", "compress"),
        (0x200, "multifd", "multifd"),
    ],
)
def test_pages_in_another_form_are_refused_by_name(
    tmp_path: Path, flags: int, what: str, capability: str
) -> None:
    stream = Qemu()
    stream.start()
    stream.part()
    stream.page(0, page(1), RAM)
    stream.data += struct.pack(">Q", PAGE_SIZE | flags) + bytes(200)
    with pytest.raises(UsageError) as caught:
        open_image(made(tmp_path, bytes(stream.data)))
    assert f"has {what} at byte " in str(caught.value)
    assert f"`migrate_set_capability {capability} off`" in str(caught.value)


def damaged() -> list[tuple[bytes, str]]:
    """Streams that are damaged, and what is said of them."""
    made = []

    def case(words: str, version: int = 4, blocks: list[tuple[bytes, int]] | None = None) -> Qemu:
        stream = Qemu(blocks or [block(2)])
        stream.start(version=version)
        stream.part()
        made.append((stream, words))
        return stream

    case("a page of a RAM block that was not listed").page(0, page(1), b"other")
    case("a page of a RAM block that was not listed").page(0, page(1))
    case("page 0x2000 is outside of its RAM block").page(2 * PAGE_SIZE, page(1), RAM)
    case("page 0xfffffffffffff000 is outside").zero((1 << 64) - PAGE_SIZE, RAM)
    case("flags 0x0 of a RAM record are not known").data += bytes(8)
    case("flags 0x1 of a RAM record").data += struct.pack(">Q", 1)
    case("a second list of RAM blocks").data += struct.pack(">Q", PAGE_SIZE | 4)
    case("section ram has version 3", version=3)
    case("the list of RAM blocks does not add up", blocks=[block(1), block(1)])
    case("the list of RAM blocks does not add up", blocks=[(b"", PAGE_SIZE)])
    case("a RAM block of 4608 bytes is not whole", blocks=[(RAM, 4608), (b"b", 3584)])
    case("claims to hold 1 EiB of memory", blocks=[(RAM, 1 << 60)])
    stream = case("a section of type 77 is not known")
    stream.zero(0, RAM)
    stream.end_part()
    stream.data += b"\x4d"
    return [(bytes(stream.data), words) for stream, words in made] + [
        (b"QEVM" + struct.pack(">I", 2) + bytes(99), "is a QEMU stream of version 2, not 3"),
        (bytes(Qemu(bits=10).data), "pages of 2^10 bytes"),
        (bytes(Qemu(bits=40).data), "pages of 2^40 bytes"),
        (bytes(Qemu().data) + b"\x05" + text(b"x") + bytes(4), "'x' is not known"),
    ]


@pytest.mark.parametrize(("data", "words"), damaged())
def test_damaged_streams(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_image(made(tmp_path, data))
    assert words in str(caught.value)


def test_a_large_guest_of_which_little_was_sent_takes_little_memory(tmp_path: Path) -> None:
    """The places of 64 GiB would be 128 MiB; only what was sent is touched, 4 KiB at a time."""
    number = 64
    total = 4 * number * STEP
    stream = Qemu([block(total)])
    stream.start()
    stream.part()
    for at in range(number):
        stream.page(4 * at * STEP * PAGE_SIZE, page(at), None if at else RAM)
    stream.end_part()
    before = resident_bytes()
    source = open_image(made(tmp_path, stream.finish()))
    assert resident_bytes() - before < 8 << 20
    found = [it.digests[[0, -1]].tolist() for it in source.read(SEED, 1)]
    assert all(it == [1, 1] for at, it in enumerate(found) if at % 4)
    assert all(it[0] > 1 == it[1] for it in found[::4])
    assert source.hole_pages == total - number


def test_a_row_of_records_ends_at_one_that_is_different(tmp_path: Path) -> None:
    total = 300
    stream = Qemu([block(total)])
    stream.start()
    stream.part()
    for number in range(total):
        stream.zero(number * PAGE_SIZE, None if number else RAM, byte=9 if number == 200 else 0)
    whole = bytes(stream.data)
    stream.end_part()
    expected = [ZEROS] * total
    expected[200] = b"\t" * PAGE_SIZE
    assert_holds(open_image(made(tmp_path, stream.finish())), expected)
    beyond = total * PAGE_SIZE | 0x22
    for at in (100, 290):
        here = whole.index(struct.pack(">Q", at * PAGE_SIZE | 0x22))
        changed = whole[:here] + struct.pack(">Q", beyond) + whole[here + 8 :]
        with pytest.raises(UsageError, match=rf"byte {here}: page 0x12c000 is outside"):
            open_image(made(tmp_path, changed))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_SIZE


@pytest.mark.parametrize("blocks", [1, 3])
def test_mapped_ram(tmp_path: Path, blocks: int) -> None:
    pages = [page(number) if number % 3 else None for number in range(100)]
    source = open_image(made(tmp_path, mapped(pages, blocks)))
    assert_holds(source, [it or ZEROS for it in pages] * blocks)
    assert not source.note


def test_mapped_ram_that_is_damaged(tmp_path: Path) -> None:
    data = mapped([page(1)] * 9, 2)
    at = data.index(b"block0") + 14
    version, size, bitmap, first = struct.unpack_from(">IQQQ", data, at)
    for values, words in [
        ((2, size, bitmap, first), "mapped-ram version 2"),
        ((version, 1 << 14, bitmap, first), "pages of 16384 bytes"),
        ((version, size, bitmap, bitmap), "bitmap and pages overlap"),
        ((version, size, 0, first), "bitmap and pages overlap"),
        ((version, size, bitmap, 1 << 40), "pages are beyond the end"),
    ]:
        changed = data[:at] + struct.pack(">IQQQ", *values) + data[at + 28 :]
        with pytest.raises(UsageError) as caught:
            open_image(made(tmp_path, changed))
        assert words in str(caught.value)
    with pytest.raises(UsageError, match="before any page"):
        open_image(made(tmp_path, data[: first + 4 * PAGE_SIZE]))


def test_bits_beyond_the_end_of_a_bitmap_mean_nothing(tmp_path: Path) -> None:
    data = bytearray(mapped([page(1), None], 2))
    (bitmap,) = struct.unpack_from(">Q", data, data.index(b"block0") + 14 + 12)
    assert data[bitmap] == 1
    data[bitmap] = 0xFD
    assert_holds(open_image(made(tmp_path, bytes(data))), [page(1), ZEROS] * 2)


def test_mapped_ram_that_is_cut_short(tmp_path: Path) -> None:
    pages = [page(1), None, page(2), page(3)]
    data = mapped(pages)
    end = data.index(page(3)) + 10
    source = open_image(made(tmp_path, data[:end]))
    (piece,) = source.read(SEED, 1)
    assert (piece.digests == 0).tolist() == [False, False, False, True]
    assert piece.digests[1] == 1
    assert source.note.startswith("the file is cut short; 1 pages could not be read")


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_save_of_libvirt(tmp_path: Path, order: str) -> None:
    stream = Qemu([block(1)])
    stream.start()
    stream.part()
    stream.page(0, page(1), RAM)
    stream.end_part()
    data = stream.finish()
    assert_holds(open_image(made(tmp_path, virsh(data, order=order))), [page(1)])
    with pytest.raises(UsageError, match="save of libvirt with xz: set save_image_format to raw"):
        open_image(made(tmp_path, virsh(data, packed=3, order=order)))
    with pytest.raises(UsageError, match="there is no stream of QEMU"):
        open_image(made(tmp_path, virsh(b"X" + data, order=order)))
    with pytest.raises(UsageError, match="ends inside the header of libvirt"):
        open_image(made(tmp_path, virsh(data)[:50]))


def test_places_of_many_pages_in_one_look(tmp_path: Path) -> None:
    """Pages that lie in the file in another order than in memory are read in the file's order."""
    total = 700
    stream = Qemu([block(total)])
    stream.start()
    stream.part()
    order = np.random.default_rng(1).permutation(total).tolist()
    for at, number in enumerate(order):
        stream.page(number * PAGE_SIZE, page(number), None if at else RAM)
    stream.end_part()
    assert_holds(open_image(made(tmp_path, stream.finish())), [page(it) for it in range(total)])
