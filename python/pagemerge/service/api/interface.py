"""Writes the definitions of our interfaces (https://varlink.org/Interface-Definition).

``python -m pagemerge.service.api.interface`` prints the file ``org.pagemerge.varlink``, which
callers get from ``GetInterfaceDescription``. A test compares the file with ``described``.
"""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from textwrap import dedent, wrap
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from pagemerge.service.api.calls import ENUMS, ERRORS, METHODS, OURS, SERVICE

TITLES = {
    SERVICE: "What every varlink service has: it says what it is, and describes its interfaces.",
    OURS: "What pagemerge merges on this host, and what may be changed. Every caller sees the "
    "totals and the rows of its own processes; root and the owner of the service see all rows. "
    "Names come from processes and may contain anything. docs/api.md has examples.",
}
PLAIN = {int: "int", float: "float", str: "string", bool: "bool", msgspec.Raw: "object"}
WIDTH = 98


@cache
def description(interface: str) -> str:
    """Return the definition of one of our interfaces."""
    if interface == OURS:
        return Path(__file__).with_name(f"{OURS}.varlink").read_text()
    return described(interface)


def described(interface: str) -> str:
    """Write the definition of an interface from ``calls``."""
    parts = [_comment(TITLES[interface]) + f"interface {interface}"]
    methods = METHODS[interface]
    seen: dict[str, Any] = {}
    for method in methods.values():
        for kind in (method.parameters, method.reply):
            for hint in _hints(kind).values():
                _gather(hint, seen)
    parts += [_typed(name, kind) for name, kind in seen.items()]
    for name, method in methods.items():
        notes = "".join(_comment(f"{field}: {note}") for field, note in _notes(method.parameters))
        said = _signature(method.parameters), _signature(method.reply)
        line = f"method {name}{said[0]} -> {said[1]}"
        parts.append(_comment(method.about) + notes + line)
    for name, (about, fields) in ERRORS[interface].items():
        inside = ", ".join(f"{field}: string" for field in fields)
        parts.append(_comment(about) + f"error {name} ({inside})")
    return "\n\n".join(parts) + "\n"


def _signature(kind: type) -> str:
    fields = [f"{name}: {_name(hint)}" for name, hint in _hints(kind).items()]
    line = f"({', '.join(fields)})"
    return line if len(line) < 60 else "(\n  " + ",\n  ".join(fields) + "\n)"


def _typed(name: str, kind: Any) -> str:
    if name in ENUMS:
        return f"type {name} ({', '.join(get_args(kind))})"
    notes = dict(_notes(kind))
    hints = list(_hints(kind).items())
    body = []
    for at, (field, hint) in enumerate(hints):
        comma = "," if at + 1 < len(hints) else ""
        body.append(_comment(notes.get(field, ""), "  ") + f"  {field}: {_name(hint)}{comma}")
    about = inspect.getdoc(kind) or ""
    return _comment(about.partition("\n\n")[0]) + f"type {name} (\n" + "\n".join(body) + "\n)"


def _name(hint: Any) -> str:
    """Write a type as the interface names it."""
    origin, inner = get_origin(hint), get_args(hint)
    for name, words in ENUMS.items():
        if hint == words:
            return name
    if hint in PLAIN:
        return PLAIN[hint]
    if origin is Annotated:
        return _name(inner[0])
    if origin is Literal:
        return f"({', '.join(inner)})"
    if origin in (list, tuple):
        return f"[]{_name(inner[0])}"
    if origin is dict:
        return f"[string]{_name(inner[1])}"
    if origin in (Union, types.UnionType):
        parts = [it for it in inner if it is not type(None)]
        if parts == [int, str]:  # varlink has no such choice: numbers are sent as text
            return "string"
        assert len(parts) == 1, hint
        return f"?{_name(parts[0])}"
    return str(hint.__name__)


def _gather(hint: Any, seen: dict[str, Any]) -> None:
    """Add the types that ``hint`` names to ``seen``, each before the types that use it."""
    for name, words in ENUMS.items():
        if hint == words:
            seen[name] = words
    for part in get_args(hint):
        _gather(part, seen)
    if inspect.isclass(hint) and (issubclass(hint, msgspec.Struct) or is_dataclass(hint)):
        for part in _hints(hint).values():
            _gather(part, seen)
        seen.setdefault(hint.__name__, hint)


def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _notes(kind: type) -> Iterator[tuple[str, str]]:
    """Find the text below each field of a class."""
    (tree,) = ast.parse(dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    for field, note in zip(tree.body, tree.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if isinstance(note, ast.Expr) and isinstance(note.value, ast.Constant):
            yield field.target.id, str(note.value.value)


def _comment(text: str, indent: str = "") -> str:
    words = re.sub(r"\bNone\b", "null", text.replace("``", "")).split()
    lines = wrap(" ".join(words), WIDTH - len(indent))
    return "".join(f"{indent}# {line}\n" for line in lines)


if __name__ == "__main__":
    print(described(OURS), end="")
