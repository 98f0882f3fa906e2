"""Writes the page: sections from the figures, drawn by templates, in one file without references.

All text goes through ``linux.text.plain`` and autoescape, twice: the sections shorten it, and the
environment of the templates makes whatever it prints plain once more. A Content-Security-Policy in
the page allows the page's own style and script, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagemerge import __version__
from pagemerge.errors import Unsupported
from pagemerge.figures import duration, precise
from pagemerge.linux.text import plain
from pagemerge.report import contents, file, forecast, memory, rows, sharing, trust, why
from pagemerge.report.given import Given, Room
from pagemerge.report.shapes import Section

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_BYTES = 300_000
"""A page has fewer bytes than these."""

SECTIONS: tuple[Callable[[Given, Room], Section | None], ...] = (
    forecast.sampled,
    memory.section,
    sharing.section,
    contents.section,
    why.section,
    trust.price,
    trust.lasting,
    forecast.fit,
    forecast.compress,
    rows.section,
)
"""In their order on the page; a section for which there are no figures is not there."""


def check(path: Path) -> None:
    """Raise an error if it is plain before the scan that no report can be written to ``path``.

    Raises ``Unsupported`` if jinja2 is missing, and as ``file.check``.
    """
    _environment()
    file.check(path)


def write(figures: Mapping[str, Any], path: Path) -> None:
    """Write the report of ``figures`` (of ``cli.show.answer``) to ``path``, whole or not at all.

    Raises ``Unsupported`` if jinja2 is missing, and as ``file.put``.
    """
    file.put(path, render(figures))


def render(figures: Mapping[str, Any], room: Room | None = None) -> bytes:
    """Return the page: UTF-8, fewer than ``MOST_BYTES`` bytes.

    What has no bound of its own is shown as far as there is ``room``; if the page is too large, it
    is made again with less.
    """
    environment, given, room = _environment(), Given(figures), room or Room()
    while len(page := _page(environment, given, room)) >= MOST_BYTES and room != room.halved():
        room = room.halved()
    return page


def _page(environment: Environment, given: Given, room: Room) -> bytes:
    from markupsafe import Markup

    found = [it for make in SECTIONS if (it := make(given, room))]
    # They are files of ours, and are printed as they are: their hashes are in the policy.
    style = Markup(environment.get_template("style.css").render())
    script = Markup(environment.get_template("script.js").render())
    text = environment.get_template("page.html").render(
        answer=memory.answer(given),
        sections=found,
        style=style,
        script=script,
        policy=_policy(style, script),
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        host=os.uname().nodename,
        kernel=os.uname().release,
        version=__version__,
        how=_how(given),
    )
    return text.encode()


def _policy(style: str, script: str) -> str:
    """Allow the page's own style and script, and nothing else (CSP level 3)."""
    kinds = (("style", style), ("script", script))
    hashes = [
        f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for kind, text in kinds
    ]
    return "; ".join(["default-src 'none'", *hashes, "base-uri 'none'", "form-action 'none'"])


def _how(given: Given) -> str:
    """Say how the figures were made."""
    found = given if given.number("bytes_read") else given.part("sample")
    if not found.number("bytes_read"):
        return ""
    took = duration(found.number("seconds"))
    return f"The scan read {precise(found.number('bytes_read'))} in {took}."


@functools.cache
def _environment() -> Environment:
    """Make the environment of the templates; raises ``Unsupported`` without jinja2."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise Unsupported(
            'a report needs jinja2, which is not installed: pip install "pagemerge[report]"'
        ) from None
    return Environment(
        loader=PackageLoader("pagemerge.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printed,
    )


def _printed(value: Any) -> Any:
    """Make all that a template prints plain, but for what templates themselves have made."""
    return plain(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
