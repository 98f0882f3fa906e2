"""Contains the errors that serving one client causes.

An error that is raised while the hub serves a client ends that client's turn, and never the hub.
"""

from __future__ import annotations

import logging

from pagemerge.errors import PagemergeError, ProtocolError
from pagemerge.hub.client import Client
from pagemerge.linux.fault import told

log = logging.getLogger("pagemerge.hub")


def pass_over(client: Client, error: Exception) -> None:
    """Handle the error that ended a client's turn: go on without it, or end its connection.

    An unexpected error (no memory, a fault of the hub's own) is logged with the place where it was
    raised, and ends the connection: the same would happen again and again.
    """
    if isinstance(error, ProtocolError):
        client.link.close(f"it does not speak the protocol: {error}")
    elif isinstance(error, (PagemergeError, OSError)):
        log.info("passing over process %d: %s", client.pid, told(error))
    elif client.link.open:
        log.warning("disconnecting process %d: %s", client.pid, told(error))
        client.link.close("the hub failed to serve it")
