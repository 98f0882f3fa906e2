"""Which memory of a process can be merged, and why the rest cannot: ``/proc/PID/maps``.

ksmd's rule (Linux mm/ksm.c, ``vma_ksm_compatible``) and ours: private memory, of which only the
anonymous pages count, those that a private file mapping got by copy-on-write among them. smaps
would tell more, but walks all page tables of the process under its lock: it is never read.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import AccessDenied, NoSuchProcess

PROC = Path("/proc")

SHARED_MEMORY = "shared memory"
SHARED_FILE = "shared file"
HUGETLB = "hugetlb"
DEVICE = "device"
SPECIAL = "special"
NO_ACCESS = "no access"
FILE_PAGES = "file pages"

REASONS = {
    SHARED_MEMORY: "memfd, tmpfs, System V or shared anonymous memory: the kernel merges "
    "private memory only (QEMU: use private memory, not a shared memory-backend)",
    SHARED_FILE: "a file mapped shared: its pages are the file",
    HUGETLB: "pages of hugetlbfs are never split",
    DEVICE: "a device's memory, not the kernel's to move",
    SPECIAL: "the kernel's own mapping",
    NO_ACCESS: "memory that the process itself may not read",
    FILE_PAGES: "unchanged pages of private file mappings: the page cache shares them already",
}
"""Reason -> what it means, for people."""

SLAB_PREFIX = "/memfd:pagemerge"
"""Private mappings of our own slabs: their pages are merged already, and are looked at."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of ``/proc/PID/maps`` (proc_pid_maps(5))."""

    start: int
    """Address of the first byte."""
    end: int
    """Address behind the last."""
    flags: str
    """``rwxp`` or ``rwxs``, ``-`` where it is not."""
    device: str
    """``major:minor`` of the file, in hexadecimal."""
    inode: int
    """0 for anonymous memory."""
    path: str
    """File, ``[heap]``, ``[anon:name]`` or empty."""

    @property
    def shared(self) -> bool:
        """Writes go to the file or to everybody, not to a private copy."""
        return self.flags[3] == "s"

    @property
    def slab(self) -> bool:
        """Our own stable pages, mapped privately."""
        return not self.shared and self.path.startswith(SLAB_PREFIX)


@dataclass(frozen=True, slots=True)
class Devices:
    """What tells hugetlbfs from other files, as ``Mapping.device`` writes it."""

    hugetlb: frozenset[str] = frozenset()
    """Its mounts, as the process sees them."""
    memfd: str = ""
    """The device of ordinary memfds; those with huge pages have others. Empty: not known."""


def parse(line: str) -> Mapping:
    """The mapping that one line of ``maps`` describes."""
    extent, flags, _offset, device, inode, *path = line.rstrip("\n").split(maxsplit=5)
    start, end = (int(address, 16) for address in extent.split("-"))
    return Mapping(start, end, flags, device, int(inode), path[0] if path else "")


def mappings(pid: int, proc: Path = PROC) -> list[Mapping]:
    """All mappings of process ``pid``, ascending; none for kernel threads and zombies.

    Raises ``NoSuchProcess`` and ``AccessDenied``.
    """
    try:
        # Paths may hold any bytes but a newline; only those of our own making matter here.
        text = (proc / str(pid) / "maps").read_text(errors="surrogateescape")
    except PermissionError as error:
        raise AccessDenied(f"may not look at process {pid}", pid=pid) from error
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NoSuchProcess(f"process {pid} has gone", pid=pid) from error
    found = [parse(line) for line in text.split("\n") if line]
    # [vsyscall] lies in the kernel's half of the address space, where pagemap ends.
    return [mapping for mapping in found if mapping.end <= 1 << 63]


def devices(pid: int, proc: Path = PROC) -> Devices:
    """What is hugetlbfs for process ``pid``; empty where that cannot be read."""
    try:
        lines = (proc / str(pid) / "mountinfo").read_text(errors="surrogateescape").split("\n")
    except OSError:
        return Devices(memfd=_memfd_device())
    found = set()
    for line in lines:
        mount, _, kind = line.partition(" - ")
        if kind.startswith("hugetlbfs "):
            major, minor = mount.split()[2].split(":")
            found.add(_device(int(major), int(minor)))
    return Devices(frozenset(found), _memfd_device())


def obstacle(mapping: Mapping, known: Devices) -> str:
    """Why no page of ``mapping`` can be merged: a key of ``REASONS``, or empty."""
    path = mapping.path
    if path.startswith(("[v", "[uprobes]")):  # [vdso], [vvar], [vvar_vclock], [vsyscall]
        return SPECIAL
    if _is_hugetlb(mapping, known):
        return HUGETLB
    memory = path.startswith(("/memfd:", "/SYSV", "/dev/shm/", "/dev/zero"))
    if path.startswith(("/dev/", "anon_inode:", "/anon_inode:")) and not memory:
        return DEVICE
    if mapping.shared:
        return SHARED_MEMORY if memory else SHARED_FILE
    return NO_ACCESS if mapping.flags[0] != "r" else ""


def eligible(pid: int, found: Iterable[Mapping] | None = None) -> list[tuple[int, int]]:
    """Start and end of the mappings of a process (``found``, if they were read before) that ksmd
    can merge pages of. Raises as ``mappings``."""
    known = devices(pid)
    everything = mappings(pid) if found is None else found
    return [(one.start, one.end) for one in everything if not obstacle(one, known)]


def _is_hugetlb(mapping: Mapping, known: Devices) -> bool:
    if mapping.path.startswith("/anon_hugepage") or mapping.device in known.hugetlb:
        return True
    memfd = mapping.path.startswith("/memfd:")
    return memfd and bool(known.memfd) and mapping.device != known.memfd


@functools.cache
def _memfd_device() -> str:
    """The device of a memfd of our own; all ordinary ones lie on the same internal mount."""
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
