"""Draws the pictures of the report in docs/scan.md, of the processes that the page starts.

``python -m tests.support.report_picture docs/pictures`` needs Chromium.
"""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.browser import browser, lacks_browser

PAGE = Path(__file__).parents[2] / "docs" / "scan.md"
PICTURES = {"report.png": "light", "report-dark.png": "dark"}
QUESTIONS = ["--what", "--group-by", "process"]
WIDTH, HEIGHT = 1000, 885


def report(folder: Path) -> Path:
    """Write the report of the three processes; returns its path."""
    (script,) = re.findall(r"^```python\n(# workers\.py\n.*?)^```$", PAGE.read_text(), re.S | re.M)
    (folder / "workers.py").write_text(script)
    argv = [sys.executable, "workers.py"]
    made = folder / "report.html"
    with subprocess.Popen(argv, cwd=folder, stdin=-1, stdout=-1, text=True) as workers:
        assert workers.stdin and workers.stdout
        pids = workers.stdout.readline().split()
        scan = [sys.executable, "-m", "pagemerge", "scan", *pids, *QUESTIONS]
        subprocess.run([*scan, "--report", made], check=True, stdout=subprocess.DEVNULL)
        workers.stdin.close()
    return made


def draw(folder: Path) -> None:
    """Write the pictures to ``folder``."""
    with tempfile.TemporaryDirectory() as scratch, browser() as page:
        made = report(Path(scratch))
        for name, theme in PICTURES.items():
            page.show(made, WIDTH, theme)
            page.frame()
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT, "scale": 1}
            found = page.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
            (folder / name).write_bytes(base64.b64decode(found["data"]))


if __name__ == "__main__":
    if lack := lacks_browser():
        raise SystemExit(lack)
    draw(Path(sys.argv[1]))
