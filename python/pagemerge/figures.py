"""Writes figures for people: sizes, counts and times. All that prints uses these."""

from __future__ import annotations

from pagemerge.model import PAGE_SIZE


def size(count: float, *, fine: bool = False) -> str:
    """Write bytes in the unit that fits: ``190 MB``, ``1.2 GB``; units are powers of 1000.

    ``fine``: always three digits (``1.23 GB``), for figures that people add up.
    """
    sign = "-" if count < 0 else ""
    count = abs(count)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    digits = 0 if unit == "bytes" or count >= 99.95 else 2 if fine and count < 9.995 else 1
    return f"{sign}{count:.{digits}f} {unit}"


def precise(count: float) -> str:
    """Write bytes with three digits, for figures that people add up."""
    return size(count, fine=True)


def pages(count: float) -> str:
    """Write the size of pages, with three digits."""
    return precise(count * PAGE_SIZE)


def number(count: float, noun: str, plural: str = "") -> str:
    """Write a count with its noun: ``1 page``, ``12,345 pages``."""
    return f"{count:,.0f} {noun if count == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Write seconds for people: ``0.42 s``, ``12 s``, ``3 min``, ``5 h``, ``2 days``."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172800:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"
