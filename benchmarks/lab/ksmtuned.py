"""The algorithm of ksmtuned, with the parameters that it is published with.

ksmtuned is the script that came with qemu-kvm and later as a package of its own (Red Hat 2009,
``/etc/ksmtuned.conf``; Proxmox and oVirt's MOM use the same rules). Each 60 s, and at once when it
is told that a guest has started or ended (SIGUSR1), it compares the memory of the guests, and what
is free, with a threshold: a fifth of the host's memory. KSM is stopped while the guests and the
threshold fit into the host and more than the threshold is free. Else it runs, each time with 300
pages more in a batch while less than the threshold is free, with 50 less otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

MONITOR_INTERVAL = 60.0
"""Seconds between two looks (KSM_MONITOR_INTERVAL)."""
SLEEP_MSEC = 10
"""Between two batches on a host of 16 GB: smaller ones sleep more, none less (KSM_SLEEP_MSEC)."""
NPAGES_BOOST = 300
NPAGES_DECAY = -50
NPAGES_MIN = 64
NPAGES_MAX = 1250
THRES_COEF = 20
"""Percent of the host's memory."""
THRES_CONST = 2048 << 10
"""Bytes, where that is more: 2048, which the script compares with kilobytes."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What it looks at, in bytes."""

    total: int
    """MemTotal of the host."""
    free: int
    """MemFree, Buffers and Cached."""
    committed: int
    """What the guests have resident."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What it has set."""

    run: bool = False
    npages: int = 0
    """pages_to_scan; kept while ksmd is stopped."""


def adjust(setting: Setting, memory: Memory) -> Setting:
    """One look."""
    threshold = max(memory.total * THRES_COEF // 100, THRES_CONST)
    if memory.committed + threshold < memory.total and memory.free > threshold:
        return Setting(False, setting.npages)
    step = NPAGES_BOOST if memory.free < threshold else NPAGES_DECAY
    return Setting(True, min(max(setting.npages + step, NPAGES_MIN), NPAGES_MAX))


def sleep_millisecs(total: int) -> int:
    """Pause between two batches on a host of ``total`` bytes."""
    return max(SLEEP_MSEC * (16 << 30) // total, SLEEP_MSEC)
