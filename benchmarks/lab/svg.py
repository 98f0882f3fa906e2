"""Pictures as SVG: the frame, and lines of text. Colours are classes, which each picture's style
defines for light and dark: ``ground``, ``text``, ``note`` and its own."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape


def picture(width: int, height: int, style: str, title: str, parts: Iterable[str]) -> str:
    """A picture of these parts, with words for those who do not see it."""
    inside = "\n  ".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">\n  <title>{escape(title)}</title>\n  <style>{style}  '
        f'</style>\n  <rect class="ground" width="{width}" height="{height}" rx="8"/>\n'
        f"  {inside}\n</svg>\n"
    )


def text(
    left: float,
    base: int,
    height: int,
    words: str,
    ink: str = "text",
    *,
    bold: bool = False,
    anchor: str = "start",
) -> str:
    """A line of text."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text class="{ink}" x="{left:.1f}" y="{base}" font-size="{height}"{weight} '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )
