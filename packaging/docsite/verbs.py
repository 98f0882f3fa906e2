"""The verbs of the command line: a page for each, and the tables of docs/reference.md."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from docsite.text import cell, coded, plain
from pagemerge import cli

HEADING = "| option | default | meaning |\n|---|---|---|"
DEFAULT = re.compile(r"\s*\(default: (.*)\)$", re.S)
"""The end of a help text that says what holds without the option."""


def index() -> str:
    """List the verbs, each with a link to its page."""
    rows = (f"| [{verb}]({verb}.md) | {text} |" for verb, text in cli.VERBS.items())
    toctree = "\n".join(cli.VERBS)
    return (
        "# Verbs\n\n[Reference](../reference.md) has the options of all verbs on one page, and the "
        "exit statuses.\n\n| verb | what it does |\n|---|---|\n"
        + "\n".join(rows)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"
    )


def page(verb: str) -> str:
    """Describe a verb: its usage, its help, and every argument, those of its actions too."""
    return "\n\n".join(_sections(cli.parser(verb), "#")) + "\n"


def commands(verb: str) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of a verb, and those of its actions: ``config``, ``config check``."""
    found = {verb: cli.parser(verb)}
    return {**found, **{f"{verb} {name}": it for name, it in _actions(found[verb]).items()}}


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return what ``table`` has a row for: all arguments but ``--help`` and names of actions."""
    # argparse has no public list of a parser's arguments.
    return [
        it
        for it in parser._actions
        if it.dest != "help"
        and it.help != argparse.SUPPRESS
        and not isinstance(it, argparse._SubParsersAction)
    ]


def table(parser: argparse.ArgumentParser) -> str:
    """Write the table of a parser's arguments; empty if it has none."""
    rows = [f"| {names(it)} | {default(it)} | {meaning(it)} |" for it in arguments(parser)]
    return "\n".join([HEADING, *rows]) if rows else ""


def names(action: argparse.Action) -> str:
    """Write the names of an argument, with the name of its value: ``--top N``."""
    if not action.option_strings:
        return ", ".join(f"`{it}`" for it in str(action.metavar or action.dest).split("|"))
    value = str(action.metavar or action.dest.upper())
    if action.nargs == "?":
        value = f"[{value}]"
    first, *others = action.option_strings
    shown = [first if action.nargs == 0 else f"{first} {value}", *others]
    return ", ".join(f"`{it}`" for it in shown)


def default(action: argparse.Action) -> str:
    """Say what holds without the argument."""
    if action.nargs == 0:
        return "off"
    if action.default and action.default is not argparse.SUPPRESS:
        return f"`{action.default}`"
    if told := DEFAULT.search(action.help or ""):
        return cell(coded(told[1]))
    return "required" if action.required and action.nargs not in ("*", "?") else "none"


def meaning(action: argparse.Action) -> str:
    """Write the help text of an argument, and the values that it may have."""
    text = (action.help or "") % {**vars(action), "prog": "pagemerge"}
    text = coded(DEFAULT.sub("", text))
    *most, last = [f"`{it}`" for it in action.choices or ("",)]
    if action.choices and not all(str(it) in text for it in action.choices):
        text += f": {', '.join(most)} or {last}"
    elif action.choices:
        for choice in action.choices:
            text = re.sub(rf"(?<![\w`-]){re.escape(str(choice))}(?![\w`-])", f"`{choice}`", text)
    return cell(text)


def renewed(reference: str) -> str:
    """Write the tables of docs/reference.md again; all other text of it stays."""
    for verb in cli.VERBS:
        for command, parser in commands(verb).items():
            reference = _with_table(reference, command, table(parser))
    return reference


def _with_table(text: str, command: str, rows: str) -> str:
    level = "####" if " " in command else "###"
    heading = f"{level} pagemerge {command}\n"
    before, found, rest = text.partition(f"\n{heading}")
    if not found:
        raise SystemExit(f"docs/reference.md has no heading {heading.strip()!r}: write it")
    section, mark, after = _cut(rest)
    prose = re.sub(r"(^\|.*\n)+", "", section, flags=re.M).strip()
    told = "\n\n".join(filter(None, [prose, rows]))
    return f"{before}{found}\n{told}\n\n{mark}{after}"


def _cut(rest: str) -> tuple[str, str, str]:
    """Split a text before its first heading."""
    found = re.search(r"^#+ ", rest, re.M)
    return (rest[: found.start()], "", rest[found.start() :]) if found else (rest, "", "")


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [it for it in parser._actions if isinstance(it, argparse._SubParsersAction)]
    return {name: sub for it in found for name, sub in it.choices.items()}


def _sections(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    yield f"{heading} {parser.prog}"
    usage = parser.format_usage().removeprefix("usage: ").rstrip()
    shift = " " * len("usage: ")
    yield "```text\n" + usage.replace(f"\n{shift}", "\n") + "\n```"
    yield from (
        coded(plain(" ".join(it.split()))) for it in (parser.description or "").split("\n\n")
    )
    yield from filter(None, [table(parser)])
    for sub in _actions(parser).values():
        yield from _sections(sub, f"{heading}#")
