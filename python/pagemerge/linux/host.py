"""What this host and this process can do; each call looks it up once.

Sources: proc(5), userfaultfd(2), ioctl_userfaultfd(2), memfd_create(2), capabilities(7), and
Documentation/admin-guide of Linux (mm/pagemap.rst, mm/transhuge.rst, sysctl/vm.rst, LSM/Yama.rst).
Files are read below a given root, so that a folder can stand in for the kernel. Facts that only a
system call tells are asked of the kernel itself, without a lasting effect.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux import process as linux
from pagemerge.linux.accounts import CGROUPS, cgroup_limit_bytes, meminfo_bytes
from pagemerge.linux.aside import readers
from pagemerge.linux.process import PROC
from pagemerge.linux.qemu import machine_of
from pagemerge.linux.text import decoded
from pagemerge.linux.values import chosen, contents, hexadecimal, number, number_in, pairs

SYS = Path("/sys")
ETC = Path("/etc")

CAPABILITIES = {
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
}
"""Capabilities that matter here -> their numbers (linux/capability.h)."""

DRIVERS = ("ksmtuned", "uksmd", "momd", "virt-handler")
"""File names of programs that are known to set the knobs of kernel KSM: those of Red Hat and
Proxmox, of CachyOS, oVirt's Memory Overcommitment Manager, and KubeVirt's agent on a node."""

UNITS = ("*ksm*.service", "momd.service", "mom-vdsm.service")
"""Names of units that start such programs at boot."""

_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
_USER_MODE_ONLY = 1
_NEW, _API = 0xAA00, 0xC018AA3F
_FEATURE_MOVE, _FEATURE_WP_UNPOPULATED = 1 << 16, 1 << 13
_PAGEMAP_SCAN, _SCAN_ARGUMENT = 0xC060_6610, struct.Struct("12Q")
_F_ADD_SEALS, _ALL_SEALS = 1033, 0xF


@dataclass(frozen=True, slots=True)
class Userfaultfd:
    """The kind of userfaultfd that this user gets."""

    mode: str | None
    """full | user (faults inside system calls are not seen) | None: the user gets none."""
    through: str | None
    """syscall | /dev/userfaultfd."""
    features: int
    """UFFD_FEATURE_* bits of this kernel."""
    why: str
    """The kernel's error for a full-mode one; empty if this user gets it."""

    @property
    def moves(self) -> bool:
        """The kernel has UFFDIO_MOVE (Linux 6.8)."""
        return bool(self.features & _FEATURE_MOVE)

    @property
    def protects(self) -> bool:
        """Write protection also covers empty pages (Linux 6.4)."""
        return bool(self.features & _FEATURE_WP_UNPOPULATED)


@dataclass(frozen=True, slots=True)
class Driver:
    """A process that sets the knobs of kernel KSM, or a unit that does so at boot."""

    name: str
    pid: int | None


@dataclass(frozen=True, slots=True)
class Host:
    """This host, as this process sees it; a field is None if its value is not known."""

    linux: str
    """The kernel's release: only shown, never compared."""
    uid: int
    """Effective user id."""
    capabilities: tuple[str, ...]
    """Members of ``CAPABILITIES`` that are in effect."""
    user_namespace: bool
    """This is not the host's own user namespace: root here is not root on the host."""
    seccomp_filters: int | None
    """Number of system call filters that this process runs under."""
    userfaultfd: Userfaultfd
    unprivileged_userfaultfd: int | None
    """vm.unprivileged_userfaultfd."""
    sealed_memory: bool
    """memfd_create(2) and its seals work; stable pages are kept in such files."""
    pagemap_scan: bool | None
    """The kernel has the PAGEMAP_SCAN ioctl (Linux 6.7)."""
    ptrace_scope: int | None
    """kernel.yama.ptrace_scope; None without Yama."""
    max_map_count: int | None
    """vm.max_map_count: most mappings of a process."""
    huge_pages: str | None
    """Transparent huge pages: always | madvise | never."""
    swap_bytes: int | None
    memory_limit_bytes: int | None
    """Limit of this process's memory cgroup; None: no limit."""
    numa_nodes: int | None
    """Number of NUMA nodes that have memory."""
    drivers: tuple[Driver, ...]
    """Other programs that may be driving kernel KSM."""
    kept_out: tuple[str, ...] = ()
    """Names of the QEMU guests that run with ``mem-merge=off``; empty for one without a name."""


