"""What a domain puts up with from its members, and a hub from its users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Patience:
    """Seconds that the members of a domain wait for one of them.

    Honest clients answer within milliseconds. Whoever makes the others wait does so once: from
    then on they wait less for everybody, until nobody has been late for a while.
    """

    LONGEST, SHORTEST = 0.5, 0.05

    def __init__(self) -> None:
        self.seconds = self.LONGEST

    def spent(self) -> None:
        """Somebody was late."""
        self.seconds = self.SHORTEST

    def recover(self) -> None:
        """A cycle has gone by."""
        self.seconds = min(self.seconds * 1.02, self.LONGEST)


class Claims(Protocol):
    """What the clients of one user claim together."""

    regions: int
    pages: int


@dataclass(slots=True)
class Unlimited:
    """Claims of a user who may claim what there is."""

    regions: int = 0
    pages: int = 0
