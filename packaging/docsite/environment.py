"""The tables of environment variables in docs/reference.md."""

from __future__ import annotations

from collections.abc import Mapping

from docsite.text import cell
from pagemerge.hub import environment


def renewed(reference: str) -> str:
    """Write the three tables of docs/reference.md again that the code knows."""
    reference = _with_table(
        reference,
        "| variable | default | meaning |",
        {name: (usual, about) for name, (about, usual) in environment.USERS.items()},
    )
    reference = _with_table(
        reference,
        "| variable | set by | meaning |",
        {name: (f"`{by}`", about) for name, (about, by) in environment.PASSED.items()},
    )
    return _with_table(
        reference,
        "| variable | explained in | meaning |",
        {name: (whose, about) for name, (about, whose) in environment.FOREIGN.items()},
    )


def _with_table(text: str, heading: str, rows: Mapping[str, tuple[str, str]]) -> str:
    """Put ``rows`` below the first table with this heading, in place of what it has."""
    before, found, rest = text.partition(f"{heading}\n")
    if not found:
        raise SystemExit(f"docs/reference.md has no table {heading!r}: write its heading")
    lines = rest.split("\n")
    end = next(at for at, line in enumerate(lines) if not line.startswith("|"))
    made = [
        f"| `{name}` | {first} | {_lower(cell(about))} |" for name, (first, about) in rows.items()
    ]
    return before + found + "\n".join(["|---|---|---|", *made, *lines[end:]])


def _lower(text: str) -> str:
    """Write a sentence as a cell begins and ends."""
    text = text.removesuffix(".")
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]
