"""The completions for bash, zsh and fish: shtab writes them from the parsers.

shtab knows subcommands and choices by itself. What a value is (a file, a process, a program) it
is told here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab
from manual.verbs import subcommands

from pagemerge import cli

PATHS = {
    "bash": "bash-completion/completions/pagemerge",
    "zsh": "zsh/site-functions/_pagemerge",
    "fish": "fish/vendor_completions.d/pagemerge.fish",
}
"""Shell -> where it looks for the completion of a program, below ``share``."""

BASH = """
_pagemerge_processes() {
    compgen -W "$(ps -e -o pid= -o comm= 2>/dev/null)" -- "$1"
}
_pagemerge_programs() {
    compgen -c -- "$1"
}
"""
PROCESSES = {
    "bash": "_pagemerge_processes",
    "zsh": "_pids",
    "fish": "(__fish_complete_pids)",
    "preamble": {"bash": BASH},
}
PROGRAMS = {
    "bash": "_pagemerge_programs",
    "zsh": "_command_names -e",
    "fish": "(__fish_complete_command)",
    "preamble": {"bash": BASH},
}


def completions() -> dict[str, str]:
    """Return the completion for each shell: path below ``share`` -> text."""
    return {path: shtab.complete(whole(), shell) for shell, path in PATHS.items()}


def whole() -> argparse.ArgumentParser:
    """Make one parser of the whole command line, with verbs as subcommands."""
    bare = cli.overview()
    parser = argparse.ArgumentParser(prog=bare.prog, description=bare.description)
    for action in bare._actions:
        if action.option_strings and action.dest != "help":
            parser._add_action(action)
    verbs = parser.add_subparsers(dest="verb")
    for verb, text in cli.VERBS.items():
        added = verbs.add_parser(verb, help=text)
        cli.load(verb).arguments(added)
        tell(added)
    return parser


def tell(parser: argparse.ArgumentParser) -> None:
    """Tell shtab what the values of a parser's arguments are, and those of its subcommands."""
    for action in parser._actions:
        if kind := completer(action):
            action.complete = kind  # type: ignore[attr-defined]
    for sub in subcommands(parser).values():
        tell(sub)


def completer(action: argparse.Action) -> object:
    """Return what completes an argument's value, for shtab; None if nothing is known."""
    if action.choices or action.nargs == 0:
        return None
    if action.type in (Path, cli.as_path) or action.metavar == "FILE":
        return shtab.FILE
    if action.metavar in ("PID", "PID|NAME", "PROCESS"):
        return PROCESSES
    return PROGRAMS if action.metavar == "CMD" else None
