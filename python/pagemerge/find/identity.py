"""Who runs on this host, for rules: read from /proc, and each process only once.

A look lists /proc and reads the ``stat`` of each process: pids are used again, and only its start
time tells one process from the next. The rest (command line, cgroup) is read for new ones. What
was read goes out of date in three ways, each of which is seen to:

- exec: a new program has another name or another stack, which ``stat`` shows;
- another user: ``/proc/PID`` belongs to the effective uid, of undumpable processes too (Linux
  fs/proc/base.c, ``task_dump_owner``);
- another cgroup: nothing shows it. Managers put a process where it belongs when it starts, so the
  young are read at every look, and the others in turns, one in ``TURNS`` a look.

Measured with 580 processes: 11 ms of processor time a look (1.1% of a core, if it is made
every second), 24 ms while 500 of them are young, 34 ms for the first.

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

from pagemerge.model import PAGE_SIZE, Identity

PROC = Path("/proc")
ROOM = 1 << 16
"""Bytes of a read."""

YOUNG = 10
"""Seconds after its start in which a process may still become what it is going to be."""
TURNS = 64
"""Looks until a process that seems unchanged was read again."""

KERNEL_THREAD = 0x0020_0000
"""PF_KTHREAD of the flags in ``stat`` (Linux include/linux/sched.h)."""

UNITS = (".service", ".scope", ".socket", ".mount", ".swap")
"""The kinds of unit that have processes."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What ``stat`` and the folder's owner say: while all of it is equal, so is the rest."""

    start_time: int
    name: str
    stack: str
    """Address of the stack's bottom, drawn at each exec; 0 where we may not see it."""
    uid: int


class Identities:
    """The processes of the host; remembers those it has read."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = str(proc)
        self._known: dict[int, tuple[_Seen, Identity]] = {}
        self._users: dict[int, str] = {}
        self._looks = 0
        self._ticks = os.sysconf("SC_CLK_TCK")
        self.read = 0
        """Processes that were read in full at the last look."""

    def look(self) -> list[Identity]:
        """All processes with memory of their own, ascending by pid.

        Kernel threads and zombies are left out, and so is who vanishes meanwhile.
        """
        self._looks += 1
        self.read = 0
        turn, young = self._looks % TURNS, self._uptime() - YOUNG * self._ticks
        known: dict[int, tuple[_Seen, Identity]] = {}
        for pid in self._pids():
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
            except OSError:
                continue  # It vanished between listing and reading, or hides.
        self._known = known
        return [identity for _, identity in known.values()]

    def _pids(self) -> list[int]:
        with os.scandir(self._proc) as entries:
            return sorted(int(entry.name) for entry in entries if entry.name.isdecimal())

    def _uptime(self) -> float:
        """Clock ticks since the host started, as ``stat`` counts them."""
        return float(_text(f"{self._proc}/uptime").split()[0]) * self._ticks

    def _glance(self, pid: int) -> _Seen | None:
        """What tells whether a process is still what it was; None for what has no memory."""
        folder = f"{self._proc}/{pid}"
        before, _, after = _text(f"{folder}/stat").rpartition(")")
        fields = after.split()  # From the third field of proc_pid_stat(5) on.
        if fields[0] in "ZX" or int(fields[6]) & KERNEL_THREAD:
            return None
        name = before.partition("(")[2]
        return _Seen(int(fields[19]), name, fields[25], os.stat(folder).st_uid)  # noqa: PTH116

    def _read(self, pid: int, seen: _Seen) -> Identity:
        folder = f"{self._proc}/{pid}"
        words = _text(f"{folder}/cmdline").rstrip("\0").split("\0")
        cgroup = cgroup_of(_text(f"{folder}/cgroup"))
        self.read += 1
        return Identity(
            pid=pid,
            start_time=seen.start_time,
            uid=seen.uid,
            user=self._user(seen.uid),
            name=seen.name,
            command=" ".join(words),
            cgroup=cgroup,
            unit=unit_of(cgroup),
            guest=guest_of(words),
        )

    def _user(self, uid: int) -> str:
        if uid not in self._users:
            try:
                self._users[uid] = pwd.getpwuid(uid).pw_name
            except KeyError:
                self._users[uid] = str(uid)
        return self._users[uid]


def cgroup_of(text: str) -> str:
    """The path that counts in the text of ``/proc/PID/cgroup`` (cgroups(7)).

    That of version 2, else of systemd's own hierarchy of version 1, else that of memory, else any;
    a hierarchy that nobody uses has every process in ``/``, and is passed over.
    """
    paths: dict[str, str] = {}
    for line in text.splitlines():
        _number, controllers, path = line.split(":", 2)
        path = path.removesuffix(" (deleted)")
        if path != "/":
            paths.update(dict.fromkeys(controllers.split(","), path))
    wanted = (paths[name] for name in ("", "name=systemd", "memory") if name in paths)
    return next(wanted, next(iter(paths.values()), "/"))


def unit_of(cgroup: str) -> str:
    """The unit of the system's systemd that a cgroup belongs to, escaped as there; or empty.

    It is the first that is no slice: what lies below was delegated, and is named by whoever it was
    delegated to (a user's own systemd, a container), whose word must not fit the admin's rules.
    """
    for part in cgroup.strip("/").split("/"):
        part = part.removeprefix("_")  # systemd's, where a name would look like the kernel's own
        if not part.endswith(".slice"):
            return part if part.endswith(UNITS) else ""
    return ""


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


def _text(path: str) -> str:
    """A small file of the kernel's, in as few system calls as may be: three.

    A file of /proc is given whole to who asks for enough, up to a page; longer ones in pieces.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = [os.read(file, ROOM)]
        while len(pieces[-1]) >= PAGE_SIZE:
            pieces.append(os.read(file, ROOM))
    finally:
        os.close(file)
    return os.fsdecode(b"".join(pieces))
