"""Raw memory, sparse or not, and what only looks like raw memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pagemerge._core import ZERO
from pagemerge.errors import UsageError
from pagemerge.find.images import images_of_caller, open_image
from pagemerge.find.images.raw import FORMATS
from pagemerge.find.sources import STEP
from pagemerge.model import PAGE_SIZE
from tests.support.images import SEED, ZEROS, assert_holds, made, page


def test_a_raw_image_is_its_pages(tmp_path: Path) -> None:
    pages = [page(number % 700) if number % 5 else ZEROS for number in range(1500)]
    source = open_image(made(tmp_path, b"".join(pages)))
    assert_holds(source, pages)
    assert source.kind == "raw memory"
    assert source.note == ""
    assert source.name == str(tmp_path / "image")
    assert source.domain == images_of_caller()
    assert source.markable.shape == (1500,)
    assert open_image(tmp_path / "image", "other").domain == "other"


def test_the_part_of_a_page_at_the_end_counts_with_zeros_and_is_said(tmp_path: Path) -> None:
    pages = [page(1), page(2)]
    source = open_image(made(tmp_path, b"".join(pages) + b"rest"))
    assert_holds(source, [*pages, b"rest".ljust(PAGE_SIZE, b"\0")])
    assert "the last page has only 4 bytes" in source.note


def test_holes_are_zero_pages_and_are_not_read(tmp_path: Path) -> None:
    """The first page after 1 GiB, one across the end of a hole, and no page at the end."""
    path, total = tmp_path / "image", 3 * STEP
    with path.open("wb") as file:
        file.seek(STEP * 2 * PAGE_SIZE)
        file.write(page(7))
        file.seek(STEP * 2 * PAGE_SIZE + 100 * PAGE_SIZE + 50)
        file.write(b"x")
        file.truncate(total * PAGE_SIZE)
    source = open_image(path)
    assert source.file.sparse
    found, size = [], 0
    for piece in source.read(SEED, 2):
        found.append(piece.digests.copy())
        size += piece.bytes_read
    digests = np.concatenate(found)
    assert np.flatnonzero(digests != ZERO).tolist() == [STEP * 2, STEP * 2 + 100]
    assert source.hole_pages == total - 2
    assert size == 2 * PAGE_SIZE
    here = source.contents(np.array([5, STEP * 2, STEP * 2 + 100]))
    assert here[0].tobytes() == ZEROS
    assert here[1].tobytes() == page(7)
    assert here[2].tobytes() == (bytes(50) + b"x").ljust(PAGE_SIZE, b"\0")


def test_an_image_that_claims_more_than_this_host_can_compare_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.touch()
    try:
        os.truncate(path, 15 << 40)
    except OSError:
        with pytest.raises(UsageError, match="claims to hold"):
            descriptor = os.memfd_create("image")
            os.truncate(descriptor, 1 << 60)
            open_image(Path(f"/proc/self/fd/{descriptor}"))
        return
    with pytest.raises(UsageError, match="claims to hold 15 TiB of memory: to compare that takes"):
        open_image(path)


@pytest.mark.parametrize(("magic", "what", "cure"), FORMATS)
def test_formats_that_are_not_read_are_named(
    tmp_path: Path, magic: bytes, what: str, cure: str
) -> None:
    with pytest.raises(UsageError) as caught:
        open_image(made(tmp_path, magic.ljust(2 * PAGE_SIZE, b"\0")))
    assert f"is {what}, which pagemerge does not read: {cure}" in str(caught.value)
