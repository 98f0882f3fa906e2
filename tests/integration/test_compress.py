"""What compression would save of real processes. The oracle is a real zram."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pagemerge.errors import PagemergeError
from pagemerge.estimate import classes, near, zram
from pagemerge.estimate.compress import compress
from pagemerge.find import process
from pagemerge.find.look import Look, look
from pagemerge.find.sources import Source, locate
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn, missing

CONTROL = Path("/sys/class/zram-control")
COMMON = ["seed", "5", "text", "500"]
WORDS = (
    ["random", "900", "text", "3500", "numbers", "2500", "near", "1500", "filled", "300", *COMMON],
    COMMON,
)
INTERPRETERS = 2500
"""Pages that two interpreters have besides, about."""

Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@pytest.fixture
def found(victim: Spawn) -> Look:
    """Two victims, of which the second has 500 pages of text that the first has, too."""
    sources: list[Source] = []
    for words in WORDS:
        pid = victim("kinds", *words).pid
        sources += [locate(one) for one in process.named([str(pid)])]
    return look(sources)


@contextlib.contextmanager
def device(compressor: str) -> Iterator[Path]:
    """A new zram with that compressor; its folder in /sys."""
    try:
        number = int((CONTROL / "hot_add").read_text())
    except OSError as error:
        missing("zram", f"no zram can be made: {error.strerror}")
    folder = Path(f"/sys/block/zram{number}")
    try:
        try:
            (folder / "comp_algorithm").write_text(compressor)
        except OSError:
            missing("zram", f"the kernel's zram has no {compressor}")
        (folder / "disksize").write_text(str(1 << 30))
        yield folder
    finally:
        (folder / "reset").write_text("1")
        (CONTROL / "hot_remove").write_text(str(number))


def filled(folder: Path, pages: Bytes) -> dict[str, int]:
    """Write ``pages`` to the device: what it says of its memory (zram.rst, mm_stat)."""
    file = os.open(f"/dev/{folder.name}", os.O_WRONLY)
    try:
        left = memoryview(pages.tobytes())
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    finally:
        os.close(file)
    numbers = [int(word) for word in (folder / "mm_stat").read_text().split()]
    names = ["original", "compressed", "used", "limit", "peak", "same", "compacted", "huge"]
    return dict(zip(names, numbers, strict=False))


def kept(found: Look) -> Bytes:
    """The pages that merging keeps."""
    sorted_out = classes.classes(found.digests, found.frames)
    return near.contents(found, np.flatnonzero(sorted_out.kept))


@pytest.mark.requires("root")
@pytest.mark.parametrize("name", ["lz4", "zstd"])
def test_against_a_real_zram(found: Look, name: str) -> None:
    pages, method = kept(found), zram.compressors()[name]
    estimated = compress(found, 20_000)  # all pages: what is wrong then is no matter of chance
    with device(name) as folder:
        told = filled(folder, pages)
    sizes = zram.compressed_bytes(pages, method)
    assert told["same"] == pytest.approx(np.count_nonzero(sizes == 0), abs=2)
    assert told["huge"] == pytest.approx(np.count_nonzero(sizes == PAGE_SIZE), rel=0.02)
    assert told["compressed"] == pytest.approx(sizes.sum(), rel=0.02)
    assert told["used"] == pytest.approx(
        zram.held_bytes(sizes).sum() + zram.unfilled_bytes(sizes), rel=0.05
    )
    one = next(it for it in estimated.compressors if it.name == name)
    saved = len(pages) * PAGE_SIZE - told["used"]
    assert one.beside.value == pytest.approx(saved, rel=0.05)
    assert one.both.value - estimated.merging_bytes == pytest.approx(one.beside.value)


def test_the_kinds_of_pages_are_told_apart(found: Look) -> None:
    result = compress(found, 1500)
    count = 900 + 4000 + 2500 + 1500 + 300 + INTERPRETERS
    assert result.kept_pages == pytest.approx(count, abs=1500)
    assert result.freed_pages >= 500
    assert result.sampled_pages == 1500
    assert (result.lost_pages, result.changed_pages) == (0, 0)
    assert result.same_filled == pytest.approx(300 / count, abs=0.03)
    alike = result.near.share
    assert result.near.whole
    # Each changes three blocks of its own, so two of them differ in six: only few are near.
    assert alike.value < 0.1 + INTERPRETERS / count
    for one in result.compressors:
        assert one.alone.low <= one.alone.value <= one.alone.high
        assert one.both.value > max(result.merging_bytes, one.beside.value)


def test_near_duplicates_of_a_real_process(victim: Spawn) -> None:
    pid = victim("kinds", "random", "200", "near", "600").pid
    sources: list[Source] = [locate(one) for one in process.named([str(pid)])]
    found = look(sources)
    result = compress(found, 10_000)
    assert exact(found) == pytest.approx(result.near.share.value, abs=1e-9)


def exact(found: Look) -> float:
    """The share of pages that are nearly equal to another, by brute force."""
    pages = kept(found).view(np.uint64).reshape(-1, 16, 32)
    hits = 0
    for page in pages:
        counts = (pages == page).all(axis=2).sum(axis=1)
        hits += bool(((counts >= 12) & (counts < 16)).any())
    return hits / len(pages)


def test_processes_that_end_meanwhile(victim: Spawn) -> None:
    child = victim("kinds", "text", "100")
    sources: list[Source] = [locate(one) for one in process.named([str(child.pid)])]
    found = look(sources)
    child.process.kill()
    child.process.wait()
    with pytest.raises(PagemergeError, match="look again"):
        compress(found)
