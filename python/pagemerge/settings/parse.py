"""Parses a TOML document, and goes on behind its errors.

``tomllib`` stops at its first error. The statement with the error is then replaced by blanks, so
that all lines keep their numbers, and the document is parsed again.
"""

from __future__ import annotations

import bisect
import re
import tomllib
from dataclasses import dataclass, field
from typing import Any

from pagemerge.linux.text import plain
from pagemerge.settings.schema import written
from pagemerge.settings.source import Excess, Path, Source, Statement, scan

MOST_ERRORS = 20
"""Errors in the syntax after which the rest is not checked."""
MOST_SHOWN = 60
"""Characters of a value or a name that a message quotes."""
NOT_CHECKED = "the rest of the file is not checked"


@dataclass(frozen=True, slots=True)
class Problem:
    """One error in a document, or one warning."""

    line: int
    """From 1."""
    message: str
    """What is wrong and what to do; it starts with the key, if there is one."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a document that could be parsed: all of it, if it has no error."""

    values: dict[str, Any]
    source: Source
    cut: frozenset[Path] = frozenset()
    """Tables that lack a key here, because its statement has an error."""


@dataclass(slots=True)
class Parsed:
    """The parts of a document, and the errors in its syntax."""

    parts: list[Part] = field(default_factory=list)
    """The first is the document. Each other one is a table that it defines a second time."""
    problems: list[Problem] = field(default_factory=list)


def parse(data: bytes) -> Parsed:
    """Parse a document. Any bytes give an answer."""
    found = Parsed()
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        column = error.start - data.rfind(b"\n", 0, error.start)
        byte = f"byte {column} of this line (0x{data[error.start]:02x}) is not UTF-8"
        line = data.count(b"\n", 0, error.start) + 1
        found.problems.append(Problem(line, f"{byte}: save the file as UTF-8"))
        return found
    if text.startswith("\ufeff"):
        told = "the file starts with a byte order mark: save it as UTF-8 without one"
        found.problems.append(Problem(1, told))
        return found
    left: list[tuple[str, frozenset[Path]]] = [(text, frozenset())]
    while left:
        text, cut = left.pop(0)
        try:
            source = scan(text)
            found.parts.append(Part(tomllib.loads(text), source, cut))
        except Excess as error:
            line = text.count("\n", 0, error.at) + 1
            found.problems.append(Problem(line, f"{error}; {NOT_CHECKED}"))
            break
        except tomllib.TOMLDecodeError as error:
            if len(found.problems) == MOST_ERRORS:
                line = source.line(_position(error, text))
                found.problems.append(Problem(line, f"too many errors; {NOT_CHECKED}"))
                break
            problem, rest = _Behind(error, source, cut).documents()
            found.problems.append(problem)
            if not rest:
                break
            left = rest + left
    return found


class _Behind:
    """The way on behind an error."""

    def __init__(
        self, error: tomllib.TOMLDecodeError, source: Source, cut: frozenset[Path]
    ) -> None:
        self._source, self._text, self._cut = source, source.text, cut
        self._at = _position(error, self._text)
        self._line = source.line(self._at)
        column = self._at - self._text.rfind("\n", 0, self._at)
        reason = re.sub(r" \(at .*\)$", "", str(error))
        reason = plain(reason[:1].lower() + reason[1:], MOST_SHOWN)
        self._told = f"this is not TOML: {reason} (column {column})"
        starts = [it.start for it in source.statements]
        self._number = bisect.bisect_right(starts, self._at) - 1

    def documents(self) -> tuple[Problem, list[tuple[str, frozenset[Path]]]]:
        """Return the problem, and what to parse instead of the document.

        That is nothing if the next statement could start anywhere.
        """
        if self._number < 0:
            return Problem(self._line, f"{self._told}; {NOT_CHECKED}"), []
        statement = self._source.statements[self._number]
        begins = self._source.line(statement.start)
        if statement.first:
            return self._again(statement, begins)
        if begins != self._line:
            told = f"{self._told}; the value that starts in line {begins} may lack its end"
            return Problem(self._line, f"{told}; {NOT_CHECKED}"), []
        end = self._text.find("\n", self._at)
        rest = self._without(statement, end if end >= 0 else len(self._text))
        return Problem(begins, self._told), [rest]

    def _again(
        self, statement: Statement, begins: int
    ) -> tuple[Problem, list[tuple[str, frozenset[Path]]]]:
        """Go on behind a key or a table that is defined a second time."""
        following = self._source.statements[self._number + 1 :]
        end = following[0].start if following else self._source.end
        what = "table" if statement.header else "key"
        told = f"{name_of(statement.path)}: line {statement.first} has this {what} already"
        cure = "write all its keys there" if statement.header else "keep one of the two"
        rest = [self._without(statement, end)]
        if statement.header:
            start, end = statement.start, self._next_header()
            alone = blanked(self._text[:start]) + self._text[start:end]
            rest.append((alone, self._cut | {statement.table, ()}))
        return Problem(begins, f"{told}: {cure}"), rest

    def _without(self, statement: Statement, end: int) -> tuple[str, frozenset[Path]]:
        """Leave out a statement that ends at ``end``; with a header, the keys below it."""
        if statement.header:
            end = self._next_header()
        start, text = statement.start, self._text
        shorter = text[:start] + blanked(text[start:end]) + text[end:]
        return shorter, self._cut | {statement.table}

    def _next_header(self) -> int:
        following = self._source.statements[self._number + 1 :]
        return next((it.start for it in following if it.header), len(self._text))


def blanked(text: str) -> str:
    """Replace all characters by blanks, except newlines."""
    return re.sub(r"[^\n]", " ", text)


def name_of(path: Path) -> str:
    """Write a path for people: ``hub.looks``, ``rule 2.user``; elements count from 1."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f" {part + 1}"
        else:
            bare = re.fullmatch(r"[\w-]+", part, re.ASCII)
            name = plain(part if bare else written(part) if part else '""', MOST_SHOWN)
            text += f".{name}" if text else name
    return text


def _position(error: tomllib.TOMLDecodeError, text: str) -> int:
    """Return the index that ``tomllib`` names in its message."""
    found = re.search(r"\(at line (\d+), column (\d+)\)$", str(error))
    if not found:  # "(at end of document)"
        return len(text.rstrip())
    lines = text.split("\n")
    before = sum(len(line) + 1 for line in lines[: int(found[1]) - 1])
    return min(before + int(found[2]) - 1, len(text))
