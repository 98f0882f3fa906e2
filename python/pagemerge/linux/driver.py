"""Which program drives kernel KSM: one at a time, and only one of root.

The lock is a flock(2) on a file that only root can open. Beside it, the program locks the folder of
the knobs, which a program with another ``/run`` (in a container) sees, too. Every user can open and
lock that folder, so a lock on it counts only if a process of root holds it. The kernel releases
both locks when the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux import sockets
from pagemerge.linux.process import PROC
from pagemerge.linux.text import lines
from pagemerge.linux.values import contents, number, pairs

KNOBS, LOCK = Path("sys/kernel/mm/ksm"), Path("run/pagemerge/ksm.lock")
"""The folder of the knobs and the file of the lock, below the root of the file system."""

TICK = 0.1
"""Seconds between two attempts to get the lock."""


def lock_path(root: Path) -> Path:
    """Return the path of the lock for the knobs in ``root``.

    It lies below the same root of a file system as the knobs: in a container, that of the host. For
    a folder that stands in for the kernel's, the lock lies beside that folder.
    """
    above = len(KNOBS.parts)
    if root.parts[-above:] == KNOBS.parts and len(root.parts) > above:
        return root.parents[above - 1] / LOCK
    return root.with_name(f"{root.name}.lock")


def driver(root: Path, proc: Path = PROC) -> int | None:
    """Find the pid of the process that drives the kernel KSM at ``root``; None if none does.

    For every user: it needs no right to open the lock. Sources: proc(5), ``/proc/locks``;
    proc_pid_fdinfo(5).
    """
    return _holder(lock_path(root), proc) or _root_at(root, proc)


@contextlib.contextmanager
def only_one(root: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Be the program that drives the kernel KSM at ``root`` inside the context.

    If another program drives it, this calls ``waiting`` once with a line that names the process,
    and waits. Without ``waiting``, and if the lock cannot be made, it raises ``PagemergeError``.
    """
    told = False
    while (locks := _taken(root)) is None:
        pid = driver(root)
        who = f"process {pid}" if pid else "another process"
        if waiting is None:
            raise PagemergeError(
                f"{who} drives kernel KSM already: stop it first", pid=pid, path=str(root)
            )
        if not told:
            waiting(f"waiting for {who}, which drives kernel KSM ({root})")
            told = True
        time.sleep(TICK)
    try:
        yield
    finally:
        for lock in locks:
            os.close(lock)


def _taken(root: Path) -> list[int] | None:
    """Take both locks; returns their descriptors, or None if another program drives ksmd."""
    path = lock_path(root)
    try:
        if sockets.make_folder(path):
            raise PagemergeError(
                f"other users can write to {path.parent}, where the lock on kernel KSM is: give it "
                "to root",
                path=str(path.parent),
            )
        lock = sockets.lock_beside(path.with_suffix(""))
    except BlockingIOError:
        return None
    except OSError as error:
        raise PagemergeError(
            f"cannot lock kernel KSM by {path}: {error.strerror}; its folder must be writable, and "
            "must have room",
            path=str(path),
        ) from error
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except BaseException:
        os.close(lock)
        raise
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if _root_at(root) is not None:
            os.close(lock)
            os.close(folder)
            return None
    return [lock, folder]


def _holder(path: Path, proc: Path) -> int | None:
    """Return the pid of the process that has taken the lock of a file; None if none has."""
    place = _place(path)
    for line in lines(contents(proc / "locks") or b""):
        words = line.split()
        if b"->" not in words and b"FLOCK" in words and place in words[5:]:
            return number(words[4])
    return None


def _root_at(root: Path, proc: Path = PROC) -> int | None:
    """Return the pid of the process that has locked the folder of the knobs, if root runs it."""
    pid = _holder(root, proc)
    return pid if pid is not None and _is_roots(pid, _place(root), proc) else None


def _place(path: Path) -> bytes:
    """Return a file as the kernel names it in lists of locks; empty if there is none."""
    try:
        about = path.stat()
    except OSError:
        return b""
    return f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}".encode()


def _is_roots(pid: int, place: bytes, proc: Path) -> bool:
    """Is ``pid`` a process of root that holds the lock on ``place``?

    The kernel names the process that took a lock. A user's process may have taken it, left it to a
    child and ended, and a process of root may have its number now. So the lock must be among the
    descriptors of that process, if we may see them.
    """
    status = pairs(contents(proc / str(pid) / "status") or b"", b":")
    if set(status.get(b"Uid", b"").split()) != {b"0"}:
        return False
    try:
        for descriptor in (proc / str(pid) / "fdinfo").iterdir():
            for line in lines(contents(descriptor) or b""):
                if line.startswith(b"lock:") and place in line.split():
                    return True
    except PermissionError:  # an ordinary user asks
        return True
    except OSError:
        return False
    return False
