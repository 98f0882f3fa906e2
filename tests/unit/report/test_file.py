"""A file is there whole or as it was, and what cannot be written is one clear error."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from pagemerge.errors import AccessDenied, PagemergeError, UsageError
from pagemerge.report.file import check, put
from tests.conftest import missing
from tests.support.commands import NOBODY


def test_a_new_file_is_for_the_caller_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    check(path)
    put(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_at_once_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "r.html"
    path.write_bytes(b"old")
    path.chmod(0o644)
    with path.open("rb") as reader:
        put(path, b"new")
        assert reader.read() == b"old", "who reads the old one reads it to its end"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def refused(path: Path, kind: type[PagemergeError], says: str) -> None:
    """Both the look before the scan and the writing refuse ``path``, and leave nothing behind."""
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    for action in (check, lambda it: put(it, b"x")):
        with pytest.raises(kind) as error:
            action(path)
        assert says in str(error.value) and str(path) in str(error.value)
        assert error.value.path == str(path)
    assert before == (sorted(path.parent.iterdir()) if path.parent.is_dir() else [])


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    folder, link, pipe = (tmp_path / it for it in ("folder", "link", "pipe"))
    folder.mkdir()
    link.symlink_to("/dev/null")
    os.mkfifo(pipe)
    refused(folder, UsageError, "a directory")
    refused(link, UsageError, "a symbolic link")
    refused(pipe, UsageError, "a device, a pipe or a socket")
    for device in (Path("/dev/null"), Path("/dev/full")):
        refused(device, UsageError, "a device")
        assert device.is_char_device()
    refused(tmp_path / "none" / "r.html", UsageError, "folder")
    refused(tmp_path / ("x" * 300), PagemergeError, "File name too long")


@pytest.mark.requires("root")
def test_a_folder_of_another_user_is_refused() -> None:
    # Not below tmp_path, which another user cannot even look into.
    with tempfile.TemporaryDirectory(prefix="pagemerge-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        child = os.fork()
        if not child:
            try:
                os.setuid(NOBODY)
                path = folder / "r.html"
                refused(path, AccessDenied, "Permission denied: name a file in a folder of yours")
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert not list(folder.iterdir())


@pytest.mark.requires("root")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        missing("mounts", mounted.stderr)
    try:
        path = disk / "r.html"
        put(path, b"old")
        with pytest.raises(PagemergeError, match="No space left on device: name a file on a disk"):
            put(path, bytes(300_000))
        assert path.read_bytes() == b"old"
        assert list(disk.iterdir()) == [path]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.requires("root")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"theirs")
    os.chown(path, 65534, 65534)
    path.chmod(0o666)
    with pytest.raises(UsageError, match="it belongs to uid 65534"):
        check(path)
    with pytest.raises(UsageError, match="it belongs to uid 65534"):
        put(path, b"ours")
    assert path.read_bytes() == b"theirs"
