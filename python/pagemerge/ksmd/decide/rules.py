"""Decides which processes are opted in to kernel KSM: by rules of the admin, one user at a time.

A rule has matchers, all of which must fit a process. Any fitting rule that says ``out`` wins over
every rule that says ``in``; of several that say ``in``, the first applies (``select``).

Kernel KSM is one trust domain: each process in it can detect by timing which pages the others hold.
So unless the configuration says ``across_users = true``, kernel KSM belongs to one user. That is
the user who holds it already, as long as a process of this user is in it. If it is free, it is the
user of the process that fits the earliest rule; among several, of the process that started first.
So the admin's order decides, a new process never takes kernel KSM away, and the answer is the same
at every look. The size of processes does not matter: it changes, and a growing process would push
others out.

A QEMU process with ``mem-merge=off`` is opted out if any rule fits it: whoever started the guest
has said that its memory must not be merged. libvirt writes that for ``<nosharepages/>``.

Commands of pagemerge itself are not opted in, whatever rule fits: `pagemerge run -- CMD` has CMD on
its command line, and being opted in outlives its exec.

All patterns are globs (fnmatch: ``*``, which fits ``/`` too, ``?``, ``[abc]``) and case-sensitive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pagemerge.linux.identity import Identity

Opt = Literal["in", "out"]
UNSHARED = "out: QEMU was started with mem-merge=off (libvirt: <nosharepages/>)"
"""The reason for a guest that no rule can opt in."""
MATCHERS = ("cgroup", "unit", "user", "command", "guest")


@dataclass(frozen=True, slots=True)
class Rule:
    """Matchers for processes, and whether these are opted in; an empty matcher fits everything."""

    opt: Opt
    cgroup: str = ""
    """Glob of ``Identity.cgroup``."""
    unit: str = ""
    """Glob of ``Identity.unit``, with ``-`` where systemd escapes it, or as systemd writes it."""
    user: str = ""
    """Name or uid."""
    command: str = ""
    """Glob of ``Identity.command``: the whole command line."""
    guest: str = ""
    """Glob of ``Identity.guest``."""
    select: bool = False
    """True to mark only ranges in which the finder sees duplicates, not all memory of the process.
    """

    def __str__(self) -> str:
        return ", ".join(f"{name} {text}" for name in MATCHERS if (text := getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Choice:
    """What the rules say about one process."""

    who: Identity
    opt: Literal["in", "out", "refused"]
    """Only ``in`` means that the process is opted in."""
    select: bool
    reason: str
    """The reason as text; starts with ``opt``."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say about all processes."""

    decisions: tuple[Choice, ...]
    """Decisions in the order of the given processes; processes that fit no rule are left out."""
    holder: int | None
    """The uid that kernel KSM belongs to now, for the next look; None if no process is in, or if
    kernel KSM belongs to all users."""


@dataclass(frozen=True, slots=True)
class _Match:
    """A process and the rule that applies to it."""

    who: Identity
    number: int
    """Number of the rule, from 1."""
    rule: Rule


def rule_on(
    processes: Iterable[Identity],
    rules: Sequence[Rule],
    *,
    across_users: bool = False,
    holder: int | None = None,
) -> Ruling:
    """Decide for each process; ``holder`` is the uid that kernel KSM belonged to until now."""
    matches = [match for who in processes if (match := _speaks(who, rules))]
    wanted = [match for match in matches if match.rule.opt == "in" and match.who.mem_merge]
    if across_users:
        holder = None
    elif not any(match.who.uid == holder for match in wanted):
        holder = min(wanted, key=_precedence).who.uid if wanted else None
    user = next((match.who.user for match in wanted if match.who.uid == holder), "")
    return Ruling(tuple(_decision(match, holder, user) for match in matches), holder)


def fits(who: Identity, rule: Rule) -> bool:
    """Return true if all matchers of ``rule`` fit the process."""
    return (
        (not rule.user or rule.user in (who.user, str(who.uid)))
        and (not rule.unit or _is_unit(who.unit, rule.unit))
        and _like(who.cgroup, rule.cgroup)
        and _like(who.guest, rule.guest)
        and _like(who.command, rule.command)
    )


def _speaks(who: Identity, rules: Sequence[Rule]) -> _Match | None:
    """Return the first rule that opts ``who`` out, else the first that opts it in."""
    found = [_Match(who, at, rule) for at, rule in enumerate(rules, 1) if fits(who, rule)]
    # ``ours`` is what a process says about itself: it can keep the process out, and never in.
    asked = () if who.ours else found
    return next((match for match in found if match.rule.opt == "out"), next(iter(asked), None))


def _precedence(match: _Match) -> tuple[int, int, int]:
    return match.number, match.who.start_time, match.who.pid


def _decision(match: _Match, holder: int | None, user: str) -> Choice:
    who, rule = match.who, match.rule
    reason = f"{rule.opt}: rule {match.number}, {rule}"
    if rule.opt == "out":
        return Choice(who, "out", False, reason)
    if not who.mem_merge:
        return Choice(who, "out", False, UNSHARED)
    if holder in (None, who.uid):
        return Choice(who, "in", rule.select, reason)
    named = f"uid {holder}" if user == str(holder) else f"uid {holder} ({user})"
    return Choice(
        who,
        "refused",
        False,
        f"refused: rule {match.number} opts it in, but its pages would be merged with those of "
        f"{named}, whose processes could then tell what it holds; to accept that, set "
        "across_users = true under [kernel]; else opt one of the two users out",
    )


def _like(text: str, glob: str) -> bool:
    """Return true if ``glob`` fits. Only an empty pattern fits a text that the process lacks."""
    return not glob or (bool(text) and fnmatchcase(text, glob))


def _is_unit(unit: str, glob: str) -> bool:
    return _like(unescaped(unit), unescaped(glob))


def unescaped(unit: str) -> str:
    r"""Undo escapes like ``machine-qemu\x2d1\x2dweb.scope`` (systemd.unit(5)); bytes are UTF-8."""
    if "\\x" not in unit:
        return unit
    raw = re.sub(
        rb"\\x([0-9a-fA-F]{2})",
        lambda found: bytes.fromhex(found[1].decode()),
        unit.encode("utf-8", "surrogateescape"),
    )
    return raw.decode("utf-8", "surrogateescape")
