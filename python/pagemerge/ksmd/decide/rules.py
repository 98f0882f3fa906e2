"""Which processes kernel KSM is opted in for: rules of the admin, and one user at a time.

A rule has matchers, all of which must fit a process. Any fitting rule that says ``out`` wins over
every one that says ``in``; of several that say ``in``, the first speaks (``select``).

Kernel KSM is one trust domain: whoever is in it can tell by timing which pages the others hold. So
unless the configuration says ``across_users = true``, it belongs to one user: the one it is held
by already, as long as a process of theirs is in it; when it is free, the user of the process that
fits the earliest rule, and among those of the one that started first. The admin's order thus says
who comes first, a newcomer never takes it away, and the answer is the same at every look. The size
of processes has no say: it changes, and whoever grows would throw others out.

Commands of pagemerge's own are not opted in, whatever fits: `pagemerge run -- CMD` has CMD on its
command line, and what it is opted in for outlives its exec.

All patterns are globs (fnmatch: ``*``, which fits ``/`` too, ``?``, ``[abc]``), in upper and lower
case as written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pagemerge.linux.identity import Identity

Opt = Literal["in", "out"]
MATCHERS = ("cgroup", "unit", "user", "command", "guest")


@dataclass(frozen=True, slots=True)
class Rule:
    """Some processes, and whether they are opted in; an empty matcher fits everything."""

    opt: Opt
    cgroup: str = ""
    """Glob of ``Identity.cgroup``."""
    unit: str = ""
    """Glob of ``Identity.unit``, with ``-`` where systemd writes an escaped one, or as it does."""
    user: str = ""
    """Name or uid."""
    command: str = ""
    """Glob of ``Identity.command``: the whole command line."""
    guest: str = ""
    """Glob of ``Identity.guest``."""
    select: bool = False
    """Mark only what the finder has seen to be duplicated, not all memory of the process."""

    def __str__(self) -> str:
        return ", ".join(f"{name} {text}" for name in MATCHERS if (text := getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say of one process."""

    who: Identity
    opt: Literal["in", "out", "refused"]
    """Only ``in`` is opted in."""
    select: bool
    reason: str
    """For people; starts with ``opt``."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say of all processes."""

    decisions: tuple[Decision, ...]
    """In the order of the processes given; those that no rule is about are left out."""
    holder: int | None
    """The uid that kernel KSM belongs to now, for the next look; None if nobody is in, or if it
    belongs to all."""


@dataclass(frozen=True, slots=True)
class _Match:
    """A process and the rule that speaks for it."""

    who: Identity
    number: int
    """Of the rule, from 1."""
    rule: Rule


def rule_on(
    processes: Iterable[Identity],
    rules: Sequence[Rule],
    *,
    across_users: bool = False,
    holder: int | None = None,
) -> Ruling:
    """Decide for each process; ``holder`` is the uid that kernel KSM belongs to so far."""
    matches = [match for who in processes if (match := _speaks(who, rules))]
    wanted = [match for match in matches if match.rule.opt == "in"]
    if across_users:
        holder = None
    elif not any(match.who.uid == holder for match in wanted):
        holder = min(wanted, key=_precedence).who.uid if wanted else None
    user = next((match.who.user for match in wanted if match.who.uid == holder), "")
    return Ruling(tuple(_decision(match, holder, user) for match in matches), holder)


def fits(who: Identity, rule: Rule) -> bool:
    """Do all matchers of ``rule`` fit?"""
    return (
        (not rule.user or rule.user in (who.user, str(who.uid)))
        and (not rule.unit or _is_unit(who.unit, rule.unit))
        and _like(who.cgroup, rule.cgroup)
        and _like(who.guest, rule.guest)
        and _like(who.command, rule.command)
    )


def _speaks(who: Identity, rules: Sequence[Rule]) -> _Match | None:
    """The first rule that opts ``who`` out, else the first that opts it in."""
    found = [_Match(who, at, rule) for at, rule in enumerate(rules, 1) if fits(who, rule)]
    # What is ours is what a process says of itself: it may stay out by that, and never stay in.
    asked = () if who.ours else found
    return next((match for match in found if match.rule.opt == "out"), next(iter(asked), None))


def _precedence(match: _Match) -> tuple[int, int, int]:
    return match.number, match.who.start_time, match.who.pid


def _decision(match: _Match, holder: int | None, user: str) -> Decision:
    who, rule = match.who, match.rule
    reason = f"{rule.opt}: rule {match.number}, {rule}"
    if rule.opt == "out":
        return Decision(who, "out", False, reason)
    if holder in (None, who.uid):
        return Decision(who, "in", rule.select, reason)
    named = f"uid {holder}" if user == str(holder) else f"uid {holder} ({user})"
    return Decision(
        who,
        "refused",
        False,
        f"refused: rule {match.number} opts it in, but its pages would be merged with those of "
        f"{named}, whose processes could then tell what it holds; to accept that, say "
        "across_users = true under [kernel]; else opt one of the two users out",
    )


def _like(text: str, glob: str) -> bool:
    """Does ``glob`` fit? Nothing but an empty pattern fits what a process has not got."""
    return not glob or (bool(text) and fnmatchcase(text, glob))


def _is_unit(unit: str, glob: str) -> bool:
    return _like(_unescaped(unit), _unescaped(glob))


def _unescaped(unit: str) -> str:
    r"""``machine-qemu\x2d1\x2dweb.scope`` as people say it (systemd.unit(5)); bytes are UTF-8."""
    if "\\x" not in unit:
        return unit
    raw = re.sub(
        rb"\\x([0-9a-fA-F]{2})",
        lambda found: bytes.fromhex(found[1].decode()),
        unit.encode("utf-8", "surrogateescape"),
    )
    return raw.decode("utf-8", "surrogateescape")
