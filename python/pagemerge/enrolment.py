"""Opting processes in to kernel KSM by the admin's rules, as they appear."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pagemerge.decide.rules import Rule, rule_on
from pagemerge.errors import NoSuchProcess, PagemergeError
from pagemerge.find.identity import PROC, Identities
from pagemerge.model import Identity

log = logging.getLogger("pagemerge.governor")

Key = tuple[int, int]
"""A pid and a start time: one process for good."""


class Enrolment:
    """Who is in, by ``rules``; each ``look`` opts in who came, and out who shall not be.

    ``mark`` makes a process mergeable, ``unmark`` undoes it; both raise ``PagemergeError`` where
    that cannot be, and are not asked again for that process. ``dry_run``: only say it.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        mark: Callable[[Identity], None],
        unmark: Callable[[Identity], None],
        *,
        across_users: bool = False,
        dry_run: bool = False,
        proc: Path = PROC,
    ) -> None:
        self._rules, self._mark, self._unmark = rules, mark, unmark
        self._across_users, self._dry_run = across_users, dry_run
        self._identities = Identities(proc)
        self._holder: int | None = None
        self._done: dict[Key, str] = {}
        """What was done for each process, whether it worked or not: "in", "out", "refused"."""

    def look(self) -> list[int]:
        """The pids that were opted in or out just now."""
        if not self._rules:
            return []
        ruling = rule_on(
            [who for who in self._identities.look() if who.pid != os.getpid()],
            self._rules,
            across_users=self._across_users,
            holder=self._holder,
        )
        self._holder = ruling.holder
        touched, there = [], set()
        for decision in ruling.decisions:
            who = decision.who
            key = who.pid, who.start_time
            there.add(key)
            before = self._done.get(key)
            if before == decision.opt:
                continue
            self._done[key] = decision.opt
            log.info("process %d (%s) is %s", who.pid, who.name, decision.reason)
            if self._dry_run:
                continue
            if decision.opt == "in":
                self._try(self._mark, who, "opted in")
            elif decision.opt == "out" or before == "in":
                # Whoever is out shall not be in by its own doing either; but what a process that
                # was refused has marked by itself is its own affair.
                self._try(self._unmark, who, "opted out")
            touched.append(who.pid)
        self._done = {key: opt for key, opt in self._done.items() if key in there}
        return touched

    def _try(self, change: Callable[[Identity], None], who: Identity, what: str) -> None:
        try:
            change(who)
        except NoSuchProcess:
            log.debug("process %d (%s) has gone", who.pid, who.name)
        except PagemergeError as error:
            log.warning("process %d (%s) cannot be %s: %s", who.pid, who.name, what, error)
