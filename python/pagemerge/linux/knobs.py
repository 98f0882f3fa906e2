"""Which values the knobs of kernel KSM take, and in which order to write them; pure functions.

The kernel answers a wrong write with EINVAL or EBUSY and no reason. So these rules are checked
before anything is written, and an error can name the rule. Sources: the ``_store`` functions of
mm/ksm.c, and Documentation/admin-guide/mm/ksm.rst of Linux.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import NamedTuple

from pagemerge.errors import Unsupported, UsageError


@dataclass(frozen=True, slots=True)
class Knobs:
    """The knobs of kernel KSM, named as its files; None if this kernel has no such file.

    Source: Documentation/admin-guide/mm/ksm.rst of Linux.
    """

    run: int | None = None
    """0: ksmd is stopped, merged pages stay merged; 1: it scans; 2: it has undone all merging."""
    pages_to_scan: int | None = None
    """Pages of a batch; the advisor sets it while advisor_mode is scan-time."""
    sleep_millisecs: int | None = None
    """Milliseconds between two batches."""
    merge_across_nodes: int | None = None
    max_page_sharing: int | None = None
    """Mappings of one physical copy, before ksmd keeps another copy."""
    stable_node_chains_prune_millisecs: int | None = None
    use_zero_pages: int | None = None
    """Map zero pages to the kernel's own page of zeros."""
    smart_scan: int | None = None
    """Skip pages that did not merge before, for longer and longer."""
    advisor_mode: str | None = None
    """none | scan-time."""
    advisor_max_cpu: int | None = None
    """Percent of one core."""
    advisor_min_pages_to_scan: int | None = None
    advisor_max_pages_to_scan: int | None = None
    advisor_target_scan_time: int | None = None
    """Seconds for one full scan."""


Value = int | str

STOP, RUN, UNMERGE = 0, 1, 2
"""Values of ``run``: stop and keep merged pages, scan, undo all merging of the host."""

NONE, SCAN_TIME = "none", "scan-time"
"""Values of ``advisor_mode``."""

NAMES = tuple(field.name for field in fields(Knobs))

_UINT, _INT = 2**32 - 1, 2**31 - 1
LIMITS: dict[str, tuple[int, int]] = {
    "run": (STOP, UNMERGE),
    "pages_to_scan": (0, _UINT),
    "sleep_millisecs": (0, _UINT),
    "merge_across_nodes": (0, 1),
    # ksmd makes a stable page for at least two mappings.
    "max_page_sharing": (2, _INT),
    "stable_node_chains_prune_millisecs": (0, _UINT),
    "use_zero_pages": (0, 1),
    "smart_scan": (0, 1),
    # Linux takes any number of percent; the thread can use no more than one core.
    "advisor_max_cpu": (0, 100),
    "advisor_min_pages_to_scan": (0, _UINT),
    "advisor_max_pages_to_scan": (0, _UINT),
    "advisor_target_scan_time": (1, _UINT),
}
"""Least and greatest value of each knob that is a number."""

SINCE = {
    "merge_across_nodes": "3.9, on kernels with CONFIG_NUMA",
    "use_zero_pages": "4.12",
    "max_page_sharing": "4.13",
    "stable_node_chains_prune_millisecs": "4.13",
    "smart_scan": "6.7",
    **dict.fromkeys((name for name in NAMES if name.startswith("advisor")), "6.8"),
}
"""The Linux version that introduced a knob, if that is not 2.6.32."""

_HELD = ("merge_across_nodes", "max_page_sharing")
"""Knobs that shape the tree of stable pages: EBUSY while there are stable pages."""


SLEEPS = 3_600_000
"""Milliseconds between two batches from which on ksmd counts as stopped."""


class Standstill(NamedTuple):
    """Why ksmd merges nothing with its settings, and a knob that would change that."""

    reason: str
    """A clause for people; its subject is ksmd."""
    knob: str
    value: int


