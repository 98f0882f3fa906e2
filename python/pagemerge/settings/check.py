"""Checks a TOML document against a Struct, and lists everything that is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from pagemerge.linux.text import plain
from pagemerge.settings import schema
from pagemerge.settings.parse import MOST_SHOWN, Part, Problem, name_of, parse
from pagemerge.settings.schema import Key, written
from pagemerge.settings.source import Path, Source

S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Checked(Generic[S]):
    """What a document says, or what is wrong with it."""

    value: S | None
    """None if there are problems."""
    problems: tuple[Problem, ...]
    """In the order of their lines."""
    source: Source
    """Knows the line of each key."""


def check(data: bytes, root: type[S]) -> Checked[S]:
    """Check the document ``data`` against the Struct ``root``. Any bytes give an answer."""
    parsed = parse(data)
    problems = list(parsed.problems)
    for part in parsed.parts:
        problems += _Check(root, part).table(root, part.values, ())
    if problems:
        in_order = sorted(dict.fromkeys(problems), key=lambda it: it.line)
        return Checked(None, tuple(in_order), Source(""))
    [whole] = parsed.parts
    return Checked(msgspec.convert(whole.values, root), (), whole.source)


class _Check:
    """The check of one part of a document."""

    def __init__(self, root: type[msgspec.Struct], part: Part) -> None:
        self._tables = schema.tables(root)
        self._part = part

    def table(
        self, struct: type[msgspec.Struct], values: dict[str, Any], path: Path
    ) -> list[Problem]:
        """Check the table at ``path``."""
        known = {key.name: key for key in schema.keys(struct)}
        found: list[Problem] = []
        for name, value in values.items():
            here = (*path, name)
            if key := known.get(name):
                found += self._value(key, value, here)
            else:
                found.append(self._problem(here, self._unknown(name, list(known))))
        if path in self._part.cut:
            return found
        for key in known.values():
            if key.required and key.name not in values:
                told = f"{name_of((*path, key.name))}: the key is missing: give {_wanted(key)}"
                found.append(Problem(self._part.source.place(path), told))
        if not found:
            try:
                msgspec.convert(values, struct)
            except msgspec.ValidationError as error:  # raised by its __post_init__
                found.append(self._problem(path, str(error).partition(" - at `$")[0]))
        return found

    def _value(self, key: Key, value: object, path: Path) -> Iterator[Problem]:
        """Check the value of a key; tables in it are checked key by key."""
        struct = schema.table_of(key.kind)
        if not struct:
            if not _fits(key, value):
                shown = plain('""' if value == "" else written(value), MOST_SHOWN)
                yield self._problem(path, f"{shown} is not allowed: give {_wanted(key)}")
        elif isinstance(key.kind, msgspec.inspect.StructType):
            if isinstance(value, dict):
                yield from self.table(struct, value, path)
            else:
                header = f"[{name_of(path)}]"
                yield self._problem(path, f"write {header} once, and its keys below it")
        elif isinstance(value, list) and all(isinstance(it, dict) for it in value):
            for number, item in enumerate(value):
                yield from self.table(struct, item, (*path, number))
        else:
            header = f"[[{name_of(path)}]]"
            yield self._problem(path, f"write {header} above the keys of each {key.name}")

    def _problem(self, path: Path, message: str) -> Problem:
        told = f"{name_of(path)}: {message}" if path else message
        return Problem(self._part.source.place(path), told)

    def _unknown(self, name: str, names: list[str]) -> str:
        """Say that there is no such key, and which one may be meant."""
        import difflib

        homes = [it.header for it in self._tables if name in (key.name for key in it.keys)]
        if homes:
            return f"there is no such key here: write it below {' or '.join(homes)}"
        if near := difflib.get_close_matches(name[:MOST_SHOWN], names, 1):
            return f"there is no such key; the nearest is {near[0]}"
        others = {key.name: it.header for it in self._tables for key in it.keys}
        if near := difflib.get_close_matches(name[:MOST_SHOWN], others, 1):
            return f"there is no such key; the nearest is {near[0]} below {others[near[0]]}"
        return f"there is no such key; known are {', '.join(names)}"


def _fits(key: Key, value: object) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False  # no bound refuses nan, and no limit or price is infinite
    try:
        msgspec.convert(value, key.hint)
    except msgspec.ValidationError:
        return False
    return True


def _wanted(key: Key) -> str:
    """Say what a value should be."""
    article = "" if key.noun.startswith("text") else "an " if key.noun[0] in "aeiou" else "a "
    return f"{article}{key.noun}, {key.allowed}" if key.allowed else f"{article}{key.noun}"
