"""The cgroups of a process (cgroups(7)), and which unit of systemd one belongs to.

A cgroup's name is any bytes but a newline, NUL and ``/``; who was delegated one names what lies
below it. The kernel puts `` (deleted)`` behind the path of one that was removed, as anybody may
who makes one: it is left there, and such a name is no unit's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pagemerge.linux.process import PROC, read
from pagemerge.linux.text import decoded, lines

UNITS = (".service", ".scope", ".socket", ".mount", ".swap")
"""The kinds of unit that have processes."""

_SLICE = ".slice"
_NAME = re.compile(r"[0-9A-Za-z:_.\\@-]{1,255}")
"""What systemd names a unit: VALID_CHARS_WITH_AT of its unit-name.c."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of ``/proc/PID/cgroup``: a process's place in one hierarchy."""

    controllers: tuple[str, ...]
    """``()`` for version 2, ``("name=systemd",)`` for systemd's own hierarchy of version 1."""
    path: bytes
    """Absolute, as the kernel writes it."""


def entries(pid: int | str, proc: Path = PROC) -> list[Entry]:
    """The cgroups of process ``pid`` (or ``"self"``); lines that are no entry are left out.

    Raises ``NoSuchProcess``, ``AccessDenied`` or ``PagemergeError``.
    """
    return parse(read(pid, "cgroup", proc))


def parse(data: bytes) -> list[Entry]:
    """The same for the text of such a file."""
    found = []
    for line in lines(data):
        number, colon, rest = line.partition(b":")
        controllers, other, path = rest.partition(b":")
        if colon and other and number.isdigit() and path.startswith(b"/"):
            names = decoded(controllers).split(",") if controllers else []
            found.append(Entry(tuple(names), path))
    return found


def cgroup_of(found: list[Entry]) -> str:
    """The path that counts: that of version 2, else of systemd's own hierarchy of version 1, else
    that of memory, else any; a hierarchy that nobody uses has every process in ``/``, and is passed
    over."""
    paths: dict[str, str] = {}
    for entry in found:
        if entry.path != b"/":
            paths.update(dict.fromkeys(entry.controllers or ("",), decoded(entry.path)))
    wanted = (paths[name] for name in ("", "name=systemd", "memory") if name in paths)
    return next(wanted, next(iter(paths.values()), "/"))


def unit_of(cgroup: str) -> str:
    """The unit of the system's systemd that a cgroup belongs to, escaped as there; or empty.

    It is the first that is no slice: what lies below was delegated, and is named by whoever it was
    delegated to (a user's own systemd, a container), whose word must not fit the admin's rules.
    """
    above = ""
    for part in cgroup.split("/")[1:]:
        part = part.removeprefix("_")  # systemd's, where a name would look like the kernel's own
        if not _NAME.fullmatch(part):
            return ""
        if not part.endswith(_SLICE):
            return part if part.endswith(UNITS) and not part.startswith(".") else ""
        # systemd puts the slice a-b.slice into a.slice, and nowhere else (systemd.slice(5)).
        parent = part.removesuffix(_SLICE).rpartition("-")[0]
        if parent != above:
            return ""
        above = part.removesuffix(_SLICE)
    return ""