def standstill(now: Knobs) -> Standstill | None:
    """Say why ksmd does not scan; None if it scans, as far as its knobs tell."""
    if now.run != RUN:
        return Standstill("ksmd is stopped", "run", RUN)
    if now.pages_to_scan == 0:
        return Standstill("ksmd runs, but looks at no page (pages_to_scan=0)", "pages_to_scan", 100)
    if (now.sleep_millisecs or 0) >= SLEEPS:
        hours = f"{(now.sleep_millisecs or 0) / 3_600_000:,.0f} h"
        told = f"ksmd runs, but sleeps {hours} after every {now.pages_to_scan} pages"
        return Standstill(told, "sleep_millisecs", 20)
    return None


def checked(changes: Mapping[str, Value], now: Knobs, pages_shared: int | None) -> dict[str, Value]:
    """Check that the kernel will take the changes, and put them in the order to write them.

    ``now`` and ``pages_shared`` are the current contents of its files. Raises ``UsageError`` for a
    value that breaks a rule, and ``Unsupported`` for a knob that this kernel does not have.
    """
    wanted = {name: _valued(name, value) for name, value in changes.items()}
    for name in wanted:
        if getattr(now, name) is None:
            raise Unsupported(
                f"this kernel has no {name}: it came with Linux {SINCE.get(name, '2.6.32')}"
            )
    if "pages_to_scan" in wanted and wanted.get("advisor_mode", now.advisor_mode) == SCAN_TIME:
        raise UsageError(
            "the advisor sets pages_to_scan while advisor_mode is scan-time: "
            "write advisor_mode=none with it, or limit the advisor (advisor_max_pages_to_scan)"
        )
    for name in _HELD:
        differs = name in wanted and wanted[name] != getattr(now, name)
        if differs and pages_shared and wanted.get("run") != UNMERGE:
            raise UsageError(
                f"{name} cannot change while pages are merged ({pages_shared} stable pages now): "
                "write run=2 with it, which undoes all merging of this host"
            )
    return in_order(wanted)


def in_order(values: Mapping[str, Value]) -> dict[str, Value]:
    """Sort ``values`` so that the kernel takes each, and none changes one written before it.

    ksmd stops (or unmerges) before its settings change, and starts after that. A change of
    advisor_mode sets pages_to_scan.
    """

    def rank(name: str) -> int:
        if name == "run":
            return 4 if values[name] == RUN else 0
        if name == "advisor_mode":
            return 3 if values[name] == SCAN_TIME else 1
        return 2

    return {name: values[name] for name in sorted(values, key=rank)}


def restoring(saved: Knobs, now: Knobs) -> dict[str, Value]:
    """Return what to write, in order, so that the knobs are as in ``saved``; never run=2."""
    values: dict[str, Value] = {
        name: value for name, value in asdict(saved).items() if value is not None
    }
    if saved.advisor_mode == now.advisor_mode == SCAN_TIME:
        values.pop("pages_to_scan", None)
    if saved.run == UNMERGE:
        # run=2 would undo merging of the whole host that came later, which is not ours to undo.
        values["run"] = UNMERGE if now.run == UNMERGE else STOP
    return in_order({name: it for name, it in values.items() if getattr(now, name) is not None})


def _valued(name: str, value: Value) -> Value:
    """Return the value as the kernel writes it; raises ``UsageError``."""
    if name not in NAMES:
        raise UsageError(f"kernel KSM has no knob {name!r}; it has {', '.join(NAMES)}")
    if name == "advisor_mode":
        if value not in (NONE, SCAN_TIME):
            raise UsageError(f"advisor_mode is none or scan-time, not {value!r}")
        return value
    least, greatest = LIMITS[name]
    if not isinstance(value, int) or not least <= value <= greatest:
        raise UsageError(f"{name} is a number from {least} to {greatest}, not {value!r}")
    return int(value)
