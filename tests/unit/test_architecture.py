"""ARCHITECTURE.md's picture of the packages is what the files are."""

from __future__ import annotations

import re
from pathlib import Path

import pagemerge

PACKAGE = Path(pagemerge.__file__).parent
TEXT = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()


def drawn() -> dict[str, set[str]]:
    """Package -> its modules, as the document draws them."""
    picture = next(it for it in re.findall(r"```\n(.*?)```", TEXT, re.S) if "linux/" in it)
    found: dict[str, set[str]] = {}
    name = ""
    for line in picture.splitlines()[2:]:
        if not line.startswith(" "):
            name, _, line = line.partition(" ")
            name = name.rstrip("/")
        found.setdefault(name, set()).update(line.split())
    return found


def test_the_picture_shows_every_module_and_no_other() -> None:
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        if not file.stem.startswith("__"):
            found.setdefault(str(file.parent.relative_to(PACKAGE)), set()).add(file.stem)
    assert drawn() == found


def test_files_that_are_named_exist() -> None:
    root = Path(__file__).parents[2]
    named = re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|rs|md))`", TEXT)
    assert len(named) > 15
    homes = (root, PACKAGE, root / "crates/pages/src")
    missing = [it for it in named if not any((home / it).is_file() for home in homes)]
    assert not missing
