"""Whether our own user engine already merges a process: a range belongs to one engine at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pagemerge.errors import PagemergeError
from pagemerge.linux.maps import Mapping
from pagemerge.linux.process import PROC, name, threads

LIBRARY = "libpagemerge_preload.so"
"""What ``pagemerge run --engine user`` loads into a program."""

AGENT = "pagemerge"
"""The name of the thread that the user engine has in a process."""


def merged_by_us(pid: int, mappings: Iterable[Mapping], proc: Path = PROC) -> str:
    """Why kernel KSM must not have process ``pid``, for people: the user engine merges it.

    Empty if it does not.
    """
    cause = _cause(pid, mappings, proc)
    return f"the user engine merges it ({cause}): memory belongs to one" if cause else ""


def _cause(pid: int, mappings: Iterable[Mapping], proc: Path) -> str:
    for mapping in mappings:
        if mapping.slab:
            return "it maps stable pages of a hub"
        if mapping.path.rpartition("/")[2] == LIBRARY:
            return "it was started with `pagemerge run`"
    return "it has an agent of a hub" if _has_agent(pid, proc) else ""


def _has_agent(pid: int, proc: Path) -> bool:
    """Its first thread bears the program's name, which may be ours for any other reason."""
    for thread in threads(pid, proc):
        try:
            if thread != pid and name(pid, proc, thread) == AGENT:
                return True
        except PagemergeError:  # the thread has ended
            continue
    return False
