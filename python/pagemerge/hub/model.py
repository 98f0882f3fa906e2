"""The data that the parts of the hub exchange: frozen dataclasses, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # numpy takes longer to import than the whole command line
    import numpy as np
    import numpy.typing as npt

BLOCK = 512
"""Pages of a block (2 MiB): the unit in which looking is paced."""

LOOKS = 15
"""The bits of ``Pages.standing`` that count looks, and the highest count."""

NO_SLOT = 0xFFFF_FFFF
"""A page that maps no slot."""
ZERO_SLOT = 0xFFFF_FFFE
"""A zero page that was given back."""
OWN_SLOT = 0xFFFF_FFFD
"""In a plan: a page that must leave the slab under it. Slot numbers are smaller than this."""

PAGE_BYTES, BLOCK_BYTES = 17, 5
"""The most bytes of the hub's records of a page, and those of a block; see ``pages.Pages``."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Pages that may be merged, in order of client and address; one element a page."""

    client: npt.NDArray[np.uint32]
    """u32[n]: number of the client in this cycle."""
    address: npt.NDArray[np.uint64]
    """u64[n]: address in that client."""
    digest: npt.NDArray[np.uint64]
    """u64[n]."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which candidate maps which slot."""

    slot: npt.NDArray[np.uint32]
    """u32[n]: one element a candidate; ``NO_SLOT``: leave it alone."""
    donors: npt.NDArray[np.int64]
    """i64[m]: the candidates whose bytes fill the new slots, in order of the slots' numbers."""
    first_new: int
    """The number of the first new slot, for this plan only: what the store gives may differ."""
    whole: int = 0
    """How many of the donors, from the first on, make up whole blocks of 512 pages each, that
    should be huge pages."""

    def new(self, slot: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Return which of these numbers are of new slots: bool[n]."""
        return (slot >= self.first_new) & (slot < OWN_SLOT)

    def only(self, admitted: npt.NDArray[np.bool_]) -> Layout:
        """Return the layout without the new slots that are not ``admitted``: bool[m]."""
        if admitted.all():
            return self
        import numpy as np

        # Numbers have no gaps, so that runs of the remaining pages stay runs.
        number = np.where(admitted, self.first_new + np.cumsum(admitted) - 1, NO_SLOT)
        slot, new = self.slot.copy(), self.new(self.slot)
        slot[new] = number.astype(np.uint32)[slot[new] - np.uint32(self.first_new)]
        blocks = admitted[: self.whole].reshape(-1, BLOCK).all(axis=1)
        whole = BLOCK * int(np.argmin(np.append(blocks, False)))
        return Layout(slot, self.donors[admitted], self.first_new, whole)


@dataclass(frozen=True, slots=True)
class Planned:
    """What a plan means for one client."""

    pid: int
    pages: int
    """Pages that would map a slot."""
    zero_pages: int
    """Pages that would be given back."""
    mappings: int
    """VMAs that the plan would cost the client."""
    new_slots: int
    """New stable pages that would be filled from the client."""


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """Consecutive pages that map consecutive slots."""

    first: npt.NDArray[np.int64]
    """i64[r]: index of each run's first page among the pages given."""
    pages: npt.NDArray[np.int64]
    """i64[r]: number of pages in each run."""


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One client of a hub, as ``pagemerge status`` shows it."""

    pid: int
    name: str
    uid: int
    domain: str
    """Trust domain: pages are shared inside it only."""
    barrier: str
    """move | write-protect | park | intern (no background merging)."""
    regions: int
    """Mergeable ranges."""
    bytes: int
    """Bytes in those ranges, present or not."""
    merged_pages: int
    """Pages of this client that map a slot now."""
    zero_pages: int
    """Pages given back because they were zero."""
    mappings: int
    """VMAs that merging added, as the agent counts them: one a merged run."""
    skipped: dict[str, int]
    """Reason -> pages that were candidates and were left alone."""
    note: str
    """Why this client is refused or held back; empty where it is not."""
    merges: int = 0
    """Pages merged since the client came; a page counts each time."""
    separations: int = 0
    """Merged pages that were seen to be written since the client came."""
    volatile_pages: int = 0
    """Pages that changed between the last two looks."""
    pages_scanned: int = 0
    """Pages that looks have read since the client came; a page counts each time."""


@dataclass(frozen=True, slots=True)
class Status:
    """The counters of a hub (KSM's names); pages unless the name says otherwise."""

    engine: str
    hub_pid: int
    pages_shared: int
    """Stable pages in use."""
    pages_sharing: int
    """Mappings of stable pages beyond the first of each."""
    zero_pages: int
    """Zero pages given back."""
    pages_unshared: int
    """Pages that the hub has looked at, and that are stable and unique."""
    pages_volatile: int
    """Pages that changed between the last two looks."""
    full_scans: int
    """How often every client was looked at."""
    store_bytes: int
    """Memory that the slabs of all domains hold."""
    metadata_bytes: int
    """Memory that the hub's own per-page records hold."""
    general_profit_bytes: int
    """Bytes saved, less unused slots, less metadata and mappings."""
    cpu_seconds: float
    """Processor time of the hub since it started (user and system)."""
    seconds: float
    """Seconds since the hub started."""
    clients: tuple[ClientStatus, ...]
