"""Writes figures and foreign text for the page: sizes, counts, parts, times, names, paths."""

from __future__ import annotations

from pagemerge.linux.text import plain


def size(count: float) -> str:
    """Write bytes with three digits in the unit that fits (``1.23 GB``); units are powers of
    1000."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    digits = 0 if unit == "bytes" or count >= 99.95 else 2 if count < 9.995 else 1
    return f"{count:,.{digits}f} {unit}"


def number(count: float, noun: str, plural: str = "") -> str:
    """Write a count with its noun: ``1 page``, ``12,345 pages``."""
    return f"{count:,.0f} {noun if count == 1 else plural or noun + 's'}"


def part(some: float, whole: float) -> str:
    """Write a part of a whole in percent: ``0%``, ``<0.1%``, ``3.4%``, ``42%``."""
    percent = 100 * some / whole if whole > 0 else 0.0
    if percent <= 0:
        return "0%"
    if percent < 0.1:
        return "<0.1%"
    return f"{percent:.1f}%" if percent < 9.95 else f"{percent:.0f}%"


def duration(seconds: float) -> str:
    """Write seconds for people: ``0.42 s``, ``12 s``, ``3 min``, ``5 h``, ``2 days``."""
    for unit, length, below in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < below:
            return f"{seconds / length:,.{2 if seconds < 10 else 0}f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def cut(text: str, most: int) -> str:
    """Make foreign text safe and at most ``most`` characters long; its end is left out."""
    # Nothing beyond ``most`` characters can be shown, so nothing more is escaped.
    return plain(text[: most + 1], most)


def shortened(path: str, most: int) -> str:
    """Make a foreign path safe and at most ``most`` characters long; its middle is left out."""
    whole = plain(path[: 4 * most] + path[max(len(path) - 4 * most, 4 * most) :])
    if len(whole) <= most:
        return whole
    head = (most - 1) // 3
    return f"{whole[:head]}…{whole[len(whole) - (most - 1 - head) :]}"


def listed(names: list[str], more: int = 0) -> str:
    """Join names: ``a``, ``a and b``, ``a, b and c``, ``a, b and 7 more``."""
    words = [*names, f"{more:,} more"] if more > 0 else names
    return words[0] if len(words) == 1 else " and ".join([", ".join(words[:-1]), *words[-1:]])
