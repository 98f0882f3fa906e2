"""Writes the tables of docs/configuration.md: one row for each key."""

from __future__ import annotations

import msgspec

from pagemerge.settings import schema
from pagemerge.settings.schema import Key, written

_HEADING = "| key | type | default | range | unit | meaning |\n|---|---|---|---|---|---|"


def markdown(root: type[msgspec.Struct]) -> str:
    """Write a section for each table of ``root``."""
    parts = []
    for table in schema.tables(root):
        rows = "\n".join(_row(key) for key in table.keys)
        parts.append(f"## {table.header}\n\n{_wrapped(table.about)}\n\n{_HEADING}\n{rows}\n")
    return "\n".join(parts)


def _row(key: Key) -> str:
    default = "required" if key.required else "unset" if key.unset else f"`{written(key.default)}`"
    cells = [f"`{key.name}`", key.noun, default, key.allowed, key.unit, key.about]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, 110, break_on_hyphens=False))
