"""The agent as a library to preload: where it is, and which programs can load it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.find import engine
from pagemerge.linux import program as linux

LIBRARY = Path(__file__).parents[1] / engine.LIBRARY
"""The agent as a library; it is part of the package."""

LIBRARY_FOR_ALL = LIBRARY.with_name(engine.LIBRARY_FOR_ALL)
"""The same, which also merges memory that the program does not mark."""


def of_others() -> list[str]:
    """Return what LD_PRELOAD names beside our own libraries, from any installation (ld.so(8))."""
    ours = (LIBRARY.name, LIBRARY_FOR_ALL.name)
    return [word for word in _named() if Path(word).name not in ours]


def _named() -> list[str]:
    return [word for word in re.split(r"[: ]+", os.environ.get("LD_PRELOAD", "")) if word]


def leave_out() -> bool:
    """Take our libraries out of LD_PRELOAD, for what is executed from now on; returns whether one
    was there."""
    others, named = of_others(), _named()
    os.environ.pop("LD_PRELOAD", None)
    if others:
        os.environ["LD_PRELOAD"] = ":".join(others)
    return others != named


def obstacle(program: Path) -> str:
    """Return why ``program`` cannot load the agent, or the hub cannot read it; empty if they can.

    For a script, its interpreter counts. The result is empty for a file that is not ELF, because
    nothing is known of it. Raises ``PagemergeError`` if our library is missing.
    """
    ours = linux.elf(LIBRARY)
    if ours is None:
        raise PagemergeError(f"{LIBRARY} is missing: install pagemerge again")
    chain = linux.interpreters(program)
    why = _obstacle(chain[-1], ours)
    if not why:
        return ""
    return (
        f"{program} {why}" if len(chain) == 1 else f"{program} is run by {chain[-1]}, which {why}"
    )


def _obstacle(path: Path, ours: linux.Elf) -> str:
    if gained := linux.gains_rights(path):
        return f"{gained}: ld.so preloads nothing into such programs, and no hub may read them"
    if not os.access(path, os.R_OK, effective_ids=True) and path.exists():
        return "may be executed but not read: the kernel then lets no hub read its memory"
    found = linux.elf(path)
    if found is None:
        return ""
    if found.bits != ours.bits:
        return f"is a {found.bits}-bit program, and the agent has {ours.bits} bits"
    if found.machine != ours.machine:
        return "is made for another kind of processor than the agent"
    if not found.loader:
        return "is linked statically: nothing can be preloaded into it"
    if "ld-musl" in found.loader:
        return "is linked against musl, and the agent needs glibc"
    if linux.is_glibc(Path(found.loader)) is False:
        return f"is linked against another C library than glibc (its loader is {found.loader})"
    return ""
