"""What duplicates are: kinds of pages made by hand, and pages of real files in real processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from pagemerge import _core
from pagemerge.estimate import classify, files, what
from pagemerge.find.look import look
from pagemerge.model import PAGE_SIZE
from tests.support.pages import Pages, of_letters

TEXT = ("The quick brown fox, naïve as ever, jumps over the lazy dog.\n" * 80).encode()[:PAGE_SIZE]


def page(data: bytes) -> bytes:
    return data[:PAGE_SIZE].ljust(PAGE_SIZE, b"\0")


def heap() -> bytes:
    """Objects of Python's kind: a count, two addresses, a number."""
    rows = [(3, 0x7F12_3456_7000 + 64 * at, 0x55AA_0000_1000 + 8 * at, at) for at in range(128)]
    return np.array(rows, np.uint64).tobytes()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff" * PAGE_SIZE, classify.WORD),
        (b"pagesize" * 512, classify.WORD),
        (TEXT, classify.TEXT),
        (TEXT[:700], classify.TEXT),
        (heap(), classify.POINTERS),
        pytest.param(os.urandom(PAGE_SIZE), classify.UNKNOWN, id="random"),
        (np.arange(512, dtype=np.float64).tobytes(), classify.UNKNOWN),
        (np.arange(1024, dtype=np.uint32).tobytes(), classify.UNKNOWN),
        (b"few", classify.UNKNOWN),
    ],
)
def test_kinds(data: bytes, kind: int) -> None:
    both = np.frombuffer(page(data) + page(TEXT), np.uint8).reshape(2, PAGE_SIZE)
    assert classify.classify(both).tolist() == [kind, classify.TEXT]


def test_kinds_are_counted_and_the_dearest_come_first() -> None:
    words = np.frombuffer(b"pagesize" * 512, np.uint8).reshape(1, PAGE_SIZE)
    text = np.frombuffer(page(TEXT), np.uint8).reshape(1, PAGE_SIZE)
    one = Pages("one", np.concatenate([of_letters("aab..."), words, text]))
    two = Pages("two", np.concatenate([of_letters("ab."), words, words, text]))
    other = Pages("other", np.concatenate([of_letters("a"), text]), "another domain")
    result = what.contents(look([one, two, other], 1))
    told = {it.name: (it.contents, it.copies, it.saveable_pages) for it in result.kinds}
    assert told == {
        "zeros": (1, 4, 4),
        "unknown": (2, 5, 3),
        "repeated word": (1, 3, 2),
        "text": (1, 2, 1),
    }
    assert [it.saveable_pages for it in result.kinds] == [4, 3, 2, 1]
    unknown = result.kinds[1]
    assert unknown.holders == {"one": 3, "two": 2} and unknown.places == {"image": 5}
    assert [it.saveable_pages for it in result.top] == [4, 2, 2, 1, 1]
    assert result.top[-1].sample == TEXT[:48] or result.top[-2].sample == TEXT[:48]


def test_shared_frames_save_nothing_again() -> None:
    made = Pages("one", of_letters("aaab"), frames=(7, 7, 8, 0))
    assert [it.saveable_pages for it in what.contents(look([made], 1)).kinds] == [1]
    made = Pages("one", of_letters("aa"), frames=(7, 7))
    assert what.contents(look([made], 1)).kinds == ()


def test_pages_of_an_open_file_in_the_cache(tmp_path: Path) -> None:
    data = os.urandom(5 * PAGE_SIZE + 100)
    path = tmp_path / "a\nhostile \x1b[31mname"
    path.write_bytes(data)
    with path.open("rb"):
        found = {it.path: it for it in files.cached([os.getpid()], 5)}
    one = found[str(path)]
    want = np.empty(6, np.uint64)
    _core.digest(np.frombuffer(data.ljust(6 * PAGE_SIZE, b"\0"), np.uint8), 5, want)
    assert one.digests.tolist() == want.tolist() and one.build_id == ""
    assert one.pages.tolist() == list(range(6))


def test_a_large_sparse_file_does_not_hide_others(tmp_path: Path) -> None:
    sparse, small = tmp_path / "sparse", tmp_path / "small"
    small.write_bytes(os.urandom(PAGE_SIZE))
    with sparse.open("wb") as made:
        made.truncate(1 << 42)
        made.seek(1 << 41)
        made.write(b"some data")
        made.flush()
        began = time.monotonic()
        with small.open("rb"):
            found = {it.path: it for it in files.cached([os.getpid()], 5)}
    assert time.monotonic() - began < 20
    assert found[str(small)].pages.tolist() == [0]
    one = found[str(sparse)]
    assert one.pages[one.digests > _core.ZERO].tolist() == [(1 << 41) // PAGE_SIZE]


def test_the_time_of_access_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(PAGE_SIZE))
    os.utime(path, (1, 1))
    with path.open("rb"):
        assert str(path) in {it.path for it in files.cached([os.getpid()], 5)}
    assert path.stat().st_atime == 1


def test_the_build_id_of_a_mapped_library() -> None:
    found = [it for it in files.cached([os.getpid()], 5) if "/libc.so.6" in it.path]
    assert found and len(found[0].build_id) == 40
    assert len(found[0].digests) > 100


def test_nothing_but_regular_files_of_local_file_systems_is_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    try:
        paths = {it.path for it in files.cached([os.getpid()], 5)}
    finally:
        os.close(held)
    assert str(fifo) not in paths
    assert not any(it.startswith(("/proc/", "/sys/", "/dev/pts", "/memfd")) for it in paths)


def test_a_process_that_is_not_there_has_no_files() -> None:
    assert list(files.cached([2**22 - 1], 5)) == []
