"""The completions for bash, zsh and fish: shtab writes them from the parsers.

shtab knows subcommands and choices by itself. What a value is (a file, a process, a program) it
is told here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
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

# Not by ps(1): it also reads what a process can hold up, such as its command line.
BASH = """
# Processes choose their names, and bash inserts them unquoted: only harmless ones are offered.
_pagemerge_processes() {
    local folder name word
    for folder in /proc/[0-9]*; do
        { IFS= read -r name <"$folder/comm"; } 2>/dev/null || continue
        for word in "${folder#/proc/}" "$name"; do
            if [[ $word == "$1"* && $word =~ ^[[:alnum:]][[:alnum:]_.:+@-]*$ ]]; then
                printf '%s\\n' "$word"
            fi
        done
    done
}
_pagemerge_programs() {
    compgen -c -- "$1"
}
"""
ZSH = """
_pagemerge_processes() {
    local -aU found
    local folder name
    for folder in /proc/<->(N/); do
        { IFS= read -r name <$folder/comm } 2>/dev/null || continue
        found+=($folder:t $name)
    done
    compadd -a found
}
"""
FISH = r"""
function _pagemerge_processes
    command grep --no-messages --with-filename '' /proc/*/comm |
        string replace --filter --regex '^/proc/(\d+)/comm:(.*)$' '$1\t$2\n$2\t$1'
end
"""
PROCESSES = {
    "bash": "_pagemerge_processes",
    "zsh": "_pagemerge_processes",
    "fish": "(_pagemerge_processes)",
    "preamble": {"bash": BASH, "zsh": ZSH, "fish": FISH},
}


def completions() -> dict[str, str]:
    """Return the completion for each shell: path below ``share`` -> text."""
    made = {shell: shtab.complete(whole(), shell) for shell in PATHS}
    made["zsh"] = mended(made["zsh"])
    return {PATHS[shell]: text for shell, text in made.items()}


def mended(zsh: str) -> str:
    """Mend two things that shtab 1.13 writes for zsh's ``_arguments`` (zshcompsys(1)).

    It does not tell zsh that ``--`` ends the options (``-S``), and it has only the first of several
    arguments completed: ``(*):`` instead of ``*:``. A command line after ``--`` is one of its own,
    which ``*::`` says.
    """
    zsh = zsh.replace("_arguments -C -s ", "_arguments -C -s -S ")
    zsh = re.sub(r'^(\s+")\(\*\)::?', r"\1*:", zsh, flags=re.MULTILINE)
    return re.sub(r'^(\s+"\*:)(?=[^:]*:_normal")', r"\1:", zsh, flags=re.MULTILINE)


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
    takers = [it for it in parser._actions if it.nargs != 0]
    options = [name for it in takers for name in it.option_strings]
    for action in takers:
        if kind := completer(action, options):
            action.complete = kind  # type: ignore[attr-defined]
    for sub in subcommands(parser).values():
        tell(sub)


def completer(action: argparse.Action, options: Sequence[str]) -> object:
    """Return what completes an argument's value, for shtab; None if nothing is known.

    ``options`` are those of the same parser that take a value.
    """
    if action.choices:
        return None
    if action.type in (Path, cli.as_path) or action.metavar == "FILE":
        return shtab.FILE
    if action.metavar in ("PID", "PID|NAME", "PROCESS"):
        return PROCESSES
    return programs(options) if action.metavar == "CMD" else None


def programs(options: Sequence[str]) -> dict[str, object]:
    """Return what completes the command line of another program, after verb and ``options``.

    bash completes files by itself where a function finds nothing (``-o bashdefault``).
    """
    command = f"__fish_complete_subcommand --fcs-skip=2 {' '.join(options)}"
    return {
        "bash": "_pagemerge_programs",
        "zsh": "_normal",
        "fish": f"({command.strip()})",
        "preamble": {"bash": BASH},
    }
