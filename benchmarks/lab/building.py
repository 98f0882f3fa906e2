"""Compiles the C programs of the benchmarks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pagemerge.errors import Unsupported


def lacks_compiler() -> str | None:
    """Why nothing can be compiled here, or nothing."""
    return None if shutil.which("cc") else "there is no C compiler (Debian: apt install gcc)"


def compiled(source: Path, made: Path, *flags: str) -> Path:
    """Compile ``source`` into ``made``, and return that. Raises ``Unsupported`` without a compiler,
    and ``CalledProcessError`` if it fails."""
    if reason := lacks_compiler():
        raise Unsupported(reason)
    subprocess.run(["cc", "-O2", *flags, "-o", str(made), str(source)], check=True)
    return made
