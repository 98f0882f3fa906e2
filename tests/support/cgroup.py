"""A memory cgroup with a limit, version 1 or 2; children are started inside it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import Unsupported

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Charged:
    """The memory of a cgroup by kind, in bytes."""

    anonymous: int
    shared: int
    """tmpfs and memfds: slabs of the store, too."""
    files: int
    """Of disks: the kernel can drop them at any time."""
    kernel: int
    """Page tables, mappings and whatever else the kernel keeps for it."""


class Cgroup:
    """Made by ``limited``."""

    def __init__(self, path: Path, limit_file: str, usage: str, anonymous: bytes) -> None:
        self.path, self.limit_bytes = path, -1
        self._limit, self._usage, self._anonymous = path / limit_file, path / usage, anonymous

    def limit(self, limit: int) -> None:
        """Let it have at most ``limit`` bytes from now on."""
        self._limit.write_text(str(limit))
        self.limit_bytes = limit

    def take(self, pid: int) -> None:
        """Take in a running process: what it allocates from now on is charged here."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def used_bytes(self) -> int:
        """Memory charged to it now, page cache and slabs of the store included."""
        return int(self._usage.read_text())

    def anonymous_bytes(self) -> int:
        """Anonymous memory mapped by its processes; a page that many of them share counts once."""
        return self._stat()[self._anonymous]

    def resident_bytes(self) -> int:
        """Memory charged to it, less files of disks, which the kernel can drop at any time.

        So: anonymous and shared memory, and what the kernel keeps for it (page tables, mappings).
        """
        found = self.charged()
        return found.anonymous + found.shared + found.kernel

    def charged(self) -> Charged:
        """What all that memory is."""
        stat, used = self._stat(), self.used_bytes()
        files = stat[b"cache" if self._anonymous == b"rss" else b"file"] - stat[b"shmem"]
        kernel = max(used - stat[self._anonymous] - stat[b"shmem"] - files, 0)
        return Charged(stat[self._anonymous], stat[b"shmem"], files, kernel)

    def _stat(self) -> dict[bytes, int]:
        lines = (line.split() for line in (self.path / "memory.stat").read_bytes().splitlines())
        return {name: int(count) for name, count in lines}

    def prefix(self) -> list[str]:
        """What to put before a command line, so that the program starts inside."""
        return ["/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.path / "cgroup.procs")]


@contextlib.contextmanager
def limited(limit: int | None, name: str = "") -> Iterator[Cgroup]:
    """A new memory cgroup of at most ``limit`` bytes, removed at the end: end its processes before.

    None: it has no limit of its own. ``name``: tells several of one process apart.
    Raises ``Unsupported`` where there is no memory controller, or it is not ours to use.
    """
    version1 = (ROOT / "memory").is_dir()
    parent = ROOT / "memory" if version1 else ROOT
    limit_file, usage, anonymous = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", b"rss")
        if version1
        else ("memory.max", "memory.current", b"anon")
    )
    path = parent / f"pagemerge-{os.getpid()}{name and f'-{name}'}"
    try:
        if not version1:
            (parent / "cgroup.subtree_control").write_text("+memory")
        path.mkdir()
    except OSError as error:
        raise Unsupported(f"no memory cgroup can be made in {parent}: {error.strerror}") from error
    try:
        made = Cgroup(path, limit_file, usage, anonymous)
        if limit is not None:
            made.limit(limit)
        yield made
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    """The kernel answers EBUSY until the last process is gone for good."""
    deadline = time.monotonic() + 5
    while True:
        try:
            path.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)
