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


USERS: dict[str, tuple[str, str]] = {
    "PAGEMERGE_SOCKET": ("Socket of the hub.", "see below"),
    "PAGEMERGE_HISTORY": ("Path of the history.", "see [The file](history.md#the-file)"),
    "PAGEMERGE_BARRIER": (
        "Barrier that keeps writers out while pages are merged: `auto`, `move`, `write-protect`, "
        "`park` or `intern` (no background merging).",
        "`auto`",
    ),
    "PAGEMERGE_DOMAIN": (
        "Name that narrows the trust domain: up to 64 letters, digits, `.`, `_` and `-`, a letter "
        "or digit first.",
        "none",
    ),
    "PAGEMERGE_AUTOSTART": ("`0`: a client starts no hub where none runs.", "`1`"),
}
"""Variable for users -> what it means, and its default in Markdown for docs/reference.md."""

PASSED: dict[str, tuple[str, str]] = {
    "PAGEMERGE_HUB": (
        "Command that starts a hub, one argument a line; empty: start none.",
        "run --engine user",
    ),
    "PAGEMERGE_FROM": (
        "Bytes from which mappings are merged that the program does not mark.",
        "run --all",
    ),
    "PAGEMERGE_NOTE": (
        "Where the note lies that is printed if nothing of the program was merged.",
        "run --engine user",
    ),
    "PAGEMERGE_ENGINE": (
        "`kernel`: tells a later `run` that the user knows whether ksmd runs.",
        "run --engine kernel",
    ),
}
"""Variable that pagemerge sets for the programs that it starts -> what it means, and who sets it.
"""

FOREIGN: dict[str, tuple[str, str]] = {
    "XDG_RUNTIME_DIR": ("Where sockets are, in `pagemerge`.", "XDG base directories"),
    "XDG_STATE_HOME": ("Where the history is, in `pagemerge`.", "XDG base directories"),
    "LD_PRELOAD": ("`run --engine user` adds the preloaded library.", "ld.so(8)"),
    "PATH": ("Where `run` finds the program.", "environ(7)"),
    "OPENBLAS_NUM_THREADS": ("The daemon sets it to 1 if it is not set.", "OpenBLAS"),
    "TERM": ("`top` refuses a terminal that cannot be controlled (`dumb`).", "term(7)"),
    "COLORFGBG": ("Whether `top` begins light or dark.", "terminals"),
    "TEXTUAL_THEME": ("The theme of `top`.", "Textual"),
    "NOTIFY_SOCKET": ("Where the daemon says that it is ready.", "sd_notify(3)"),
    "WATCHDOG_USEC": ("How often the daemon says that it works.", "sd_watchdog_enabled(3)"),
    "WATCHDOG_PID": ("The process that is to say so.", "sd_watchdog_enabled(3)"),
    "LISTEN_FDS": ("Number of sockets that systemd passes.", "sd_listen_fds(3)"),
    "LISTEN_FDNAMES": ("Their names.", "sd_listen_fds(3)"),
    "LISTEN_PID": ("The process that they are for.", "sd_listen_fds(3)"),
    "JOURNAL_STREAM": ("Tells that messages go to the journal.", "systemd.exec(5)"),
    "KUBERNETES_SERVICE_HOST": ("API server of the cluster, for `pods`.", "Kubernetes"),
    "KUBERNETES_SERVICE_PORT": ("Its port.", "Kubernetes"),
}
"""Variable of another program that pagemerge reads or sets -> what for, and whose it is."""


def variables() -> list[Variable]:
    """List the variables for users."""
    defaults = {
        "PAGEMERGE_SOCKET": str(reach.own_directory() / "hub.sock"),
        "PAGEMERGE_HISTORY": str(reach.state_directory() / "history.sqlite"),
        "PAGEMERGE_BARRIER": "auto",
        "PAGEMERGE_AUTOSTART": "1",
    }
    found = []
    for name, (about, _) in USERS.items():
        given, default = os.environ.get(name) or None, defaults.get(name)
        about = about.replace("`", "")
        found.append(Variable(name, about, given or default, default, given is not None))
    return found
