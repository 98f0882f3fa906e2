"""Which memory of a process can be merged, and why the rest cannot.

The rule of ksmd (Linux mm/ksm.c, ``vma_ksm_compatible``) and ours: only anonymous pages of private
memory can be merged, including those that a private file mapping got by copy-on-write. We do not
read smaps, which would tell more: it walks all page tables of the process under its lock.
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
    SHARED_FILE: "a file mapped shared: its pages belong to the file",
    HUGETLB: "the kernel never splits pages of hugetlbfs",
    DEVICE: "memory of a device, which the kernel cannot move",
    SPECIAL: "the kernel's own mapping",
    NO_ACCESS: "memory that the process itself may not read: not looked at (ksmd merges it)",
    FILE_PAGES: "unchanged pages of private file mappings: the page cache shares them already",
}
"""Reason -> what it means, for people."""


def obstacle(mapping: Mapping, known: Devices) -> str:
    """Say why no page of ``mapping`` can be merged: a key of ``REASONS``, or empty."""
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
    """List start and end of the mappings with pages that ksmd can merge.

    ``found``: the mappings of the process, if the caller has read them already. Raises as
    ``mappings``.
    """
    known = devices(pid)
    everything = mappings(pid) if found is None else found
    return [(one.start, one.end) for one in everything if not obstacle(one, known)]


def _is_hugetlb(mapping: Mapping, known: Devices) -> bool:
    if mapping.path.startswith("/anon_hugepage") or mapping.device in known.hugetlb:
        return True
    memfd = mapping.path.startswith("/memfd:")
    return memfd and bool(known.memfd) and mapping.device != known.memfd
