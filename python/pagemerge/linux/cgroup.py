"""The cgroups of a process (cgroups(7)), and the systemd unit that a cgroup belongs to.

A cgroup's name is any bytes but a newline, NUL and ``/``. A user to whom a cgroup was delegated
chooses the names below it. The kernel appends `` (deleted)`` to the path of a removed cgroup, and a
user may give a cgroup a name that ends so. The suffix stays in the path; no unit has such a name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pagemerge.linux.process import PROC, read
from pagemerge.linux.text import decoded, lines

UNITS = (".service", ".scope", ".socket", ".mount", ".swap")
"""Suffixes of the kinds of unit that have processes."""

_SLICE = ".slice"
_NAME = re.compile(r"[0-9A-Za-z:_.\\@-]{1,255}")
"""The names that systemd allows for a unit: VALID_CHARS_WITH_AT of its unit-name.c."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of ``/proc/PID/cgroup``: a process's place in one hierarchy."""

    controllers: tuple[str, ...]
    """``()`` for version 2, ``("name=systemd",)`` for systemd's own hierarchy of version 1."""
    path: bytes
    """Absolute, as the kernel writes it."""


def entries(pid: int | str, proc: Path = PROC) -> list[Entry]:
    """Read the cgroups of process ``pid`` (or ``"self"``); skips lines that are not an entry.

    Raises ``NoSuchProcess``, ``AccessDenied`` or ``PagemergeError``.
    """
    return parse(read(pid, "cgroup", proc))


def parse(data: bytes) -> list[Entry]:
    """Parse the text of ``/proc/PID/cgroup``; skips lines that are not an entry."""
    found = []
    for line in lines(data):
        number, colon, rest = line.partition(b":")
        controllers, other, path = rest.partition(b":")
        if colon and other and number.isdigit() and path.startswith(b"/"):
            names = decoded(controllers).split(",") if controllers else []
            found.append(Entry(tuple(names), path))
    return found


def cgroup_of(found: list[Entry]) -> str:
    """Choose the path that counts.

    It is the path in version 2, else in systemd's own hierarchy of version 1, else in that of
    memory, else in any. An unused hierarchy has every process in ``/``, and is skipped.
    """
    paths: dict[str, str] = {}
    for entry in found:
        if entry.path != b"/":
            paths.update(dict.fromkeys(entry.controllers or ("",), decoded(entry.path)))
    wanted = (paths[name] for name in ("", "name=systemd", "memory") if name in paths)
    return next(wanted, next(iter(paths.values()), "/"))


def unit_of(cgroup: str) -> str:
    """Return the unit of the system's systemd that a cgroup belongs to, escaped as in its path.

    Empty if there is none. The unit is the first part of the path that is not a slice. The parts
    below it were delegated, to a user's own systemd or to a container, which chooses their names;
    such names must not match the admin's rules.
    """
    above = ""
    for part in cgroup.split("/")[1:]:
        part = part.removeprefix("_")  # systemd adds it if a name looks like one of the kernel's
        if not _NAME.fullmatch(part):
            return ""
        if not part.endswith(_SLICE):
            return part if part.endswith(UNITS) and not part.startswith(".") else ""
        # systemd puts the slice a-b.slice only into a.slice (systemd.slice(5)).
        parent = part.removesuffix(_SLICE).rpartition("-")[0]
        if parent != above:
            return ""
        above = part.removesuffix(_SLICE)
    return ""
