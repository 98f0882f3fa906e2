"""Shows settings: every key with its value, where that comes from, its unit and its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec

from pagemerge.cli.show import tables
from pagemerge.cli.show.words import folded
from pagemerge.figures import number
from pagemerge.linux.text import plain
from pagemerge.settings import schema
from pagemerge.settings.schema import written

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from pagemerge.cli.show.printed import Settings
    from pagemerge.config import Configuration
    from pagemerge.settings.source import Path as Keys
    from pagemerge.settings.source import Source

WIDEST = 16
"""Characters to which values are aligned; a longer one moves the rest of its line."""
INDENT = "    "
"""In front of a meaning that stands below its key."""


@dataclass(frozen=True, slots=True)
class Row:
    """One setting."""

    table: str
    """Header of its table; ``environment`` for what no file can set."""
    number: int | None
    """Number of the rule, from 1; None in tables that a file has once."""
    key: str
    value: object
    """None if it is not set."""
    default: object
    source: str
    """``default``, ``file``, ``option`` or ``environment``."""
    line: int | None
    """Line in the file, if the value comes from there."""
    name: str
    """Name of the option or variable that the value comes from; else empty."""
    unit: str
    meaning: str

    @property
    def where(self) -> str:
        """Where the value comes from, in short."""
        return f"line {self.line}" if self.line else self.name or self.source


def rows(
    configuration: Configuration, source: Source, cpu: float | None, socket: Path | None
) -> list[Row]:
    """List all settings; ``cpu`` and ``socket`` are options, which override the others.

    Raises ``UsageError`` if ``cpu`` is no share of a core.
    """
    from pagemerge.config import with_cpu

    with_cpu(configuration.hub, cpu)
    found = list(_of_file(configuration, source))
    if cpu is not None:
        found = [_given(it, cpu, "--cpu") if it.key == "cpu_percent" else it for it in found]
    return [*found, *_of_environment(socket)]


def _of_file(configuration: Configuration, source: Source) -> Iterator[Row]:
    values = msgspec.to_builtins(configuration)
    for table in schema.tables(type(configuration)):
        path = table.name.split(".")
        found: Any = values
        for part in path:
            found = found[part]
        for index, one in enumerate(found if table.many else [found]):
            place: Keys = (*path, index) if table.many else tuple(path)
            for key in table.keys:
                line = source.lines.get((*place, key.name))
                yield Row(
                    table.header,
                    index + 1 if table.many else None,
                    key.name,
                    None if one[key.name] == "" else one[key.name],
                    None if key.required or key.unset else msgspec.to_builtins(key.default),
                    "file" if line else "default",
                    line,
                    "",
                    key.unit,
                    key.meaning,
                )


def _of_environment(socket: Path | None) -> Iterator[Row]:
    from pagemerge.hub.environment import variables

    for it in variables():
        source = "environment" if it.given else "default"
        name = it.name if it.given else ""
        row = Row(
            "environment", None, it.name, it.value, it.default, source, None, name, "", it.about
        )
        if it.name == "PAGEMERGE_SOCKET" and socket:
            row = _given(row, str(socket), "--socket")
        yield row


def _given(row: Row, value: object, option: str) -> Row:
    return replace(row, value=value, source="option", line=None, name=option)


def figures(found: Sequence[Row], path: Path | None) -> Settings:
    """Return all settings for JSON."""
    return {
        "file": str(path) if path else None,
        "settings": [
            {
                "table": it.table.strip("[]"),
                "number": it.number,
                "key": it.key,
                "value": it.value,
                "default": it.default,
                "from": it.source,
                "line": it.line,
                "name": it.name or None,
                "unit": it.unit or None,
                "meaning": it.meaning,
            }
            for it in found
        ],
    }


def show(found: Sequence[Row], path: Path | None, console: Console) -> None:
    """Print a block for each table. On a terminal, the meaning of a key stands below it."""
    tables.show(console, f"Settings of {path}:" if path else "Default settings:")
    shown = [it for it in found if it.number is None or it.value is not None]
    cells = [(it.key, written(it.value), it.where, it.unit) for it in shown]
    heads = ("KEY", "VALUE", "FROM", "UNIT")
    widths = [max(len(plain(it)) for it in column) for column in zip(heads, *cells, strict=True)]
    widths[1] = min(widths[1], WIDEST)
    console.print()
    _line(console, heads, widths, "MEANING", "bold")
    for (table, nth), block in groupby(
        zip(shown, cells, strict=True), key=lambda it: (it[0].table, it[0].number)
    ):
        console.print()
        tables.show(console, f"{table} number {nth}" if nth else table, "bold")
        for row, texts in block:
            _line(console, texts, widths, row.meaning)
    if not any(it.number for it in found):
        console.print()
        tables.show(console, "There is no [[rule]].")


def _line(
    console: Console, texts: Sequence[str], widths: Sequence[int], meaning: str, style: str = ""
) -> None:
    from rich.text import Text

    pairs = zip(texts, widths, strict=True)
    line = "  ".join(plain(it).ljust(width) for it, width in pairs).rstrip()
    if not console.is_terminal:  # one line for each key, for programs that search them
        line = f"{line.ljust(sum(widths) + 2 * len(widths) - 2)}  {plain(meaning)}"
        console.print(Text(line), soft_wrap=True)
        return
    console.print(Text(line, style), soft_wrap=True)
    for text in folded(plain(meaning), max(console.width, 30), INDENT, INDENT):
        console.print(Text(text, style or "dim"))


def summary(configuration: Configuration) -> str:
    """Say in one line what a daemon does with these settings."""
    hub, kernel = configuration.hub, configuration.kernel
    engines = getattr(getattr(configuration, "service", None), "engines", None)
    chosen = (
        f"engines: {', '.join(engines)}"
        if engines
        else "engine: as `pagemerge daemon --engine` says"
    )
    opted = [rule.opt for rule in configuration.rule]
    users = "several users" if kernel.across_users else "one user"
    return (
        f"{chosen}; the hub uses up to {hub.cpu_percent:g}% of a core, ksmd and the governor up to "
        f"{kernel.cpu_percent:g}%; {number(len(opted), 'rule')} ({opted.count('in')} in, "
        f"{opted.count('out')} out) for processes of {users}"
    )
