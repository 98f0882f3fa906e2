"""The man page pagemerge.toml(5), from the classes of the settings and their docstrings."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from manual import roff
from pagemerge.config import Configuration
from pagemerge.settings import schema

NAME = "pagemerge.toml"

INTRODUCTION = (
    "The file is TOML. Each table and each key may be left out, unless it is said to be required. "
    "An unknown key, or a value of the wrong type or out of range, is an error: ``pagemerge config "
    "check`` lists all errors of a file. ``pagemerge config init`` prints a sample."
)


def page() -> str:
    """Return pagemerge.toml(5)."""
    sections = {
        "SYNOPSIS": [f"{roff.bold('pagemerge daemon --config')} {roff.italic('FILE')}"],
        "DESCRIPTION": [roff.prose(INTRODUCTION)],
        "TABLES": list(tables(Configuration)),
        "SEE ALSO": [
            ", ".join(roff.reference(f"pagemerge{it}", 1) for it in ("", "-config", "-daemon"))
        ],
    }
    return roff.page(NAME, 5, "settings of pagemerge", sections)


def tables(root: type[msgspec.Struct]) -> Iterator[str]:
    """Yield all tables of ``root`` with their keys."""
    for table in schema.tables(root):
        yield f".SS {roff.escape(table.header)}"
        yield roff.prose(table.about)
        for key in table.keys:
            yield roff.item(roff.bold(key.name), *filter(None, [key.about]), facts(key))


def facts(key: schema.Key) -> str:
    """Return type, range, unit and default of a key as sentences."""
    told = ", ".join(filter(None, [key.noun, key.allowed, key.unit]))
    if key.required:
        default = "Required."
    else:
        default = f"Default: {'unset' if key.unset else schema.written(key.default)}."
    return f"{told[:1].upper()}{told[1:]}. {default}"
