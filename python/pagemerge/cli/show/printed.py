"""The objects that ``--json`` prints, apart from those of ``scan``: every key and its meaning.

Types for mypy, which compares them with the code that makes the objects. The reference of the site
is written from them. Objects that are a dataclass or a struct as it stands are not repeated here.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

from pagemerge.cli.show.findings import Engine, Fact, KernelKsm
from pagemerge.linux.host import Host
from pagemerge.watch.model import Moment, Row
from pagemerge.watch.rates import Rates


class Marked(TypedDict):
    """One process that was to be attached or detached. If something was done, the members of
    Outcome stand beside these."""

    pid: int
    name: str
    uid: int
    eligible_bytes: int
    """Memory of it that can be merged."""
    error: str | None
    """Why nothing was done."""
    remark: str | None
    """An additional remark for the user."""
    merged_bytes: int | None
    """Bytes that ksmd has merged; only for a dry run of `detach`."""


class Selected(TypedDict):
    """What the finder has chosen in one process."""

    pid: int
    name: str
    looked_at_pages: int
    marked_pages: int
    """Pages of the ranges that were chosen."""
    duplicate_pages: int
    """Duplicates in these ranges."""
    left_out_pages: int
    """Duplicates outside of them: their ranges would not be worth a mapping."""
    saveable_bytes: int
    """What merging the ranges would save."""
    new_mappings: int
    """Mappings that the process gets in addition."""
    ranges: list[list[int]]
    """Start and end of each range."""
    error: str | None
    """Why nothing was chosen."""


class Detached(TypedDict):
    """What ``pagemerge detach --json`` prints."""

    processes: list[Marked]


class Attached(Detached):
    """What ``pagemerge attach --json`` prints."""

    selection: NotRequired[list[Selected]]
    """Only with `--select`."""
    ksmd_runs: bool
    """False if nothing is merged until ksmd is started."""


class MeasuredRow(Row, frozen=True):
    """One process with mergeable memory, with a rate."""

    separations_per_second: float | None = None
    """Merged pages of it that are written, per second; kernel engine: unknown."""


class Measured(Moment, frozen=True):
    """What ``pagemerge status --json`` prints: the figures of the moment, and rates."""

    rows: tuple[MeasuredRow, ...] = ()
    """Ascending by pid; a process that both engines know has one row, of the user engine."""
    now: Rates | None = None
    """What happens in a second."""
    no_hub: str | None = None
    """Why no hub answers; null if one does."""


class Summed(TypedDict):
    """What the moments of a history say together."""

    moments: int
    """Number of moments."""
    seconds: float
    """Time that the moments cover, without gaps."""
    mean_saved_bytes: int
    """The saving, over the time for which it was so."""
    highest_saved_bytes: int
    highest_time: float
    """When that was, as Unix time in seconds."""
    lowest_saved_bytes: int
    lowest_time: float
    """When that was, as Unix time in seconds."""
    separations: int
    """Merged pages that were written."""
    cpu_seconds: float
    """Processor time of the hub and of ksmd."""
    decisions_by_topic: dict[str, int]
    """Topic -> number of decisions of the governor."""


class Recorded(TypedDict):
    """What ``pagemerge history --json`` prints."""

    path: str
    """The file that was read."""
    moments: list[Moment]
    """Oldest first."""
    summary: Summed


_WHENCE = "Where the value comes from: `default`, `file`, `option` or `environment`."
Sourced = TypedDict("Sourced", {"from": Annotated[str, _WHENCE]})
"""The key that no class can have, because it is a word of Python."""


class Setting(Sourced):
    """One setting: a key of the file, or an environment variable."""

    table: str
    """Its table in the file; `environment` for what no file can set."""
    number: int | None
    """Number of the rule, from 1; null in tables that a file has once."""
    key: str
    value: Any
    """Null if it is not set."""
    default: Any
    """Null if there is none."""
    line: int | None
    """Line in the file, if the value comes from there."""
    name: str | None
    """Name of the option or variable that the value comes from."""
    unit: str | None
    meaning: str


class Settings(TypedDict):
    """What ``pagemerge config show --json`` prints."""

    file: str | None
    """The configuration file."""
    settings: list[Setting]


class Examined(TypedDict):
    """What ``pagemerge doctor --json`` prints."""

    answer: str
    """The answer in one sentence."""
    engines: dict[str, Engine]
    """`user` and `kernel`."""
    host: Host
    kernel_ksm: KernelKsm
    facts: list[Fact]
    """The lines of the report."""
