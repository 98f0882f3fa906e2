"""Draws the picture of docs/top.md; its one argument is docs/pictures/top.svg."""

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


def picture() -> str:
    """The view of a recorded minute, as SVG that loads nothing from elsewhere."""
    taken = []

    async def script(pilot: Pilot[None]) -> None:
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
    Path(sys.argv[1]).write_text(picture() + "\n")
