"""What the kernel tells of each mapping of a process (smaps), and what memory it holds fast.

Source: ``Documentation/filesystems/proc.rst`` of Linux (smaps, VmFlags, VmLck, VmPin, VmSwap).
Reading smaps walks all page tables of the process under its mm lock, and takes about 10 us for
each mapping besides. So it is read once, and only for processes that a person asks about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import about_process, malformed
from pagemerge.linux.maps import Mapping, parse
from pagemerge.linux.process import PROC, read
from pagemerge.linux.values import number, pairs

_FIELDS = {b"AnonHugePages": 0, b"KSM": 1}
_LETTERS = tuple({name[:1] for name in _FIELDS} | {b"V"})


@dataclass(frozen=True, slots=True)
class Piece:
    """One mapping as smaps describes it."""

    mapping: Mapping
    huge_bytes: int
    """Anonymous memory in transparent huge pages that are not split."""
    merged_bytes: int
    """Memory that maps stable pages of ksmd or its page of zeros; 0 before Linux 6.7."""
    mergeable: bool
    """ksmd may merge it (``mg``): MADV_MERGEABLE or PR_SET_MEMORY_MERGE."""
    locked: bool
    """mlock(2) or mlockall(2) (``lo``)."""


@dataclass(frozen=True, slots=True)
class Held:
    """Memory of a process that is not free to move or not there; in bytes."""

    locked_bytes: int = 0
    """Size of its locked mappings (mlock), and of memory that vfio has pinned for devices."""
    pinned_bytes: int = 0
    """Memory that is pinned for long otherwise: RDMA, fixed buffers of io_uring."""
    swapped_bytes: int = 0
    """Anonymous memory that is swapped out."""


def pieces(pid: int, proc: Path = PROC) -> list[Piece]:
    """List all mappings of process ``pid`` by ``/proc/PID/smaps``, ascending.

    Raises ``NoSuchProcess``, ``AccessDenied``, and ``PagemergeError`` if the file is not as proc(5)
    describes it.
    """
    path = proc / str(pid) / "smaps"
    found: list[Piece] = []
    mapping: Mapping | None = None
    sizes, flags = [0, 0], frozenset[bytes]()

    def finished() -> Iterator[Piece]:
        if mapping is not None and mapping.end <= 1 << 63:  # not [vsyscall], as in ``maps``
            yield Piece(mapping, sizes[0], sizes[1], b"mg" in flags, b"lo" in flags)

    with about_process(pid, path), path.open("rb") as file:
        for line in file:
            if not line[:1].isupper():  # fields start with a capital, a mapping with its address
                found.extend(finished())
                mapping, sizes, flags = parse(line.removesuffix(b"\n")), [0, 0], frozenset()
                if mapping is None:
                    raise malformed(pid, path)
            elif line.startswith(_LETTERS):
                name, _, value = line.partition(b":")
                if name == b"VmFlags":
                    flags = frozenset(value.split())
                elif name in _FIELDS:
                    sizes[_FIELDS[name]] = 1024 * max(number(value, b"kB") or 0, 0)
    found.extend(finished())
    return found


def held(pid: int, proc: Path = PROC) -> Held:
    """Read what process ``pid`` has locked, pinned and swapped, from its ``status``.

    It takes microseconds. Raises ``NoSuchProcess``, ``AccessDenied``.
    """
    found = pairs(read(pid, "status", proc))

    def size(name: bytes) -> int:
        return 1024 * max(number(found.get(name), b"kB") or 0, 0)

    return Held(size(b"VmLck"), size(b"VmPin"), size(b"VmSwap"))
