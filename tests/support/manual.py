"""Generates the man pages and completions of this checkout, as the build does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASH = "bash-completion/completions/pagemerge"
ZSH = "zsh/site-functions/_pagemerge"
FISH = "fish/vendor_completions.d/pagemerge.fish"


def share(folder: Path) -> Path:
    """Generate all files below ``folder``; returns the folder ``share`` with them."""
    argv = [sys.executable, "-m", "manual", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "packaging"), "COLUMNS": "80"}
    subprocess.run(argv, env=env, cwd=folder, check=True, timeout=60)
    return folder / "share"
