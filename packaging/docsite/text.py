"""Text of the code as Markdown."""

from __future__ import annotations

import re

WORD = re.compile(
    r"(?<![\w`./-])(--[a-z][a-z-]*|--(?= |$)|[A-Z]+(?:_[A-Z]+)+|[a-z]+(?:_[a-z]+)+"
    r"|\[+(?:service|hub|kernel|rule)\]+)(?![\w`(])"
)
"""An option, a variable, a key or a table that is not marked as code."""
PACKAGE = re.compile(r"\bneeds (pagemerge\[\w+\])")


def coded(text: str) -> str:
    """Mark options, variables, keys and tables as code, where they are not."""
    text = text.replace("``", "`")
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(it if it.startswith("`") else _coded(it) for it in parts)


def _coded(text: str) -> str:
    text = WORD.sub(r"`\1`", text)
    return PACKAGE.sub(r'needs `pip install "\1"`', text)


def cell(text: str) -> str:
    """Write a text as a cell of a table: on one line, with every bar escaped."""
    return plain(" ".join(text.split())).replace("|", "\\|")


def plain(text: str) -> str:
    """Have what looks like HTML shown as it is, outside of code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        it if it.startswith("`") else re.sub(r"<(?=[a-zA-Z/])", r"\\<", it) for it in parts
    )
