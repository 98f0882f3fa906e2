"""The pages of the reference that are written from the code."""

from __future__ import annotations

from docsite import objects, python, verbs
from docsite.text import cell, coded, plain
from pagemerge import cli
from pagemerge.service.api.calls import METHODS
from pagemerge.service.api.interface import description
from pagemerge.watch import metrics


def written() -> dict[str, str]:
    """Return all pages: path below the sources -> Markdown."""
    return {
        "verbs/index.md": verbs.index(),
        **{f"verbs/{verb}.md": verbs.page(verb) + objects.link(verb) for verb in cli.VERBS},
        **objects.pages(),
        "metrics.md": all_metrics(),
        "interface.md": interface(),
        "python.md": python.page(),
    }


def all_metrics() -> str:
    """Describe every metric."""
    rows = [
        f"| `{metrics.PREFIX}{name}` | {', '.join(f'`{it}`' for it in labels)} | "
        f"{cell(coded(about))} |"
        for name, (labels, about) in metrics.METRICS.items()
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            "`pagemerge metrics` and the daemon ([history](history.md#metrics)) have these metrics "
            "for Prometheus. A metric whose figure is not known has no sample.",
            "",
            "| metric | labels | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def interface() -> str:
    """List the calls of the API, and show its interfaces in varlink's language."""
    parts = [
        "# Interfaces of the API",
        "[The API of the service](api.md) explains how to call, and has examples. These are the "
        "definitions that the service returns from `GetInterfaceDescription`: every call, "
        "parameter, figure and error.",
    ]
    for name in reversed(METHODS):
        rows = [
            f"| `{call}` | {plain(method.about)} | {'yes' if method.needs_more else ''} |"
            for call, method in METHODS[name].items()
        ]
        parts += [
            f"## {name}",
            "\n".join(["| call | what it does | needs `more` |", "|---|---|---|", *rows]),
            f"```text\n{description(name)}\n```",
        ]
    return "\n\n".join(parts) + "\n"
