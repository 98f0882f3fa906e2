"""linux/text.py: text that other people chose."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.linux import text


@given(st.binary() | st.text())
def test_plain_text_is_one_printable_line(hostile: str | bytes) -> None:
    shown = text.plain(hostile)
    assert shown.isprintable()
    shown.encode()  # and can be written as UTF-8


@given(st.binary(max_size=100), st.integers(1, 50))
def test_plain_text_is_as_short_as_wanted(hostile: bytes, most: int) -> None:
    assert len(text.plain(hostile, most)) <= most


@given(st.binary())
def test_decoding_loses_nothing(hostile: bytes) -> None:
    assert text.decoded(hostile).encode("utf-8", "surrogateescape") == hostile


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b""))))
def test_only_a_newline_ends_a_line(whole: list[bytes]) -> None:
    assert text.lines(b"".join(line + b"\n" for line in whole)) == whole


def test_escapes_are_those_of_python() -> None:
    assert text.plain(b"a\x1b[2J\r\xff\n") == "a\\x1b[2J\\r\\xff\\n"
    assert text.plain("\u2028\x85", 4) == "\\u2…"


def test_a_file_is_read_whole_or_up_to_a_limit(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    file = tmp_path / "file"
    file.write_bytes(data)
    assert text.read(file) == data
    assert text.read(file, 5000) == data[:5000]


@pytest.mark.parametrize("path", ["/proc/self/maps", "/proc/zoneinfo", "/proc/self/cgroup"])
def test_a_file_of_the_kernels_is_read_whole(path: str) -> None:
    """Longer than a page, of which the kernel gives less than a page at a time."""
    more = [mmap.mmap(-1, 1 << 20, prot=at % 2 * mmap.PROT_READ) for at in range(200)]
    lines = text.lines(text.read(path))
    assert len(more) == 200
    assert lines[-1] == Path(path).read_bytes().split(b"\n")[-2]
