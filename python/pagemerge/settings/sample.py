"""Writes a sample of a configuration file: all keys, commented out, with meanings and defaults.

Lines of text start with ``## ``, and lines for the reader to uncomment with ``# ``. So a reader can
remove one ``#`` from any number of lines at once, and the file stays valid.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import msgspec
from msgspec import inspect as types

from pagemerge.settings import schema
from pagemerge.settings.schema import Key, Table, written

WIDTH = 96
"""Columns of a line of text."""


def sample(root: type[msgspec.Struct], command: str) -> str:
    """Write the sample for the tables of ``root``; ``command`` is what wrote it."""
    lines = _text(
        f"Configuration of pagemerge, written by `{command}`. Each setting shows its default, or "
        'an example if it has none. To change a setting, remove the "# " in front of it. To add '
        "a rule, copy the lines of a rule, and leave out what you do not need. "
        "`pagemerge config check FILE` checks the file."
    )
    for table in schema.tables(root):
        lines += ["", "", *_of_table(table)]
    return "\n".join(lines) + "\n"


def _of_table(table: Table) -> Iterator[str]:
    yield from _text(table.about)
    # An array of tables has as many elements as headers: none, until the reader wants one.
    yield f"# {table.header}" if table.many else table.header
    for key in table.keys:
        yield ""
        yield from _text(key.about)
        yield from _text(f"{_facts(key)}.")
        yield f"# {key.name} = {written(example(key))}"


def _facts(key: Key) -> str:
    """Write type, range, unit and whether the key may be left out, in one line."""
    parts = [f"{key.noun}, {key.allowed}" if key.allowed else key.noun]
    if key.unit:
        parts.append(f"unit: {key.unit}")
    if key.required:
        parts.append("required")
    elif key.unset:
        parts.append("not set by default")
    text = "; ".join(parts)
    return text[0].upper() + text[1:]


def example(key: Key) -> object:
    """Return the default of a key, or a value that it may have if there is none."""
    if not key.required and not key.unset:
        return key.default
    if key.examples:
        return key.examples[0]
    kind = key.kind
    for it in kind.types if isinstance(kind, types.UnionType) else (kind,):
        if isinstance(it, types.LiteralType):
            return it.values[0]
        if isinstance(it, types.BoolType):
            return True
    raise TypeError(f"{key.name} has no default: give its field msgspec.Meta(examples=[...])")


def _text(text: str) -> list[str]:
    if not text:
        return []
    return textwrap.wrap(
        text, WIDTH, initial_indent="## ", subsequent_indent="## ", break_on_hyphens=False
    )
