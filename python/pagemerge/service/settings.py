"""The settings that the ``[service]`` table of a configuration may have.

The docstrings are the reference of users, as in ``hub.settings``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Engine = Literal["user", "kernel"]


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the daemon itself. Each engine has a table of its own."""

    engines: Annotated[list[Engine], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["user"]
    )
    """Engines that the daemon runs: ``user`` (a hub), ``kernel`` (the governor of ksmd), or both.
    The option ``--engine`` overrides the key. It cannot change while the daemon runs."""

    def __post_init__(self) -> None:
        if len(set(self.engines)) < len(self.engines):
            raise ValueError('an engine is named twice; write engines = ["user", "kernel"]')
