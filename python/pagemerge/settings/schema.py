"""Describes the keys that tables may have: type, range, default, unit and meaning of each one.

A table is a msgspec Struct. The meaning of a key is the docstring below its field, and the meaning
of a table is the docstring of its class. ``msgspec.Meta(extra={"unit": ...})`` gives the unit where
the end of the key's name does not, and ``msgspec.Meta(examples=[...])`` a value for the sample of a
key that has no default.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import sys
from dataclasses import dataclass, replace
from typing import Any, get_type_hints

import msgspec
from msgspec import inspect as types

UNITS = {
    "percent": "percent",
    "bytes": "bytes",
    "seconds": "seconds",
    "pages": "pages",
    "share": "fraction",
}
"""Last word of a key's name -> its unit."""

_NOUNS: dict[type[types.Type], str] = {
    types.IntType: "integer",
    types.FloatType: "number",
    types.BoolType: "boolean",
    types.StrType: "text",
    types.LiteralType: "text",
    types.StructType: "table",
    types.DictType: "table",
}
_LISTS = (types.ListType, types.VarTupleType, types.SetType, types.FrozenSetType)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table."""

    name: str
    kind: types.Type
    hint: Any
    """The annotation of the field, with its bounds."""
    default: object
    """The value of a table without the key; ``msgspec.NODEFAULT`` if the key is required."""
    unit: str
    """Empty if the key has none."""
    about: str
    """What the key means, in whole sentences."""
    examples: tuple[object, ...]

    @property
    def required(self) -> bool:
        """True if each table must have the key."""
        return self.default is msgspec.NODEFAULT

    @property
    def unset(self) -> bool:
        """True if the default is no value that a file could have."""
        return self.default is None or self.default == ""

    @property
    def meaning(self) -> str:
        """The first sentence of ``about``."""
        return re.split(r"(?<=[.!?])\s+(?=[A-Z0-9])", self.about, maxsplit=1)[0]

    @property
    def noun(self) -> str:
        """The type in words: ``integer``, ``text or integer``, ``list of text``."""
        return " or ".join(dict.fromkeys(map(_noun, _plain(self.kind))))

    @property
    def allowed(self) -> str:
        """The values that are allowed, in words: ``1 to 16``, ``"in" or "out"``, ``not empty``."""
        told = [_allowed(it) for it in _plain(self.kind)]
        return ", ".join(dict.fromkeys(it for it in told if it))


@dataclass(frozen=True, slots=True)
class Table:
    """A table and its keys."""

    name: str
    """Its keys from the top, joined by dots."""
    many: bool
    """True for an array of tables (``[[name]]``)."""
    about: str
    keys: tuple[Key, ...]

    @property
    def header(self) -> str:
        """The header as a file has it."""
        return f"[[{self.name}]]" if self.many else f"[{self.name}]"


@functools.cache
def tables(root: type[msgspec.Struct]) -> tuple[Table, ...]:
    """Describe all tables of the Struct ``root``, in the order of its fields."""
    found: list[Table] = []
    for name, kind, _ in fields(root):
        if struct := table_of(kind):
            own = tuple(key for key in keys(struct) if not table_of(key.kind))
            found.append(Table(name, isinstance(kind, _LISTS), about(struct), own))
            found += [replace(it, name=f"{name}.{it.name}") for it in tables(struct)]
    return tuple(found)


def table_of(kind: types.Type) -> type[msgspec.Struct] | None:
    """Return the Struct of a field that holds one, or an array of one; None for other fields."""
    inner = kind.item_type if isinstance(kind, _LISTS) else kind
    return inner.cls if isinstance(inner, types.StructType) else None


@functools.cache
def fields(struct: type[msgspec.Struct]) -> tuple[tuple[str, types.Type, Any], ...]:
    """Return the name in a file, the type and the annotation of each field."""
    hints = get_type_hints(struct, include_extras=True)
    described = types.type_info(struct)
    assert isinstance(described, types.StructType)
    return tuple((it.encode_name, it.type, hints[it.name]) for it in described.fields)


@functools.cache
def keys(struct: type[msgspec.Struct]) -> tuple[Key, ...]:
    """Describe the fields of a Struct."""
    told = meanings(struct)
    found = []
    for field, (name, kind, hint) in zip(
        msgspec.structs.fields(struct), fields(struct), strict=True
    ):
        default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        metas = list(_metas(kind))
        unit = next((it.extra["unit"] for it in metas if it.extra and "unit" in it.extra), None)
        examples = [
            it for meta in metas for it in (meta.extra_json_schema or {}).get("examples", [])
        ]
        found.append(
            Key(
                name,
                kind,
                hint,
                default,
                UNITS.get(name.rpartition("_")[2], "") if unit is None else unit,
                told.get(field.name, ""),
                tuple(examples),
            )
        )
    return tuple(found)


def about(kind: type) -> str:
    """Return the docstring of a class, as one paragraph for people."""
    return _told(kind.__doc__ or "")


def meanings(kind: type) -> dict[str, str]:
    """Return the docstring below each field of a class that has one.

    Python keeps them in the source only: empty for an installation without sources.
    """
    try:
        source = inspect.getsource(sys.modules[kind.__module__])
    except OSError:  # an installation without sources
        return {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__:
            found = {}
            for field, below in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    match below:
                        case ast.Expr(value=ast.Constant(value=str(text))):
                            found[field.target.id] = _told(text)
            return found
    return {}


def _told(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _metas(kind: types.Type) -> list[types.Metadata]:
    """Return the annotations of a type and of the types in it."""
    if isinstance(kind, types.Metadata):
        return [kind, *_metas(kind.type)]
    if isinstance(kind, types.UnionType):
        return [meta for it in kind.types for meta in _metas(it)]
    return _metas(kind.item_type) if isinstance(kind, _LISTS) else []


def _plain(kind: types.Type) -> list[types.Type]:
    """Return the types of a union, without annotations and without None."""
    if isinstance(kind, types.Metadata):
        return _plain(kind.type)
    if isinstance(kind, types.UnionType):
        return [it for one in kind.types for it in _plain(one)]
    return [] if isinstance(kind, types.NoneType) else [kind]


def _noun(kind: types.Type) -> str:
    if isinstance(kind, _LISTS):
        return f"list of {' or '.join(map(_noun, _plain(kind.item_type)))}"
    return _NOUNS.get(type(kind), type(kind).__name__.removesuffix("Type").lower())


def _allowed(kind: types.Type) -> str:
    if isinstance(kind, types.BoolType):
        return "true or false"
    if isinstance(kind, types.LiteralType):
        return " or ".join(f'"{it}"' for it in kind.values)
    if isinstance(kind, types.StrType):
        return "not empty" if kind.min_length else ""
    if isinstance(kind, types.IntType | types.FloatType):
        return _range(kind)
    if isinstance(kind, _LISTS):
        inner = " or ".join(filter(None, map(_allowed, _plain(kind.item_type))))
        return f"each {inner}" if inner else ""
    return ""


def _range(kind: types.IntType | types.FloatType) -> str:
    low = "" if kind.ge is None else written(kind.ge)
    high = "" if kind.le is None else written(kind.le)
    above = "" if kind.gt is None else f"above {written(kind.gt)}"
    below = "" if kind.lt is None else f"below {written(kind.lt)}"
    if low and not below:
        return f"{low} to {high}" if high else f"{low} or more"
    ends = (above or (low and f"{low} or more"), below or (high and f"up to {high}"))
    return ", ".join(filter(None, ends))


def written(value: object) -> str:
    """Write a value as TOML has it; ``unset`` for None and for an empty text."""
    match value:
        case None | "":
            return "unset"
        case bool():
            return str(value).lower()
        case int() if abs(value) >= 1 << 63:  # str() refuses more than 4,300 digits
            return hex(value)
        case float() if value.is_integer() and abs(value) < 1e15:
            return written(int(value))
        case int():
            return f"{value:_}" if abs(value) >= 100_000 else str(value)
        case str():
            return _quoted(value)
        case list() | tuple():
            return f"[{', '.join(_quoted(it) if it == '' else written(it) for it in value)}]"
        case dict():
            return "a table"
    return str(value)


def _quoted(text: str) -> str:
    """Write a basic string: JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
