"""Victims in C, compiled."""

from __future__ import annotations

import subprocess
from pathlib import Path

VICTIMS = Path(__file__).parents[1] / "victims"


def compile_victim(name: str, made: Path, *flags: str) -> Path:
    """``tests/victims/NAME`` as a program, or as what ``flags`` say, at ``made``.

    Raises ``FileNotFoundError`` without a compiler; ask before (``conftest.lacks_cc``).
    """
    strict = ["-O2", "-Wall", "-Wextra", "-Werror", *flags]
    subprocess.run(["cc", *strict, "-o", str(made), str(VICTIMS / name)], check=True)
    return made
