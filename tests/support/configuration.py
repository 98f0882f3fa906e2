"""Writes the tables of docs/configuration.md again: ``python -m tests.support.configuration``.

The text above the first table is written by hand, and stays.
"""

from __future__ import annotations

from pathlib import Path

from pagemerge.config import Configuration
from pagemerge.settings.page import markdown

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def renewed(page: str) -> str:
    """The page with the tables that the code has now."""
    by_hand = page.partition("\n## [")[0]
    return f"{by_hand.rstrip()}\n\n{markdown(Configuration)}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
