"""What executors say, read."""

from __future__ import annotations

import re


def pages_of(said: str) -> dict[str, tuple[str, str]]:
    """Page -> permissions and contents, of what ``look`` says."""
    found = {}
    for token in said.split(" "):
        if match := re.fullmatch(r"((?:s\d:)?)(\d+):(\S+?f?):([^:*]+)\*(\d+)", token):
            slot, first, access, content, pages = match.groups()
            for page in range(int(first), int(first) + int(pages)):
                found[f"{slot}{page}"] = (access, content)
    return found
