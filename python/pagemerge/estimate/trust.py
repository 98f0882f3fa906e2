"""What it costs to keep trust domains apart: what merging saves inside domains, what it would save
if all were one domain, and what is left if only zero pages are merged."""

from __future__ import annotations

from dataclasses import dataclass

from pagemerge.find import tally
from pagemerge.find.look import Look


@dataclass(frozen=True, slots=True)
class Price:
    """Frames that merging would free."""

    domains: int
    """Trust domains with pages that were looked at."""
    apart_pages: int
    """With each domain by itself: the default."""
    together_pages: int
    """If all domains were one."""
    zero_pages: int
    """If only zero pages are merged: they hold no secret, so no domain matters."""

    @property
    def lost_pages(self) -> int:
        """What keeping the domains apart costs."""
        return max(self.together_pages - self.apart_pages, 0)


def price(found: Look) -> Price:
    """Count the pages of a look with its domains apart, and again as one domain."""
    parts = [tally.tally(it.digests, it.frames, it.offsets).totals for it in found.domains()]
    apart = sum(it.saveable_pages for it in parts)
    # Zero pages in one frame may lie in several domains: that frame is counted once together.
    whole = parts[0] if len(parts) == 1 else None
    if whole is None:
        whole = tally.tally(found.digests, found.frames, found.offsets).totals
    return Price(
        domains=sum(it.pages > 0 for it in parts),
        apart_pages=apart,
        together_pages=whole.saveable_pages,
        zero_pages=whole.saveable_zero_pages,
    )
