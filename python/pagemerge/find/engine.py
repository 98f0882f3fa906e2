"""Finds out whether the user engine already merges a process.

A range belongs to one engine at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux.maps import Mapping
from pagemerge.linux.process import PROC, name, threads

LIBRARY = "libpagemerge_preload.so"
"""The library that ``pagemerge run --engine user`` loads into a program."""

LIBRARY_FOR_ALL = "libpagemerge_all.so"
"""The library that ``pagemerge run --all`` loads into a program: it also has an allocator."""

AGENT = "pagemerge"
"""The name of the thread that the user engine has in a process."""


def merged_by_us(pid: int, mappings: Iterable[Mapping], proc: Path = PROC) -> str:
    """Say why kernel KSM must not merge process ``pid``: the user engine merges it.

    Empty if it does not.
    """
    cause = _cause(pid, mappings, proc)
    return f"the user engine merges it ({cause}): only one engine may" if cause else ""


def _cause(pid: int, mappings: Iterable[Mapping], proc: Path) -> str:
    for mapping in mappings:
        if mapping.slab:
            return "it maps stable pages of a hub"
        if mapping.path.rpartition("/")[2] in (LIBRARY, LIBRARY_FOR_ALL):
            return "it was started with `pagemerge run`"
    return "it has an agent of a hub" if _has_agent(pid, proc) else ""


def _has_agent(pid: int, proc: Path) -> bool:
    """Does the process have the thread of an agent?

    The first thread does not count: it has the program's name, which may be the same.
    """
    for thread in threads(pid, proc):
        try:
            if thread != pid and name(pid, proc, thread) == AGENT:
                return True
        except PagemergeError:  # the thread has ended
            continue
    return False
