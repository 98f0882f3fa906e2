"""Opts processes in to kernel KSM by the admin's rules, as they appear, and out again.

If a rule says ``select``, the finder looks first, and only ranges that hold duplicates are marked.
The finder looks again when the process has grown.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pagemerge.errors import NoSuchProcess, PagemergeError
from pagemerge.find import eligible
from pagemerge.find.engine import merged_by_us
from pagemerge.find.process import Process
from pagemerge.ksmd.attach import attach, detach, listed, users_merged
from pagemerge.ksmd.decide.rules import Rule
from pagemerge.ksmd.model import HUGE_PRICE, Selection
from pagemerge.ksmd.ruling import Key, Opting
from pagemerge.ksmd.selecting import select
from pagemerge.linux.accounts import anonymous_bytes
from pagemerge.linux.aside import readers
from pagemerge.linux.identity import Identity
from pagemerge.linux.ksm import is_mergeable
from pagemerge.linux.maps import mappings
from pagemerge.model import PAGE_SIZE

log = logging.getLogger("pagemerge.governor")

GROWN = 16 << 20
GROWN_SHARE = 0.1
"""Bytes, and the share of its size, by which a process must have grown to be looked at again."""
LOOKS = 0.02
"""Share of a core that selecting ranges may take."""


class Marks(Protocol):
    """Changes to processes; each raises ``PagemergeError`` if the change is impossible."""

    def allow(self, across_users: bool) -> None:
        """Say whether processes of several users may be mergeable at a time."""

    def all(self, who: Identity) -> None:
        """Make all memory of a process mergeable."""

    def ranges(self, who: Identity, selection: Selection) -> None:
        """Make ranges of a process mergeable."""

    def undo(self, who: Identity) -> None:
        """Separate the merged pages of a process, and make none of its memory mergeable."""


@dataclass(slots=True)
class _Selected:
    """A process of which only ranges are marked."""

    who: Identity
    seen: int = 0
    """Bytes of anonymous memory at the last refresh."""
    looked: int = 0
    """Bytes of anonymous memory when the finder last looked at it."""


class Enrolment:
    """Opts processes in and out by the rules in ``opting``; a process that cannot be marked is not
    tried again.

    ``beside``: the pids whose memory is mergeable already; ``dry_run``: only log the decisions.
    """

    def __init__(
        self,
        opting: Opting,
        beside: Callable[[], Iterable[int]] = tuple,
        *,
        marks: Marks | None = None,
        dry_run: bool = False,
    ) -> None:
        self._opting, self._beside, self._dry_run = opting, beside, dry_run
        self._marks = marks or Kernel()
        self._selected: dict[Key, _Selected] = {}
        self._looks_after = 0.0
        self.huge_price = HUGE_PRICE
        """As for ``select``."""

    def follow(self, rules: Sequence[Rule], across_users: bool) -> None:
        """Use other rules from the next refresh on."""
        self._opting.follow(rules, across_users)
        self._marks.allow(across_users)

    def refresh(self) -> list[int]:
        """Opt processes in and out as the rules say now; returns the pids that were changed."""
        changes = self._opting.changes()
        for decision in changes.news:
            log.info("process %d (%s) is %s", decision.who.pid, decision.who.name, decision.reason)
        if self._dry_run:
            return []
        changed = []
        for decision in changes.opt_in:
            if decision.select:
                self._selected[_key(decision.who)] = _Selected(decision.who)
            elif self._try(self._marks.all, decision.who):
                changed.append(decision.who.pid)
        out = [*changes.opt_out, *(it.who for it in changes.news if it.opt == "out")]
        for who in {_key(who): who for who in out}.values():
            self._selected.pop(_key(who), None)
            if self._try(self._marks.undo, who):
                changed.append(who.pid)
        return changed + self._reselect()

    def _reselect(self) -> list[int]:
        """Look at selected processes that have grown and are stable; returns the pids marked."""
        due = []
        for key, one in list(self._selected.items()):
            size = anonymous_bytes(one.who.pid)
            if size == 0:  # the process has ended
                del self._selected[key]
                continue
            still, one.seen = abs(size - one.seen) < GROWN, size
            if still and size - one.looked >= max(GROWN, GROWN_SHARE * size):
                due.append(one)
        if not due or time.monotonic() < self._looks_after:
            return []
        began = readers.spent_seconds()
        mine = {one.who.pid for one in self._selected.values()}
        # All selected processes, too: pages equal to theirs are duplicates, marked or not.
        others = sorted((mine | set(self._beside())) - {one.who.pid for one in due})
        found = select(
            [_process(one.who) for one in due],
            [Process(pid, "", 0) for pid in others],
            huge_price=self.huge_price,
        )
        spent = readers.spent_seconds() - began
        self._looks_after = time.monotonic() + spent / LOOKS
        return [one.who.pid for one, it in zip(due, found, strict=True) if self._marked(one, it)]

    def _marked(self, one: _Selected, selection: Selection) -> bool:
        one.looked = one.seen
        if selection.error or not len(selection.start):
            told = selection.error or "nothing in it is worth marking"
            log.info("process %d (%s): %s", one.who.pid, one.who.name, told)
            return False
        log.info(
            "process %d (%s): marking %.0f of %.0f MB, to save %.0f MB",
            one.who.pid,
            one.who.name,
            *(n * PAGE_SIZE / 1e6 for n in (selection.marked, selection.looked, selection.gain)),
        )
        return self._try(lambda who: self._marks.ranges(who, selection), one.who)

    def _try(self, change: Callable[[Identity], None], who: Identity) -> bool:
        try:
            change(who)
        except NoSuchProcess:
            log.debug("process %d (%s) has gone", who.pid, who.name)
        except (PagemergeError, OSError) as error:
            log.warning("process %d (%s) is left as it is: %s", who.pid, who.name, error)
        else:
            return True
        return False


class Kernel:
    """``Marks`` on real processes, of one user at a time unless ``across_users``."""

    def __init__(self, across_users: bool = False) -> None:
        self._across_users = across_users

    def allow(self, across_users: bool) -> None:
        """Say whether processes of several users may be mergeable at a time."""
        self._across_users = across_users

    def all(self, who: Identity) -> None:
        """Make all memory of a process mergeable, by prctl where Linux has it: then memory that it
        maps later is mergeable, too."""
        self._check(who)
        readers.call(who.pid, _mark_all, who)

    def ranges(self, who: Identity, selection: Selection) -> None:
        """Make ranges of a process mergeable, by madvise."""
        self._check(who)
        readers.call(who.pid, _mark_ranges, who, selection)

    def undo(self, who: Identity) -> None:
        """Separate and unmark all memory of a process, also what the program has marked itself."""
        readers.call(who.pid, _undo, who)

    def _check(self, who: Identity) -> None:
        """Raise ``PagemergeError`` if the process must not be marked. Processes that have marked
        memory without pagemerge count as well."""
        if reason := readers.call(who.pid, _merged_by_us, who.pid):
            raise PagemergeError(reason, pid=who.pid)
        others = {} if self._across_users else users_merged()
        others.pop(who.uid, None)
        if others:
            raise PagemergeError(
                f"kernel KSM has processes of {listed(others)} already, and is one trust domain: "
                "detach them, or set across_users = true under [kernel]",
                pid=who.pid,
            )


def _mark_all(who: Identity) -> None:
    attach(who.pid, who.name, lambda: eligible.eligible(who.pid))


def _mark_ranges(who: Identity, selection: Selection) -> None:
    attach(who.pid, who.name, lambda: selection.ranges, "madvise")


def _undo(who: Identity) -> None:
    if is_mergeable(who.pid):
        detach(who.pid, who.name, lambda: eligible.eligible(who.pid))


def _merged_by_us(pid: int) -> str:
    return merged_by_us(pid, mappings(pid))


def _key(who: Identity) -> Key:
    return who.pid, who.start_time


def _process(who: Identity) -> Process:
    return Process(who.pid, who.name, who.uid)
