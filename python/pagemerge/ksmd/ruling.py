"""Applies the rules to processes as they appear, change and end: which to opt in or out now.

This module does nothing to any process; ``enrolment`` opts them in, and asks here again and again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pagemerge.ksmd.decide.rules import Choice, Rule, rule_on
from pagemerge.linux.aside import readers
from pagemerge.linux.identity import Identities, Identity

Key = tuple[int, int]
"""Pid and start time, which identify a process for ever."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The differences from the last look."""

    opt_in: tuple[Choice, ...] = ()
    """Processes that the rules opt in now and did not before."""
    opt_out: tuple[Identity, ...] = ()
    """Processes that were in, still run, and are not in any more: they have another program by
    exec, another user, or another cgroup. Being opted in survives all of that (prctl(2))."""
    news: tuple[Choice, ...] = ()
    """Every decision that is new or has another reason, those of ``opt_in`` too, for the log."""


class Opting:
    """What the rules say about the processes of this host, from look to look."""

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        across_users: bool = False,
        holder: int | None = None,
        present: Callable[[], list[Identity]] | None = None,
    ) -> None:
        """Apply ``rules`` from now on.

        ``holder``: the uid whose processes are in already; ``present`` lists all processes, by
        default ``Identities().present``."""
        self._rules = rules
        self._across_users = across_users
        self._present = present or Identities().present
        self._said: dict[Key, Choice] = {}
        self.holder = holder
        """The uid that kernel KSM belongs to; see ``decide.rules``."""

    def follow(self, rules: Sequence[Rule], across_users: bool) -> None:
        """Apply other rules from the next look on. Processes that are in under the old rules and
        not under the new ones will be in ``opt_out``."""
        self._rules, self._across_users = rules, across_users

    def changes(self) -> Changes:
        """Look at all processes but our own and init, and return what has changed.

        A rule for all processes would give kernel KSM to the process that started first: init."""
        running = {(who.pid, who.start_time): who for who in self._present()}
        ours = {1, os.getpid(), *readers.pids}
        ruling = rule_on(
            (who for who in running.values() if who.pid not in ours),
            self._rules,
            across_users=self._across_users,
            holder=self.holder,
        )
        now = {(it.who.pid, it.who.start_time): it for it in ruling.decisions}
        before, self._said, self.holder = self._said, now, ruling.holder
        was_in = {key for key, decision in before.items() if decision.opt == "in"}
        is_in = {key for key, decision in now.items() if decision.opt == "in"}
        return Changes(
            opt_in=tuple(now[key] for key in now if key in is_in - was_in),
            opt_out=tuple(running[key] for key in running if key in was_in - is_in),
            news=tuple(
                it
                for key, it in now.items()
                if key not in before or before[key].reason != it.reason
            ),
        )
