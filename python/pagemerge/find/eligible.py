"""Which memory of a process can be merged, and why the rest cannot.

ksmd's rule (Linux mm/ksm.c, ``vma_ksm_compatible``) and ours: private memory, of which only the
anonymous pages count, those that a private file mapping got by copy-on-write among them. smaps
would tell more, but walks all page tables of the process under its lock: it is never read.
"""

from __future__ import annotations

from collections.abc import Iterable

from pagemerge.linux.maps import Devices, Mapping, devices, mappings

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
