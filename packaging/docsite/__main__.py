"""Build the site: ``python -m docsite FOLDER`` writes HTML below ``FOLDER/docs``.

The sources are copied and completed in ``FOLDER/docs-source``, so that docs/ stays as it is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from docsite import sources


def build(folder: Path) -> int:
    """Build the site; every warning is an error. Returns the exit status of sphinx-build."""
    sources.write(folder / "docs-source")
    shutil.rmtree(folder / "docs", ignore_errors=True)  # pages that are no more
    words = ["-W", "-n", "--keep-going", "-q", "-b", "html"]
    argv = [*words, str(folder / "docs-source"), str(folder / "docs")]
    return subprocess.run([sys.executable, "-m", "sphinx", *argv], check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m docsite FOLDER")
    sys.exit(build(Path(sys.argv[1]).absolute()))
