"""docs/reference.md lists what the code has: variables, options, exit statuses; no more."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge import cli, errors
from pagemerge.hub import environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference.md").read_text()
VARIABLE = re.compile(r"PAGEMERGE_[A-Z]+(?:_[A-Z]+)*")


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


def parsers(verb: str) -> dict[str, argparse.ArgumentParser]:
    """Command -> its parser: that of the verb, and of each of its actions."""
    found = cli.Parser(prog=f"pagemerge {verb}")
    cli.load(verb).arguments(found)
    actions = [it for it in found._actions if isinstance(it, argparse._SubParsersAction)]
    return {
        verb: found,
        **{f"{verb} {name}": it for at in actions for name, it in at.choices.items()},
    }


COMMANDS = {name: parser for verb in cli.VERBS for name, parser in parsers(verb).items()}


def actions(command: str) -> Iterator[argparse.Action]:
    """The arguments of a command, without --help and without the names of its actions."""
    # argparse has no public list of them.
    for it in COMMANDS[command]._actions:
        if it.dest != "help" and not isinstance(it, argparse._SubParsersAction):
            yield it


def test_every_variable_is_there() -> None:
    files = [*ROOT.glob("python/**/*.py*"), *ROOT.glob("crates/*/src/**/*.rs")]
    texts = [file.read_text() for file in files if file.suffix in (".py", ".pyi", ".rs")]
    used = {name for text in texts for name in VARIABLE.findall(text)}
    assert len(used) > 5
    assert {name.strip("`") for name, *_ in rows("Environment")} == used
    assert set(VARIABLE.findall(PAGE)) == used


def test_config_shows_the_variables_that_are_for_users() -> None:
    for_users = section("Environment").partition("pagemerge sets these variables")[0]
    named = re.findall(r"^\| `(\w+)`", for_users, re.M)
    assert [it.name for it in environment.variables()] == named


def test_every_verb_is_there() -> None:
    assert set(re.findall(r"^### pagemerge (\w+)$", PAGE, re.M)) == set(cli.VERBS)


def test_every_action_of_a_verb_is_there() -> None:
    named = set(re.findall(r"^#### pagemerge (\w+ \w+)$", PAGE, re.M))
    assert named == {it for it in COMMANDS if " " in it}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_there(command: str) -> None:
    table = {tuple(re.findall(r"`([\w-]+)", row[0])): row for row in rows(f"pagemerge {command}")}
    expected = set()
    for action in actions(command):
        name = tuple(action.option_strings or str(action.metavar).split("|"))
        expected.add(name)
        assert name in table, f"{command} has {name}, and the page does not"
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
