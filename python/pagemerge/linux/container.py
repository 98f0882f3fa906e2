"""What a daemon in a container needs of its host: its processes, its cgroups, its own files.

A container engine gives a container a sysfs of its own, in most cases read-only. A lock (flock(2))
on a file of it is another lock than the host's: the kernel has one inode for each mounted sysfs of
a network namespace (``sysfs_init_fs_context`` in Linux fs/sysfs/mount.c). So the host's files are
reached through a mount of the host's own sysfs, below a folder that the administrator names.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from pagemerge.errors import PagemergeError, Unsupported, UsageError
from pagemerge.linux import process
from pagemerge.linux.ksm import ROOT
from pagemerge.linux.process import PROC

_CLONE_NEWCGROUP = 0x0200_0000
_KTHREADD = 2


def ksm_below(root: Path) -> Path:
    """Return the folder of kernel KSM below ``root``, where the host's file system is mounted.

    Raises ``UsageError`` if ``root`` is no absolute path of a folder, and ``Unsupported`` if the
    host's files of KSM are not there.
    """
    if not root.is_absolute() or not root.is_dir():
        told = f"--host-root {root}: give the absolute path of the folder where the host's / is"
        raise UsageError(told, path=str(root))
    found = root / ROOT.relative_to("/")
    if not (found / "run").exists():
        raise Unsupported(
            f"{found} has no files of KSM: mount the host's {ROOT} there; if the host has none, "
            "its kernel lacks CONFIG_KSM",
            path=str(found),
        )
    return found


def enter(proc: Path = PROC) -> None:
    """See the host's processes, and their cgroups by the paths that the host uses.

    A cgroup namespace shows the paths of other cgroups relative to its own (cgroup_namespaces(7)),
    so this thread, and each process that it starts, joins that of the kernel's threads. (Some hosts
    let nobody look at init.) Raises ``Unsupported`` if
    the host's processes cannot be seen, or its cgroup namespace cannot be joined.
    """
    if not _sees_host(proc):
        raise Unsupported(
            "this container does not see the host's processes: share the host's PID namespace "
            "(Kubernetes: hostPID: true; docker and podman: --pid=host)"
        )
    try:
        links = [proc / pid / "ns/cgroup" for pid in ("self", str(_KTHREADD))]
        ours, theirs = (link.stat() for link in links)
        if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino):
            return
        namespace = os.open(f"{proc}/{_KTHREADD}/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace, _CLONE_NEWCGROUP):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(namespace)
    except FileNotFoundError:
        return  # a kernel without cgroup namespaces shows the host's paths to everybody
    except OSError as error:
        raise Unsupported(
            f"cannot join the cgroup namespace of the host: {error.strerror}; without it rules by "
            "cgroup and unit fit nothing: give CAP_SYS_ADMIN and CAP_SYS_PTRACE, and allow ptrace "
            "in the security profile of the container"
        ) from None


def _sees_host(proc: Path) -> bool:
    """Only the first PID namespace shows kernel threads, of which the second process is one."""
    try:
        return bool(process.stat(_KTHREADD, proc).flags & process.KERNEL_THREAD)
    except PagemergeError:
        return False
