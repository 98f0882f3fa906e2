"""What may differ between a bare run and a merged one, each with its reason: this table alone.

Everything else must be equal: results, error numbers, bytes, permissions, mappings, flags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

IGNORED_FLAGS = {
    "mg": "the agent answers MADV_MERGEABLE in the kernel's place, so ksmd does not merge it too",
    "nh": "mergeable memory has no huge pages: single pages of them could not be freed",
    "hg": "the same: MADV_HUGEPAGE on mergeable memory has no effect",
    "ac": "the kernel stops accounting for memory without write access that was never touched; "
    "memory that was merged and given back counts as never touched",
    "um": "a window is open just then: the agent's userfaultfd watches it for some microseconds",
    "uw": "the same",
    "gu": "says that a mapping may hold guards, and mappings differ; guards are seen page by page",
}
"""Flags of smaps (VmFlags) that are not compared: flag -> reason."""


@dataclass(frozen=True)
class Stated:
    """One difference that is known and told: in which step, and what of it."""

    reason: str
    fits: Callable[[Sequence[str], str, str], bool]
    """By the step's words, what bare said, what merged said."""
    ends: bool = False
    """Memory differs from here on, so the rest of the program is not compared."""
    needs: str = ""
    """A word of an earlier step, without which it does not hold."""


def _advice(*names: str) -> Callable[[Sequence[str], str, str], bool]:
    def fits(words: Sequence[str], bare: str, merged: str) -> bool:
        return words[0].endswith("madvise") and not {*words}.isdisjoint(names)

    return fits


def _by_page(said: str) -> str:
    """What ``flags`` says, page by page."""
    found = []
    for first, end, flags in re.findall(r"(\d+)-(\d+):(\S*)", said):
        found += [f"{page}:{flags}" for page in range(int(first), int(end))]
    return " ".join(found)


STATED = (
    Stated(
        "whether memory can be a huge page depends on what is free; mergeable memory has none",
        _advice("COLLAPSE"),
    ),
    Stated(
        "two mappings side by side stay two where each has a history of its own; memory that was "
        "merged and given back has none, so mremap may move as one what the kernel would refuse",
        lambda words, bare, merged: (
            words[0] == "mremap" and "errno 14" in bare and "errno" not in merged
        ),
        ends=True,
    ),
    Stated(
        "the same, where something else is refused of what could move as one",
        lambda words, bare, merged: (
            words[0] == "mremap" and "errno 14 (several mappings)" in bare and "errno" in merged
        ),
    ),
    Stated(
        "a futex in anonymous memory that may not be written is EFAULT; merged memory is a file's "
        "for the kernel, and whoever waits there waits",
        lambda words, bare, merged: (
            words[0] in ("futex_release", "futex_wait", "futex_wake")
            and ("-14" in bare or "errno 14" in bare)
        ),
    ),
    Stated(
        "mremap with DONTUNMAP unlocks all of the mapping that it leaves, and that may be one of "
        "several",
        lambda words, bare, merged: (
            words[0].startswith("flags")
            and re.sub("l[of]", "", _by_page(bare)) == re.sub("l[of]", "", _by_page(merged))
        ),
        needs="DONTUNMAP",
    ),
    Stated(
        "UFFDIO_COPY and its kin take one mapping at a time; memory that was merged and given back "
        "is several",
        lambda words, bare, merged: (
            words[0] in ("uffd_copy", "uffd_zero", "uffd_move")
            and ("errno 2 " in merged or "errno 22" in merged)
        ),
        ends=True,
    ),
    Stated(
        "what a fork has shared stays busy for UFFDIO_MOVE until it is written; memory that was "
        "merged and given back is no fork's",
        lambda words, bare, merged: words[0] == "uffd_move" and "errno 16" in bare,
        ends=True,
    ),
)


def stated(words: Sequence[str], bare: str, merged: str, program: str) -> Stated | None:
    """The entry that a difference in a step of ``program`` falls under, if one does."""
    fitting = (it for it in STATED if it.needs in program and it.fits(words, bare, merged))
    return next(fitting, None)
