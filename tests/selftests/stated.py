"""Differences that are known and stay, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.selftests.compare import Difference


@dataclass(frozen=True, slots=True)
class Stated:
    """Differences of one kind, and why they are as they must be."""

    program: str
    """A pattern that the program's name fits as a whole; the others are patterns, too."""
    way: str
    here: str
    """How it ends under us."""
    reason: str
    said: str = ".*"
    """What the program says of the check under us: TAP's name of it, or why it was skipped."""
    bare: str = "ok"


_HUGE = "mergeable memory starts with small pages, so what tests huge ones has none to test"

_CHANCE = "it passed here; CPython's test fails by chance, and did so in the bare run"

STATED = (
    Stated("cow|mkdirty", "every|all", "skip", _HUGE, said="Did not get (a THP|THPs) populated"),
    Stated("CPython .*", ".*", "ok", _CHANCE, bare="-|not ok"),
)
"""Looked at in this order; the first that fits gives its reason."""


def reason(program: str, way: str, said: str, difference: Difference) -> str:
    """Why a difference is as it must be; empty if nobody has said so."""
    for it in STATED:
        fits = (
            re.fullmatch(it.program, program)
            and re.fullmatch(it.way, way)
            and re.fullmatch(it.said, said)
            and re.fullmatch(it.bare, difference.bare)
            and re.fullmatch(it.here, difference.here)
        )
        if fits:
            return it.reason
    return ""
