"""Print the packages that the site needs: the extra ``docs`` of pyproject.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path

TABLE = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())

if __name__ == "__main__":
    print(*TABLE["project"]["optional-dependencies"]["docs"], sep="\n")
