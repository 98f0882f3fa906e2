"""The processes of this host, for rules: read from /proc, and each process in full only once.

A look lists /proc and reads the ``stat`` of each process: the kernel reuses pids, and only the
start time distinguishes a process from the next one with its pid. The rest (command line, cgroup)
is read for new processes. It can go out of date in three ways, and each is handled:

- exec: a new program has another name or another stack, which ``stat`` shows;
- another user: ``/proc/PID`` belongs to the effective uid, also for undumpable processes (Linux
  fs/proc/base.c, ``task_dump_owner``);
- another cgroup: nothing shows it. Managers move a process to its cgroup when it starts, so young
  processes are read at every look, and the others in turns, one in ``TURNS`` at each look.

Measured: 14 microseconds of processor time for each process at each look (0.8% of a core with 580
processes and a look every second), and two to three times that for a process that is read in full.

We poll instead of using the kernel's process connector (NETLINK_CONNECTOR). That needs
CAP_NET_ADMIN in the first network namespace, loses messages under load, so that polling would be
needed as well, and reports each fork and thread of the host.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux import cgroup, process
from pagemerge.linux.aside import readers
from pagemerge.linux.process import PROC
from pagemerge.linux.qemu import guest_of, machine_of
from pagemerge.linux.text import read


@dataclass(frozen=True, slots=True)
class Identity:
    """The properties of a process that rules can match.

    ``uid`` and ``cgroup`` (so ``unit``) come from the kernel; the process itself chooses ``name``,
    ``command``, ``guest`` and ``mem_merge``.
    """

    pid: int
    start_time: int
    """Clock ticks since the host started; pid and start_time together are unique until reboot."""
    uid: int
    """Effective user id."""
    user: str
    """The name of ``uid``; the number if it has no name."""
    name: str
    """The process's comm: at most 15 bytes."""
    command: str
    """The first 32 kB of its arguments, joined by blanks."""
    cgroup: str
    """Path in the hierarchy that systemd or the container engine uses; ``/`` if in none."""
    unit: str
    """The unit of the system's systemd that it runs in, by its cgroup; empty if none."""
    guest: str
    """The guest's name from ``-name`` of a QEMU process; empty for others."""
    mem_merge: bool = True
    """False for a QEMU process with ``mem-merge=off``: its guest must not be merged."""
    ours: bool = False
    """By its arguments it is pagemerge itself: a hub, or a command that will run a program."""


YOUNG = 10
"""Seconds after its start in which a process may still change, and is read at every look."""
TURNS = 64
"""Number of looks in which each process that seems unchanged is read again once."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """Values of ``stat`` and the folder's owner: while they stay equal, we assume the rest does."""

    start_time: int
    name: str
    stack: int
    uid: int


class Identities:
    """The processes of the host; remembers those it has read."""

    def __init__(self, root: Path = PROC) -> None:
        """``root``: where /proc is."""
        self._proc = root
        self._known: dict[int, tuple[_Seen, Identity]] = {}
        self._users: dict[int, str] = {}
        self._looks = 0
        self._ticks = os.sysconf("SC_CLK_TCK")
        self.read = 0
        """Number of processes that were read in full at the last look."""

    def present(self) -> list[Identity]:
        """List all processes with memory of their own, ascending by pid.

        Kernel threads and zombies are left out, and so is a process that ends during the look or
        that cannot be read.
        """
        self._looks += 1
        self.read = 0
        turn, young = self._looks % TURNS, self._uptime() - YOUNG * self._ticks
        known: dict[int, tuple[_Seen, Identity]] = {}
        unread: dict[int, _Seen] = {}
        pids = process.pids(self._proc)
        glances = readers.quick(_glance, pids, [(pid, self._proc) for pid in pids])
        for pid, seen in zip(pids, glances, strict=True):
            if isinstance(seen, PagemergeError):
                continue  # It ended between listing and reading, is hidden, or keeps us waiting.
            before = self._known.get(pid)
            settled = seen is not None and seen.start_time <= young and pid % TURNS != turn
            if before and before[0] == seen and settled:
                known[pid] = before
            elif seen is not None:
                unread[pid] = seen
        told = readers.quick(_read, list(unread), [(pid, self._proc) for pid in unread])
        for (pid, seen), found in zip(unread.items(), told, strict=True):
            if not isinstance(found, PagemergeError):
                known[pid] = seen, self._identity(pid, seen, *found)
        self._known = dict(sorted(known.items()))
        return [identity for _, identity in self._known.values()]

    def _uptime(self) -> float:
        """Read the clock ticks since the host started, as ``stat`` counts them; 0 if not known, so
        that all processes count as young."""
        try:
            return float(read(f"{self._proc}/uptime").split()[0]) * self._ticks
        except (OSError, ValueError, IndexError):
            return 0.0

    def _identity(self, pid: int, seen: _Seen, words: list[str], place: str) -> Identity:
        self.read += 1
        machine = machine_of(words)
        return Identity(
            pid=pid,
            start_time=seen.start_time,
            uid=seen.uid,
            user=self._user(seen.uid),
            name=seen.name,
            command=" ".join(words),
            cgroup=place,
            unit=cgroup.unit_of(place),
            guest=guest_of(words),
            mem_merge=machine is None or machine.mem_merge,
            ours=process.program(words).partition(".")[0] == "pagemerge",
        )

    def _user(self, uid: int) -> str:
        if uid not in self._users:
            self._users[uid] = user_name(uid)
        return self._users[uid]


def _glance(pid: int, proc: Path) -> _Seen | None:
    """Read what shows whether a process has changed; None for a process without memory."""
    found = process.stat(pid, proc)
    if found.has_ended or found.flags & process.KERNEL_THREAD:
        return None
    uid = os.stat(f"{proc}/{pid}").st_uid  # noqa: PTH116
    return _Seen(found.start_time, found.name, found.stack, uid)


def _read(pid: int, proc: Path) -> tuple[list[str], str]:
    """Read the arguments and the cgroup of a process."""
    return process.arguments(pid, proc), cgroup.cgroup_of(cgroup.entries(pid, proc))


def user_name(uid: int) -> str:
    """Return the name of a user; the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