def examine(
    *, proc: Path = PROC, sys: Path = SYS, etc: Path = ETC, cgroups: Path = CGROUPS
) -> Host:
    """Look up all facts about this host."""
    status = pairs(contents(proc / "self/status") or b"")
    held = hexadecimal(status.get(b"CapEff")) or 0
    return Host(
        linux=os.uname().release,
        uid=os.geteuid(),
        capabilities=tuple(name for name, bit in CAPABILITIES.items() if held >> bit & 1),
        user_namespace=_is_user_namespace(proc),
        seccomp_filters=number(status.get(b"Seccomp_filters")),
        userfaultfd=userfaultfd(),
        unprivileged_userfaultfd=number_in(proc / "sys/vm/unprivileged_userfaultfd"),
        sealed_memory=_seals_memory(),
        pagemap_scan=_has_pagemap_scan(),
        ptrace_scope=number_in(proc / "sys/kernel/yama/ptrace_scope"),
        max_map_count=number_in(proc / "sys/vm/max_map_count"),
        huge_pages=chosen(contents(sys / "kernel/mm/transparent_hugepage/enabled") or b""),
        swap_bytes=meminfo_bytes(b"SwapTotal", proc=proc),
        memory_limit_bytes=cgroup_limit_bytes(proc=proc, cgroups=cgroups),
        numa_nodes=_nodes(sys / "devices/system/node/has_memory"),
        drivers=(*_processes(proc), *_units(etc)),
        kept_out=tuple(_kept_out(proc)),
    )


def userfaultfd() -> Userfaultfd:
    """Find the best userfaultfd that this user gets; it is closed at once."""
    number = _USERFAULTFD.get(os.uname().machine)
    if number is None:
        return Userfaultfd(None, None, 0, f"not known for {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)

    def made(flags: int) -> int | None:
        descriptor = int(libc.syscall(ctypes.c_long(number), ctypes.c_long(flags)))
        return None if descriptor < 0 else descriptor

    if (descriptor := made(os.O_CLOEXEC)) is not None:
        return Userfaultfd("full", "syscall", _features(descriptor), "")
    why = os.strerror(ctypes.get_errno())
    with suppress(OSError):
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
        try:
            descriptor = fcntl.ioctl(device, _NEW, os.O_CLOEXEC)
        finally:
            os.close(device)
        return Userfaultfd("full", "/dev/userfaultfd", _features(descriptor), "")
    if (descriptor := made(os.O_CLOEXEC | _USER_MODE_ONLY)) is not None:
        return Userfaultfd("user", "syscall", _features(descriptor), why)
    return Userfaultfd(None, None, 0, why)


def _features(descriptor: int) -> int:
    """Ask for the features of the kernel (UFFDIO_API); closes the descriptor."""
    argument = bytearray(struct.pack("QQQ", 0xAA, 0, 0))
    try:
        fcntl.ioctl(descriptor, _API, argument)
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return int(struct.unpack("QQQ", argument)[1])


def _seals_memory() -> bool:
    """Can this process create a file in memory, and seal it against writes for good?"""
    with suppress(OSError):
        descriptor = os.memfd_create("pagemerge-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            fcntl.fcntl(descriptor, _F_ADD_SEALS, _ALL_SEALS)
        finally:
            os.close(descriptor)
        return True
    return False


def _has_pagemap_scan() -> bool | None:
    """Does pagemap know the ioctl? Asks about an empty range; None if it cannot ask."""
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            argument = bytearray(_SCAN_ARGUMENT.pack(_SCAN_ARGUMENT.size, *[0] * 11))
            fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
    except OSError as error:
        return False if error.errno == errno.ENOTTY else None
    return True


def _is_user_namespace(proc: Path) -> bool:
    """Is this not the first user namespace? Only that one maps all users to themselves.

    Source: user_namespaces(7).
    """
    users = contents(proc / "self/uid_map")
    return users is not None and users.split() != [b"0", b"0", b"4294967295"]


def _processes(proc: Path) -> Iterator[Driver]:
    """Find running programs that set the knobs."""
    with suppress(OSError):
        for pid in linux.pids(proc):
            with suppress(PagemergeError):
                name = linux.name(pid, proc)
                if "python" in name:
                    name = linux.program(readers.call(pid, linux.arguments, pid, proc))
                if name in DRIVERS:
                    yield Driver(name, pid)


def _kept_out(proc: Path) -> Iterator[str]:
    """Find guests whose memory must not be merged. The name of a process of QEMU is that of its
    program, or what ``-name process=`` says, so all processes are asked."""
    with suppress(OSError):
        pids = linux.pids(proc)
        told = readers.quick(linux.arguments, pids, [(pid, proc) for pid in pids])
        for words in told:
            if isinstance(words, PagemergeError):
                continue
            if (machine := machine_of(words)) and not machine.mem_merge:
                yield machine.guest


def _units(etc: Path) -> Iterator[Driver]:
    """Find units with a name in ``UNITS`` that systemd starts at boot."""
    links = (etc / "systemd" / "system").glob("*.wants/*.service")
    for name in sorted({decoded(os.fsencode(link.name)) for link in links}):
        if any(fnmatchcase(name, unit) for unit in UNITS):
            yield Driver(name, None)


def _nodes(path: Path) -> int | None:
    """Count the nodes in a list such as ``0-1,4``."""
    nodes = 0
    for part in (contents(path) or b"").strip().split(b","):
        first, dash, last = part.partition(b"-")
        low, high = number(first), number(last if dash else first)
        if low is None or high is None:
            return None
        nodes += high - low + 1
    return nodes
