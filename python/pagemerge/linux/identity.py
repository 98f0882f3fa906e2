"""Who runs on this host, for rules: read from /proc, and each process only once.

A look lists /proc and reads the ``stat`` of each process: pids are used again, and only its start
time tells one process from the next. The rest (command line, cgroup) is read for new ones. What
was read goes out of date in three ways, each of which is seen to:

- exec: a new program has another name or another stack, which ``stat`` shows;
- another user: ``/proc/PID`` belongs to the effective uid, of undumpable processes too (Linux
  fs/proc/base.c, ``task_dump_owner``);
- another cgroup: nothing shows it. Managers put a process where it belongs when it starts, so the
  young are read at every look, and the others in turns, one in ``TURNS`` a look.

Measured: 14 microseconds of processor time a process and look (0.8% of a core with 580, if it
is made every second), some two or three times that for each that is read in full.

Polling was chosen over the kernel's process connector (NETLINK_CONNECTOR), which needs
CAP_NET_ADMIN in the first network namespace, loses messages under load, so that polling is needed
beside it, and tells of each fork and thread of the host.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux import cgroup, process
from pagemerge.linux.process import PROC
from pagemerge.linux.text import read


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is, as far as rules ask.

    ``uid`` and ``cgroup`` (so ``unit``) are the kernel's word; ``name``, ``command`` and ``guest``
    are what the process says of itself.
    """

    pid: int
    start_time: int
    """Clock ticks since the host started; pid and start_time name one process for good."""
    uid: int
    """Effective user id."""
    user: str
    """The name of ``uid``; where it has none, the number."""
    name: str
    """Its comm: at most 15 bytes."""
    command: str
    """Its arguments, with a blank between each two: the first 32 kB."""
    cgroup: str
    """Path in the hierarchy that systemd or the container engine uses; ``/`` if in none."""
    unit: str
    """The unit of the system's systemd that it runs in, as the cgroup is named; else empty."""
    guest: str
    """Of a QEMU process, what ``-name`` calls the guest; else empty."""
    ours: bool = False
    """It says that it is a command of pagemerge's own: a hub, or about to run a program."""


YOUNG = 10
"""Seconds after its start in which a process may still become what it is going to be."""
TURNS = 64
"""Looks until a process that seems unchanged was read again."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What ``stat`` and the folder's owner say: while all of it is equal, so is the rest."""

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
        """Processes that were read in full at the last look."""

    def present(self) -> list[Identity]:
        """All processes with memory of their own, ascending by pid.

        Kernel threads and zombies are left out, and so is a process that vanishes meanwhile or
        that cannot be read.
        """
        self._looks += 1
        self.read = 0
        turn, young = self._looks % TURNS, self._uptime() - YOUNG * self._ticks
        known: dict[int, tuple[_Seen, Identity]] = {}
        for pid in process.pids(self._proc):
            try:
                seen = self._glance(pid)
                if seen is None:
                    continue
                before = self._known.get(pid)
                settled = seen.start_time <= young and pid % TURNS != turn
                if before and before[0] == seen and settled:
                    known[pid] = before
                else:
                    known[pid] = seen, self._read(pid, seen)
            except (OSError, PagemergeError):
                continue  # It vanished between listing and reading, or hides.
        self._known = known
        return [identity for _, identity in known.values()]

    def _uptime(self) -> float:
        """Clock ticks since the host started, as ``stat`` counts them; 0 where it is not told, so
        that everybody counts as young."""
        try:
            return float(read(f"{self._proc}/uptime").split()[0]) * self._ticks
        except (OSError, ValueError, IndexError):
            return 0.0

    def _glance(self, pid: int) -> _Seen | None:
        """What tells whether a process is still what it was; None for what has no memory."""
        found = process.stat(pid, self._proc)
        if found.has_ended or found.flags & process.KERNEL_THREAD:
            return None
        uid = os.stat(f"{self._proc}/{pid}").st_uid  # noqa: PTH116
        return _Seen(found.start_time, found.name, found.stack, uid)

    def _read(self, pid: int, seen: _Seen) -> Identity:
        words = process.arguments(pid, self._proc)
        place = cgroup.cgroup_of(cgroup.entries(pid, self._proc))
        self.read += 1
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
            ours=process.program(words).partition(".")[0] == "pagemerge",
        )

    def _user(self, uid: int) -> str:
        if uid not in self._users:
            try:
                self._users[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._users[uid] = str(uid)
        return self._users[uid]


def guest_of(words: Sequence[str]) -> str:
    """What QEMU's ``-name`` calls its guest, in the arguments ``words``; empty for other programs.

    ``-name web``, ``-name guest=web,debug-threads=on``; a comma in a value is written twice, the
    last value of a key holds, and a first value without a key is the guest (qemu(1)).
    """
    program = words[0].rpartition("/")[2]
    if "qemu" not in program and program != "kvm":
        return ""
    guest = ""
    for option, value in pairwise(words[1:]):
        if option in ("-name", "--name"):
            for at, item in enumerate(value.replace(",,", "\0").split(",")):
                key, equals, said = item.partition("=")
                if equals and key == "guest":
                    guest = said
                elif not equals and at == 0:
                    guest = key
    return guest.replace("\0", ",")
