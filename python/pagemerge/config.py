"""Settings: TOML in, typed values out, errors that name the key and the cure.

``[hub]`` is the user engine's, ``[kernel]`` the kernel engine's, and each ``[[rule]]`` says which
processes that is for.
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


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a file may say."""

    hub: Settings = msgspec.field(default_factory=Settings)
    kernel: KernelSettings = msgspec.field(default_factory=KernelSettings)
    rule: tuple[RuleTable, ...] = ()

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
        tables = {"$.hub": Settings, "$.kernel": KernelSettings, "$.rule": RuleTable}
        table = tables.get(where.partition("[")[0], Configuration)
        return f"{error}; known are {', '.join(table.__struct_fields__)}"
    if "`opt`" in error or where.endswith(".opt"):
        return f'{error}; say opt = "in" or opt = "out"'
    return f"{error}; write [[rule]] above each rule" if where == "$.rule" else error
