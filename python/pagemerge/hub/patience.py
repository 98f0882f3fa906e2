"""How long the members of a domain wait for one of them, and what a user's clients claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Patience:
    """Seconds that the members of a domain wait for one of them.

    Honest clients answer within milliseconds. A client can make the others wait for long only once:
    from then on they wait less for every client, until no client has been late for a while.
    """

    LONGEST, SHORTEST = 0.5, 0.05

    def __init__(self) -> None:
        self.seconds = self.LONGEST

    def limit(self, *, awaited: bool) -> float:
        """Return the seconds to wait; ``awaited``: a program waits, and no other client does."""
        return self.LONGEST if awaited else self.seconds

    def spent(self) -> None:
        """Shorten the wait: a client was late."""
        self.seconds = self.SHORTEST

    def recover(self) -> None:
        """Lengthen the wait a little: a cycle has passed."""
        self.seconds = min(self.seconds * 1.02, self.LONGEST)


class Claims(Protocol):
    """The regions and pages that the clients of one user claim together."""

    regions: int
    pages: int


@dataclass(slots=True)
class Unlimited:
    """The claims of a user without limits."""

    regions: int = 0
    pages: int = 0
