"""Settings: TOML in, typed values out, errors that name the key and the cure.

``[hub]`` is the user engine's, ``[kernel]`` the kernel engine's, and each ``[[rule]]`` says which
processes that is for.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from pagemerge.decide.rules import MATCHERS, Opt, Rule
from pagemerge.errors import UsageError
from pagemerge.model import Goals

Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]
"""A share of one core."""
Pattern = Annotated[str, msgspec.Meta(min_length=1)]
"""A glob."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the ``[hub]`` table of a configuration may say."""

    looks: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    """Looks that must see the same bytes, some time apart, before a page is merged, the compare of
    the merge among them; 1 merges at first sight."""
    least_run: Annotated[int, msgspec.Meta(ge=1, le=512)] = 1
    """Shortest run of pages worth a mapping; more for programs that fork."""
    cpu_percent: Percent = 50
    """Share of one core that the hub may use over time; what clients ask for is done at once, and
    merging in the background rests for it."""
    dead_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Slabs of which more than this is dead are emptied, so that their memory comes back."""
    store_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Share of the hub's memory cgroup that the store may fill, where the cgroup has a limit."""
    client_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Share of that (without a limit: of the host's memory) that one process may fill."""
    user_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Share of that which all processes of one user may fill, where it is not the hub's own."""
    longest_hold: Annotated[float, msgspec.Meta(ge=0, le=2048)] = 1024
    """Seconds for which a page that is written soon after each merge has to stay as it is before it
    is merged again, at the most. They grow with each time from 2 on. 0: it is merged at once."""
    idle_percent: Percent = 0.1
    """Share of one core for what yields little: the few pages that change in programs that do
    nothing much. What is left of ``cpu_percent`` is for work that yields more."""
    longest_pause: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 2
    """Seconds between cycles when nothing changes."""


class KernelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the ``[kernel]`` table may say: whom it is for, and goals of the governor."""

    across_users: bool = False
    """Kernel KSM is one trust domain: whoever is in it can tell by timing which pages the others
    hold. Unless this says true, processes of one user only are opted in (``decide.rules``)."""

    cpu_percent: Percent = 20
    """Share of one core that ksmd and the governor may use over time."""
    burst_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30
    """Processor seconds that may be spent at once, saved up while ksmd stands."""
    price_bytes: Annotated[float, msgspec.Meta(ge=0)] = 100_000
    """Bytes a second that a percent of a core must gain."""
    pressure_percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 5
    """PSI (memory, some avg10) from which on memory counts for more than processor time."""
    available_percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 10
    """Share of the host's memory below which the same holds if no more is available."""

    merge_across_nodes: bool | None = None
    """Merge pages of different NUMA nodes? Written while nothing is merged; unset: as it is."""

    def goals(self) -> Goals:
        """The same, as decisions are made by."""
        return Goals(
            self.cpu_percent,
            self.burst_seconds,
            self.price_bytes,
            self.pressure_percent,
            self.available_percent,
            None if self.merge_across_nodes is None else int(self.merge_across_nodes),
        )


AnySettings = TypeVar("AnySettings", Settings, KernelSettings)


def with_cpu(settings: AnySettings, percent: float | None) -> AnySettings:
    """The same with another ``cpu_percent``, if one is given.

    Raises ``UsageError`` if it is no share.
    """
    if percent is None:
        return settings
    try:
        return msgspec.structs.replace(settings, cpu_percent=msgspec.convert(percent, Percent))
    except msgspec.ValidationError:
        told = f"--cpu {percent:g}: it is a share of one core, above 0 and up to 100"
        raise UsageError(told) from None


class _RuleTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
            raise ValueError('select says how to opt in: leave it out where opt = "out"')

    def rule(self) -> Rule:
        """The same, as it is applied."""
        values = {name: str(getattr(self, name)) for name in MATCHERS}
        return Rule(self.opt, **values, select=self.select)


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a file may say."""

    hub: Settings = msgspec.field(default_factory=Settings)
    kernel: KernelSettings = msgspec.field(default_factory=KernelSettings)
    rule: tuple[_RuleTable, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in order."""
        return tuple(table.rule() for table in self.rule)


def load(path: Path | None) -> Settings:
    """The ``[hub]`` of the file at ``path``; the defaults if it is None. Raises as ``read``."""
    return read(path).hub


def load_kernel(path: Path | None) -> KernelSettings:
    """The ``[kernel]`` of the file at ``path``; the defaults if it is None. Raises as ``read``."""
    return read(path).kernel


def load_rules(path: Path | None) -> tuple[Rule, ...]:
    """The rules in the file at ``path``; none if it is None. Raises as ``read``."""
    return read(path).rules


def read(path: Path | None) -> Configuration:
    """All that the file at ``path`` says; the defaults if it is None.

    Raises ``UsageError`` that names the file, the key and what it should be.
    """
    if path is None:
        return Configuration()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Configuration)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    except (msgspec.DecodeError, ValueError) as error:
        told = _with_cure(str(error))
        raise UsageError(f"{path}: {told}", path=str(path)) from error


def _with_cure(error: str) -> str:
    """What msgspec says, with the number of the rule it is about, and what may be said instead."""
    where = error.rpartition(" - at `")[2].rstrip("`")
    if number := re.match(r"\$\.rule\[(\d+)\]", where):
        error = f"rule {int(number[1]) + 1}: {error}"
    if "unknown field" in error:
        tables = {"$.hub": Settings, "$.kernel": KernelSettings, "$.rule": _RuleTable}
        table = tables.get(where.partition("[")[0], Configuration)
        return f"{error}; known are {', '.join(table.__struct_fields__)}"
    if "`opt`" in error or where.endswith(".opt"):
        return f'{error}; say opt = "in" or opt = "out"'
    return f"{error}; write [[rule]] above each rule" if where == "$.rule" else error
