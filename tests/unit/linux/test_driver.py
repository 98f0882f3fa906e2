"""One program drives kernel KSM at a time, and no user who is not root can keep it from that."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pagemerge.errors import PagemergeError
from pagemerge.linux.driver import driver, lock_path, only_one
from tests.support.commands import NOBODY

FLOCK = """
import fcntl, os, sys
os.setgroups([]); os.setresgid(UID, UID, UID); os.setresuid(UID, UID, UID)
folder = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(folder, fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.read()
"""
"""What any program can do with the folder of the knobs."""

LEAVES = FLOCK.replace("sys.stdin.read()", "if os.fork(): os._exit(0)\nsys.stdin.read()")
"""The same, and the process that took the lock leaves it to a child."""


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder in place of the kernel's, which every user can open."""
    with tempfile.TemporaryDirectory(prefix="pagemerge-test-") as made:
        Path(made).chmod(0o711)
        found = Path(made) / "ksm"
        found.mkdir(mode=0o755)
        yield found


@contextmanager
def holding(root: Path, uid: int, code: str = FLOCK) -> Iterator[int]:
    """Another process that has locked the folder; yields its pid."""
    argv = [sys.executable, "-c", code.replace("UID", str(uid)), str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as other:
        assert other.stdin and other.stdout
        assert other.stdout.readline() == b"ready\n"
        yield other.pid
        other.stdin.close()


@pytest.mark.requires("root")
@pytest.mark.parametrize("code", [FLOCK, LEAVES])
def test_a_user_with_the_folders_lock_keeps_no_program_of_root_out(root: Path, code: str) -> None:
    with holding(root, NOBODY, code):
        assert driver(root) is None
        with only_one(root):
            assert driver(root) == os.getpid()
            with pytest.raises(PagemergeError, match=f"process {os.getpid()} drives"):
                only_one(root).__enter__()
    assert driver(root) is None


@pytest.mark.requires("root")
def test_a_program_of_root_that_locks_the_folder_alone_is_respected(root: Path) -> None:
    """It may have another /run, in a container."""
    with holding(root, 0) as pid:
        assert driver(root) == pid
        with pytest.raises(PagemergeError, match=f"process {pid} drives kernel KSM already"):
            only_one(root).__enter__()
    with only_one(root), pytest.raises(subprocess.TimeoutExpired):
        argv = ["flock", "--exclusive", str(root), "true"]
        subprocess.run(argv, check=False, timeout=0.3)


@pytest.mark.requires("root")
def test_every_user_sees_who_drives_it_and_cannot_open_the_lock(root: Path) -> None:
    ask = (
        "import os, sys\nfrom pathlib import Path\nfrom pagemerge.linux.driver import *\n"
        "os.setgroups([])\n"
        f"os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
        "root = Path(sys.argv[1])\nprint(driver(root))\n"
        "try: lock_path(root).open()\nexcept PermissionError: print('closed')\n"
    )
    for holder in (only_one(root), holding(root, 0)):
        with holder as other:
            argv = [sys.executable, "-c", ask, str(root)]
            done = subprocess.run(argv, capture_output=True, text=True, check=True)
            assert done.stdout.split() == [str(other or os.getpid()), "closed"]


@pytest.mark.parametrize(
    ("uids", "lock", "found"),
    [
        ("0 0 0 0", "lock:\t1: FLOCK  ADVISORY  WRITE 7 {place} 0 EOF\n", 7),
        ("0 0 0 0", "", None),
        ("0 0 0 0", "lock:\t1: FLOCK  ADVISORY  WRITE 7 00:01:1 0 EOF\n", None),
        ("1000 0 0 0", "lock:\t1: FLOCK  ADVISORY  WRITE 7 {place} 0 EOF\n", None),
        ("1000 1000 1000 1000", "lock:\t1: FLOCK  ADVISORY  WRITE 7 {place} 0 EOF\n", None),
    ],
)
def test_root_must_have_the_lock_among_its_descriptors(
    root: Path, tmp_path: Path, uids: str, lock: str, found: int | None
) -> None:
    """A pid may be another process's by now, and a user may start programs of root (set-uid)."""
    about = root.stat()
    place = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
    (tmp_path / "locks").write_text(f"1: FLOCK  ADVISORY  WRITE 7 {place} 0 EOF\n")
    (tmp_path / "7/fdinfo").mkdir(parents=True)
    (tmp_path / "7/status").write_text(f"Name:\tsshd\nUid:\t{uids}\n")
    (tmp_path / "7/fdinfo/0").write_text(f"pos:\t0\n{lock.format(place=place)}")
    assert driver(root, tmp_path) == found


def test_the_lock_lies_below_the_root_of_the_knobs(tmp_path: Path) -> None:
    host = tmp_path / "host"
    assert lock_path(Path("/sys/kernel/mm/ksm")) == Path("/run/pagemerge/ksm.lock")
    assert lock_path(host / "sys/kernel/mm/ksm") == host / "run/pagemerge/ksm.lock"
    assert lock_path(host / "ksm") == host / "ksm.lock"


@pytest.mark.requires("root")
def test_a_lock_that_cannot_be_had_is_an_error_with_its_cause(root: Path) -> None:
    root.parent.chmod(0o777)
    with pytest.raises(PagemergeError, match=f"other users can write to {root.parent}"):
        only_one(root).__enter__()
    root.parent.chmod(0o711)
    lock_path(root).symlink_to(root)
    with pytest.raises(PagemergeError, match=r"cannot lock kernel KSM by .*ksm\.lock: Too many"):
        only_one(root).__enter__()
    assert driver(root) is None
