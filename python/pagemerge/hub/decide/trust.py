"""Decides which names a domain may have, and which users a hub serves (see ``linux/domain``)."""

from __future__ import annotations

import re

from pagemerge.errors import UsageError

MOST_NAME = 64
"""Characters of a domain's name."""

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MOST_NAME - 1}}}")


def checked_name(name: str) -> str:
    """Return ``name`` if it is valid for a domain. Raises ``UsageError`` with the cure if not.

    Names come from programs and end in terminals and logs, so they are plain words.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[: 2 * MOST_NAME]!r} cannot name a domain: use up to {MOST_NAME} of the letters "
            "a to z and A to Z, digits, '.', '_' and '-', a letter or digit first"
        )
    return name


def may_join(peer_uid: int, hub_uid: int) -> bool:
    """Return true if a process of ``peer_uid`` may be a client of a hub of ``hub_uid``.

    A hub of root serves all users, each in domains of their own; any other hub serves only its own
    user.
    """
    return hub_uid in (0, peer_uid)
