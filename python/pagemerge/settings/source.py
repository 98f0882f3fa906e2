"""Finds the line of each key in a TOML document, because ``tomllib`` does not tell it.

The scanner reads what https://toml.io/en/v1.0.0 describes, and is more lenient than ``tomllib``: it
checks no number and no escape. So a document that ``tomllib`` accepts is scanned without an error,
and in any other document the scanner gets at least as far as ``tomllib`` does.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field

Path = tuple[str | int, ...]
"""Keys from the top of the document; a number is a place in an array, from 0."""

MOST_DEPTH = 32
"""Keys and brackets inside each other. ``tomllib`` takes time that grows with the square of the
parts of a key, and recurses for each bracket."""
MOST_DIGITS = 1000
"""Characters of a number or date; ``int`` refuses more than 4,300 digits."""

_GAP = re.compile(r"[ \t]*+")
_GAPS = re.compile(r"(?:[ \t\n]++|#[^\n]*+)*+")
_REST = re.compile(r"[ \t]*+(?:#[^\n]*+)?+(?:\n|\Z)")
_KEY = re.compile(r"""[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+'""")
_TEXT = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*+"{3,5}'
    r"|'''(?:[^']|'{1,2}(?!'))*+'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*+"'
    r"|'[^'\n]*+'",
    re.DOTALL,
)
_WORD = re.compile(r"""[^\s"'\[\]{},#=][^\n\[\]{},#=]*+""")
"""A number, a date or a boolean, and blanks behind it."""


class Excess(Exception):
    """The document is too deep, or has a number that is too long; ``at`` is where."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


class _Stop(Exception):
    """The scanner does not understand the text."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A header or a key with its value."""

    start: int
    """Index of its first character."""
    header: bool
    table: Path
    """The table that it is in, or that it starts."""
    path: Path
    """What it defines; empty if the scanner stopped inside it."""
    first: int
    """Line of the earlier statement that defines the same already; 0 if there is none."""


@dataclass(slots=True)
class Source:
    """Statements of a document, and the line of each key."""

    text: str
    statements: list[Statement] = field(default_factory=list)
    lines: dict[Path, int] = field(default_factory=dict)
    """Line, from 1, at which each table, key or element is named first."""
    end: int = 0
    """Index behind the last statement that the scanner went on from."""

    def line(self, at: int) -> int:
        """Return the line, from 1, of the character with index ``at``."""
        return self.text.count("\n", 0, at) + 1

    def place(self, path: Path) -> int:
        """Return the line of ``path``, or of what it lies in; 1 if the document has neither."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def scan(text: str) -> Source:
    """Scan a document, to its end or to a value of several lines that is not TOML.

    After any other error the scanner goes on with the next line. ``text`` has ``\\n`` at the end of
    lines, as ``tomllib`` sees it. Raises ``Excess``.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


