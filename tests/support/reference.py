"""Writes the tables of docs/reference.md again: ``python -m tests.support.reference``.

The rest of the page is written by hand, and stays. Needs ``packaging`` in PYTHONPATH.
"""

from __future__ import annotations

from pathlib import Path

from docsite import environment, verbs

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"


def renewed(page: str) -> str:
    """The page with the tables that the code has now."""
    return environment.renewed(verbs.renewed(page))


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
