"""Writes the markup of man pages: the macros of man(7), as groff and mandoc read them."""

from __future__ import annotations

import os
import re
import textwrap
import time
from inspect import cleandoc

from pagemerge import __version__

_MARKUP = re.compile(r"``(.+?)``|`(.+?)`", re.DOTALL)


def escape(text: str) -> str:
    """Return ``text`` so that it prints as it is, also where a line begins with ``.`` or ``'``."""
    for plain, written in (("\\", r"\e"), ("-", r"\-"), ("'", r"\(aq"), ("^", r"\(ha")):
        text = text.replace(plain, written)
    text = text.replace("~", r"\(ti").replace("`", r"\(ga")
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


def prose(text: str) -> str:
    """Return a paragraph on one line; what stands in backquotes prints bold."""
    text = " ".join(text.split())
    parts, at = [], 0
    for found in _MARKUP.finditer(text):
        parts += [escape(text[at : found.start()]), bold(found[1] or found[2])]
        at = found.end()
    return "".join([*parts, escape(text[at:])])


def bold(text: str) -> str:
    """Return ``text`` in bold."""
    return rf"\fB{escape(text)}\fR"


def italic(text: str) -> str:
    """Return ``text`` in italics: a word that the reader replaces by a value."""
    return rf"\fI{escape(text)}\fR"


def reference(name: str, number: int) -> str:
    """Return the name of another page, as pages quote it."""
    return rf"{bold(name)}({number})"


def paragraphs(text: str) -> list[str]:
    """Split a docstring into paragraphs, each one line of text."""
    return [" ".join(part.split()) for part in cleandoc(text).split("\n\n") if part.strip()]


def item(term: str, *texts: str) -> str:
    """Return an item of a list: the term, which has its markup, and paragraphs below it."""
    head = f".TP\n{term}\n" + (prose(texts[0]) if texts else r"\&")
    return "".join([head, *(f"\n.IP\n{prose(text)}" for text in texts[1:])])


def page(name: str, number: int, summary: str, sections: dict[str, list[str]]) -> str:
    """Return a whole page.

    ``sections``: heading -> blocks, which have their markup; a section without blocks is left out.
    A block that starts with a macro stands as it is; any other is a paragraph. The date is that of
    SOURCE_DATE_EPOCH (seconds), else today.
    """
    now = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(now))
    title = escape(name.upper())
    lines = [
        f'.TH "{title}" "{number}" "{date}" "pagemerge {__version__}" "pagemerge"',
        ".nh",  # names of options stay whole
        ".ad l",
        ".SH NAME",
        rf"{escape(name)} \- {prose(summary)}",
    ]
    for heading, blocks in sections.items():
        if not blocks:
            continue
        lines.append(f".SH {heading}")
        after_heading = True
        for block in blocks:
            if block.startswith("."):
                lines.append(block)
            else:
                lines += [block] if after_heading else [".PP", block]
            after_heading = block.startswith(".SS")
    return "".join(f"{it}\n" for line in "\n".join(lines).split("\n") for it in _wrapped(line))


def _wrapped(line: str) -> list[str]:
    """Break a line of text to 80 columns, as mandoc wants it; a macro stays on its line."""
    if line.startswith("."):
        return [line]
    # An escaped space is not a place to break.
    parts = textwrap.wrap(
        line.replace(r"\ ", "\0"), 78, break_long_words=False, break_on_hyphens=False
    )
    # A word such as `.config` would be a macro at the start of a line.
    return [re.sub(r"^\.", r"\\&.", it).replace("\0", r"\ ") for it in parts]
