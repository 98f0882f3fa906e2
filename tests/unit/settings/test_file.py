"""Files are read and written whole or not at all; what is no regular file is never waited for."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge.errors import UsageError
from pagemerge.settings.file import MOST_BYTES, read, write


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as raised:
        read(path)
    assert raised.value.path == str(path)
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe: give a regular file" in refused(tmp_path / "pipe")
    assert "is a directory" in refused(tmp_path)
    assert "is a device" in refused(Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        assert "is a socket" in refused(tmp_path / "s")


def test_what_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    assert "cannot read" in refused(tmp_path / "none")
    assert "No such file" in refused(tmp_path / "none")
    (tmp_path / "loop").symlink_to("loop")
    assert "Too many levels" in refused(tmp_path / "loop")
    assert "File name too long" in refused(tmp_path / ("x" * 300))
    assert "Not a directory" in refused(Path("/dev/null/x"))


@pytest.mark.requires("root")
def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").touch(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    os.seteuid(65534)  # root may read any file
    try:
        told = refused(Path("secret"))
    finally:
        os.seteuid(0)
    assert told == "cannot read secret: Permission denied"


def test_a_large_file_is_refused_and_one_of_the_limit_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"#" * MOST_BYTES)
    assert len(read(path)) == MOST_BYTES
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    assert "has more than 256 KiB" in refused(path)
    os.truncate(path, 1 << 40)  # sparse
    assert "has more than 256 KiB" in refused(path)


def test_a_file_is_written_only_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "new"
    write(path, "a", force=False)
    with pytest.raises(UsageError, match="exists already, and was left as it is: --force replaces"):
        write(path, "b", force=False)
    assert path.read_text() == "a"
    link = tmp_path / "dangling"
    link.symlink_to("nowhere")
    with pytest.raises(UsageError, match="exists already"):
        write(link, "b", force=False)
    with pytest.raises(UsageError, match="cannot write"):
        write(tmp_path / "none" / "x", "b", force=False)
    assert {it.name for it in tmp_path.iterdir()} == {"new", "dangling"}


def test_force_keeps_mode_and_links(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("old, and longer than the new text")
    path.chmod(0o640)
    link.symlink_to("file")
    write(link, "new", force=True)
    assert (link.is_symlink(), path.read_text(), path.stat().st_mode & 0o7777) == (
        True,
        "new",
        0o640,
    )
    write(tmp_path / "fresh", "new", force=True)
    for kind in (tmp_path, Path("/dev/null")):
        with pytest.raises(UsageError, match="give a regular file"):
            write(kind, "x", force=True)
    assert {it.name for it in tmp_path.iterdir()} == {"file", "link", "fresh"}


@pytest.mark.requires("root")
def test_force_keeps_the_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 1234, 5678)
    write(path, "new", force=True)
    found = path.stat()
    assert (found.st_uid, found.st_gid, path.read_text()) == (1234, 5678, "new")


@contextlib.contextmanager
def full() -> Iterator[None]:
    """No file can have more than 10 bytes: a write fails, as on a full disk.

    Only while it is needed, because the output of the tests may be a file, too.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("force", [False, True])
def test_a_failed_write_leaves_everything_as_it_was(tmp_path: Path, force: bool) -> None:
    path = tmp_path / "file"
    if force:
        path.write_text("old")
    with pytest.raises(UsageError, match=r"cannot write .*: File too large"), full():
        write(path, "x" * 100, force=force)
    assert [it.name for it in tmp_path.iterdir()] == ["file"] * force
    assert not force or path.read_text() == "old"
