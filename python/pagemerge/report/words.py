"""Writes parts and foreign text for the page: names, paths, lists of them."""

from __future__ import annotations

from pagemerge.linux.text import plain


def part(some: float, whole: float) -> str:
    """Write a part of a whole in percent: ``0%``, ``<0.1%``, ``3.4%``, ``42%``."""
    percent = 100 * some / whole if whole > 0 else 0.0
    if percent <= 0:
        return "0%"
    if percent < 0.1:
        return "<0.1%"
    return f"{percent:.1f}%" if percent < 9.95 else f"{percent:.0f}%"


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
