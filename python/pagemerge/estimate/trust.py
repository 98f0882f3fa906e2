"""What it costs to keep trust domains apart: what merging saves inside domains, what it would save
if all were one domain, and what is left if only zero pages are merged."""

from __future__ import annotations

from dataclasses import dataclass

from pagemerge.find import tally
from pagemerge.find.look import Look
from pagemerge.find.tally import Totals


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


def price(found: Look, apart: Totals) -> Price:
    """Count the pages of a look as one domain; ``apart``: the totals of its domains, added up."""
    domains = sum(bool(it.digests.any()) for it in found.domains())
    # Zero pages in one frame may lie in several domains: that frame is counted once together.
    whole = apart
    if domains > 1:
        whole = tally.tally(found.digests, found.frames, found.offsets).totals
    return Price(
        domains=domains,
        apart_pages=apart.saveable_pages,
        together_pages=whole.saveable_pages,
        zero_pages=whole.saveable_zero_pages,
    )
