"""The objects that ``--json`` prints, and the figures of a moment: a page for each verb."""

from __future__ import annotations

from docsite import models
from docsite.text import plain
from pagemerge.cli.show import printed, printed_forecast, printed_scan
from pagemerge.demo.outcome import Outcome
from pagemerge.hub.model import Status
from pagemerge.ksmd import attach
from pagemerge.watch.model import Moment

PRINTED: dict[str, dict[str, type]] = {
    "demo": {"pagemerge demo --json": Outcome},
    "scan": {
        "pagemerge scan --json": printed_scan.AnswerFigures,
        "pagemerge scan --sample --json": printed_forecast.SampleFigures,
    },
    "attach": {
        "pagemerge attach --json": printed.Attached,
        "pagemerge detach --json": printed.Detached,
        "What was done": attach.Outcome,
    },
    "status": {
        "pagemerge status --json": printed.Measured,
        "pagemerge status --socket SOCKET --json": Status,
    },
    "history": {"pagemerge history --json": printed.Recorded},
    "config": {"pagemerge config show --json": printed.Settings},
    "doctor": {"pagemerge doctor --json": printed.Examined},
}
"""Page -> command -> the object that it prints."""

FIGURES = models.reached(Moment)
"""What the API, the history and recordings have, on a page of their own."""

NOTE = (
    "Figures are in bytes, pages and seconds, as the end of a key says. A figure that is null is "
    "not known. Names come from processes and files and may contain anything."
)


def pages() -> dict[str, str]:
    """Return all pages: path below the sources -> Markdown."""
    made = {f"json/{name}.md": _page(name, roots) for name, roots in PRINTED.items()}
    return {"json/index.md": _index(), **made, "figures.md": _figures()}


def link(verb: str) -> str:
    """Write where to read what a verb prints with ``--json``; empty if it prints no JSON."""
    for page, roots in PRINTED.items():
        if any(it.split()[:2] == ["pagemerge", verb] for it in roots):
            return f"\n[What `--json` prints](../json/{page}.md) lists all figures.\n"
    return ""


def _index() -> str:
    rows = [
        f"| [`{command}`]({name}.md) | {plain(models.about(root))} |"
        for name, roots in PRINTED.items()
        for command, root in roots.items()
        if command.startswith("pagemerge")
    ]
    toctree = "\n".join(PRINTED)
    return (
        f"# What `--json` prints\n\n{NOTE}\n\n| command | what it prints |\n|---|---|\n"
        + "\n".join(rows)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"
    )


def _page(name: str, roots: dict[str, type]) -> str:
    title = "attach and detach" if name == "attach" else name
    parts = [f"# JSON of {title}", NOTE]
    others: list[type] = []
    for command, root in roots.items():
        heading = f"`{command}`" if command.startswith("pagemerge") else command
        parts += [f"## {heading}", models.about(root), models.table(root, _linked)]
        others += [it for it in models.reached(root) if it not in (*roots.values(), *others)]
    for model in others:
        if model not in FIGURES:
            parts += [f"## {_title(model)}", models.about(model), models.table(model, _linked)]
    return "\n\n".join(filter(None, map(plain, parts))) + "\n"


def _figures() -> str:
    parts = [
        "# Figures of a moment",
        "The API, the history and recordings for `pagemerge top --replay` have these objects, and "
        "so has [`pagemerge status --json`](json/status.md). A recording is a file with a moment "
        "in each line. " + NOTE,
    ]
    for model in FIGURES:
        parts += [
            f"## {_title(model)}",
            models.about(model),
            models.table(model, lambda it: f"[{_title(it)}](#{_anchor(it)})"),
        ]
    return "\n\n".join(filter(None, map(plain, parts))) + "\n"


def _title(model: type) -> str:
    return model.__name__.removesuffix("Figures")


def _anchor(model: type) -> str:
    return _title(model).lower()


def _linked(model: type) -> str:
    page = "../figures.md" if model in FIGURES else ""
    return f"[{_title(model)}]({page}#{_anchor(model)})"
