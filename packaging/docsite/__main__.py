"""Build the site: ``python -m docsite FOLDER`` writes HTML below ``FOLDER/docs``.

The sources are copied and completed in ``FOLDER/docs-source``, so that docs/ stays as it is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from docsite.pages import written

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def sources(folder: Path) -> Path:
    """Write all sources of the site; returns their folder."""
    made = folder / "docs-source"
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(ROOT / "docs", made)
    for name in ("conf.py", "index.md"):
        shutil.copy(HERE / name, made)
    for name, text in written().items():
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(text, encoding="utf-8")
    return made


def build(folder: Path) -> int:
    """Build the site; every warning is an error. Returns the exit status of sphinx-build."""
    words = ["-W", "--keep-going", "-q", "-b", "html"]
    argv = [sys.executable, "-m", "sphinx", *words, str(sources(folder)), str(folder / "docs")]
    return subprocess.run(argv, check=False).returncode


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m docsite FOLDER")
    sys.exit(build(Path(sys.argv[1]).absolute()))
