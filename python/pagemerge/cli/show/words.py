"""Folds text between words, and writes commands for people and JSON for programs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from pagemerge.linux.text import representable

if TYPE_CHECKING:
    from pathlib import Path

    from pagemerge.linux.knobs import Standstill


def starting(stands: Standstill, root: Path) -> str:
    """Return the commands that have ksmd scan, for root; ``root`` is the folder of its files."""
    write = f"echo {stands.value} > {root}/{stands.knob}"
    return f"as root: `pagemerge daemon --engine kernel`, or `{write}`"


_WITHIN = "\ue000"
"""Replaces a space in a command while text is folded; ``plain`` escapes it in other text."""
_SECOND = "\ue001"
"""Stands for the second column of a wide character while text is folded."""


def folded(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """Fold text to lines of at most ``width`` columns.

    The first line begins with ``first``, the others with ``rest``. A command in backticks stays on
    one line if it fits there, because people copy it.
    """
    from textwrap import wrap

    if not text.isascii():
        text = re.sub(".", _in_columns, text)
        width -= 1  # a wide character may be cut from its second column
    room = width - len(rest) - 2  # for characters around the command: a bracket, a comma

    def whole(command: re.Match[str]) -> str:
        return command[0].replace(" ", _WITHIN) if len(command[0]) <= room else command[0]

    lines = wrap(
        re.sub("`[^`]*`", whole, text),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
    )
    return [line.replace(_WITHIN, " ").replace(_SECOND, "") for line in lines]


def _in_columns(character: re.Match[str]) -> str:
    from rich.cells import cell_len

    return character[0] + _SECOND * (cell_len(character[0]) - 1)


def as_json(value: object) -> str:
    """Write ``value`` as JSON that any reader accepts. Text keeps all characters, with the escapes
    of JSON for control characters. Bytes that are not UTF-8, which JSON cannot represent, are
    written ``\\xff``."""
    return json.dumps(representable(value), indent=2)
