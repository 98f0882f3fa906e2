"""Tables of classes whose fields have a text: structs, dataclasses and typed dictionaries."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints

import msgspec

from docsite.text import cell, coded
from pagemerge.settings import schema

NOUNS: dict[Any, str] = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "boolean",
    bytes: "text",
    type(None): "null",
    Any: "any value",
    object: "any value",
}


class Field(typing.NamedTuple):
    """One member of an object."""

    name: str
    hint: Any
    about: str
    """May be empty: then the name says it all."""


def is_model(kind: object) -> bool:
    """True for a class that is written as an object, with a member for each field."""
    return isinstance(kind, type) and (
        issubclass(kind, msgspec.Struct) or is_dataclass(kind) or typing.is_typeddict(kind)
    )


def fields(model: type) -> list[Field]:
    """List the members of a model, with those that it inherits."""
    told: dict[str, str] = {}
    for base in reversed(_bases(model)):
        told |= schema.meanings(base)
    hints = get_type_hints(model, include_extras=True)
    if issubclass(model, msgspec.Struct):
        hints = {name: hints[name] for name in model.__struct_fields__}
    elif is_dataclass(model):
        hints = {it.name: hints[it.name] for it in dataclasses.fields(model)}
    return [Field(name, _bare(hint), told.get(name) or _note(hint)) for name, hint in hints.items()]


def reached(root: type) -> list[type]:
    """List a model and the models that its members have, each once, in order of appearance."""
    found: list[type] = []

    def visit(hint: Any) -> None:
        if is_model(hint) and hint not in found:
            found.append(hint)
            for field in fields(hint):
                visit(field.hint)
        for inner in get_args(hint):
            visit(inner)

    visit(root)
    return found


def table(model: type, link: Callable[[type], str]) -> str:
    """Write the members of a model as a table; ``link`` writes a link to another model."""
    rows = [
        f"| `{it.name}` | {noun(it.hint, link)} | {cell(coded(in_json(it.about)))} |"
        for it in fields(model)
    ]
    return "\n".join(["| member | type | meaning |", "|---|---|---|", *rows])


def about(model: type) -> str:
    """Return what a model is, in whole sentences; empty if its class has no docstring."""
    if typing.is_typeddict(model):
        own = model.__doc__
    else:
        own = None if (model.__doc__ or "").startswith(f"{model.__name__}(") else model.__doc__
    return coded(in_json(" ".join(inspect.cleandoc(own or "").split("\n\n")[0].split())))


def in_json(text: str) -> str:
    """Name values as JSON has them, and drop advice to those who write our code."""
    text = text.replace("``", "`")
    text = re.sub(r"[;.] ?[Pp]rint (?:it|them|both) through `text\.plain` only", "", text)
    text = re.sub(r"[;.] ?[Pp]rint it as `name`", "", text)
    return re.sub(r"\bNone\b", "null", text)


def noun(hint: Any, link: Callable[[type], str]) -> str:
    """Write a type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if is_model(hint):
        return link(hint)
    if hint in NOUNS:
        return NOUNS[hint]
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(noun(it, link) for it in inner))
    if origin is typing.Literal:
        return " or ".join(f'`"{it}"`' for it in inner)
    if origin in (list, tuple, frozenset, set):
        return f"list of {noun(inner[0], link)}"
    if origin is dict:
        return f"object: name → {noun(inner[1], link)}"
    raise TypeError(f"no noun for {hint!r}: write one")


def _bases(model: type) -> list[type]:
    """A model and its bases of ours, itself first.

    A typed dictionary forgets its bases (before Python 3.12): its source tells them.
    """
    if not typing.is_typeddict(model):
        return [it for it in model.__mro__ if it.__module__.startswith("pagemerge")]
    module = sys.modules[model.__module__]
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ClassDef) and node.name == model.__name__:
            named = [vars(module)[it.id] for it in node.bases if isinstance(it, ast.Name)]
            above = [it for it in named if typing.is_typeddict(it)]
            return [model, *(it for base in above for it in _bases(base))]
    return [model]


def _bare(hint: Any) -> Any:
    while get_origin(hint) in (Annotated, NotRequired):
        hint = get_args(hint)[0]
    return hint


def _note(hint: Any) -> str:
    """The text of an annotation, for a name that no class can have."""
    texts: Iterator[Any] = (it for it in getattr(hint, "__metadata__", ()))
    return next((it for it in texts if isinstance(it, str)), "")
