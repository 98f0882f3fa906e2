"""Headless Chromium, driven over two pipes by the DevTools protocol; nothing but Python is needed.

Source: --remote-debugging-pipe reads commands from descriptor 3 and writes answers and events to
descriptor 4, each as JSON that a NUL ends (content/browser/devtools/devtools_pipe_handler.cc).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
DEADLINE = 60.0
"""Seconds for an answer: the first one comes when the browser has started."""
SWITCHES = (
    *("--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--disable-dev-shm-usage", "--disable-component-update", "--hide-scrollbars"),
)

STARTER = """
import fcntl, os, sys
apart = [fcntl.fcntl(int(file), fcntl.F_DUPFD, 10) for file in sys.argv[1:3]]
for number, file in zip((3, 4), apart):
    os.dup2(file, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Gives the two pipes their numbers; a shell knows descriptors up to 9 only."""


def lacks_browser() -> str | None:
    """Why no browser can be started."""
    found = any(shutil.which(name) for name in NAMES)
    return None if found else "no Chromium is installed: apt-get install chromium"


class Page:
    """A page of the browser, and all messages that it has written to its console."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._rest = b""
        self._number = 0
        self._session = ""
        self.messages: list[str] = []
        self._events: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._writer, json.dumps(command).encode() + b"\0")
        end = time.monotonic() + DEADLINE
        while True:
            answer = self._next(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def show(self, path: Path, width: int = 1200, theme: str = "light") -> None:
        """Open a file in a window of ``width`` pixels, as a system with ``theme`` does."""
        self.resize(width, theme)
        self._events.clear()
        self.call("Page.navigate", url=path.as_uri())
        end = time.monotonic() + DEADLINE
        while "Page.loadEventFired" not in self._events:
            self._next(end)

    def resize(self, width: int, theme: str = "light", media: str = "") -> None:
        """Set the width, the system's theme, and the medium (``print``)."""
        mobile = {"mobile": False, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, **mobile)
        feature = {"name": "prefers-color-scheme", "value": theme}
        self.call("Emulation.setEmulatedMedia", media=media, features=[feature])

    def run(self, code: str) -> Any:
        """Return the value of an expression of JavaScript."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def frame(self) -> None:
        """Wait until the page was drawn: it learns of a moved mouse only then."""
        twice = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.call("Runtime.evaluate", expression=f"{twice}.then(() => 1)", awaitPromise=True)

    def type(self, text: str) -> None:
        """Type text into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int) -> None:
        """Press a key, such as ``Enter`` (13) or ``ArrowDown`` (40)."""
        text = {"text": "\r"} if key == "Enter" else {}  # only text presses a button
        named = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **named, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def click(self, selector: str) -> None:
        """Press the left button of the mouse on the middle of an element."""
        x, y = self.run(
            f"(() => {{ const it = document.querySelector({json.dumps(selector)});"
            "it.scrollIntoView({block: 'center'}); const box = it.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self) -> bytes:
        """Return the whole page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def printed(self) -> bytes:
        """Return the page as PDF."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])

    def _next(self, end: float) -> dict[str, Any]:
        """Read one answer or event; notes what the page has written to its console."""
        while b"\0" not in self._rest:
            left = max(end - time.monotonic(), 0)
            ready, _, _ = select.select([self._reader], [], [], left)
            assert ready, "the browser does not answer"
            piece = os.read(self._reader, 1 << 16)
            assert piece, "the browser has ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        method = found.get("method", "")
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(found["params"]))
        self._events.append(method)
        return found


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """Start a browser with a profile of its own, and end it with the block."""
    program = next(filter(None, map(shutil.which, NAMES)))
    ours, theirs = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(prefix="pagemerge-test-", ignore_cleanup_errors=True) as home:
        argv = [sys.executable, "-c", STARTER, str(ours[0]), str(theirs[1]), program, *SWITCHES]
        child = subprocess.Popen(
            [*argv, f"--user-data-dir={home}/profile", "about:blank"],
            pass_fds=(ours[0], theirs[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": home},
        )
        try:
            os.close(ours[0])
            os.close(theirs[1])
            page = Page(theirs[0], ours[1])
            yield page
            page._session = ""
            page.call("Browser.close")
            child.wait(DEADLINE)
        finally:
            child.kill()
            child.wait()
            os.close(ours[1])
            os.close(theirs[0])
