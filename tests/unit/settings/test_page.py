"""docs/configuration.md has every key of the Settings classes, as they are."""

from __future__ import annotations

import re
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

from pagemerge.config import Configuration
from pagemerge.settings.schema import tables
from tests.support.configuration import PAGE, renewed

TEXT = PAGE.read_text()
NOUNS = {int: "integer", float: "number", bool: "boolean", str: "text"}
STRUCTS: dict[str, type[msgspec.Struct]] = {}
for name, hint in get_type_hints(Configuration).items():
    if get_origin(hint) is tuple:
        STRUCTS[f"[[{name}]]"] = get_args(hint)[0]
    else:
        STRUCTS[f"[{name}]"] = hint


def test_the_page_is_as_the_code_is() -> None:
    assert renewed(TEXT) == TEXT, "run python -m tests.support.configuration"


def test_no_table_is_missing() -> None:
    headings = re.findall(r"^## (\[.*\])$", TEXT, re.M)
    assert headings == [it.header for it in tables(Configuration)]
    assert set(STRUCTS) <= set(headings)


def rows(header: str) -> list[list[str]]:
    """The cells of the rows below a heading."""
    section = TEXT.partition(f"\n## {header}\n")[2].partition("\n## ")[0]
    cells = [it.split(" | ") for it in section.split("\n") if it.startswith("| `")]
    return [[it.strip("| ") for it in row] for row in cells]


def parts(hint: object) -> tuple[list[object], list[msgspec.Meta], tuple[object, ...]]:
    """Types, bounds and choices of an annotation."""
    if get_origin(hint) is Literal:
        return [str], [], get_args(hint)
    if isinstance(hint, type) or get_origin(hint) in (list, tuple):
        return [hint], [], ()
    if metadata := getattr(hint, "__metadata__", None):
        return [hint.__origin__], list(metadata), ()  # type: ignore[attr-defined]
    found = [parts(it) for it in get_args(hint)]
    return [it for one in found for it in one[0]], [it for one in found for it in one[1]], ()


@pytest.mark.parametrize("header", STRUCTS)
def test_types_defaults_and_ranges_are_those_of_the_fields(header: str) -> None:
    """Read from the annotations, and not from what describes them for the page."""
    hints = get_type_hints(STRUCTS[header], include_extras=True)
    found = {row[0].strip("`"): row for row in rows(header)}
    assert set(found) == set(hints)
    for field in msgspec.structs.fields(STRUCTS[header]):
        _, noun, default, allowed, _, about = found[field.name]
        types, metas, choices = parts(hints[field.name])
        if all(it in NOUNS for it in types if it is not type(None)):
            assert noun == " or ".join(NOUNS[it] for it in types if it in NOUNS)
        for bound in [it for meta in metas for it in (meta.gt, meta.ge, meta.le) if it is not None]:
            assert f"{bound:g}" in re.findall(r"[\d.]+", allowed.replace("_", ""))
        assert ("above" in allowed) == any(meta.gt is not None for meta in metas)
        assert all(f'"{it}"' in allowed for it in choices)
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert float(default.strip("`").replace("_", "")) == field.default
        elif isinstance(field.default, bool):
            assert default == f"`{str(field.default).lower()}`"
        elif field.default in (None, ""):
            assert default == "unset"
        assert about.endswith("."), "the docstring is missing, or is no sentence"


@pytest.mark.parametrize("table", tables(Configuration), ids=lambda it: it.name)
def test_every_key_has_a_meaning_of_one_sentence(table: object) -> None:
    found = next(it for it in tables(Configuration) if it == table)
    assert found.about.endswith(".")
    for key in found.keys:
        assert re.fullmatch(r"[A-Z0-9][^\n]{10,150}\.", key.meaning), (key.name, key.meaning)
        if key.noun in ("integer", "number"):
            assert key.unit, f"{key.name}: give its unit (settings.schema)"
