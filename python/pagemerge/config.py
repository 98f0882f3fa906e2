"""Settings of the hub: TOML in, typed values out, errors that name the key and the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from pagemerge.errors import UsageError
from pagemerge.model import Goals

Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]
"""A share of one core."""


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
    longest_pause: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 2
    """Seconds between cycles when nothing changes."""


class KernelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the ``[kernel]`` table may say: goals of the governor (see ``model.Goals``)."""

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


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hub: Settings = msgspec.field(default_factory=Settings)
    kernel: KernelSettings = msgspec.field(default_factory=KernelSettings)


def load(path: Path | None) -> Settings:
    """The settings of the hub in the file at ``path``; the defaults if it is None.

    Raises ``UsageError`` that names the file, the key and what it should be.
    """
    return _read(path).hub


def load_kernel(path: Path | None) -> KernelSettings:
    """The settings of the governor, likewise."""
    return _read(path).kernel


def _read(path: Path | None) -> _File:
    if path is None:
        return _File()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=_File)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(f"{path}: {error}", path=str(path)) from error
