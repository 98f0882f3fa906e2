"""Documents in TOML for property tests."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from pagemerge.settings.source import Path

TOKENS = (
    *("[", "]", "[[", "]]", "{", "}", "=", ".", ",", "#", "\\", "\n", "\n", " ", "\t", "\r"),
    *("'", '"', "'''", '"""', "a", "b", "a-1", "1", "-0.5", "inf", "true", "0x1f", "é", "\x00"),
    *("1979-05-27 07:32:00", "07:32:00.5", "[a]\n", "[[b]]\n", "a = 1\n", "b.a = 'x'\n"),
    '"\\u0061"',
)
"""Pieces of documents, most of them whole tokens; put together they are a document at times."""


def paths(value: Any, path: Path = ()) -> set[Path]:
    """Every key and element below a value."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    return {path, *(it for name, one in inner for it in paths(one, (*path, name)))}


def written(value: object) -> str:
    """A value, as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(key)} = {written(it)}" for key, it in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(it):08x}" for it in value) + '"'
    return str(value).lower()


LETTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="'")
WORDS = ["1", "-1_000", "0.5e3", "nan", "false", "1979-05-27 07:32:00Z"]


@st.composite
def values(draw: st.DrawFn, path: Path, line: int, lines: dict[Path, int], depth: int = 0) -> str:
    """A value as text that starts at ``line``; the lines of what is in it go to ``lines``."""
    kinds = ["word", "basic", "literal", "long", "long literal"]
    kind = draw(st.sampled_from(kinds + ["array", "table"] * (depth < 3)))
    text = draw(st.text(LETTERS, max_size=8))
    if kind == "word":
        return draw(st.sampled_from(WORDS))
    if kind == "basic":
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "")
    if kind == "literal":
        return f"'{text}'"
    if kind == "long":
        ends = draw(st.sampled_from(["", '"', '""']))
        return '"""\n[a]\n' + text.replace("\\", "\\\\").replace('"', '\\"') + ends + '"""'
    if kind == "long literal":
        return f"'''{text}\n# no comment\n\n'''"
    written = "[" if kind == "array" else "{"
    for number in range(draw(st.integers(0, 3))):
        part: str | int = number
        if kind == "array":
            written += draw(st.sampled_from([" ", "\n", " # [\n\n"]))
        else:
            part = f"k{number}"
        here = line + written.count("\n")
        lines[*path, part] = here
        if kind == "table":
            written += f" {part} = "
        more = draw(values((*path, part), here, lines, depth + 1))
        written += more + ","
    if kind == "table":
        return written.rstrip(",") + "}"
    return written + draw(st.sampled_from(["", "\n", "# ]\n"])) + "]"


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[Path, int]]:
    """A document, and the line of each of its keys, tables and elements."""
    text, lines = "", dict[Path, int]()
    counts = dict[str, int]()
    for section in range(draw(st.integers(0, 5))):
        text += draw(st.sampled_from(["", "\n", "# [x]\n", " \t\n\n"]))
        table: Path = ()
        if section:
            name = draw(st.sampled_from(["r", "s"]))
            many = draw(st.booleans())
            line = text.count("\n") + 1
            if many:
                nth = counts[name] = counts.get(name, -1) + 1
                lines.setdefault((name,), line)
                table = (name, nth)
                text += draw(st.sampled_from([f"[[{name}]]\n", f' [[ "{name}" ]]  # [y]\n']))
            else:
                table = (f"t{section}", "é.\\")
                lines[table[:1]] = line
                text += f'[t{section} . "é.\\\\"]\n'
            lines[table] = line
        for key in range(draw(st.integers(0, 4))):
            line = text.count("\n") + 1
            parts = draw(st.sampled_from([(f"k{key}",), (f"d{key}", "e"), ('"', f"q{key}")]))
            for at in range(len(parts)):
                lines.setdefault(table + parts[: at + 1], line)
            named = ".".join(f"'{it}'" if it == '"' else it for it in parts)
            text += f"{draw(st.sampled_from(['', '  ']))}{named} = "
            text += draw(values(table + parts, line, lines))
            text += draw(st.sampled_from(["\n", "  # end\n", " \n\n"]))
    return text, lines
