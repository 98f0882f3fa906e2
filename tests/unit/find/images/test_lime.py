"""LiME dumps, built byte by byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagemerge.errors import UsageError
from pagemerge.find.images import open_image
from pagemerge.model import PAGE_SIZE
from tests.support.images import assert_holds, lime, made, page


def test_ranges_of_whole_pages(tmp_path: Path) -> None:
    pages = [page(number) for number in range(20)]
    data = lime([(0x1000, b"".join(pages[:3])), (0x100000, b"".join(pages[3:]))])
    source = open_image(made(tmp_path, data))
    assert_holds(source, pages)
    assert source.kind == "LiME dump"
    assert not source.note


def test_ranges_that_begin_and_end_inside_a_page(tmp_path: Path) -> None:
    """As on PCs, whose first range ends at 0x9fbff."""
    body = page(1, 2 * PAGE_SIZE)
    data = lime([(0x9E800, body), (0x200010, b"abc"), (0x300FFF, b"de")])
    padded = bytes(0x800) + body + bytes(0x800)
    expected = [padded[at : at + PAGE_SIZE] for at in range(0, 3 * PAGE_SIZE, PAGE_SIZE)]
    expected.append((bytes(16) + b"abc").ljust(PAGE_SIZE, b"\0"))
    expected += [bytes(PAGE_SIZE - 1) + b"d", b"e".ljust(PAGE_SIZE, b"\0")]
    assert_holds(open_image(made(tmp_path, data)), expected)


def test_a_dump_that_is_cut_short_has_the_pages_before_and_says_so(tmp_path: Path) -> None:
    pages = [page(number) for number in range(4)]
    data = lime([(0, pages[0]), (0x10000, b"".join(pages[1:]))])
    source = open_image(made(tmp_path, data[:-5000]))
    assert_holds(source, pages[:2])
    assert "cut short: at least 5000 bytes of memory are missing" in source.note
    source = open_image(made(tmp_path, data[: 32 + PAGE_SIZE + 9]))
    assert_holds(source, pages[:1])
    assert "at least 23 bytes" in source.note
    with pytest.raises(UsageError, match=r"holds no whole page of memory.*cut short"):
        open_image(made(tmp_path, data[:1000]))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lime([(0, page(1))], version=2), "is LiME version 2, not 1"),
        (lime([(0, page(1))]) + b"rubbish" * 9, "is damaged at byte 4128: there is no header"),
        (b"EMiL\1\0\0\0" + b"\2" + bytes(15) + bytes(8) + page(1), "0x2 to 0x0 is impossible"),
        (b"EMiL\1\0\0\0" + bytes(8) + b"\xff" * 8 + bytes(8) + page(1), "is impossible"),
    ],
)
def test_damaged_headers(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_image(made(tmp_path, data))
    assert words in str(caught.value)
