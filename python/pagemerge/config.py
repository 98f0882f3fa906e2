"""Reads settings from TOML into typed values; errors name the line, the key and the cure.

``[service]`` configures the daemon, ``[hub]`` the user engine, ``[kernel]`` the kernel engine, and
each ``[[rule]]`` selects processes for the kernel engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from pagemerge.errors import UsageError
from pagemerge.hub.settings import Percent, Settings
from pagemerge.ksmd.decide.covered import covered
from pagemerge.ksmd.decide.rules import Rule
from pagemerge.ksmd.settings import KernelSettings, RuleTable
from pagemerge.service.settings import ServiceSettings
from pagemerge.settings import file
from pagemerge.settings.check import Checked, check
from pagemerge.settings.parse import Problem

GENTLE = 10.0
"""``latency_percent`` under ``--gentle``, if the file has none."""

AnySettings = TypeVar("AnySettings", Settings, KernelSettings)


def with_cpu(settings: AnySettings, percent: float | None) -> AnySettings:
    """Replace ``cpu_percent`` in ``settings`` by ``percent``, unless that is None.

    Raises ``UsageError`` if ``percent`` is not a share of one core.
    """
    if percent is None:
        return settings
    try:
        return msgspec.structs.replace(settings, cpu_percent=msgspec.convert(percent, Percent))
    except msgspec.ValidationError:
        told = f"--cpu {percent:g}: give a percentage of one core, above 0 and up to 100"
        raise UsageError(told) from None


def with_gentle(settings: AnySettings, gentle: bool) -> AnySettings:
    """Give ``settings`` a latency budget if ``gentle`` is true and they have none."""
    if not gentle or settings.latency_percent:
        return settings
    return msgspec.structs.replace(settings, latency_percent=GENTLE)


def overridden(settings: AnySettings, *, cpu: float | None, gentle: bool) -> AnySettings:
    """Return the settings of an engine as ``--cpu`` and ``--gentle`` change them. Raises the errors
    of ``with_cpu``."""
    return with_cpu(with_gentle(settings, gentle), cpu)


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings that a file may contain."""

    service: ServiceSettings = msgspec.field(default_factory=ServiceSettings)
    hub: Settings = msgspec.field(default_factory=Settings)
    kernel: KernelSettings = msgspec.field(default_factory=KernelSettings)
    rule: tuple[RuleTable, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in order."""
        return tuple(table.rule() for table in self.rule)


def load(path: Path | None) -> Settings:
    """Read ``[hub]`` of the file at ``path``; the defaults if it is None. Raises as ``read``."""
    return read(path).hub


def load_kernel(path: Path | None) -> KernelSettings:
    """Read ``[kernel]`` of the file at ``path``; the defaults if it is None. Raises as ``read``."""
    return read(path).kernel


def load_rules(path: Path | None) -> tuple[Rule, ...]:
    """Read the rules in the file at ``path``; none if it is None. Raises as ``read``."""
    return read(path).rules


def read(path: Path | None) -> Configuration:
    """Read all settings in the file at ``path``; the defaults if it is None.

    Raises ``UsageError`` that names the file, the line, the key and what the value should be.
    """
    if path is None:
        return Configuration()
    found = examine(path)
    if found.value is None:
        first, *others = found.problems
        told = f"{path}:{first.line}: {first.message}"
        if others:
            told += f" (and {len(others)} more: `pagemerge config check` lists all)"
        raise UsageError(told, path=str(path))
    return found.value


def examine(path: Path) -> Checked[Configuration]:
    """Return what the file at ``path`` says, or everything that is wrong with it.

    Raises ``UsageError`` if it cannot be read.
    """
    return check(file.read(path), Configuration)


def warnings(found: Checked[Configuration]) -> list[Problem]:
    """List what a file has that is allowed and without effect: rules that never apply."""
    if found.value is None:
        return []
    told = []
    for index, other in covered(found.value.rules):
        line = found.source.place(("rule", other))
        same = found.value.rule[other].opt == found.value.rule[index].opt
        wins = "comes first" if same else "opts them out"
        told.append(
            Problem(
                found.source.place(("rule", index)),
                f"rule {index + 1} has no effect: rule {other + 1} (line {line}) fits the same "
                f"processes and {wins}",
            )
        )
    return told
