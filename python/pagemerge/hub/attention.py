"""How soon the hub looks at a client again.

Each client has a pause of its own between two looks. So the hub looks often at a client that has
joined, that fills memory, or of which it merges something, and asks the others no more often for
that. What the kernel counts of the client's memory tells the hub where a look is worth it: memory
that was empty is looked at again as soon as the count has grown.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from pagemerge.hub.decide import pace


@dataclass(slots=True, eq=False)
class Attention:
    """The pause of one client, and what decides about the next one."""

    pause: float = 0.0
    """Seconds from the last look to the next one; 0 before the first."""
    looked: float = -inf
    """When the hub looked at the client (time.monotonic)."""
    found: float = 0.0
    """Pages that have become worth merging since the pause was decided, or were merged, or became
    parts of huge pages; infinite if the client has new regions."""
    grown: int = 0
    """Pages that the client has made present since its empty blocks were last asked about, less
    those that it gave back."""
    is_over: bool = False
    """True if a look is over, and the next pause is not decided yet."""
    _present: int = 0
    _vain: int = 1
    _expected: tuple[int, int] | None = None
    """If the last look was at all empty blocks: the growth that was the reason, and the pages that
    had come before."""

    def due(self, longest: float) -> float:
        """Return when to look at the client (time.monotonic); ``longest``: the longest pause."""
        return pace.appointment(self.looked, min(self.pause, longest), longest)

    def note_present(self, pages: int) -> None:
        """Note how many pages the client has made present so far, by the kernel's count.

        Pages that were merged since count as present: merging takes them out of that count.
        """
        self.grown = max(self.grown + pages - self._present, 0)
        self._present = pages

    def begin_recall(self, empty: int, came: int) -> bool:
        """Return true if the client has grown enough to ask about its ``empty`` blocks, and note
        that it is done. ``came``: pages that looks have found so far where none was before."""
        if not pace.is_filling(self.grown, empty, self._vain):
            return False
        self._expected, self.grown = (self.grown, came), 0
        return True

    def note_came(self, came: int) -> None:
        """Note how many pages looks have found so far; call it before ``begin_recall``."""
        if self._expected is not None:
            grown, before = self._expected
            self._vain, self._expected = pace.in_vain(self._vain, grown, came - before), None

    def end_look(self, now: float) -> None:
        """Note that a look at the client is over."""
        self.looked, self.is_over = now, True

    def decide(self, weight: float, longest: float) -> None:
        """Decide how long the pause is after what was ``found``, which counts as ``weight``."""
        self.pause = pace.pause(self.pause, weight, longest)
        self.found, self.is_over = 0.0, False

    def hurry(self) -> None:
        """Look at the client at once."""
        self.pause = 0.0
