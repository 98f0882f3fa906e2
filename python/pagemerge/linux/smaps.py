"""What the kernel tells of each mapping of a process (smaps), and what memory it holds fast.

Source: ``Documentation/filesystems/proc.rst`` of Linux (smaps, VmFlags, VmLck, VmPin, VmSwap).
Reading smaps walks all page tables of the process under its mm lock, and takes about 30 us for
each mapping besides. So it is read once, and only for processes that a person asks about.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import malformed
from pagemerge.linux.maps import Mapping, parse, read_lines
from pagemerge.linux.process import PROC, read
from pagemerge.linux.values import number, pairs

_OWN, _HUGE, _MERGED, _FLAGS = b"Anonymous:", b"AnonHugePages:", b"KSM:", b"VmFlags:"


@dataclass(frozen=True, slots=True)
class Piece:
    """One mapping as smaps describes it."""

    mapping: Mapping
    huge_bytes: int
    """Anonymous memory in transparent huge pages that are not split."""
    merged_bytes: int
    """Memory that maps stable pages of ksmd, each counted in full; 0 before Linux 6.7."""
    mergeable: bool
    """ksmd may merge it (``mg``): MADV_MERGEABLE or PR_SET_MEMORY_MERGE."""
    locked: bool
    """mlock(2) or mlockall(2) (``lo``)."""
    anonymous_bytes: int
    """Memory of no file, or written since it was mapped from one; not what is swapped out."""


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
    found: list[Piece] = []
    mapping: Mapping | None = None
    own = huge = merged = 0
    flags: list[bytes] = []

    def finish() -> None:
        if mapping is not None and mapping.end <= 1 << 63:  # not [vsyscall], as in ``maps``
            found.append(Piece(mapping, huge, merged, b"mg" in flags, b"lo" in flags, own))

    for line in read_lines(pid, "smaps", proc):
        if line[:1].isupper():  # a field; a mapping starts with its address
            if line.startswith(_OWN):
                own = _size(line)
            elif line.startswith(_HUGE):
                huge = _size(line)
            elif line.startswith(_MERGED):
                merged = _size(line)
            elif line.startswith(_FLAGS):
                flags = line.split()
            continue
        finish()
        mapping, own, huge, merged, flags = parse(line), 0, 0, 0, []
        if mapping is None:
            raise malformed(pid, proc / str(pid) / "smaps")
    finish()
    return found


def marked(pid: int, proc: Path = PROC) -> set[int]:
    """Find the start addresses of mappings that ksmd may merge. Raises as ``pieces``."""
    return {piece.mapping.start for piece in pieces(pid, proc) if piece.mergeable}


def sums(pid: int, names: tuple[bytes, ...], proc: Path = PROC) -> Counter[bytes]:
    """Read the lines ``names`` of ``smaps_rollup``, in bytes: the kernel's sums over all mappings.

    A name without a line is not in the result. Raises as ``pieces``.
    """
    found = Counter[bytes]()
    for line in read_lines(pid, "smaps_rollup", proc):
        name, _, value = line.partition(b":")
        if name in names and (kilobytes := number(value, b"kB")) is not None:
            found[name] += kilobytes * 1024
    return found


def held(pid: int, proc: Path = PROC) -> Held:
    """Read what process ``pid`` has locked, pinned and swapped, from its ``status``.

    It takes microseconds. Raises ``NoSuchProcess``, ``AccessDenied``.
    """
    found = pairs(read(pid, "status", proc))
    names = (b"VmLck", b"VmPin", b"VmSwap")
    return Held(*(_size(b":" + found.get(name, b"")) for name in names))


def _size(line: bytes) -> int:
    """Read the bytes in a line ``Name:   4 kB``; 0 if it has another form."""
    return 1024 * max(number(line.partition(b":")[2], b"kB") or 0, 0)
