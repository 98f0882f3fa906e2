"""Draws the pictures of docs/top.md: ``python -m tests.support.top_picture docs/pictures``."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

from textual.pilot import Pilot

from tests.support.driving import drive, view
from tests.support.moments import recording

SIZE = (100, 30)
PICTURES = {"top.svg": "textual-light", "top-dark.svg": "textual-dark"}
"""File -> theme of the view. A rich terminal's frame stays dark."""


def picture(theme: str) -> str:
    """The view of a recorded minute, as SVG that loads nothing from elsewhere."""
    taken = []

    async def script(pilot: Pilot[None]) -> None:
        pilot.app.theme = theme
        await pilot.press("end")
        await pilot.pause()
        taken.append(pilot.app.export_screenshot(simplify=True))

    os.environ["TZ"] = "UTC"
    time.tzset()
    drive(view(recording(60, 10), recorded=True), script, SIZE)
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", taken[0], flags=re.S)
    drawn = drawn.replace("font-family: Fira Code, monospace", "font-family: monospace")
    return re.sub(r"terminal-\d+", "top", drawn)


if __name__ == "__main__":
    for name, theme in PICTURES.items():
        (Path(sys.argv[1]) / name).write_text(picture(theme) + "\n")
