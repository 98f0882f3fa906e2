"""The settings that the ``[service]`` table of a configuration may have.

The docstrings are the reference of users, as in ``hub.settings``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from pagemerge.errors import UsageError

Engine = Literal["user", "kernel"]


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the daemon itself. Each engine has a table of its own."""

    engines: Annotated[list[Engine], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["user"]
    )
    """Engines that the daemon runs: ``user`` (a hub), ``kernel`` (the governor of ksmd), or both.
    The option ``--engine`` overrides the key. It cannot change while the daemon runs."""

    api: bool = True
    """Answer calls at ``api.sock`` beside the socket of the hub: `pagemerge top` and other programs
    ask there. Only a daemon with ``--config`` does."""
    history: bool = True
    """Record what merging saves every 10 seconds, for `pagemerge history` and the chart of
    `pagemerge top`. Only a daemon with ``--config`` does."""
    metrics: Annotated[str, msgspec.Meta(examples=["127.0.0.1:9838"])] = ""
    """Serve metrics for Prometheus at this loopback address, or at the path of a socket. Needs the
    library prometheus-client. Only a daemon with ``--config`` does."""

    @property
    def watched(self) -> bool:
        """True if anything is to be shown."""
        return self.api or self.history or bool(self.metrics)

    def __post_init__(self) -> None:
        if self.metrics:
            from pagemerge.watch.endpoint import Address

            try:
                Address.parse(self.metrics)
            except UsageError as error:
                raise ValueError(f"metrics: {error}") from None
        if len(set(self.engines)) < len(self.engines):
            raise ValueError('an engine is named twice; write engines = ["user", "kernel"]')
