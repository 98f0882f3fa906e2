"""The memory of a process as the kernel lists it: proc_pid_maps(5), and its mounts.

A path is any bytes but NUL; the kernel writes a newline in it as ``\\012``.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagemerge.errors import PagemergeError, about_process, malformed
from pagemerge.linux.process import PROC
from pagemerge.linux.text import decoded

SLAB_PREFIX = "/memfd:pagemerge"
"""Path of private mappings of our own slabs: their pages are merged, except pages written since."""

_LINE = re.compile(
    rb"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-][w-][x-][ps]) ([0-9a-f]{1,16}) "
    rb"([0-9a-f]{2,}:[0-9a-f]{2,}) ([0-9]{1,20}) *(.*)",
    re.DOTALL,
)
_MAJOR_MINOR = re.compile(rb"([0-9]{1,9}):([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of ``/proc/PID/maps``."""

    start: int
    """Address of the first byte."""
    end: int
    """Address of the byte after the last."""
    flags: str
    """``rwxp`` or ``rwxs``, with ``-`` for each access that is not allowed."""
    device: str
    """``major:minor`` of the file, in hexadecimal."""
    inode: int
    """0 for anonymous memory."""
    path: str
    """File, ``[heap]``, ``[anon:name]`` or empty; print it through ``text.plain`` only."""
    offset: int = 0
    """Offset of the first byte in the file, in bytes."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle quickly: a process may have many mappings, and a reader sends them all."""
        return Mapping, tuple(getattr(self, name) for name in self.__slots__)

    @property
    def shared(self) -> bool:
        """Writes go to the file or to all processes that map it, not to a private copy."""
        return self.flags[3] == "s"

    @property
    def slab(self) -> bool:
        """The mapping is a private mapping of our own stable pages."""
        return not self.shared and self.path.startswith(SLAB_PREFIX)


@dataclass(frozen=True, slots=True)
class Devices:
    """Devices that distinguish hugetlbfs from other files, in the format of ``Mapping.device``."""

    hugetlb: frozenset[str] = frozenset()
    """Devices of the mounts of hugetlbfs that the process sees."""
    memfd: str = ""
    """The device of ordinary memfds; memfds with huge pages have other devices. Empty: unknown."""


def parse(line: bytes) -> Mapping | None:
    """Parse one line of ``maps``, without its newline; None if it does not describe a mapping."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    start, end, flags, offset, device, inode, path = found.groups()
    return Mapping(
        int(start, 16),
        int(end, 16),
        flags.decode("ascii"),
        device.decode("ascii"),
        int(inode),
        decoded(path),
        int(offset, 16),
    )


def mappings(pid: int, proc: Path = PROC) -> list[Mapping]:
    """List all mappings of process ``pid``, ascending; none for kernel threads and zombies.

    Raises ``NoSuchProcess``, ``AccessDenied``, and ``PagemergeError`` if the file is not a list of
    mappings.
    """
    found = []
    for line in read_lines(pid, "maps", proc):
        mapping = parse(line)
        if mapping is None:
            raise malformed(pid, f"{proc}/{pid}/maps")
        # [vsyscall] lies in the kernel's half of the address space, where pagemap ends.
        if mapping.end <= 1 << 63:
            found.append(mapping)
    return found


def devices(pid: int, proc: Path = PROC) -> Devices:
    """Find the devices of hugetlbfs as process ``pid`` sees them; empty if they cannot be read."""
    found = set()
    try:
        for line in read_lines(pid, "mountinfo", proc):
            # Blanks in paths and sources are escaped (\040), so no path can forge the separator.
            mount, _, kind = line.partition(b" - ")
            fields = mount.split(b" ")
            if not kind.startswith(b"hugetlbfs ") or len(fields) < 3:
                continue
            if numbers := _MAJOR_MINOR.fullmatch(fields[2]):
                found.add(_device(int(numbers[1]), int(numbers[2])))
    except PagemergeError:
        found = set()
    return Devices(frozenset(found), _memfd_device())


def read_lines(pid: int, name: str, proc: Path) -> Iterator[bytes]:
    """Yield the lines of a file one by one, because it may be long: 65,000 mappings of files with
    paths of 4 kB take 270 MB."""
    path = proc / str(pid) / name
    with about_process(pid, path), path.open("rb") as file:
        for line in file:
            yield line.removesuffix(b"\n")


@functools.cache
def _memfd_device() -> str:
    """Find the device of ordinary memfds from one of our own: all are on one internal mount."""
    try:
        probe = os.memfd_create("probe")
    except OSError:
        return ""
    try:
        device = os.fstat(probe).st_dev
    finally:
        os.close(probe)
    return _device(os.major(device), os.minor(device))


def _device(major: int, minor: int) -> str:
    return f"{major:02x}:{minor:02x}"
