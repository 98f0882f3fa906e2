"""docs/reference.md lists what the code has: keys, variables, options, exit statuses; no more."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec
import pytest

from pagemerge import cli, errors
from pagemerge.hub.settings import Settings
from pagemerge.ksmd.settings import KernelSettings, RuleTable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference.md").read_text()
TABLES: dict[str, type[msgspec.Struct]] = {
    "[hub]": Settings,
    "[kernel]": KernelSettings,
    "[[rule]]": RuleTable,
}
VARIABLE = re.compile(r"PAGEMERGE_[A-Z]+(?:_[A-Z]+)*")
TYPES = {int: "integer", float: "number", bool: "boolean", str: "text"}


def section(heading: str) -> str:
    """The text below a heading, up to the next one."""
    _, found, rest = PAGE.partition(f"# {heading}\n")
    assert found, f"the page has no heading {heading!r}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.M)[0]


def rows(heading: str) -> list[list[str]]:
    """The cells of each row of the tables in a section; their headings are left out."""
    lines = section(heading).split("\n")
    cells = [[it.strip() for it in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    ruled = [at for at, row in enumerate(cells) if row[0].startswith("---")]
    return [row for at, row in enumerate(cells) if at not in ruled and at + 1 not in ruled]


def parser(verb: str) -> argparse.ArgumentParser:
    """The parser of a verb, as ``cli`` builds it."""
    found = cli.Parser(prog=f"pagemerge {verb}")
    cli.load(verb).arguments(found)
    return found


def actions(verb: str) -> Iterator[argparse.Action]:
    """The arguments of a verb, without --help."""
    # argparse has no public list of them.
    return (it for it in parser(verb)._actions if it.dest != "help")


def written(value: object) -> str:
    """A default as the page has it."""
    if value is msgspec.NODEFAULT:
        return "required"
    if value is None or value == "":
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    assert isinstance(value, int | float)
    return f"`{value:g}`" if value < 100_000 else f"`{value:_.0f}`"


def parts(hint: object) -> tuple[list[type], list[msgspec.Meta], tuple[object, ...]]:
    """Types, bounds and choices of an annotation."""
    if isinstance(hint, type):
        return [hint], [], ()
    if get_origin(hint) is Literal:
        return [str], [], get_args(hint)
    if metadata := getattr(hint, "__metadata__", None):
        return [hint.__origin__], list(metadata), ()  # type: ignore[attr-defined]
    found = [parts(it) for it in get_args(hint)]
    return [it for one in found for it in one[0]], [it for one in found for it in one[1]], ()


def bounds(meta: msgspec.Meta) -> str:
    """A range as the page has it."""
    if meta.min_length:
        return "not empty"
    least = f"above {meta.gt}," if meta.gt is not None else f"{meta.ge}"
    if meta.le is None:
        return f"{least} or more"
    return f"{least} up to {meta.le}" if meta.gt is not None else f"{least} to {meta.le}"


@pytest.mark.parametrize("table", TABLES)
def test_every_key_is_there_with_its_type_default_and_range(table: str) -> None:
    hints = get_type_hints(TABLES[table], include_extras=True)
    expected = {}
    for field in msgspec.structs.fields(TABLES[table]):
        types, metas, choices = parts(hints[field.name])
        kinds = " or ".join(TYPES[it] for it in types if it is not type(None))
        if choices or bool in types:
            allowed = ", ".join(f"`{it}`" for it in choices or ("true", "false"))
        else:
            allowed = bounds(metas[0])
        expected[f"`{field.name}`"] = [kinds, written(field.default), allowed]
    assert {row[0]: row[1:4] for row in rows(table)} == expected
    assert all(row[4] for row in rows(table))


def test_every_variable_is_there() -> None:
    files = [*ROOT.glob("python/**/*.py*"), *ROOT.glob("crates/*/src/**/*.rs")]
    texts = [file.read_text() for file in files if file.suffix in (".py", ".pyi", ".rs")]
    used = {name for text in texts for name in VARIABLE.findall(text)}
    assert len(used) > 5
    assert {name.strip("`") for name, *_ in rows("Environment")} == used
    assert set(VARIABLE.findall(PAGE)) == used


def test_every_verb_is_there() -> None:
    assert set(re.findall(r"^### pagemerge (\w+)$", PAGE, re.M)) == set(cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_option_of_a_verb_is_there(verb: str) -> None:
    table = {tuple(re.findall(r"`([\w-]+)", row[0])): row for row in rows(f"pagemerge {verb}")}
    expected = set()
    for action in actions(verb):
        name = tuple(action.option_strings or str(action.metavar).split("|"))
        expected.add(name)
        assert name in table, f"{verb} has {name}, and the page does not"
        argument, default, meaning = table[name]
        takes_a_value = bool(action.option_strings) and action.nargs != 0
        assert (" " in argument.partition("`, ")[0]) == takes_a_value, argument
        assert all(f"`{choice}`" in meaning for choice in action.choices or ()), name
        if action.default and action.nargs != 0:
            assert default == f"`{action.default}`", name
        elif action.nargs == 0:
            assert default == "off", name
        else:
            assert default and default != "off", name
    assert set(table) == expected


def test_every_exit_status_is_there() -> None:
    table = {row[0]: row for row in rows("Exit statuses") if row[0].isdecimal()}
    for kind in kinds(errors.PagemergeError):
        assert f"`{kind.__name__}`" in table[str(kind.exit_status)][2]
    named = re.findall(r"`(\w+)`", " ".join(row[2] for row in table.values()))
    assert sorted(named) == sorted(kind.__name__ for kind in kinds(errors.PagemergeError))
    assert {"0", "130"} <= set(table)  # those that no exception has
    verbs = [row[0] for row in rows("Exit statuses") if not row[0].isdecimal()]
    assert sorted(re.findall(r"`(\w+)`", " ".join(verbs))) == sorted(cli.VERBS)


def kinds(base: type[errors.PagemergeError]) -> list[type[errors.PagemergeError]]:
    """An exception and all that derive from it in ``errors``."""
    found = [it for kind in base.__subclasses__() for it in kinds(kind)]
    return [it for it in (base, *found) if it.__module__ == errors.__name__]
