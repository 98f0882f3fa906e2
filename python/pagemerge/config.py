"""Reads settings from TOML into typed values; errors name the key and the cure.

``[hub]`` configures the user engine, ``[kernel]`` configures the kernel engine, and each
``[[rule]]`` selects processes for the kernel engine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import msgspec

from pagemerge.errors import UsageError
from pagemerge.hub.settings import Percent, Settings
from pagemerge.ksmd.decide.rules import Rule
from pagemerge.ksmd.settings import KernelSettings, RuleTable

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


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings that a file may contain."""

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

    Raises ``UsageError`` that names the file, the key and what the value should be.
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
    """Add to a message of msgspec the number of the rule that it is about, and the cure."""
    where = error.rpartition(" - at `")[2].rstrip("`")
    if number := re.match(r"\$\.rule\[(\d+)\]", where):
        error = f"rule {int(number[1]) + 1}: {error}"
    if "unknown field" in error:
        tables = {"$.hub": Settings, "$.kernel": KernelSettings, "$.rule": RuleTable}
        table = tables.get(where.partition("[")[0], Configuration)
        return f"{error}; known are {', '.join(table.__struct_fields__)}"
    if "`opt`" in error or where.endswith(".opt"):
        return f'{error}; write opt = "in" or opt = "out"'
    return f"{error}; write [[rule]] above each rule" if where == "$.rule" else error
