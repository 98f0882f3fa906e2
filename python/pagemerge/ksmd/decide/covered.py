"""Finds rules that never apply, because other rules fit every process that they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from pagemerge.ksmd.decide.rules import MATCHERS, Rule, unescaped

MOST_RULES = 1000
"""Rules that are compared with all others; the time grows with the square of their number."""


def covered(rules: Sequence[Rule]) -> Iterator[tuple[int, int]]:
    """Yield the index of each rule that never applies, and of a rule that applies instead.

    A rule that says ``out`` applies before all that say ``in``; among rules that say the same, the
    first applies. Not all such rules are found: two patterns are compared only if that is simple.
    """
    compared = rules[:MOST_RULES]
    for index, rule in enumerate(compared):
        for other, wider in enumerate(compared):
            before = other < index if wider.opt == rule.opt else wider.opt == "out"
            if before and _covers(wider, rule):
                yield index, other
                break


def _covers(wider: Rule, rule: Rule) -> bool:
    """Return true if ``wider`` surely fits every process that ``rule`` fits."""
    if wider.user and wider.user != rule.user:
        return False
    for name in MATCHERS:
        glob, inner = getattr(wider, name), getattr(rule, name)
        if name == "user" or not glob or glob == inner:
            continue
        if name == "command" and set(glob) == {"*"}:
            continue  # a process that has emptied its command line is no case to warn for
        if name == "unit":
            glob, inner = unescaped(glob), unescaped(inner)
        if not inner or not _contains(glob, inner):
            return False
    return True


def _contains(glob: str, inner: str) -> bool:
    """Return true if ``glob`` surely fits every text that the glob ``inner`` fits.

    ``*`` of ``glob`` fits any part of ``inner``, with the wildcards in it. Other wildcards of
    ``glob`` would have to be compared with those of ``inner``.
    """
    if "[" in inner or (("*" in inner or "?" in inner) and ("?" in glob or "[" in glob)):
        return False
    return fnmatchcase(inner, glob)
