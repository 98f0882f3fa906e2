"""The settings that the ``[kernel]`` table and each ``[[rule]]`` of a configuration may have.

The docstrings are the reference of users: ``pagemerge config`` and docs/configuration.md show them.
The first sentence of each one must be clear without the others.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from pagemerge.ksmd.decide.rules import MATCHERS, Opt, Rule
from pagemerge.ksmd.model import HUGE_PRICE, Goals

Percent = Annotated[float, msgspec.Meta(gt=0, le=100, extra={"unit": "percent of one core"})]
"""A share of one core."""


class KernelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the kernel engine: whether it merges across users, and goals of the governor of
    ksmd."""

    across_users: bool = False
    """True to opt in processes of several users. Kernel KSM is one trust domain: each process in it
    can detect by timing which pages the others hold. So by default only processes of one user are
    opted in."""

    cpu_percent: Percent = 20
    """Processor time that ksmd and the governor may use over time."""
    burst_seconds: Annotated[
        float, msgspec.Meta(ge=0, le=3600, extra={"unit": "processor seconds"})
    ] = 30
    """Most processor time that may be spent at once, saved up while ksmd stands still."""
    price_bytes: Annotated[float, msgspec.Meta(ge=0)] = 100_000
    """Memory that merging must save for each hundredth of a processor second. 100,000 are 10 MB for
    each processor second."""
    pressure_percent: Annotated[
        float, msgspec.Meta(gt=0, le=100, extra={"unit": "percent of time"})
    ] = 5
    """Memory pressure (PSI, ``some avg10``) from which on memory counts for more than processor
    time. ksmd may then use a whole core, and the price is a tenth."""
    available_percent: Annotated[
        float, msgspec.Meta(ge=0, le=100, extra={"unit": "percent of the host's memory"})
    ] = 10
    """Available memory below which memory counts for more than processor time, as under memory
    pressure."""

    huge_price: Annotated[int, msgspec.Meta(ge=0, le=512, extra={"unit": "pages"})] = HUGE_PRICE
    """Fewest duplicates of a huge page of 2 MiB that are worth splitting it, in rules with
    ``select = true``. Where there are fewer, nothing of the huge page is marked. 0: all duplicates
    are marked."""

    reserve_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Memory that must stay available even if every page that ksmd has merged is written at once.
    Where it would not, the governor merges nothing more. 0: no reserve."""

    latency_percent: Annotated[
        float, msgspec.Meta(ge=0, le=100, extra={"unit": "percent of time"})
    ] = 0
    """Part of the time in which other programs may wait for a processor while ksmd runs (PSI,
    ``/proc/pressure/cpu``). The governor then has ksmd scan 256 pages at a time, with pauses as
    long as needed; ksmd always runs for this part of the time. 0: no budget."""

    merge_across_nodes: bool | None = None
    """True if ksmd may merge pages of different NUMA nodes, false if it may not. The governor
    writes this while nothing is merged. If it is not set, the governor leaves it as it is."""

    def goals(self) -> Goals:
        """Return the settings as the goals that decisions use."""
        return Goals(
            self.cpu_percent,
            self.burst_seconds,
            self.price_bytes,
            self.pressure_percent,
            self.available_percent,
            self.reserve_bytes,
            self.latency_percent,
            None if self.merge_across_nodes is None else int(self.merge_across_nodes),
        )


class RuleTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Opts processes in to kernel KSM, or out of it. A rule has at least one matcher, and all its
    matchers must fit a process. A rule that says ``out`` wins over all rules that say ``in``; of
    several that say ``in``, the first one counts. Patterns are globs (``*``, ``?``, ``[abc]``) in
    which ``*`` also fits ``/``, and upper and lower case differ."""

    opt: Opt
    """Whether the processes that the rule fits are opted in or out."""
    cgroup: Annotated[str, msgspec.Meta(min_length=1, examples=["/machine.slice/*"])] = ""
    """Matcher: pattern for the path of the cgroup."""
    unit: Annotated[str, msgspec.Meta(min_length=1, examples=["machine-qemu*"])] = ""
    """Matcher: pattern for the name of the systemd unit."""
    user: Annotated[str, msgspec.Meta(min_length=1, examples=["libvirt-qemu"])] | int = ""
    """Matcher: name or uid of the user, no pattern."""
    command: Annotated[str, msgspec.Meta(min_length=1, examples=["*qemu-system-*"])] = ""
    """Matcher: pattern for the whole command line. ``*`` fits every process except init and
    pagemerge's own commands."""
    guest: Annotated[str, msgspec.Meta(min_length=1, examples=["web-*"])] = ""
    """Matcher: pattern for the name of a QEMU guest (``-name``)."""
    select: bool = False
    """True to mark only memory that the finder has seen to be duplicated, so that ksmd scans less.
    Only with ``opt = "in"``."""

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
