"""The pages of the reference that are written from the code."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from pagemerge import cli
from pagemerge.config import Configuration
from pagemerge.service.api.calls import METHODS
from pagemerge.service.api.interface import description
from pagemerge.settings import schema
from pagemerge.settings.page import markdown
from pagemerge.watch import metrics, model

FIGURES = (
    model.Moment,
    model.Host,
    model.UserEngine,
    model.KernelEngine,
    model.Row,
    model.Decision,
)
"""What ``pagemerge status --json``, the API and recordings have."""


def written() -> dict[str, str]:
    """Return all pages: path below the sources -> Markdown."""
    pages = {f"verbs/{verb}.md": command(verb) for verb in cli.VERBS}
    return {
        **pages,
        "verbs/index.md": verbs(),
        "keys.md": keys(),
        "metrics.md": all_metrics(),
        "figures.md": figures(),
        "interface.md": interface(),
    }


def verbs() -> str:
    """List the verbs."""
    rows = (f"| [{verb}]({verb}.md) | {text} |" for verb, text in cli.VERBS.items())
    toctree = "\n".join(cli.VERBS)
    return (
        "# Verbs\n\n| verb | what it does |\n|---|---|\n"
        + "\n".join(rows)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"
    )


def command(verb: str) -> str:
    """Describe a verb: its usage, its help, and every argument, those of its actions too."""
    return "\n\n".join(_command(cli.parser(verb), "#")) + "\n"


def _command(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    yield f"{heading} {parser.prog}"
    yield f"```text\n{parser.format_usage().removeprefix('usage: ').rstrip()}\n```"
    yield from (" ".join(it.split()) for it in _plain(parser.description or "").split("\n\n"))
    # argparse has no public list of a parser's arguments.
    shown = [it for it in parser._actions if it.help != argparse.SUPPRESS]
    rows = [_row(it) for it in shown if not isinstance(it, argparse._SubParsersAction)]
    if rows:
        yield "\n".join(["| argument | meaning |", "|---|---|", *rows])
    for action in shown:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _command(sub, f"{heading}#")


def _row(action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0:
        name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
        value = name if isinstance(name, str) else " ".join(name)
    names = [f"`{it} {value}`" if value else f"`{it}`" for it in action.option_strings]
    about = _plain((action.help or "") % {**vars(action), "prog": "pagemerge"})
    if action.choices:
        about += "; one of " + ", ".join(f"`{it}`" for it in action.choices)
    return f"| {', '.join(names or [f'`{value}`'])} | {_cell(about)} |"


def keys() -> str:
    """Describe every key of the configuration."""
    return f"# Keys of the configuration\n\n{_plain(markdown(Configuration))}\n"


def all_metrics() -> str:
    """Describe every metric."""
    rows = [
        f"| `pagemerge_{name}` | {', '.join(f'`{it}`' for it in labels)} | {_cell(about)} |"
        for name, (labels, about) in metrics.METRICS.items()
    ]
    return "\n".join(["# Metrics", "", "| metric | labels | meaning |", "|---|---|---|", *rows, ""])


def figures() -> str:
    """Describe the figures of a moment."""
    parts = [
        "# Figures of a moment\n\n`pagemerge status --json`, the API, and recordings for "
        "`pagemerge top --replay` have these members. A figure that is null is not known."
    ]
    for struct in FIGURES:
        rows = [f"| `{key.name}` | {_cell(key.about)} |" for key in schema.keys(struct)]
        about = _plain(schema.about(struct))
        parts.append("\n".join([f"## {struct.__name__}\n", about, "", "| member | meaning |"]))
        parts[-1] += "\n|---|---|\n" + "\n".join(rows)
    return "\n\n".join(parts) + "\n"


def interface() -> str:
    """Show the interfaces of the API in varlink's language."""
    parts = [f"## {name}\n\n```text\n{description(name)}\n```" for name in METHODS]
    return "# Interfaces of the API\n\n" + "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plain(text: str) -> str:
    """Have what looks like HTML shown as it is."""
    return re.sub(r"<(?=[a-zA-Z/])", r"\\<", text)
