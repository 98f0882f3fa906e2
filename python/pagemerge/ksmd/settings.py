"""The settings that the ``[kernel]`` table and each ``[[rule]]`` of a configuration may have."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pagemerge.ksmd.decide.rules import MATCHERS, Opt, Rule
from pagemerge.ksmd.model import Goals

Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]
"""A share of one core."""
Pattern = Annotated[str, msgspec.Meta(min_length=1)]
"""A glob."""


class KernelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the kernel engine: whether it merges across users, and goals of the governor."""

    across_users: bool = False
    """Kernel KSM is one trust domain: each process in it can detect by timing which pages the
    others hold. Unless this is true, processes of one user only are opted in (``decide.rules``)."""

    cpu_percent: Percent = 20
    """Share of one core that ksmd and the governor may use over time."""
    burst_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30
    """The most processor seconds that may be spent at once, saved up while ksmd stands still."""
    price_bytes: Annotated[float, msgspec.Meta(ge=0)] = 100_000
    """Bytes that merging must save for each hundredth of a processor second."""
    pressure_percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 5
    """PSI (memory, some avg10) from which on memory counts for more than processor time."""
    available_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 10
    """Percent of the host's memory: if less is available, memory counts for more as well."""

    reserve_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Memory that must stay available even if every merged page is written at once. Where it would
    not, the governor merges nothing more. 0: no reserve."""

    merge_across_nodes: bool | None = None
    """True if ksmd may merge pages of different NUMA nodes. The governor writes it while nothing is
    merged; unset: it stays as it is."""

    def goals(self) -> Goals:
        """Return the settings as the goals that decisions use."""
        return Goals(
            self.cpu_percent,
            self.burst_seconds,
            self.price_bytes,
            self.pressure_percent,
            self.available_percent,
            self.reserve_bytes,
            None if self.merge_across_nodes is None else int(self.merge_across_nodes),
        )


class RuleTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ``[[rule]]``; see ``decide.rules.Rule`` for what each key fits."""

    opt: Opt
    cgroup: Pattern = ""
    unit: Pattern = ""
    user: Pattern | int = ""
    command: Pattern = ""
    guest: Pattern = ""
    select: bool = False

    def __post_init__(self) -> None:
        if not any(getattr(self, name) for name in MATCHERS) and self.user != 0:
            raise ValueError(
                "a rule needs a matcher: cgroup, unit, user, command or guest; "
                'for every process write command = "*"'
            )
        if self.select and self.opt == "out":
            raise ValueError('select is for opt = "in" only: remove it where opt = "out"')

    def rule(self) -> Rule:
        """Return the rule of this table."""
        values = {name: str(getattr(self, name)) for name in MATCHERS}
        return Rule(self.opt, **values, select=self.select)
