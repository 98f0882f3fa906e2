"""Files that are no memory images, or change while they are read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest

from pagemerge.errors import AccessDenied, PagemergeError, UsageError
from pagemerge.find.images import open_image
from pagemerge.find.images.file import ImageFile
from pagemerge.model import PAGE_SIZE
from tests.support.images import SEED, made, page


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder", "is a directory: give a regular file"),
        ("fifo", "is a FIFO"),
        ("empty", "is empty"),
        ("nowhere", "No such file or directory: give the path of a file that exists"),
        ("empty/below", "a part of the path is not a directory"),
        ("circle", "symbolic links form a circle"),
        ("x" * 300, "give a shorter path"),
        ("a\0b", "has a NUL byte"),
        ("evil\x1b[31m\nname", r"evil\x1b[31m\nname is empty"),
    ],
)
def test_what_is_no_file_gives_one_clear_line(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")  # opened without care, this waits for a writer for ever
    (tmp_path / "empty").touch()
    (tmp_path / "evil\x1b[31m\nname").touch()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UsageError) as caught:
        open_image(tmp_path / name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert caught.value.path == str(tmp_path / name)


def test_a_device_and_a_socket_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="/dev/zero is a character device"):
        open_image(Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket"))
        with pytest.raises(PagemergeError, match="cannot be opened: No such device"):
            open_image(tmp_path / "socket")


@pytest.mark.requires("root")
def test_a_file_of_another_user_is_denied(tmp_path: Path) -> None:
    path = made(tmp_path, bytes(PAGE_SIZE))
    path.chmod(0o600)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover
        os.setresuid(65534, 65534, 65534)
        try:
            open_image(path)
            said = b"opened"
        except AccessDenied as error:
            said = str(error).encode()
        os.write(writer, said)
        os._exit(0)
    os.waitpid(child, 0)
    heard = os.read(reader, 9999).decode()
    os.close(reader)
    os.close(writer)
    assert "may not be read by this user: run as its owner or as root" in heard


def test_a_file_that_is_cut_while_it_is_read_loses_pages_and_says_so(tmp_path: Path) -> None:
    """With mmap this would be SIGBUS."""
    pages = [page(number) for number in range(600)]
    path = made(tmp_path, b"".join(pages))
    source = open_image(path)
    os.truncate(path, 5 * PAGE_SIZE + 100)
    (piece,) = source.read(SEED, 2)
    assert np.count_nonzero(piece.digests) == 5
    assert piece.digests[:5].all()
    assert source.unreadable == 595
    assert "595 pages could not be read (the file has become shorter" in source.note
    found = source.contents(np.array([4, 5, 599]))
    assert found[0].tobytes() == pages[4]
    assert not found[1:].any()


def test_the_part_of_a_page_that_was_cut_off_is_lost_too(tmp_path: Path) -> None:
    path = made(tmp_path, page(1) + page(2)[:100])
    source = open_image(path)
    os.truncate(path, PAGE_SIZE + 99)
    (piece,) = source.read(SEED, 1)
    assert (piece.digests == 0).tolist() == [False, True]
    assert source.unreadable == 1
    assert not source.contents(np.array([1])).any()


def test_holes_beyond_the_new_end_of_a_file_are_no_zeros(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, 64 * PAGE_SIZE)
    source = open_image(path)
    os.truncate(path, 8 * PAGE_SIZE)
    (piece,) = source.read(SEED, 1)
    assert np.count_nonzero(piece.digests) == 8
    assert source.unreadable == 56


def test_descriptors_are_closed_with_their_source(tmp_path: Path) -> None:
    path = made(tmp_path, page(1))
    before = len(list(Path("/proc/self/fd").iterdir()))
    sources = [open_image(path) for _ in range(10)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 10
    del sources
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    for bad in ("folder", "empty"):
        (tmp_path / bad).mkdir() if bad == "folder" else (tmp_path / bad).touch()
        with pytest.raises(UsageError):
            open_image(tmp_path / bad)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_stretches_are_what_the_file_system_stores(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(page(1))
        file.seek(1 << 20)
        file.write(page(2))
        file.truncate(4 << 20)
    file_of = ImageFile(path)
    starts, ends = file_of.stretches(0, 4 << 20)
    if file_of.sparse:
        assert starts.tolist() == [0, 1 << 20]
        assert ends.tolist() == [PAGE_SIZE, (1 << 20) + PAGE_SIZE]
        assert [it.tolist() for it in file_of.stretches(2 << 20, 4 << 20)] == [[], []]
        assert [it.tolist() for it in file_of.stretches(100, 200)] == [[100], [200]]
    assert [it.tolist() for it in file_of.stretches(5 << 20, 6 << 20)] == [[], []]
