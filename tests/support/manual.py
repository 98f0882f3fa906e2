"""Generates the man pages and completions of this checkout, as the build does: without numpy, which
pip does not install to build."""

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
    without = folder / "without"
    without.mkdir()
    (without / "numpy.py").write_text("raise ModuleNotFoundError('numpy is not there to build')")
    env = {**os.environ, "PYTHONPATH": f"{without}:{ROOT / 'packaging'}", "COLUMNS": "80"}
    subprocess.run(argv, env=env, cwd=folder, check=True, timeout=60)
    return folder / "share"
