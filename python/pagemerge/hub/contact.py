"""Identifies the process at the other end of a connection, and decides if it may become a client.

The kernel notes which process calls connect(2). Between that and the greeting the process may hand
its socket to another process, execute another program, or change its credentials. So the greeting
counts only if the process is still exactly what the kernel noted, and if another process with the
same credentials could read it. From then on ``_core.Peer`` checks this.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from dataclasses import dataclass

from pagemerge import _core
from pagemerge.errors import AccessDenied, HubError, ProtocolError, UsageError
from pagemerge.hub.decide.trust import checked_name
from pagemerge.linux import domain, text
from pagemerge.linux.domain import Domain, Namespaces, label_of

_SO_PEERSEC, _SO_PEERGROUPS, _SO_PEERPIDFD = 31, 59, 77
"""Socket options from asm-generic/socket.h; Python's socket module has no names for them."""

_ABSENT = (errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors that mean that the kernel is too old for the option, or has no security module."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The process that called connect(2), as the kernel describes it."""

    pid: int
    """The pid in our PID namespace; 0 for a process outside of it."""
    uid: int
    gid: int
    groups: frozenset[int] | None
    """Supplementary groups; None before Linux 4.13."""
    label: str | None
    """The label of the security module; None where there is none."""


def caller_of(peer: socket.socket) -> Caller:
    """Return which process called connect(2) on the other end of ``peer``. Raises ``OSError``."""
    form = "iII"
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(form))
    pid, uid, gid = struct.unpack(form, raw)
    groups = _option(peer, _SO_PEERGROUPS)
    label = _option(peer, _SO_PEERSEC)
    return Caller(
        pid,
        uid,
        gid,
        None if groups is None else frozenset(struct.unpack(f"{len(groups) // 4}I", groups)),
        None if label is None else label_of(label),
    )


def greet(peer: socket.socket, caller: Caller) -> _core.Peer:
    """Return the process that called connect(2), if it is still what it was then. May block.

    Raises ``HubError`` with the reason if it cannot be a client, ``OSError`` if the hub lacks a
    resource.
    """
    if caller.pid == 0:
        raise HubError(
            "the hub runs in a PID namespace (a container) in which this process does not exist: "
            "run the hub on the host, or one hub in each container"
        )
    handle = _handle(peer, caller.pid)
    try:
        found = _core.Peer(caller.pid)
        ended = select.poll()  # select(2) knows no descriptors beyond 1023
        ended.register(handle, select.POLLIN)
        if ended.poll(0):
            raise HubError(f"process {caller.pid} has ended", pid=caller.pid)
    finally:
        os.close(handle)
    _compare(caller, found)
    return found


def domain_of(caller: Caller, peer: _core.Peer, own: Namespaces, name: bytes) -> Domain:
    """Return the trust domain of a process; the process says that its domain is called ``name``.

    A name can only narrow the domain: the rest comes from the kernel. ``own``: our own user, pid
    and cgroup namespaces. Raises ``ProtocolError`` for an invalid name.
    """
    try:
        part = checked_name(name.decode("ascii", errors="replace")) if name else ""
    except UsageError as error:
        raise ProtocolError(str(error)) from None
    return domain.domain_of(caller.uid, peer.namespaces, peer.label, own, part)


def own_namespaces() -> Namespaces:
    """Return our own user, pid and cgroup namespaces; 0 for those that the kernel does not have.

    Raises ``HubError`` if /proc shows another PID namespace than ours: its pids would name other
    processes than those that connect.
    """
    if os.readlink("/proc/self") != str(os.getpid()):  # noqa: PTH115
        raise HubError(
            "/proc shows another PID namespace than the hub's: mount it anew "
            "(unshare --mount-proc, or mount -t proc proc /proc)"
        )
    return domain.namespaces("self")


def _handle(peer: socket.socket, pid: int) -> int:
    """Return a pidfd of the process that called connect(2); the caller closes it.

    SO_PEERPIDFD (Linux 6.5) names exactly that process. On older kernels another process may have
    got the same pid since; the hub accepts it only if it has the same credentials.
    """
    try:
        return peer.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise HubError(f"process {pid} has ended", pid=pid) from None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise HubError(f"process {pid} has ended", pid=pid) from None


def _compare(caller: Caller, peer: _core.Peer) -> None:
    """Raise ``AccessDenied`` unless the process is what it was when it called connect(2)."""
    lines = dict(line.split(b":", 1) for line in text.lines(peer.credentials))
    uids, gids, groups = (
        {int(word) for word in lines[name].split()} for name in (b"Uid", b"Gid", b"Groups")
    )
    same = uids == {caller.uid} and gids == {caller.gid}
    same &= caller.groups is None or groups == caller.groups
    # Smack and others label only files, or do not label sockets: then both labels are empty.
    same &= not caller.label or caller.label == label_of(peer.label)
    if not same:
        raise AccessDenied(
            f"process {caller.pid} has changed its users, groups or security label since it "
            "connected: connect again",
            pid=caller.pid,
        )


def _option(peer: socket.socket, option: int) -> bytes | None:
    """Return a socket option of bytes; None if the kernel does not have it.

    Python reads no more than 1 kB of it. For a process with more than 256 groups, or a longer
    label, only the other credentials are compared.
    """
    try:
        return peer.getsockopt(socket.SOL_SOCKET, option, 1024)
    except OSError as error:
        if error.errno in (*_ABSENT, errno.ERANGE):
            return None
        raise
