"""What may differ between a bare run and a merged one, each with its reason: this table alone.

Everything else must be equal: results, error numbers, bytes, permissions, mappings, flags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.differential.said import pages_of

IGNORED_FLAGS = {
    "mg": "the agent answers MADV_MERGEABLE in the kernel's place, so ksmd does not merge it too",
    "nh": "the hub says which blocks of mergeable memory are huge pages, and the kernel makes none",
    "hg": "the same: MADV_HUGEPAGE on mergeable memory is noted, and not passed on",
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
    needs: Sequence[str] = ()
    """What earlier steps have, in any case (lock, LOCKED), where it holds: regular expressions."""
    passes: bool = False
    """It is so for a moment only: the program, run again, does not show it."""


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


def _unless(part: str, said: str) -> str:
    return re.sub(part, "", _by_page(said))


def _is_filled_early(words: Sequence[str], bare: str, merged: str) -> bool:
    """Do they differ only in that what reads as zero is not there for the other?"""
    return words[0] == "look" and _zeros(bare) == _zeros(merged)


def _is_locked(words: Sequence[str], bare: str, merged: str) -> bool:
    """Is one refused what the other is not, or does one read zeros where the other has bytes?"""
    if words[0] != "look":
        called = words[0].endswith("madvise") or words[0] == "mremap"
        return called and re.search(r"errno (12|14|22)\b", f"{bare} {merged}") is not None
    one, other = _zeros(bare), _zeros(merged)
    differ = [(one[it], other[it]) for it in one if it in other and one[it] != other[it]]
    return one.keys() == other.keys() and all(
        a[0] == b[0] and "0" in (a[1], b[1]) for a, b in differ
    )


def _zeros(said: str) -> dict[str, tuple[str, str]]:
    """As ``pages_of``; a page that is missing counts as zero."""
    return {
        page: (access, "0" if content == "BUS" else content)
        for page, (access, content) in pages_of(said).items()
    }


def _has_more(words: Sequence[str], bare: str, merged: str) -> bool:
    """Has a child pages that it has not without the agent, and is all else the same?"""
    return "/" in bare.partition(" ")[0] and _more(words, bare, merged)


def _more(words: Sequence[str], bare: str, merged: str) -> bool:
    """Are there pages that are not there without the agent, and is all else the same?"""
    if words[0].startswith("flags"):
        return {*_by_page(bare).split()} < {*_by_page(merged).split()}
    return words[0] == "look" and _zeros(bare).items() < _zeros(merged).items()


UNLOCKED = ("DONTUNMAP", "lock")

STATED = (
    Stated(
        "whether memory can be a huge page depends on what is free, and in mergeable memory on the "
        "hub",
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
        "mremap of a length that no memory has fails; with which error depends on how many mappings"
        " the memory is",
        lambda words, bare, merged: (
            words[0] == "mremap"
            and words[2].startswith(("-", "0x"))
            and "errno" in bare
            and "errno" in merged
        ),
        ends=True,
    ),
    Stated(
        "the same: and so does whether it has emptied the place wanted before",
        _more,
        ends=True,
        needs=(r"mremap \S+ (-|0x)\S+ \S+ \S*\bTO\b",),
    ),
    Stated(
        "mbind goes from mapping to mapping, so of two reasons to refuse it may find the other one "
        "first",
        lambda words, bare, merged: words[0] == "mbind" and "errno" in bare and "errno" in merged,
    ),
    Stated(
        "the same refuses any page for an empty set of nodes, and the racer may have made none",
        lambda words, bare, merged: words[0] == "mbind" and "errno 5" in merged,
        needs=("race",),
    ),
    Stated(
        "mbind with MPOL_MF_STRICT refuses pages that it cannot judge or move, those that a fork "
        "shared say; merged memory has got fresh ones",
        lambda words, bare, merged: words[0] == "mbind" and "errno 5" in bare,
    ),
    Stated(
        "Linux 6.17 and later read maps without a lock of the whole: a mapping that is just "
        "replaced may be missing",
        lambda words, bare, merged: (
            words[0] == "look" and _zeros(merged).items() < _zeros(bare).items()
        ),
        passes=True,
    ),
    Stated(
        "smaps is read in parts: a mapping that grows in between is told twice",
        lambda words, bare, merged: (
            words[0].startswith("flags")
            and {*_by_page(bare).split()} == {*_by_page(merged).split()}
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
        "the same in a private page of a file, which is anonymous if the racer has written to it",
        lambda words, bare, merged: (
            words[0] in ("futex_release", "futex_wait", "futex_wake")
            and ("-14" in merged or "errno 14" in merged)
        ),
        needs=("race", "mmap .* (shared|file)"),
    ),
    Stated(
        "mremap with DONTUNMAP unlocks all of the mapping that it leaves, and that may be one of "
        "several: what is locked from there on differs",
        lambda words, bare, merged: (
            words[0].startswith("flags") and _unless("l[of]", bare) == _unless("l[of]", merged)
        ),
        needs=UNLOCKED,
    ),
    Stated("the same: such memory is not given up, nor moved", _is_locked, True, UNLOCKED),
    Stated(
        "memory that a fork would not copy is made so for a moment, while pinned pages are looked "
        "for",
        lambda words, bare, merged: (
            words[0].startswith("flags") and _unless("dc", bare) == _unless("dc", merged)
        ),
        needs=("DONTFORK",),
        passes=True,
    ),
    Stated(
        "the same, seen by a child that was born just then",
        _has_more,
        needs=("DONTFORK",),
        passes=True,
    ),
    Stated(
        "the same: that child's calls find memory there",
        lambda words, bare, merged: "errno 12" in bare and "errno" not in merged,
        needs=("DONTFORK",),
        passes=True,
    ),
    Stated(
        "a first write may bring in more pages than one (huge pages of several sizes), but in "
        "mergeable memory it does not",
        _is_filled_early,
        ends=True,
        needs=("uffd_register",),
    ),
    Stated(
        "UFFDIO_COPY and its kin take one mapping at a time; memory that was merged and given back "
        "is several, and has holes for zeros, which UFFDIO_MOVE fills",
        lambda words, bare, merged: (
            words[0] in ("uffd_copy", "uffd_zero", "uffd_move")
            and re.search(r"errno (2|22)\b", f"{bare} {merged}") is not None
        ),
        ends=True,
    ),
    Stated(
        "what cannot be made anonymous just then, because a page may be pinned, is refused",
        lambda words, bare, merged: re.search(r"errno 1[12]\b", merged) is not None,
        passes=True,
    ),
    Stated(
        "a signal ends process_madvise(MADV_UNMERGEABLE) after a part of its ranges (mm/ksm.c, "
        "unmerge_ksm_pages), whenever it comes",
        lambda words, bare, merged: (
            words[0] == "pmadvise" and "UNMERGEABLE" in words and "errno" not in bare + merged
        ),
        needs=("storm",),
    ),
    Stated(
        "a window is open just then: the agent's userfaultfd has registered the range, and the "
        "kernel asks whether any has",
        lambda words, bare, merged: words[0].startswith("uffd_"),
        passes=True,
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
    fitting = (
        it
        for it in STATED
        if all(re.search(word, program, re.IGNORECASE) for word in it.needs)
        and it.fits(words, bare, merged)
    )
    return next(fitting, None)
