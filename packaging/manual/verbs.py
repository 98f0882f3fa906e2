"""The man pages of section 1: one for the command, and one for each verb."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from manual import roff
from manual.settings import NAME as SETTINGS
from pagemerge import cli

EXIT_STATUS = "Exit status: "
"""The start of the paragraph of a verb's docstring that gets a section of its own."""


def main() -> str:
    """Return pagemerge(1)."""
    parser = cli.overview()
    verbs = [
        roff.item(roff.reference(f"pagemerge-{verb}", 1), _sentence(text))
        for verb, text in cli.VERBS.items()
    ]
    sections = {
        "SYNOPSIS": [synopsis(parser)],
        "DESCRIPTION": [roff.prose(parser.description or "")],
        "VERBS": verbs,
        "OPTIONS": [option(it) for it in parser._actions if it.option_strings],
        "SEE ALSO": [roff.reference(SETTINGS, 5)],
    }
    return roff.page("pagemerge", 1, _summary(parser.description or ""), sections)


def page(verb: str) -> str:
    """Return pagemerge-VERB(1)."""
    parser = cli.parser(verb)
    text = roff.paragraphs(cli.load(verb).__doc__ or "")
    status = [it.removeprefix(EXIT_STATUS) for it in text if it.startswith(EXIT_STATUS)]
    sections = {
        "SYNOPSIS": [synopsis(parser)],
        "DESCRIPTION": [roff.prose(it) for it in text if not it.startswith(EXIT_STATUS)],
        "ARGUMENTS": [option(it) for it in arguments(parser)],
        "COMMANDS": list(_commands(parser)),
        "OPTIONS": list(_options(parser)),
        "EXIT STATUS": [roff.prose(_sentence(it)) for it in status],
        "SEE ALSO": [f"{roff.reference('pagemerge', 1)}, {roff.reference(SETTINGS, 5)}"],
    }
    return roff.page(f"pagemerge-{verb}", 1, cli.VERBS[verb], sections)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's subcommands by their names."""
    # argparse has no public list of a parser's arguments, nor a public name of their classes.
    found = (it.choices for it in parser._actions if isinstance(it, argparse._SubParsersAction))
    return {name: sub for choices in found for name, sub in choices.items()}


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the positional arguments of a parser, without its subcommands."""
    return [
        it
        for it in parser._actions
        if not it.option_strings and not isinstance(it, argparse._SubParsersAction)
    ]


def synopsis(parser: argparse.ArgumentParser) -> str:
    """Return the usage of a parser, whose options do not break across lines."""
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    program, rest = parser.prog, usage.removeprefix(parser.prog).strip()
    kept = re.sub(r"\[[^][]*\]", lambda it: it[0].replace(" ", "\0"), rest)
    return f"{roff.bold(program)} {roff.escape(kept)}".replace("\0", r"\ ")


def option(action: argparse.Action) -> str:
    """Return an option or argument with its help as an item of a list."""
    value = _value(action)
    if not action.option_strings:
        term = value
    elif value:
        term = ", ".join(f"{roff.bold(it)} {value}" for it in action.option_strings)
    else:
        term = ", ".join(roff.bold(it) for it in action.option_strings)
    texts = [_sentence((action.help or "") % {**vars(action), "prog": "pagemerge"})]
    if action.choices and action.metavar:
        texts.append("One of: " + ", ".join(map(str, action.choices)) + ".")
    return roff.item(term, *filter(None, texts))


def _value(action: argparse.Action) -> str:
    """Return what the reader writes for a value; empty if the option takes none."""
    if action.nargs == 0:
        return ""
    if action.choices and not action.metavar:
        return "|".join(map(roff.bold, map(str, action.choices)))
    name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    value = roff.italic(name if isinstance(name, str) else " ".join(name))
    few, many = {"*": ("[", "...]"), "+": ("", "..."), "?": ("[", "]")}.get(
        str(action.nargs), ("", "")
    )
    return f"{few}{value} {many}" if "..." in many else f"{few}{value}{many}"


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options; the groups that the verb has named come under a heading of their own."""
    for group in parser._action_groups:
        found = [it for it in group._group_actions if it.option_strings]
        if found and group.title not in ("options", "positional arguments"):
            yield f".SS {_sentence(group.title or '').rstrip('.')}"
        yield from map(option, found)


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield each subcommand with its usage, its description and its arguments."""
    helps = {
        choice.dest: choice.help or ""
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice in action._choices_actions
    }
    for name, sub in subcommands(parser).items():
        yield f".SS {roff.escape(name)}"
        yield synopsis(sub)
        for text in roff.paragraphs(sub.description or helps.get(name, "")):
            yield roff.prose(_sentence(text))
        options = [it for it in sub._actions if it.option_strings and it.dest != "help"]
        yield from map(option, [*arguments(sub), *options])
        yield from _commands(sub)


def _sentence(text: str) -> str:
    """Return a help text as a sentence: with a capital and a full stop."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}" if text else ""


def _summary(text: str) -> str:
    """Return a sentence as the line of a NAME section: without capital and full stop."""
    return f"{text[:1].lower()}{text[1:]}".rstrip(".")
