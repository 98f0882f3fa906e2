"""The memory of a QEMU guest, as its command line describes it; pure functions of the words.

The process itself chooses its arguments, so all of this is hearsay: it serves to tell people which
option to change, and decides nothing. Source: qemu(1), qapi/qom.json and softmmu/vl.c of QEMU.
libvirt writes many options as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pagemerge.linux.text import plain

MOST_QUOTED = 60
"""Characters of an option that are quoted."""

_ON = ("on", "yes", "true", "y")
_SHARED_BY_DEFAULT = ("memory-backend-memfd", "memory-backend-shm")
_PREFIX = "memory-backend-"


@dataclass(frozen=True, slots=True)
class Backend:
    """One object that provides memory to the guest."""

    kind: str
    """``memory-backend-ram``, ``-file``, ``-memfd``, ``-shm``, ..."""
    identifier: str
    share: bool
    """The memory is shared, and cannot be merged."""
    share_given: bool
    """The command line says so, and not only QEMU's default."""
    hugetlb: bool
    path: str
    """The file or folder of ``memory-backend-file``; empty for others."""

    @property
    def option(self) -> str:
        """The option that makes it, short and safe to print."""
        told = f"-object {self.kind},id={self.identifier}"
        if self.path:
            told += f",mem-path={self.path}"
        if self.hugetlb:
            told += ",hugetlb=on"
        if self.share and self.share_given:
            told += ",share=on"
        return plain(told, MOST_QUOTED)


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides whether the memory of a guest can be merged."""

    guest: str
    """Its name; empty if it has none."""
    mem_merge: bool = True
    """QEMU marks the memory of the guest as mergeable."""
    mem_path: str = ""
    """The folder of ``-mem-path``; empty without that."""
    locked: bool = False
    """QEMU locks all its memory (``-overcommit mem-lock=on``)."""
    backends: tuple[Backend, ...] = ()
    sharers: tuple[str, ...] = ()
    """Devices that need shared memory: another process does their work (vhost-user, virtiofs)."""
    pinners: tuple[str, ...] = ()
    """Devices that pin all memory: hardware writes to it (vfio, vdpa)."""


def machine_of(words: Sequence[str]) -> Machine | None:
    """Read the arguments ``words`` (at least one) of a process; None if it is not QEMU."""
    if not is_qemu(words):
        return None
    merge, path, locked = True, "", False
    backends, sharers, pinners = [], dict[str, None](), dict[str, None]()
    for option, value in pairwise(words[1:]):
        name = option.removeprefix("-") if option.startswith("--") else option
        if name in ("-machine", "-M"):
            said = properties(value, "type")
            merge = _is_on(said.get("mem-merge"), merge)
        elif name == "-mem-path":
            path = value
        elif name in ("-overcommit", "-realtime"):
            said = properties(value, "")
            locked = _is_on(said.get("mem-lock", said.get("mlock")), locked)
        elif name == "-object" and (backend := _backend(properties(value, "qom-type"))):
            backends.append(backend)
        elif name in ("-device", "-netdev"):
            said = properties(value, "driver" if name == "-device" else "type")
            kind = said.get("driver" if name == "-device" else "type", "")
            if kind.startswith("vhost-user"):
                sharers[kind] = None
            elif kind.startswith(("vfio", "vhost-vdpa")):
                pinners[kind] = None
    return Machine(
        guest_of(words), merge, path, locked, tuple(backends), tuple(sharers), tuple(pinners)
    )


def is_qemu(words: Sequence[str]) -> bool:
    """Is this the command line of QEMU, by the name of its program?"""
    program = words[0].rpartition("/")[2]
    return "qemu" in program or program == "kvm"


def guest_of(words: Sequence[str]) -> str:
    """Find the guest's name in the arguments ``words`` of QEMU; empty for other programs.

    Examples: ``-name web``, ``-name guest=web,debug-threads=on``. A comma in a value is written
    twice, the last value of a key counts, and a first value without a key is the guest (qemu(1)).
    """
    if not is_qemu(words):
        return ""
    guest = ""
    for option, value in pairwise(words[1:]):
        if option in ("-name", "--name"):
            for at, (key, said) in enumerate(_items(value)):
                if key == "guest" and said is not None:
                    guest = said
                elif said is None and at == 0:
                    guest = key
    return guest


def _items(value: str) -> Iterator[tuple[str, str | None]]:
    """Split the value of an option: keys, and what they say (None: no ``=``).

    A comma in a value is written twice (qemu(1)).
    """
    for item in value.replace(",,", "\0").split(","):
        key, equals, said = item.replace("\0", ",").partition("=")
        yield key, said if equals else None


def properties(value: str, first: str) -> dict[str, str]:
    """Read the value of an option: ``key=value,...`` or JSON; the last value of a key counts.

    A first item without a key is the value of ``first``; another such item means ``on``. A comma in
    a value is written twice. What is neither is empty.
    """
    if value.startswith("{"):
        return _from_json(value)
    found = {}
    for at, (key, said) in enumerate(_items(value)):
        if said is not None:
            found[key] = said
        elif at == 0:
            found[first] = key
        else:
            found[key] = "on"
    return found


def _from_json(value: str) -> dict[str, str]:
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(read, dict):
        return {}
    found = {key: it for key, it in read.items() if isinstance(it, str)}
    found.update((key, "on" if it else "off") for key, it in read.items() if isinstance(it, bool))
    return found


def _backend(said: dict[str, str]) -> Backend | None:
    kind = said.get("qom-type", "")
    if not kind.startswith(_PREFIX):
        return None
    by_default = kind in _SHARED_BY_DEFAULT
    return Backend(
        kind,
        said.get("id", ""),
        _is_on(said.get("share"), by_default),
        "share" in said,
        _is_on(said.get("hugetlb"), False),
        said.get("mem-path", "") if kind == "memory-backend-file" else "",
    )


def _is_on(said: str | None, before: bool) -> bool:
    return before if said is None else said in _ON