class _Scanner:
    def __init__(self, text: str) -> None:
        self.found = Source(text)
        self._text = text
        self._at = 0
        self._line, self._counted = 1, 0
        self._table: Path = ()
        self._lengths: dict[Path, int] = {}
        """Array of tables -> its elements up to here."""

    def document(self) -> None:
        """Scan all statements."""
        while self._skip(_GAPS) < len(self._text):
            start = self._at
            try:
                statement = self._statement()
            except _Stop:
                header = self._text[start] == "["
                self.found.statements.append(Statement(start, header, self._table, (), 0))
                if "\n" in self._text[start : self._at]:
                    return
                end = self._text.find("\n", self._at)
                self._at = end if end >= 0 else len(self._text)
            else:
                self.found.statements.append(statement)
            self.found.end = self._at

    def _statement(self) -> Statement:
        """Scan a statement, and the rest of its line."""
        start, line = self._at, self._here()
        header = self._text[start] == "["
        if header:
            self._table, first = self._header(line)
            path = self._table
        else:
            key = self._key()
            path = self._table + key
            first = self.found.lines.get(path, 0)
            self._expect("=")
            self._name(self._table, key, line)
            self._value(path)
        if not (end := _REST.match(self._text, self._at)):
            raise _Stop
        self._at = end.end()
        return Statement(start, header, self._table, path, first)

    def _header(self, line: int) -> tuple[Path, int]:
        """Scan a header; return its table, and the line of what it defines a second time."""
        brackets = "]]" if self._text.startswith("[[", self._at) else "]"
        self._at += len(brackets)
        key = self._key()
        self._expect(brackets)
        path: Path = ()
        for part in key[:-1]:
            path = self._inside((*path, part))
            self.found.lines.setdefault(path, line)
        path = (*path, key[-1])
        first = self.found.lines.get(path, 0)
        self.found.lines.setdefault(path, line)
        if brackets == "]":
            return self._inside(path), first
        number = self._lengths.get(path, 0)
        self._lengths[path] = number + 1
        self.found.lines[*path, number] = line
        return (*path, number), 0 if number else first

    def _inside(self, path: Path) -> Path:
        """Return the last element of an array of tables; any other path as it is."""
        return (*path, self._lengths[path] - 1) if path in self._lengths else path

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self._skip(_GAP)
            start = self._at
            if not (found := _KEY.match(self._text, start)):
                raise _Stop
            self._at = found.end()
            parts.append(_unquoted(found[0]))
            if len(parts) > MOST_DEPTH:
                raise Excess(f"a key of more than {MOST_DEPTH} parts", start)
            self._skip(_GAP)
            if not self._text.startswith(".", self._at):
                return tuple(parts)
            self._at += 1

    def _name(self, table: Path, key: tuple[str, ...], line: int) -> None:
        """Note the line of a key, and of each table that it names first."""
        for part in key:
            table = (*table, part)
            self.found.lines.setdefault(table, line)

    def _value(self, path: Path, depth: int = 0) -> None:
        if depth > MOST_DEPTH:
            raise Excess(f"more than {MOST_DEPTH} brackets inside each other", self._at)
        self._skip(_GAP)
        opening = self._text[self._at : self._at + 1]
        if opening == "[":
            self._elements(path, depth)
        elif opening == "{":
            self._pairs(path, depth)
        elif found := _TEXT.match(self._text, self._at):
            if found[0] in ('""', "''") and self._text.startswith(found[0][0], found.end()):
                self._at = len(self._text)  # text of several lines that is not closed
                raise _Stop
            self._at = found.end()
        elif found := _WORD.match(self._text, self._at):
            if len(found[0].rstrip()) > MOST_DIGITS:
                raise Excess(f"a number of more than {MOST_DIGITS:,} characters", self._at)
            self._at = found.end()
        else:
            raise _Stop

    def _elements(self, path: Path, depth: int) -> None:
        """Scan an array."""
        self._at += 1
        number = 0
        while self._more("]"):
            self.found.lines[*path, number] = self._here()
            self._value((*path, number), depth + 1)
            number += 1
            self._comma("]")

    def _pairs(self, path: Path, depth: int) -> None:
        """Scan an inline table."""
        self._at += 1
        while self._more("}"):
            line, key = self._here(), self._key()
            self._expect("=")
            self._name(path, key, line)
            self._value(path + key, depth + 1)
            self._comma("}")

    def _more(self, closing: str) -> bool:
        self._skip(_GAPS)
        if self._text.startswith(closing, self._at):
            self._at += 1
            return False
        return True

    def _comma(self, closing: str) -> None:
        self._skip(_GAPS)
        if self._text.startswith(",", self._at):
            self._at += 1
        elif not self._text.startswith(closing, self._at):
            raise _Stop

    def _expect(self, text: str) -> None:
        self._skip(_GAP)
        if not self._text.startswith(text, self._at):
            raise _Stop
        self._at += len(text)

    def _skip(self, blanks: re.Pattern[str]) -> int:
        found = blanks.match(self._text, self._at)
        assert found  # it fits the empty text
        self._at = found.end()
        return self._at

    def _here(self) -> int:
        """Return the line of the next character."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line


def _unquoted(part: str) -> str:
    """Return the key that a part of a dotted key names."""
    if part[0] == '"' and "\\" in part:
        try:
            return next(iter(tomllib.loads(f"{part} = 0")))
        except tomllib.TOMLDecodeError:
            raise _Stop from None
    return part[1:-1] if part[0] in "\"'" else part
