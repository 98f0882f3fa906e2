"""Write all man pages and completions: ``python -m manual FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

from manual import settings, shells, verbs
from pagemerge import cli


def files() -> dict[str, str]:
    """Generate all files: path below ``share`` -> text."""
    pages = {f"man/man5/{settings.NAME}.5": settings.page(), "man/man1/pagemerge.1": verbs.main()}
    for verb in cli.VERBS:
        pages[f"man/man1/pagemerge-{verb}.1"] = verbs.page(verb)
    return {**pages, **shells.completions()}


def write(folder: Path) -> None:
    """Write all files below ``folder/share``."""
    for name, text in files().items():
        path = folder / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m manual FOLDER")
    write(Path(sys.argv[1]))
