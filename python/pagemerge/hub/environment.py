"""The environment variables that users may set, with their values here."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pagemerge.hub import reach


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable, and the value that holds now."""

    name: str
    about: str
    """What it means, in one sentence."""
    value: str | None
    """What pagemerge uses: the variable, or the default; None if it uses nothing."""
    default: str | None
    """What pagemerge uses without the variable."""
    given: bool
    """True if the variable is set, to something."""


def variables() -> list[Variable]:
    """List the variables."""
    socket = str(reach.own_directory() / "hub.sock")
    history = str(reach.state_directory() / "history.sqlite")
    told = {
        "PAGEMERGE_SOCKET": ("Socket of the hub.", socket),
        "PAGEMERGE_HISTORY": ("Path of the history.", history),
        "PAGEMERGE_BARRIER": ("Barrier that keeps writers out while pages are merged.", "auto"),
        "PAGEMERGE_DOMAIN": ("Name that narrows the trust domain.", None),
        "PAGEMERGE_AUTOSTART": ("0: a client starts no hub where none runs.", "1"),
    }
    found = []
    for name, (about, default) in told.items():
        given = os.environ.get(name) or None
        found.append(Variable(name, about, given or default, default, given is not None))
    return found
