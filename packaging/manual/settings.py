"""The man page pagemerge.toml(5), from the classes of the settings and their docstrings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator

import msgspec
from msgspec import inspect as types

from manual import roff
from pagemerge.config import Configuration

NAME = "pagemerge.toml"

NUMBERS = (types.IntType, types.FloatType)


def page() -> str:
    """Return pagemerge.toml(5)."""
    root = types.type_info(Configuration)
    assert isinstance(root, types.StructType)
    tables = [text for field in root.fields for text in _table(field.encode_name, field.type)]
    sections = {
        "SYNOPSIS": [f"{roff.bold('pagemerge daemon --config')} {roff.italic('FILE')}"],
        "DESCRIPTION": [
            roff.prose(
                "The file is TOML. Each key has a default, so the file contains only what differs "
                "from it. A key that pagemerge does not know, or a value of the wrong type or out "
                "of range, is an error: pagemerge then says which, and does not start."
            )
        ],
        "TABLES": tables,
        "SEE ALSO": [rf"{roff.bold('pagemerge')}(1), {roff.bold('pagemerge-daemon')}(1)"],
    }
    return roff.page(NAME, 5, "settings of pagemerge", sections)


def described(kind: type) -> dict[str, str]:
    """Return the texts below the attributes of a class: attribute -> text.

    Python keeps no such texts, so they are read from the source of the class.
    """
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for one, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(one, ast.AnnAssign)
            and isinstance(one.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            texts[one.target.id] = str(after.value.value)
    return texts


def _table(name: str, kind: types.Type) -> Iterator[str]:
    """Yield a table with its keys, then the tables inside it."""
    many = isinstance(kind, types.VarTupleType | types.ListType)
    table = kind.item_type if many else kind  # type: ignore[attr-defined]
    if not isinstance(table, types.StructType):
        raise TypeError(f"{NAME}: {name} is no table, and pages of such keys are not written yet")
    yield f".SS [{'[' * many}{roff.escape(name)}]{']' * many}"
    for text in roff.paragraphs(table.cls.__doc__ or ""):
        yield roff.prose(text)
    texts = described(table.cls)
    inner = []
    for field in table.fields:
        if isinstance(_without_none(field.type), types.StructType):
            inner.append((f"{name}.{field.encode_name}", _without_none(field.type)))
            continue
        facts = f"{_kind(field.type)}. {_default(field)}"
        said = [texts[field.name]] if field.name in texts else []
        yield roff.item(roff.bold(field.encode_name), *said, facts)
    for below in inner:
        yield from _table(*below)


def _without_none(kind: types.Type) -> types.Type:
    """Return the type of a key that may be unset as that of its value, where there is only one."""
    if isinstance(kind, types.UnionType):
        some = [it for it in kind.types if not isinstance(it, types.NoneType)]
        return some[0] if len(some) == 1 else kind
    return kind


def _default(field: types.Field) -> str:
    """Return a sentence about the default of a key."""
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if value is msgspec.NODEFAULT:
        return "The key has to be there."
    if value in (None, "", (), [], {}):
        return "Default: unset."
    if isinstance(value, bool):
        return f"Default: {str(value).lower()}."
    if isinstance(value, int | float):
        return f"Default: {value:g}." if value < 100_000 else f"Default: {value:_.0f}."
    return f"Default: {value}."


def _kind(kind: types.Type) -> str:
    """Return the type of a value and its bounds, as the reader writes it."""
    if isinstance(kind, types.UnionType):
        some = [it for it in kind.types if not isinstance(it, types.NoneType)]
        first, *rest = map(_kind, some)
        return " or ".join([first, *(it[:1].lower() + it[1:] for it in rest)])
    if isinstance(kind, types.LiteralType):
        return "One of: " + ", ".join(f'"{it}"' for it in kind.values)
    if isinstance(kind, NUMBERS):
        word = "Whole number" if isinstance(kind, types.IntType) else "Number"
        return ", ".join([word, *_bounds(kind)])
    if isinstance(kind, types.BoolType):
        return "True or false"
    if isinstance(kind, types.StrType):
        return "Text, not empty" if kind.min_length else "Text"
    if isinstance(kind, types.VarTupleType | types.ListType | types.SetType):
        inner = _kind(kind.item_type)
        return f"List, each entry: {inner[:1].lower()}{inner[1:]}"
    if isinstance(kind, types.EnumType):
        return "One of: " + ", ".join(f'"{it.value}"' for it in kind.cls)
    raise TypeError(f"{NAME}: there are no words for a key of the type {kind}")


def _bounds(kind: types.IntType | types.FloatType) -> Iterator[str]:
    """Yield the bounds of a number."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    for name, word in words.items():
        bound = getattr(kind, name)
        if bound is not None:
            yield f"{word} {bound:g}"
